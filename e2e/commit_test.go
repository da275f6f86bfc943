package e2e

import (
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
)

// A COMMIT that the sidecar refuses, at random: a deferred constraint trigger
// raises while the transaction commits.
func TestCommitRefused(t *testing.T) {
	s := newSystem(t, options{})
	p := s.start()
	s.caughtUp(startTimeout)
	execSQL(t, s.sidecarURI, `
		CREATE SEQUENCE public.refused;
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF random() < 0.3 THEN
				PERFORM nextval('public.refused');
				RAISE EXCEPTION 'refused by the test' USING ERRCODE = 'disk_full';
			END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON millrace.checkpoint_log
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	s.failUnderLoad(p, 31, 8, func() int64 {
		return query[int64](t, s.sidecarURI, `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.refused`)
	}, func() { execSQL(t, s.sidecarURI, `DROP TRIGGER refuse ON millrace.checkpoint_log`) })
}

// A backend terminated in the middle of a transaction or of its COMMIT.
func TestCommitTerminated(t *testing.T) {
	s := newSystem(t, options{})
	p := s.start()
	s.caughtUp(startTimeout)
	// COMMIT takes its time, so that the termination finds it in the middle.
	execSQL(t, s.sidecarURI, `
		CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(random() * 0.03); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON millrace.checkpoint_log
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.slow()`)
	stop, done := make(chan struct{}), make(chan struct{})
	var killed atomic.Int64
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(100+rand.IntN(500)) * time.Millisecond):
			}
			n, err := tryQuery[int64](s.sidecarURI, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL`)
			if err == nil {
				killed.Add(n)
			}
		}
	}()
	s.failUnderLoad(p, 32, 8, killed.Load, func() {
		close(stop)
		<-done
		execSQL(t, s.sidecarURI, `DROP TRIGGER slow ON millrace.checkpoint_log`)
	})
}

// commitStatement finds COMMIT as a statement, not synchronous_commit.
var commitStatement = regexp.MustCompile(`(?i)[^_a-z]commit[^_a-z]`)

// A connection that breaks just before COMMIT arrives, or just after it was
// carried out and before the answer: the outcome is unknown to the writer.
func TestCommitConnectionCut(t *testing.T) {
	s := newSystem(t, options{sidecarProxy: true})
	p := s.start()
	s.caughtUp(startTimeout)
	var before, after atomic.Int64
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(1, 2))
	s.sidecarNet.SetHook(func(_ int, dir faultnet.Direction, chunk []byte) faultnet.Verdict {
		if dir != faultnet.ToServer || !commitStatement.Match(chunk) {
			return faultnet.Pass
		}
		mu.Lock()
		defer mu.Unlock()
		switch rnd.IntN(8) {
		case 0:
			before.Add(1)
			return faultnet.Cut
		case 1:
			after.Add(1)
			return faultnet.CutAfter
		}
		return faultnet.Pass
	})
	s.failUnderLoad(p, 33, 4, func() int64 { return min(before.Load(), after.Load()) }, func() { s.sidecarNet.SetHook(nil) })
	t.Logf("cut %d times before the COMMIT, %d times after", before.Load(), after.Load())
}

// failUnderLoad runs a load while something makes commits fail, until failures
// says that there were enough of them; then heals it and holds the oracle up. The
// process must have lived through it all, and may not have waited long after
// failures between which it made progress.
func (s *system) failUnderLoad(p *process, seed uint64, enough int64, failures func() int64, heal func()) {
	s.t.Helper()
	l := startLoad(s.sourceURI, 2, seed)
	reached := false
	defer func() {
		if !reached {
			s.explain()
		}
	}()
	pgtest.Eventually(s.t, 2*time.Minute, func() error {
		if err := l.progress(300); err != nil {
			return err
		}
		return atLeast(failures(), enough, "failed commits")
	})
	reached = true
	committed, err := l.Stop()
	if err != nil {
		s.t.Error(err)
	}
	heal()
	s.t.Logf("%d transactions, %d failed commits", committed, failures())
	s.caughtUp(time.Minute)
	if !p.running() {
		s.t.Error("the decoder ended")
	}
	s.oracle()
	s.checkFootprint()
}
