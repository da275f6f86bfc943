package e2e

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

// The slot is dropped while the decoder is down, and changes are made that no
// stream will ever bring: a new history is built by itself beside what is served, and
// the sidecar holds what the source has (RA-43).
func TestRA43_SlotDroppedWhileDown(t *testing.T) {
	s := newSystem(t, options{})
	p := s.start()
	s.caughtUp(startTimeout)
	before := query[int](t, s.sidecarURI, `SELECT rule_set FROM millrace.status`)
	p.kill9(t)
	pgtest.Eventually(t, startTimeout, func() error { // the server notices the kill when it likes
		_, err := tryQuery[int](s.sourceURI, `SELECT count(*)::int FROM (SELECT pg_drop_replication_slot($1)) d`, s.slot)
		return err
	})
	s.onSource("DELETE FROM marks WHERE id = 'mark'")
	s.start()
	pgtest.Eventually(t, startTimeout, func() error {
		now, err := tryQuery[int](s.sidecarURI, `SELECT coalesce(rule_set, 0) FROM millrace.status`)
		if err != nil {
			return err
		}
		if now == before {
			return fmt.Errorf("rule set %d is still in force", now)
		}
		return nil
	})
	s.caughtUp(startTimeout)
	for _, table := range []string{"accounts", "marks"} {
		want := query[int](t, s.sourceURI, "SELECT count(*)::int FROM "+table)
		got := query[int](t, s.sidecarURI, `SELECT rows::int FROM millrace.buckets WHERE served AND name = $1`, table+"[]")
		if got != want || want == 0 {
			t.Errorf("%s has %d rows, the source %d", table, got, want)
		}
	}
	if n := query[int](t, s.sidecarURI, `SELECT histories_lost::int FROM millrace.slot_health`); n != 1 {
		t.Errorf("%d histories were lost", n)
	}
}
