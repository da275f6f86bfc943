package store

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// fragment makes a bucket of one old row and much that was superseded after it,
// compacts it and lets compaction ask for the row to be appended again.
func (x *world) fragment(tb testing.TB, dead int) *compactor {
	tb.Helper()
	x.apply(tb, x.upsert(0, "old", x.out(0, busyBucket, "lists", "old", `{"id":"old"}`)))
	for n := 0; n < dead; n += 500 {
		var changes []millrace.Change
		for i := range 500 {
			changes = append(changes, x.upsert(0, "hot", x.out(0, busyBucket, "lists", "hot", fmt.Sprintf(`{"id":"hot","n":%d}`, n+i))))
		}
		x.apply(tb, changes...)
		x.commit(tb, nil)
	}
	c := x.newCompactor(tb, CompactionOptions{Defragment: true})
	must(tb, c.round(tb.Context()))
	if c.report.Asked != 1 {
		tb.Fatalf("no rows are to be appended again: %+v", c.report)
	}
	return c
}

// TestSA25_Defragment (SA-25): a bucket with one old row and 20,000 dead ops gets down
// to three ops, by the decoder's own flush: sources have no part in it.
func TestSA25_Defragment(t *testing.T) {
	x := newWorld(t, Options{})
	dead := 20_000
	if testing.Short() {
		dead = 2_000
	}
	c := x.fragment(t, dead)
	before := lines(t, x.conn, `SELECT type, row_id, subkey, data FROM millrace.bucket_rows($1)`, busyBucket)
	if n := value[int](t, x.conn, `SELECT ops FROM millrace.buckets WHERE name = $1`, busyBucket); n < dead {
		t.Fatalf("%d ops before", n)
	}
	seq := value[int64](t, x.conn, `SELECT seq FROM millrace.head`)
	did, err := x.w.rewriteRows(t.Context())
	must(t, err)
	if !did || value[int64](t, x.conn, `SELECT seq FROM millrace.head`) != seq+1 {
		t.Error("the rows were not appended in a checkpoint of their own")
	}
	x.verified(t)
	must(t, c.round(t.Context()))
	x.verified(t)
	if n := value[int](t, x.conn, `SELECT ops FROM millrace.buckets WHERE name = $1`, busyBucket); n > 3 {
		t.Errorf("%d ops after", n)
	}
	equal(t, before, lines(t, x.conn, `SELECT type, row_id, subkey, data FROM millrace.bucket_rows($1)`, busyBucket))
	// The row goes on as if nothing had been.
	x.apply(t, x.upsert(0, "old", x.out(0, busyBucket, "lists", "old", `{"id":"old","n":2}`)), x.delete(0, "hot"))
	x.commit(t, nil)
	x.verified(t)
	equal(t, []string{`(old,"{""id"":""old"",""n"":2}")`}, lines(t, x.conn, `SELECT row_id, data FROM millrace.bucket_rows($1)`, busyBucket))
	if did, err := x.w.rewriteRows(t.Context()); did || err != nil {
		t.Errorf("there is another request: %v %v", did, err)
	}
}

// TestSA26_DefragmentRaces (SA-26): a row that was deleted, changed, or changed and
// compacted since it was asked for is left as it is.
func TestSA26_DefragmentRaces(t *testing.T) {
	for name, race := range map[string]func(x *world, c *compactor){
		"deleted": func(x *world, _ *compactor) { x.apply(t, x.delete(0, "old")) },
		"deleted and compacted": func(x *world, c *compactor) {
			x.apply(t, x.delete(0, "old"))
			x.commit(t, nil)
			if _, err := x.store.CompactNow(t.Context(), CompactionOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"changed": func(x *world, _ *compactor) {
			x.apply(t, x.upsert(0, "old", x.out(0, busyBucket, "lists", "old", `{"id":"old","n":2}`)))
		},
		"gone and back": func(x *world, _ *compactor) {
			x.apply(t, x.delete(0, "old"), x.upsert(0, "old", x.out(0, busyBucket, "lists", "old", `{"id":"old","n":3}`)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newWorld(t, Options{})
			c := x.fragment(t, 2_000)
			race(x, c)
			x.commit(t, nil)
			want := lines(t, x.conn, `SELECT row_id, data, op_id FROM millrace.bucket_rows($1) WHERE row_id = 'old'`, busyBucket)
			last := x.head(t)
			if did, err := x.w.rewriteRows(t.Context()); !did || err != nil {
				t.Fatalf("the request was not taken: %v %v", did, err)
			}
			equal(t, last, x.head(t))
			equal(t, want, lines(t, x.conn, `SELECT row_id, data, op_id FROM millrace.bucket_rows($1) WHERE row_id = 'old'`, busyBucket))
			x.verified(t)
		})
	}
}

// TestDefragmentIsPartOfUpkeep: the writer does it by itself, between flushes,
// and a commit that fails meanwhile leaves the request.
func TestDefragmentIsPartOfUpkeep(t *testing.T) {
	x := newWorld(t, Options{})
	x.fragment(t, 2_000)
	restore := failCommits(t, x, "P0001")
	if _, err := x.w.rewriteRows(t.Context()); err == nil {
		t.Fatal("the commit did not fail")
	}
	restore()
	equal(t, 1, value[int](t, x.conn, `SELECT count(*) FROM millrace.bucket_rewrites`))
	x.w.upkeep.next = x.w.upkeep.next.Add(-2 * upkeepEvery)
	x.commit(t, nil)
	equal(t, 0, value[int](t, x.conn, `SELECT count(*) FROM millrace.bucket_rewrites`))
	x.verified(t)
	x.change(t, "hot", 5000, 5001) // the caches are as they should be
	x.verified(t)
}

// TestDefragmentOfADroppedDefinition: the request is forgotten.
func TestDefragmentOfADroppedDefinition(t *testing.T) {
	x := newWorld(t, Options{})
	x.fragment(t, 2_000)
	exec(t, x.conn, fmt.Sprintf(`ALTER TABLE millrace.ops DETACH PARTITION millrace.ops_%d; DROP TABLE millrace.ops_%[1]d`, x.set.Definitions[0].ID))
	did, err := x.w.rewriteRows(t.Context())
	must(t, err)
	if !did || value[int](t, x.conn, `SELECT count(*) FROM millrace.bucket_rewrites`) != 0 {
		t.Error("the request is still there")
	}
}
