package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/internal/pgtest"
)

// RA-30 by its outcome, since transactions in progress are never asked for:
// transactions that the server spills early, with savepoints, DDL and a
// rollback in them, and small ones of others in between, come out as they were
// committed.
func TestRA30_SpilledTransactionsInterleave(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	ctx := context.Background()
	f.exec("do $$begin execute format('alter database %I set logical_decoding_work_mem = ''64kB''', current_database()); end$$")
	f.config.BatchMaxBytes = 64 << 10
	f.config.look = 300 * time.Millisecond
	f.start()
	f.settled()
	large, err := pgx.Connect(ctx, f.uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = large.Close(ctx) })
	on := func(sql string) {
		t.Helper()
		if _, err := large.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	many := func(from int) string {
		return fmt.Sprintf("insert into t(id, v, big) select g, 1, 'row '||g from generate_series(%d, %d) g", from, from+4999)
	}
	small := 0
	between := func() {
		small++
		f.exec("insert into t(id, v, big) values ($1, 7, 'small')", -small)
		f.exec("update t set v = v + 1 where id = $1", -small)
	}
	on("begin")
	on(many(10_000))
	between()
	on("savepoint a")
	on(many(20_000))
	on("savepoint b")
	on("update t set big = repeat('b', 4000) where id between 1 and 50")
	between()
	on("release b")
	on("rollback to a")
	on(many(30_000))
	on("update t set v = 5 where id <= 100") // with long values that are not told
	between()
	on("commit")
	between()
	on("begin")
	on(many(40_000))
	between()
	on("rollback")
	// The last locks the table: nobody else writes to it until it commits.
	on("begin")
	on(many(50_000))
	on("alter table t add extra int default 3")
	on("insert into t(id, v, big, extra) values (60000, 1, 'after', 4)")
	on("alter table t alter v type bigint")
	on("update t set v = 6 where id between 50000 and 50100")
	on("commit")
	between()
	f.settled()
	f.follows("bucket:all", wideQuery)
	var spilled int64
	if err := f.db.QueryRow(ctx, "select coalesce(sum(spill_txns), 0) from pg_stat_replication_slots where slot_name = $1", f.config.Sources[0].Slot).Scan(&spilled); err != nil {
		t.Fatal(err)
	}
	if spilled == 0 {
		t.Error("the server spilled no transaction: the test shows nothing")
	}
	if errs := f.sidecar.Errors(); len(errs) > 0 {
		t.Errorf("rows have errors: %v", errs)
	}
}

// asking starts a term with a sidecar in which devices ask for write
// checkpoints; await waits until one is answered.
func (f *fixture) asking() (r *requests, await func(id int64)) {
	r = &requests{Sidecar: f.sidecar, asked: make(chan struct{}, 1)}
	f.term = startTerm(f.config, r)
	return r, func(id int64) {
		f.t.Helper()
		pgtest.Eventually(f.t, patience, func() error {
			if err := f.term.failed(); err != nil {
				f.t.Fatalf("the term ended: %v", err)
			}
			if !r.acknowledged(id) {
				return errors.New("the request is not acknowledged")
			}
			return nil
		})
	}
}

// reported waits until the source was looked at so many times.
func (f *fixture) reported(times int) {
	f.t.Helper()
	id := f.sidecar.Source("main").ID
	seen := f.sidecar.ReportOf(id).HeadAt
	pgtest.Eventually(f.t, patience, func() error {
		if at := f.sidecar.ReportOf(id).HeadAt; at.After(seen) {
			seen, times = at, times-1
		}
		if times > 0 {
			return fmt.Errorf("to be looked at %d times more", times)
		}
		return nil
	})
}

// RA-35, P60: a write checkpoint of a source on which nothing happens is answered
// by a message of its own, not by the next heartbeat.
func TestRA35_WriteCheckpointOfAnIdleSource(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.config.Heartbeat = time.Hour
	r, await := f.asking()
	f.settled()
	f.reported(1)
	for id := int64(1); id <= 3; id++ {
		asked := time.Now()
		r.ask(id)
		await(id)
		t.Logf("answered after %v", time.Since(asked))
	}
}

// messages counts the logical messages that a slot has before it.
func (f *fixture) messages(slot string) (n int) {
	f.t.Helper()
	rows, err := f.db.Query(context.Background(), `select data from pg_logical_slot_peek_binary_changes($1, null, null,
		'proto_version', '1', 'publication_names', 'millrace', 'messages', 'true')`, slot)
	if err != nil {
		f.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		f.t.Fatal(err)
	}
	return len(slices.DeleteFunc(all, func(b []byte) bool { return pgoutput.Kind(b[0]) != pgoutput.KindMessage }))
}

// RA-56: with the heartbeat off nothing is written to an idle source. A write and
// its write checkpoint come through all the same.
func TestRA56_NoHeartbeat(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint("heartbeat ", on), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
			f.config.Heartbeat = -1
			if on { // shows that the messages would be seen
				f.config.Heartbeat = 100 * time.Millisecond
			}
			r, await := f.asking()
			f.settled()
			watcher := fmt.Sprintf("watch_%d", time.Now().UnixNano())
			f.exec("select pg_create_logical_replication_slot($1, 'pgoutput')", watcher)
			f.reported(2)
			if n := f.messages(watcher); (n > 0) != on {
				t.Errorf("%d messages were written to the idle source", n)
			}
			f.exec("update t set v = 8 where id = 2")
			r.ask(1)
			await(1)
			f.contentEquals("bucket:all", wideQuery)
		})
	}
}
