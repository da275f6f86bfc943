package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// takeOver is how long the second decoder may take to lead and to have caught up
// with what was written meanwhile, on a machine that does much else.
const takeOver = time.Minute

func atLeast(got, want int64, what string) error {
	if got < want {
		return fmt.Errorf("%d %s, want at least %d", got, what, want)
	}
	return nil
}

// leads waits until a mark made now is on the sidecar and returns how long that
// took.
func (s *system) leads(within time.Duration) time.Duration {
	s.t.Helper()
	start := time.Now()
	s.caughtUp(within)
	return time.Since(start)
}

// Two decoders on one sidecar: one works; after kill -9 the other does.
func TestRA09_StandbyTakesOverAfterKill(t *testing.T) {
	s := newSystem(t, options{})
	a := s.start()
	s.caughtUp(startTimeout)
	b := s.start()
	l := startLoad(s.sourceURI, 2, 51)
	pgtest.Eventually(t, time.Minute, func() error { return l.progress(150) })
	fence := query[int64](t, s.sidecarURI, `SELECT fence FROM millrace.head`)
	if n := query[int](t, s.sourceURI, `SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = $1`, s.slot); n != 1 {
		t.Errorf("%d processes stream from the slot, want 1", n)
	}
	a.kill9(t)
	t.Logf("the standby took over in %v", s.leads(takeOver))
	if got := query[int64](t, s.sidecarURI, `SELECT fence FROM millrace.head`); got <= fence {
		t.Errorf("fence is %d after the take-over, was %d", got, fence)
	}
	if _, err := l.Stop(); err != nil {
		t.Error(err)
	}
	if !b.running() {
		t.Error("the new leader ended")
	}
	s.caughtUp(time.Minute)
	s.oracle()
	s.checkFootprint()
}

// The same after SIGSTOP, at a moment when the old leader is writing; when it
// wakes it writes nothing, and becomes the standby: it leads again once the
// other is gone.
func TestRA09_StandbyTakesOverAfterFreeze(t *testing.T) {
	s := newSystem(t, options{})
	a := s.start()
	s.caughtUp(startTimeout)
	b := s.start()
	for round := range 2 {
		l := startLoad(s.sourceURI, 2, uint64(60+round))
		pgtest.Eventually(t, time.Minute, func() error { return l.progress(100) })
		a.signal(t, syscall.SIGSTOP)
		t.Logf("round %d: the standby took over in %v", round, s.leads(takeOver))
		if _, err := l.Stop(); err != nil {
			t.Error(err)
		}
		s.caughtUp(time.Minute)
		fence := query[int64](t, s.sidecarURI, `SELECT fence FROM millrace.head`)
		before := query[string](t, s.sidecarURI, opsDigest)
		logged := len(a.log.text())
		a.signal(t, syscall.SIGCONT)
		// The old leader has had its chance once it says that it is waiting: a
		// standby again, with its old connections closed.
		s.becomesStandby(a, logged)
		if got := query[int64](t, s.sidecarURI, `SELECT fence FROM millrace.head`); got != fence {
			t.Errorf("fence is %d after the old leader woke, was %d", got, fence)
		}
		if got := query[string](t, s.sidecarURI, opsDigest); got != before {
			t.Errorf("the old leader wrote: ops were %s, are %s", before, got)
		}
		s.caughtUp(waitTimeout)
		s.oracle()
		if !a.running() || !b.running() {
			t.Fatal("a decoder ended")
		}
		a, b = b, a
	}
	// Both are alive; each led once. The one that leads now goes, the other goes on.
	a.kill9(t)
	t.Logf("the once frozen one took over in %v", s.leads(takeOver))
	s.oracle()
	s.checkFootprint()
}

// opsDigest sums up all ops.
const opsDigest = `SELECT count(*) || ' ops to ' || max(op_id) || ', ' || sum(hashtext(op_id || coalesce(data, ''))::bigint) FROM millrace.ops`

// becomesStandby waits until a process says that it is a standby, after so many
// bytes of its log.
func (s *system) becomesStandby(p *process, logged int) {
	s.t.Helper()
	pgtest.Eventually(s.t, takeOver, func() error {
		if !standbyLine.MatchString(p.log.text()[logged:]) {
			return fmt.Errorf("%s does not say that it is a standby; its log ends:\n%s", p.name, p.log.tail(5))
		}
		return nil
	})
}

// A standby neither decodes nor holds a slot, and ends at once when asked.
func TestStandbyIsIdle(t *testing.T) {
	s := newSystem(t, options{})
	s.start()
	s.caughtUp(startTimeout)
	b := s.start()
	s.becomesStandby(b, 0)
	if n := query[int](t, s.sourceURI, `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`); n != 1 {
		t.Errorf("%d slots, want 1", n)
	}
	if code := b.terminate(t, 10*time.Second); code != 0 {
		t.Errorf("the standby ends with %d, want 0", code)
	}
	s.caughtUp(waitTimeout)
}
