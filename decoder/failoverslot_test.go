package decoder

import (
	"context"
	"fmt"
	"testing"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/internal/pgtest"
)

// P77: a slot is made and kept as one that is synchronized to standbys where the
// server can, and a server that cannot says so.
func TestFailoverSlot(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	var version int
	if err := f.db.QueryRow(context.Background(), "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		t.Fatal(err)
	}
	able := version >= catalog.FailoverVersion
	synchronized := func() (on bool) {
		t.Helper()
		if !able {
			return false
		}
		if err := f.db.QueryRow(context.Background(), "select failover from pg_replication_slots where slot_name = $1", f.config.Sources[0].Slot).Scan(&on); err != nil {
			t.Fatal(err)
		}
		return on
	}
	for _, on := range []bool{true, false, true} { // made so, then altered
		f.config.Sources[0].Failover = on
		f.start()
		f.settled()
		f.exec("update t set v = v + 1")
		f.settled()
		if synchronized() != (on && able) {
			t.Errorf("the slot is synchronized: %t, want %t", !on, on)
		}
		if on {
			pgtest.Eventually(t, patience, func() error {
				if list := f.sidecar.ReportOf(f.sidecar.Source("main").ID).Findings; len(list) == 0 {
					return fmt.Errorf("nothing is said of what failover needs: %q", list)
				}
				return nil
			})
		}
		_ = f.term.stop()
	}
	f.contentEquals("bucket:all", wideQuery)
}
