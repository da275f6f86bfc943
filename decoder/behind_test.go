package decoder

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// The stream is behind the catalog: the tests below change a table while the
// decoder is down, so that it finds what the stream has not come to.

// A table's identity changes back and forth. What the stream tells between the
// changes that fit and those that do not is not mixed in the shadow: a row that
// comes in a part that fits and leaves in one that does not is gone.
func TestIdentityBackAndForth(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.config.look = 200 * time.Millisecond
	f.start()
	f.settled()
	_ = f.term.stop()
	for _, sql := range []string{
		"alter table t replica identity full",
		"update t set v = 1 where id < 10", // the stream tells of it: the table is copied into a shadow
		"alter table t replica identity default",
		"insert into t values (500, 5, 'comes'), (501, 5, 'stays')",
		"alter table t replica identity full",
		"update t set id = 600 where id = 500",
		"delete from t where id = 20",
		"alter table t replica identity default",
		"update t set v = 2 where id = 30",
	} {
		f.exec(sql)
	}
	f.start()
	f.settled()
	f.follows("bucket:all", wideQuery)
}

// watched notes how many rows a definition has when a rule set comes into force.
type watched struct {
	*sinktest.Sidecar
	rows      map[millrace.RuleSetID]int
	committed func() // called after each flush with positions
}

func (w *watched) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	c, err := w.Sidecar.Commit(ctx, f)
	if set, ok := w.Active(); err == nil && ok && f.Activate == set.ID {
		for _, d := range set.Definitions {
			w.rows[set.ID] += len(w.Content(d.ID))
		}
	}
	if err == nil && len(f.Positions) > 0 {
		w.committed()
	}
	return c, err
}

// deployBehind deploys a new definition of a table that was changed while the
// decoder was down, and waits until it is in force. It gives the rows that were
// in force then.
func (f *fixture) deployBehind(committed func(), changes ...string) int {
	f.t.Helper()
	f.start()
	f.settled()
	_ = f.term.stop()
	for _, sql := range changes {
		f.exec(sql)
	}
	f.config.Rules = strings.Replace(wideRules, "id, v, big", "id, big, v", 1)
	w := &watched{f.sidecar, map[millrace.RuleSetID]int{}, committed}
	f.term = startTerm(f.config, w)
	f.active(2)
	f.settled()
	f.follows("bucket:all", strings.Replace(wideQuery, `,"v":'||coalesce(v::text,'null')||',"big":'||coalesce(to_json(big)::text,'null')||'`, `,"big":'||coalesce(to_json(big)::text,'null')||',"v":'||coalesce(v::text,'null')||'`, 1))
	if err := f.term.stop(); err != nil && w.rows[2] == 0 {
		f.t.Logf("the term ended: %v", err)
	}
	return w.rows[2]
}

// A new definition does not come into force before a table is copied whose
// change the stream has not come to.
func TestDeployWaitsForAChangedTable(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	if n := f.deployBehind(func() {}, "alter table t replica identity full"); n != 100 {
		t.Errorf("the new definition came into force with %d rows, want 100", n)
	}
}

// The change of a table is taken back before the stream has come to it. What the
// stream told of the table meanwhile was not taken for a definition that is new:
// its copy begins with nothing there (the sidecar is told that rows are new, and
// fails the test if they are not).
func TestChangeIsTakenBack(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	done := false
	n := f.deployBehind(func() {
		if !done {
			done = true
			f.exec("alter table t replica identity default")
		}
	}, "insert into t values (500, 5, 'comes')", "alter table t replica identity full")
	if n != 101 {
		t.Errorf("the new definition came into force with %d rows, want 101", n)
	}
}
