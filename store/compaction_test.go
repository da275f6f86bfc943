package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// TestCompactionRounds: the loop of the decoder's process finds what changed,
// compacts what is worth it and leaves what is not.
func TestCompactionRounds(t *testing.T) {
	x := newWorld(t, Options{})
	c := x.newCompactor(t, CompactionOptions{})
	rounds := func() CompactionReport {
		t.Helper()
		c.report = CompactionReport{}
		must(t, c.round(t.Context()))
		return c.report
	}
	x.change(t, "a", 0, 50)
	x.apply(t, x.upsert(0, "b", x.out(0, `by_owner["calm"]`, "lists", "b", `{"id":"b","n":1}`)))
	x.apply(t, x.upsert(0, "b", x.out(0, `by_owner["calm"]`, "lists", "b", `{"id":"b","n":2}`)))
	x.apply(t, x.upsert(0, "b", x.out(0, `by_owner["calm"]`, "lists", "b", `{"id":"b","n":3}`)))
	x.commit(t, nil)
	if r := rounds(); r.Buckets != 1 || r.Done != 1 || r.Deleted != 48 {
		t.Errorf("first round: %+v", r)
	}
	if r := rounds(); r.Buckets != 0 {
		t.Errorf("a round without news: %+v", r)
	}
	x.change(t, "a", 50, 55) // little
	if r := rounds(); r.Buckets != 0 {
		t.Errorf("a round with little news: %+v", r)
	}
	x.change(t, "a", 55, 100)
	if r := rounds(); r.Buckets != 1 || r.Done != 1 || r.Deleted != 50 {
		t.Errorf("a round with news: %+v", r)
	}
	// Once a day whatever there is (R64).
	exec(t, x.conn, `UPDATE millrace.compaction SET deep_at = now() - interval '25 hours'`)
	if r := rounds(); r.Buckets != 1 || r.Deleted != 1 {
		t.Errorf("a deep round: %+v", r)
	}
	equal(t, "{3}", value[string](t, x.conn, `SELECT array_agg((data::jsonb->>'n')::int)::text FROM millrace.ops_between('by_owner["calm"]', 0, NULL) WHERE kind = 'PUT'`))
	if value[bool](t, x.conn, `SELECT deep_at < now() - interval '1 hour' FROM millrace.compaction`) {
		t.Error("the deep round was not noted")
	}
	// The log does not know which buckets changed.
	x.change(t, "a", 100, 200)
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET buckets = NULL`)
	if r := rounds(); r.Buckets != 1 || r.Done != 1 {
		t.Errorf("a round after a thinned log: %+v", r)
	}
	x.verified(t)
}

// TestSA23_CompactionHorizon: neither young ops are touched nor those above a
// checkpoint that a client is downloading, for some time (R59, SA-23).
func TestSA23_CompactionHorizon(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	first := x.head(t)
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = at - interval '20 minutes'`)
	x.change(t, "a", 50, 100)
	middle := x.head(t)
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = at - interval '15 minutes'`)
	x.change(t, "a", 100, 150)
	c := x.newCompactor(t, CompactionOptions{Horizon: 10 * time.Minute})
	horizon := func() int64 {
		t.Helper()
		op, _, err := c.horizon(t.Context())
		must(t, err)
		return op
	}
	equal(t, middle, horizon())
	r := openReader(t, x.uri)
	report := millrace.RelayReport{ID: "r", StartedAt: time.Now(), Connections: 2, Sessions: []millrace.SessionReport{
		{ID: 1, User: "u", Sending: millrace.OpID(first), Since: time.Now()}, {ID: 2, User: "v", Sent: 1, Since: time.Now()}}}
	must(t, r.Report(t.Context(), report))
	equal(t, first, horizon())
	must(t, c.round(t.Context()))
	equal(t, []string{"(1,100)"}, lines(t, x.conn, `SELECT count(*) FILTER (WHERE kind = 'CLEAR'), count(*) FILTER (WHERE op_id > $2) FROM millrace.ops_between($1, 0, NULL)`, busyBucket, first))
	x.verified(t)
	// A download that takes for ever is not waited for.
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = at - interval '1 hour' WHERE op_id <= $1`, middle)
	equal(t, middle, horizon())
	// Nor is a relay that does not report any more.
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = now() - interval '15 minutes' WHERE op_id <= $1`, middle)
	equal(t, first, horizon())
	exec(t, x.conn, `UPDATE millrace.relay_reports SET at = at - interval '2 minutes'`)
	equal(t, middle, horizon())
}

// TestWriterCompacts: the loop runs during a term and ends with it.
func TestWriterCompacts(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 50)
	done := make(chan error, 1)
	var deleted, failed atomic.Int64
	count := func(r CompactionReport, took time.Duration, err error) {
		deleted.Add(r.Deleted)
		if err != nil {
			failed.Add(1)
		}
		if took <= 0 {
			t.Error("a round took no time")
		}
	}
	go func() {
		done <- x.w.Compact(context.Background(), CompactionOptions{Interval: 10 * time.Millisecond, Done: count})
	}()
	pgtest.Eventually(t, time.Minute, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.ops_between($1, 0, NULL)`, busyBucket); n != 2 {
			return fmt.Errorf("%d ops", n)
		}
		return nil
	})
	// Its session may end; the next round has another one.
	exec(t, x.conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'millrace compaction' AND datname = current_database()`)
	x.change(t, "a", 50, 100)
	pgtest.Eventually(t, time.Minute, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.ops_between($1, 0, NULL)`, busyBucket); n != 2 {
			return fmt.Errorf("%d ops", n)
		}
		return nil
	})
	must(t, x.w.Close(t.Context()))
	if err := <-done; !errors.Is(err, ErrLeadershipLost) {
		t.Errorf("ended with %v", err)
	}
	// 100 ops became 1 CLEAR and 1 PUT, twice.
	if deleted.Load() < 98 || failed.Load() == 0 {
		t.Errorf("told of %d deleted ops and %d failed rounds", deleted.Load(), failed.Load())
	}
	x.verified(t)
}

// TestSA24_SupersededDataIsGone (SA-24): after compaction no text of a changed or
// removed row is found anywhere in the history.
func TestSA24_SupersededDataIsGone(t *testing.T) {
	x := newWorld(t, Options{})
	for i, data := range []string{"secret one", "secret two", "public"} {
		x.apply(t, x.upsert(0, "a", x.out(0, busyBucket, "lists", "a", fmt.Sprintf(`{"id":"a","t":%q}`, data))))
		x.apply(t, x.upsert(0, fmt.Sprint("b", i), x.out(0, busyBucket, "lists", fmt.Sprint("b", i), fmt.Sprintf(`{"t":"secret %d"}`, i))))
		x.commit(t, nil)
	}
	for i := range 3 {
		x.apply(t, x.delete(0, fmt.Sprint("b", i)))
	}
	x.commit(t, nil)
	_, err := x.store.CompactNow(t.Context(), CompactionOptions{Bucket: busyBucket})
	must(t, err)
	if left := lines(t, x.conn, `SELECT * FROM millrace.ops WHERE data LIKE '%secret%'`); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "\n"))
	}
	equal(t, []string{`(a,"{""id"":""a"",""t"":""public""}")`}, lines(t, x.conn, `SELECT row_id, data FROM millrace.bucket_rows($1)`, busyBucket))
	x.verified(t)
	if _, err := x.store.CompactNow(t.Context(), CompactionOptions{Bucket: "nowhere[]"}); err == nil || !strings.Contains(err.Error(), "there is no bucket nowhere[]") {
		t.Errorf("an unknown bucket: %v", err)
	}
}

// TestSA42_PagesAreOfOneBucket (SA-42): two buckets whose ops alternate, compacted in
// small parts.
func TestSA42_PagesAreOfOneBucket(t *testing.T) {
	x := newWorld(t, Options{})
	for n := range 60 {
		for _, b := range []string{"a", "b"} {
			id := fmt.Sprint(b, n%3)
			x.apply(t, x.upsert(0, id, x.out(0, fmt.Sprintf(`by_owner[%q]`, b), "lists", id, fmt.Sprintf(`{"id":%q,"n":%d}`, id, n))))
		}
	}
	x.commit(t, nil)
	before := lines(t, x.conn, `SELECT b.name, r.* FROM millrace.buckets b, millrace.bucket_rows(b.name) r ORDER BY 1, 2, 3`)
	c := x.newCompactor(t, CompactionOptions{})
	c.limits = compactLimits{newsOps: 10, partOps: 10}
	must(t, c.walk(t.Context(), x.head(t), true))
	equal(t, before, lines(t, x.conn, `SELECT b.name, r.* FROM millrace.buckets b, millrace.bucket_rows(b.name) r ORDER BY 1, 2, 3`))
	equal(t, []string{`("by_owner[""a""]",4,t)`, `("by_owner[""b""]",4,t)`}, lines(t, x.conn, `SELECT b.name, b.ops, v.ok FROM millrace.buckets b, millrace.verify_bucket(b.name) v ORDER BY 1`))
}

// TestCompactionGoesOnAfterAFailure: a bucket that cannot be compacted keeps none
// of the others from it.
func TestCompactionGoesOnAfterAFailure(t *testing.T) {
	x := newWorld(t, Options{})
	for _, b := range []string{"a", "b", "c"} {
		for n := range 50 {
			x.apply(t, x.upsert(0, b, x.out(0, fmt.Sprintf(`by_owner[%q]`, b), "lists", b, fmt.Sprintf(`{"n":%d}`, n))))
		}
	}
	x.commit(t, nil)
	exec(t, x.conn, `
		CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this bucket is broken'; END $$;
		CREATE TRIGGER fail BEFORE UPDATE ON millrace.bucket_totals FOR EACH ROW
			WHEN (new.bucket = 2) EXECUTE FUNCTION public.fail()`)
	r, err := x.store.CompactNow(t.Context(), CompactionOptions{})
	if err == nil || !strings.Contains(err.Error(), "compact bucket 2") || r.Failed != 1 || r.Done != 2 {
		t.Errorf("report %+v, error %v", r, err)
	}
	equal(t, []string{"(2)", "(50)", "(2)"}, lines(t, x.conn, `SELECT ops FROM millrace.buckets ORDER BY name`))
}
