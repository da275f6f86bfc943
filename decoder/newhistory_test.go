package decoder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/internal/pgtest"
)

// following is a fixture over wideTable whose rules are in force, so that it
// follows the source.
func following(t testing.TB, server *pgtest.Server) *fixture {
	t.Helper()
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.start()
	f.settled()
	return f
}

// shutDown stops the decoder, then the source's server.
func (f *fixture) shutDown(server *pgtest.Server) {
	f.t.Helper()
	_ = f.term.stop()
	_ = f.db.Close(context.Background())
	server.Stop(f.t)
}

// removeWAL writes until the server, which keeps little WAL, has removed what the
// slot still needs.
func (f *fixture) removeWAL() {
	f.t.Helper()
	f.exec("create table noise(x text)")
	pgtest.Eventually(f.t, 2*patience, func() error {
		f.exec("insert into noise select repeat('x', 1000) from generate_series(1, 20000)")
		f.exec("select pg_switch_wal()")
		f.exec("checkpoint")
		var state string
		if err := f.db.QueryRow(context.Background(), "select wal_status from pg_replication_slots where slot_name = $1", f.config.Sources[0].Slot).Scan(&state); err != nil {
			return err
		}
		if state != "lost" {
			return fmt.Errorf("the slot is %s", state)
		}
		return nil
	})
}

// renewed waits until a rule set of new definitions is in force.
func (f *fixture) renewed(before millrace.RuleSet) {
	f.t.Helper()
	pgtest.Eventually(f.t, 2*patience, func() error {
		if err := f.term.failed(); err != nil {
			f.t.Fatalf("the term ended: %v", err)
		}
		set, _ := f.sidecar.Active()
		if set.ID == before.ID {
			return fmt.Errorf("rule set %d is still in force; sources %+v, report %+v, copies %+v", set.ID,
				f.sidecar.Source("main"), f.sidecar.ReportOf(f.sidecar.Source("main").ID), f.sidecar.Copies())
		}
		return nil
	})
	set, _ := f.sidecar.Active()
	for i, d := range set.Definitions {
		if old := before.Definitions[i]; d.ID == old.ID || d.WirePrefix == old.WirePrefix && d.Kind == millrace.BucketDefinition {
			f.t.Errorf("definition %s has its old history", d.Key)
		}
	}
}

// slots counts the slots of the fixture's database.
func (f *fixture) slots() (n int) {
	f.t.Helper()
	if err := f.db.QueryRow(context.Background(), "select count(*) from pg_replication_slots where database = current_database()").Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// RA-43, RA-44, RA-04: history that is lost while the decoder is stopped is
// found before streaming. A new one is built, what clients have stays until it is
// exact, and there is one slot in the end.
func TestRA04_RA43_RA44_LostHistory(t *testing.T) {
	for name, lose := range map[string]func(f *fixture){
		"RA-43 slot dropped": func(f *fixture) {
			f.exec("select pg_drop_replication_slot($1)", f.config.Sources[0].Slot)
			f.exec("update t set v = v + 1; delete from t where id = 3")
		},
		"RA-44 slot advanced": func(f *fixture) {
			f.exec("update t set v = v + 1; delete from t where id = 3")
			f.exec("select pg_replication_slot_advance($1, pg_current_wal_insert_lsn())", f.config.Sources[0].Slot)
		},
		"RA-04 publication made again": func(f *fixture) {
			f.exec("drop publication millrace")
			f.exec("update t set v = v + 1; delete from t where id = 3")
			f.exec("create publication millrace for table t")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := following(t, pgtest.Shared(t))
			before, _ := f.sidecar.Active()
			old := f.definition("bucket:all")
			served := f.sidecar.Content(old)
			_ = f.term.stop()
			lose(f)
			f.start()
			f.renewed(before)
			f.settled()
			f.contentEquals("bucket:all", wideQuery)
			if now := f.sidecar.Content(old); len(now) != len(served) {
				t.Errorf("the old definition had %d rows, has %d", len(served), len(now))
			}
			f.exec("insert into t values (5000, 1, 'later')")
			f.settled()
			f.contentEquals("bucket:all", wideQuery)
			if n := f.slots(); n != 1 {
				t.Errorf("%d slots", n)
			}
		})
	}
}

// I3, RA-43: while a new history is built, what is served does not have what is
// uploaded. A device is told that its upload has come back once it has.
func TestRA43_UploadsWaitForTheNewHistory(t *testing.T) {
	f := following(t, pgtest.Shared(t))
	before, _ := f.sidecar.Active()
	_ = f.term.stop()
	f.exec("select pg_drop_replication_slot($1)", f.config.Sources[0].Slot)
	gate := make(chan struct{})
	f.config.wrap = func(r chunkReader) chunkReader { return &gatedReader{r, gate} }
	r, await := f.asking()
	pgtest.Eventually(t, patience, func() error {
		if copies := f.sidecar.Copies(); len(copies) == 0 || copies[len(copies)-1].State == millrace.CopyDone {
			return fmt.Errorf("copies %+v", copies)
		}
		return nil
	})
	f.exec("insert into t values (7000, 1, 'uploaded')")
	r.ask(1)
	f.reported(2)
	if r.acknowledged(1) {
		t.Error("an upload is acknowledged that nobody is shown")
	}
	close(gate)
	await(1)
	if set, _ := f.sidecar.Active(); set.ID == before.ID {
		t.Error("an upload is acknowledged before the new history is in force")
	}
	f.contentEquals("bucket:all", wideQuery)
}

// What takes the place of rules that lost their history cannot be given up: they
// would stand still for ever.
func TestRA43_NewHistoryIsNotGivenUp(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
	f.start()
	f.inForce(1)
	_ = f.term.stop()
	f.exec("select pg_drop_replication_slot($1)", f.config.Sources[0].Slot)
	f.exec("update t set v = v + 1")
	gate := make(chan struct{})
	f.config.wrap = func(r chunkReader) chunkReader { return &gatedReader{r, gate} }
	f.start()
	pgtest.Eventually(t, patience, func() error {
		if copies := f.sidecar.Copies(); len(copies) == 0 || copies[len(copies)-1].State == millrace.CopyDone {
			return fmt.Errorf("copies %+v", copies)
		}
		return nil
	})
	for _, target := range []millrace.RuleSetID{0, 1} {
		if a := f.rollback(target); !a.Refused || !strings.Contains(a.Message, "history of a source is lost") {
			t.Errorf("roll-back to %d: %+v", target, a)
		}
	}
	if a := f.deploy(deployRules("w")); a.Refused || a.Deploy == nil {
		t.Fatalf("another deploy meanwhile: %+v", a)
	}
	// Back to what is in force means to build it anew.
	if a := f.deploy(deployRules("v")); a.Refused || a.Abandon || a.Deploy == nil {
		t.Fatalf("the rules in force again: %+v", a)
	}
	close(gate)
	pgtest.Eventually(t, 2*patience, func() error {
		set, _ := f.sidecar.Active()
		if set.ID == 1 {
			return fmt.Errorf("copies %+v", f.sidecar.Copies())
		}
		return nil
	})
	f.settled()
	f.contentEquals("bucket:three", threeVQuery)
}

// RA-43: the same while streaming.
func TestRA43_SlotDroppedWhileStreaming(t *testing.T) {
	f := following(t, pgtest.Shared(t))
	before, _ := f.sidecar.Active()
	pgtest.Eventually(t, patience, func() error {
		f.exec("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active", f.config.Sources[0].Slot)
		_, err := f.db.Exec(context.Background(), "select pg_drop_replication_slot($1)", f.config.Sources[0].Slot)
		return err
	})
	f.exec("update t set v = v + 1; delete from t where id = 4")
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-55: a slot that is invalidated because the source removed its WAL is told
// from a lost connection, and a new history begins.
func TestRA55_SlotInvalidated(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.exec("alter system set max_slot_wal_keep_size = '1MB'")
	f.exec("select pg_reload_conf()")
	f.start()
	f.settled()
	before, _ := f.sidecar.Active()
	_ = f.term.stop()
	f.removeWAL()
	f.exec("update t set v = v + 1; delete from t where id = 4")
	f.start()
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-21: WAL that is removed before the copies are done stops the source with
// the setting to raise; once it is raised, copying begins again by itself.
func TestRA21_WALRemovedWhileCopying(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.exec("alter system set max_slot_wal_keep_size = '1MB'")
	f.exec("select pg_reload_conf()")
	gate := make(chan struct{})
	f.config.wrap = func(r chunkReader) chunkReader { return &gatedReader{r, gate} }
	f.config.stopped = 50 * time.Millisecond
	f.start()
	pgtest.Eventually(t, patience, func() error {
		if f.slots() != 1 || len(f.sidecar.Copies()) == 0 {
			return errors.New("no copy is under way")
		}
		return nil
	})
	_ = f.term.stop()
	f.removeWAL()
	f.start()
	id := f.sidecar.Source("main").ID
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(id); r.ErrorCode != codeSlot || !strings.Contains(r.Error, "max_slot_wal_keep_size = 1MB") {
			return fmt.Errorf("the report says %s %q", r.ErrorCode, r.Error)
		}
		return nil
	})
	close(gate)
	f.exec("alter system set max_slot_wal_keep_size = -1")
	f.exec("select pg_reload_conf()")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// gatedReader reads nothing before the gate is open.
type gatedReader struct {
	chunkReader
	gate <-chan struct{}
}

func (r *gatedReader) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	select {
	case <-r.gate:
	case <-ctx.Done():
		return catalog.Chunk{}, ctx.Err()
	}
	return r.chunkReader.ReadChunk(ctx, req, row)
}
