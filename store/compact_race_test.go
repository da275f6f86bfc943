package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

const busyBucket = `by_owner["busy"]`

// rewriteRow changes a row of the busy bucket n times.
func (x *world) change(tb testing.TB, id string, from, to int) {
	tb.Helper()
	for n := from; n < to; n++ {
		x.apply(tb, x.upsert(0, id, x.out(0, busyBucket, "lists", id, fmt.Sprintf(`{"id":%q,"n":%d}`, id, n))))
	}
	x.commit(tb, nil)
}

func (x *world) busy(tb testing.TB) int64 {
	tb.Helper()
	return value[int64](tb, x.conn, `SELECT id FROM millrace.bucket_names WHERE name = $1`, busyBucket)
}

func (x *world) head(tb testing.TB) int64 {
	tb.Helper()
	return value[int64](tb, x.conn, `SELECT op_id FROM millrace.head`)
}

// verified tells that everything stored of the busy bucket adds up.
func (x *world) verified(tb testing.TB) {
	tb.Helper()
	equal(tb, []string{"(t)"}, lines(tb, x.conn, `SELECT ok FROM millrace.verify_bucket($1)`, busyBucket))
}

// waitsForLock waits until a session of the sidecar waits for a lock.
func waitsForLock(tb testing.TB, conn *pgx.Conn, application string) {
	tb.Helper()
	pgtest.Eventually(tb, time.Minute, func() error {
		if value[int](tb, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
			AND application_name LIKE $1 || '%'`, application) == 0 {
			return fmt.Errorf("%s does not wait", application)
		}
		return nil
	})
}

// TestAppendWhileCompacting: a flush to the same bucket that is open when
// compaction comes, and one that comes while compaction is open, wait for each
// other at the totals only, and both count.
func TestAppendWhileCompacting(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	bucket, def := x.busy(t), x.set.Definitions[0].ID
	c := x.newCompactor(t, CompactionOptions{})
	exec(t, c.conn, `SET lock_timeout = '60s'`)

	// The flush is first: it has changed the totals and not committed.
	horizon := x.head(t)
	x.apply(t, x.upsert(0, "a", x.out(0, busyBucket, "lists", "a", `{"id":"a","n":50}`)))
	must(t, x.w.writeOut(t.Context()))
	compacted := make(chan error, 1)
	go func() {
		_, err := c.compactBucket(context.Background(), def, bucket, horizon)
		compacted <- err
	}()
	waitsForLock(t, x.conn, "millrace compaction")
	x.commit(t, nil)
	must(t, <-compacted)
	equal(t, []string{"(CLEAR)", "(PUT)", "(PUT)"}, lines(t, x.conn, `SELECT kind FROM millrace.ops_between($1, 0, NULL)`, busyBucket))
	x.verified(t)

	// Compaction is first: only COMMIT is missing.
	x.change(t, "a", 51, 60)
	tx, err := c.conn.Begin(t.Context())
	must(t, err)
	_, err = c.compactPart(t.Context(), tx, def, bucket, x.head(t))
	must(t, err)
	x.apply(t, x.upsert(0, "a", x.out(0, busyBucket, "lists", "a", `{"id":"a","n":60}`)))
	flushed := make(chan error, 1)
	go func() {
		x.lsn += 100
		_, err := x.w.Commit(context.Background(), &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: x.lsn}}})
		flushed <- err
	}()
	waitsForLock(t, x.conn, "millrace decoder")
	must(t, tx.Commit(t.Context()))
	must(t, <-flushed)
	equal(t, []string{"(CLEAR)", "(PUT)", "(PUT)"}, lines(t, x.conn, `SELECT kind FROM millrace.ops_between($1, 0, NULL)`, busyBucket))
	x.verified(t)
}

// TestFlushIsNotHeldUp: a flush to other buckets goes on beside an open
// transaction of compaction that has proved the fence.
func TestFlushIsNotHeldUp(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	c := x.newCompactor(t, CompactionOptions{})
	tx, err := c.conn.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(context.Background())
	_, err = c.compactPart(t.Context(), tx, x.set.Definitions[0].ID, x.busy(t), x.head(t))
	must(t, err)
	var mine bool
	must(t, tx.QueryRow(t.Context(), sqlCompactionFence, x.w.fence).Scan(&mine))
	x.apply(t, x.upsert(0, "b", x.out(0, `by_owner["other"]`, "lists", "b", `{"id":"b"}`)))
	x.commit(t, nil) // would block for ever
	must(t, tx.Commit(t.Context()))
	x.verified(t)
}

// TestTwoCompactors: the second leaves a bucket that the first has (SA-22).
func TestTwoCompactors(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	bucket, def, horizon := x.busy(t), x.set.Definitions[0].ID, x.head(t)
	exec(t, x.conn, `INSERT INTO millrace.bucket_compactions (bucket) VALUES ($1)`, bucket)
	first, second := x.newCompactor(t, CompactionOptions{}), x.newCompactor(t, CompactionOptions{})
	tx, err := first.conn.Begin(t.Context())
	must(t, err)
	_, err = first.compactPart(t.Context(), tx, def, bucket, horizon)
	must(t, err)
	if _, err := second.compactBucket(t.Context(), def, bucket, horizon); !errors.Is(err, errBusy) {
		t.Fatalf("the second: %v", err)
	}
	must(t, tx.Commit(t.Context()))
	step, err := second.compactBucket(t.Context(), def, bucket, horizon)
	must(t, err)
	if step != (bucketStep{}) {
		t.Errorf("the second did again: %+v", step)
	}
	x.verified(t)
}

// TestCompactionOfALostTerm: a compactor of a decoder that was replaced changes
// nothing, and a take-over waits for the one that is about to commit.
func TestCompactionOfALostTerm(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	bucket, def, horizon := x.busy(t), x.set.Definitions[0].ID, x.head(t)
	c := x.newCompactor(t, CompactionOptions{})
	tx, err := c.conn.Begin(t.Context())
	must(t, err)
	var mine bool
	must(t, tx.QueryRow(t.Context(), sqlCompactionFence, x.w.fence).Scan(&mine))
	must(t, x.w.Close(t.Context()))
	led := make(chan *Writer, 1)
	go func() {
		w, err := x.store.Lead(context.Background(), "next")
		if err != nil {
			t.Error(err)
		}
		led <- w
	}()
	waitsForLock(t, x.conn, "millrace decoder next")
	must(t, tx.Commit(t.Context()))
	w := <-led
	if w == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _ = w.Close(context.Background()) })

	before := lines(t, x.conn, `SELECT * FROM millrace.ops ORDER BY op_id`)
	if _, err := c.compactBucket(t.Context(), def, bucket, horizon); !errors.Is(err, ErrLeadershipLost) {
		t.Fatalf("after a take-over: %v", err)
	}
	equal(t, before, lines(t, x.conn, `SELECT * FROM millrace.ops ORDER BY op_id`))
	x.verified(t)
}

// TestSA33_KilledCompaction: ended after each transaction and in the middle of each,
// it goes on where it stopped.
func TestSA33_KilledCompaction(t *testing.T) {
	x := newWorld(t, Options{})
	for i := range 10 {
		x.change(t, fmt.Sprint("r", i), 0, 10)
	}
	x.change(t, "r3", 10, 20)
	bucket, def, horizon := x.busy(t), x.set.Definitions[0].ID, x.head(t)
	rows := lines(t, x.conn, `SELECT type, row_id, data FROM millrace.bucket_rows($1)`, busyBucket)
	for n := 0; ; n++ {
		if n > 200 {
			t.Fatal("compaction does not end")
		}
		c := x.newCompactor(t, CompactionOptions{})
		c.limits = compactLimits{newsOps: 25, partOps: 10}
		tx, err := c.conn.Begin(t.Context())
		must(t, err)
		_, err = c.compactPart(t.Context(), tx, def, bucket, horizon)
		must(t, err)
		must(t, c.conn.Close(t.Context())) // never committed
		x.verified(t)

		c = x.newCompactor(t, CompactionOptions{})
		c.limits = compactLimits{newsOps: 25, partOps: 10}
		var step bucketStep
		pgtest.Eventually(t, time.Minute, func() error { // the other session may be on its way out
			step, err = c.compactBucket(t.Context(), def, bucket, horizon)
			return err
		})
		must(t, c.conn.Close(t.Context()))
		x.verified(t)
		equal(t, rows, lines(t, x.conn, `SELECT type, row_id, data FROM millrace.bucket_rows($1)`, busyBucket))
		if !step.more {
			break
		}
	}
	equal(t, []string{"(11)"}, lines(t, x.conn, `SELECT count(*) FROM millrace.ops_between($1, 0, NULL) WHERE kind IN ('CLEAR', 'PUT')`, busyBucket))
}

// TestDroppedDefinition: a bucket whose partition is gone is left alone.
func TestCompactionOfADroppedDefinition(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	exec(t, x.conn, fmt.Sprintf(`ALTER TABLE millrace.ops DETACH PARTITION millrace.ops_%d; DROP TABLE millrace.ops_%[1]d`, x.set.Definitions[0].ID))
	r, err := x.store.CompactNow(t.Context(), CompactionOptions{})
	must(t, err)
	if r.Skipped != 1 || r.Done != 0 {
		t.Errorf("report %+v", r)
	}
}
