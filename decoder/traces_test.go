package decoder

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/internal/pgtest"
)

// The traces: one for each rule of the exact chunk, played on a server step by
// step. With the rule the copy is right; without it rows are wrong, which shows
// that the test can fail.

// gate lets a test hold back the reading of chunks.
type gate struct {
	reader chunkReader
	hook   func(ctx context.Context, when string, page uint32) error
}

func (g *gate) Close() { g.reader.Close() }

func (g *gate) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	if err := g.hook(ctx, "before", req.FromPage); err != nil {
		return catalog.Chunk{}, err
	}
	c, err := g.reader.ReadChunk(ctx, req, row)
	if err != nil {
		return c, err
	}
	return c, g.hook(ctx, "after", req.FromPage)
}

// trace is a server whose commits can be held, and a table of 400 rows in
// chunks of 2 pages.
type trace struct {
	*fixture
	held  *pgx.Conn // its commits wait for a standby that is not there
	holds sync.WaitGroup

	mu     sync.Mutex
	gates  map[string]chan struct{} // closed when a chunk may pass
	passed map[string]chan struct{} // closed when a chunk is at the gate
}

func newTrace(t *testing.T, without rule) *trace {
	t.Helper()
	server := pgtest.Shared(t) // no test of this package runs in parallel
	tr := &trace{gates: map[string]chan struct{}{}, passed: map[string]chan struct{}{}}
	tr.fixture = newFixture(t, server, wideRules,
		"set synchronous_commit = local",
		"create table t(id int primary key, v int, big text) with (autovacuum_enabled = off)",
		"insert into t select g, 0, repeat('p', 150) from generate_series(1,400) g")
	tr.config.pages, tr.config.fixedPages, tr.config.without = 2, true, without
	tr.config.SnapshotWorkers = 1
	tr.config.wrap = func(r chunkReader) chunkReader { return &gate{r, tr.pass} }
	var err error
	if tr.held, err = pgx.Connect(context.Background(), tr.uri); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.held.Close(context.Background()) })
	tr.exec("alter system set synchronous_standby_names = 'nobody'")
	tr.exec("select pg_reload_conf()")
	t.Cleanup(tr.release)
	return tr
}

func (tr *trace) pass(ctx context.Context, when string, page uint32) error {
	name := fmt.Sprintf("%s %d", when, page)
	tr.mu.Lock()
	open, at := tr.gates[name], tr.passed[name]
	delete(tr.passed, name)
	tr.mu.Unlock()
	if open == nil {
		return nil
	}
	if at != nil {
		close(at)
	}
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// block makes the chunk that begins at a page wait, "before" or "after" it is
// read. It gives a function that waits until it is there, and one that lets it
// go.
func (tr *trace) block(when string, page int) (arrived, open func()) {
	name := fmt.Sprintf("%s %d", when, page)
	gate, at := make(chan struct{}), make(chan struct{})
	tr.mu.Lock()
	tr.gates[name], tr.passed[name] = gate, at
	tr.mu.Unlock()
	arrived = func() {
		tr.t.Helper()
		pgtest.Eventually(tr.t, patience, func() error {
			select {
			case <-at:
				return nil
			default:
				if err := tr.term.failed(); err != nil {
					tr.t.Fatal(err)
				}
				return fmt.Errorf("no chunk is %s page %d", when, page)
			}
		})
	}
	return arrived, sync.OnceFunc(func() {
		tr.mu.Lock()
		delete(tr.gates, name)
		tr.mu.Unlock()
		close(gate)
	})
}

// hold commits a statement that stays invisible until release. It returns once
// the commit is in the WAL.
func (tr *trace) hold(sql string) {
	tr.t.Helper()
	pid := tr.held.PgConn().PID()
	tr.holds.Go(func() { _, _ = tr.held.Exec(context.Background(), sql) })
	pgtest.Eventually(tr.t, patience, func() error {
		var event *string
		err := tr.db.QueryRow(context.Background(), "select wait_event from pg_stat_activity where pid = $1", int(pid)).Scan(&event)
		if err == nil && (event == nil || *event != "SyncRep") {
			err = fmt.Errorf("the commit does not wait for a standby: %v", event)
		}
		return err
	})
}

// release lets held commits become visible.
func (tr *trace) release() {
	tr.exec("alter system reset synchronous_standby_names")
	tr.exec("select pg_reload_conf()")
	pgtest.Eventually(tr.t, patience, func() error {
		var n int
		err := tr.db.QueryRow(context.Background(), "select count(*) from pg_stat_activity where wait_event = 'SyncRep'").Scan(&n)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d commits are held", n)
		}
		return err
	})
	tr.holds.Wait()
}

// applied waits until everything in the WAL now is durable in the sidecar.
func (tr *trace) applied() {
	tr.t.Helper()
	head := tr.head()
	tr.exec("select pg_logical_emit_message(true, 'test', '')")
	pgtest.Eventually(tr.t, patience, func() error {
		if err := tr.term.failed(); err != nil {
			tr.t.Fatal(err)
		}
		if d := tr.sidecar.Source("main").Durable; d < head {
			return fmt.Errorf("durable at %v, want %v", d, head)
		}
		return nil
	})
}

// expect compares the copy with the table.
func (tr *trace) expect(without rule) {
	tr.t.Helper()
	tr.settled()
	err := tr.compare("bucket:all", wideQuery)
	switch {
	case without == 0 && err != nil:
		tr.t.Fatal(err)
	case without != 0 && err == nil:
		tr.t.Fatal("the copy is right without the rule: the trace shows nothing")
	case err != nil:
		tr.t.Logf("without the rule, as it should be: %v", err)
	}
}

// each plays a trace with and without a rule.
func each(t *testing.T, r rule, play func(t *testing.T, tr *trace)) {
	for name, without := range map[string]rule{"with the rule": 0, "without": r} {
		t.Run(name, func(t *testing.T) {
			tr := newTrace(t, without)
			play(t, tr)
			tr.expect(without)
		})
	}
}

// A chunk read before an update and merged after it.
func TestTraceDrop(t *testing.T) {
	each(t, dropRule, func(_ *testing.T, tr *trace) {
		arrived, open := tr.block("after", 2)
		tr.start()
		arrived()
		tr.exec("update t set v = 1; delete from t where id % 7 = 0")
		tr.applied()
		open()
	})
}

// A. The stream has applied a held update when the chunk is asked for, and the
// chunk does not see it.
func TestTraceAVisibility(t *testing.T) {
	each(t, visibilityRule, func(_ *testing.T, tr *trace) {
		tr.config.SnapshotWorkers = 1
		arrived, open := tr.block("before", 0)
		tr.start()
		arrived()
		tr.hold("update t set v = 42 where id = 390")
		tr.applied()
		last, openLast := tr.block("after", 8)
		open()
		last()
		openLast()
		tr.copied(1)
		tr.release()
	})
}

// copied waits until n copies are registered and done.
func (tr *trace) copied(n int) {
	tr.t.Helper()
	pgtest.Eventually(tr.t, patience, func() error {
		copies := tr.sidecar.Copies()
		if len(copies) != n {
			return fmt.Errorf("%d copies are registered, want %d", len(copies), n)
		}
		for _, c := range copies {
			if c.State != millrace.CopyDone {
				return fmt.Errorf("copy %+v; report %+v", c, tr.sidecar.ReportOf(1))
			}
		}
		return nil
	})
}

// D, second half: VACUUM FULL moves rows of pages not read yet to pages merged
// before, and streams nothing.
func TestTraceDRewrite(t *testing.T) {
	each(t, filenodeRule, func(_ *testing.T, tr *trace) {
		arrived, open := tr.block("before", 4)
		tr.start()
		arrived()
		tr.exec("delete from t where id < 200")
		tr.exec("vacuum full t")
		open()
	})
}

// E. A chunk read before a TRUNCATE and merged after it.
func TestTraceETruncate(t *testing.T) {
	each(t, truncateRule, func(_ *testing.T, tr *trace) {
		arrived, open := tr.block("after", 0)
		tr.start()
		arrived()
		tr.exec("truncate t; insert into t values (1, 7, 'after')")
		tr.applied()
		open()
	})
}

// F. A crash after a held commit was applied: its transaction must come again.
func TestTraceFEarlyConfirmation(t *testing.T) {
	each(t, earlyConfirm, func(t *testing.T, tr *trace) {
		arrived, openFirst := tr.block("before", 0)
		tr.start()
		arrived()
		tr.hold("update t set v = 42 where id = 7")
		tr.applied()
		if tr.config.without == earlyConfirm {
			pgtest.Eventually(t, patience, func() error {
				tr.exec("select pg_logical_emit_message(true, 'test', '')")
				var confirmed string
				err := tr.db.QueryRow(context.Background(), "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1", tr.config.Sources[0].Slot).Scan(&confirmed)
				if lsn := mustLSN(t, confirmed); err == nil && lsn < tr.sidecar.Source("main").Durable {
					err = fmt.Errorf("confirmed %v", lsn)
				}
				return err
			})
		}
		_ = tr.term.stop()
		openFirst()
		again, open := tr.block("after", 0)
		tr.start()
		again()
		tr.applied()
		open()
		tr.copied(1)
		tr.release()
	})
}

// B. A new definition on a slot that has passed a held commit.
func TestTraceBNewDefinition(t *testing.T) {
	each(t, entryRule, func(_ *testing.T, tr *trace) {
		tr.start()
		tr.settled()
		tr.hold("begin; update t set v = 42 where id = 7; insert into t values (1000, 1, 'held'); commit")
		tr.applied()
		_ = tr.term.stop()
		tr.config.Rules = wideRules + "      - SELECT id, v FROM t WHERE id < 0\n"
		tr.start()
		if tr.config.without == entryRule {
			tr.copied(2)
		} else {
			pgtest.Eventually(tr.t, patience, func() error {
				if w := tr.sidecar.ReportOf(1).WaitingFor; !strings.Contains(w, "waits until transaction") {
					return fmt.Errorf("the status shows %q", w)
				}
				return nil
			})
		}
		tr.release()
	})
}
