package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// restarts runs a load, does something to a server several times, and holds the
// oracle up.
func (s *system) restarts(p *process, seed uint64, times int, restart func()) {
	s.t.Helper()
	l := startLoad(s.sourceURI, 2, seed)
	for i := range times {
		done := l.committed.Load()
		pgtest.Eventually(s.t, time.Minute, func() error { return l.progress(done + 60) })
		restart()
		s.t.Logf("restart %d done", i+1)
	}
	if _, err := l.Stop(); err != nil {
		s.t.Error(err)
	}
	s.caughtUp(drainTimeout)
	if !p.running() {
		s.t.Error("the decoder ended")
	}
	s.oracle()
	s.checkFootprint()
}

func TestSidecarRestartsUnderLoad(t *testing.T) {
	s := newSystem(t, options{})
	p := s.start()
	s.caughtUp(startTimeout)
	kill := false
	s.restarts(p, 71, 4, func() {
		if kill = !kill; kill {
			s.sidecar.Kill(t)
		} else {
			s.sidecar.Stop(t)
		}
		s.sidecar.Start(t)
	})
}

func TestSourceRestartsUnderLoad(t *testing.T) {
	s := newSystem(t, options{ownSource: true})
	p := s.start()
	s.caughtUp(startTimeout)
	kill := false
	s.restarts(p, 72, 4, func() {
		if kill = !kill; kill {
			s.source.Kill(t)
		} else {
			s.source.Stop(t)
		}
		s.source.Start(t)
	})
}

// A fast stop of the source ends soon while the decoder streams, idle (RA-53).
func TestRA53_SourceStopsFast(t *testing.T) {
	s := newSystem(t, options{ownSource: true})
	p := s.start()
	s.caughtUp(startTimeout)
	stop := func(what string, within time.Duration) {
		t.Helper()
		start := time.Now()
		s.source.Stop(t)
		if took := time.Since(start); took > within {
			t.Errorf("%s: the source took %v to stop, want at most %v", what, took, within)
		} else {
			t.Logf("%s: the source stopped in %v", what, took)
		}
		s.source.Start(t)
	}
	stop("idle", 5*time.Second)
	s.caughtUp(waitTimeout)
	if err := <-s.background(bigTransaction(0, bigRows(t))); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, waitTimeout, func() error {
		n, err := tryQuery[int](s.sourceURI, `SELECT count(*) FROM pg_stat_replication WHERE sent_lsn > '0/0'`)
		if err == nil && n == 0 {
			err = fmt.Errorf("nothing streams")
		}
		return err
	})
	stop("in a large transaction", 30*time.Second)
	s.caughtUp(drainTimeout)
	if !p.running() {
		t.Error("the decoder ended")
	}
	s.oracle()
}

// Connections that break at any moment, on either side.
func TestConnectionsCutUnderLoad(t *testing.T) {
	s := newSystem(t, options{sourceProxy: true, sidecarProxy: true})
	p := s.start()
	s.caughtUp(startTimeout)
	s.restarts(p, 73, 6, func() {
		s.sourceNet.CutAll()
		s.sidecarNet.CutAll()
	})
}

// An idle source: the checkpoint's position follows what is written elsewhere
// on it, so that the slot does not hold back WAL for ever.
func TestRA34_PositionFollowsUnrelatedWrites(t *testing.T) {
	s := newSystem(t, options{})
	s.start()
	s.caughtUp(startTimeout)
	s.onSource(`INSERT INTO unrelated SELECT g, 'x' FROM generate_series(1, 5000) g`)
	lsn := query[string](t, s.sourceURI, `SELECT pg_current_wal_insert_lsn()::text`)
	ops := query[int64](t, s.sidecarURI, `SELECT op_id FROM millrace.head`)
	eventuallyQuery(t, 90*time.Second, s.sourceURI, true, `SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = $2`, lsn, s.slot)
	if got := query[int64](t, s.sidecarURI, `SELECT op_id FROM millrace.head`); got != ops {
		t.Errorf("the op counter moved from %d to %d without ops", ops, got)
	}
}

// A sidecar that hangs for longer than the source's patience: the connection to
// the source lives on, nothing is confirmed that is not durable, and nothing is
// lost (RA-33).
func TestSidecarHangs(t *testing.T) {
	s := newSystem(t, options{sourceSettings: map[string]string{"wal_sender_timeout": "2s"}})
	s.start()
	s.caughtUp(startTimeout)
	l := startLoad(s.sourceURI, 2, 74)
	pgtest.Eventually(t, time.Minute, func() error { return l.progress(50) })
	const walsender = `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`
	before := query[int](t, s.sourceURI, walsender, s.slot)

	ctx := t.Context()
	conn, err := connectAs(ctx, s.sidecarURI, "e2e-lock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var durable string
	if err := tx.QueryRow(ctx, `SELECT durable::text FROM millrace.sources FOR UPDATE`).Scan(&durable); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 7*time.Second)
	if ok := query[bool](t, s.sourceURI, `SELECT confirmed_flush_lsn <= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = $2`, durable, s.slot); !ok {
		t.Errorf("the slot was confirmed beyond the durable position %s (I4)", durable)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Stop(); err != nil {
		t.Error(err)
	}
	s.caughtUp(time.Minute)
	if after := query[int](t, s.sourceURI, walsender, s.slot); after != before {
		t.Errorf("the walsender changed from %d to %d: the connection was lost", before, after)
	}
	s.oracle()
}
