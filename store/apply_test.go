package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace"
)

const opLines = `SELECT o.op_id, o.kind, n.name, o.type, o.row_id, o.subkey, o.data
	FROM millrace.ops o JOIN millrace.bucket_names n ON n.id = o.bucket ORDER BY o.op_id`

func equal(tb testing.TB, want, got any) {
	tb.Helper()
	if d := cmp.Diff(want, got); d != "" {
		tb.Errorf("difference (-want +got):\n%s", d)
	}
}

func TestInsertUpdateMoveDelete(t *testing.T) {
	x := newWorld(t, Options{})
	x.apply(t, x.upsert(0, "l1", x.out(0, `by_owner["u1"]`, "lists", "l1", `{"id":"l1"}`)))
	c := x.commit(t, nil)
	equal(t, millrace.Checkpoint{Seq: 2, OpID: 2, At: c.At}, c)
	x.apply(t, x.upsert(0, "l1", x.out(0, `by_owner["u1"]`, "lists", "l1", `{"id":"l1","n":2}`)))
	x.commit(t, nil)
	x.apply(t, x.upsert(0, "l1", x.out(0, `by_owner["u2"]`, "lists", "l1", `{"id":"l1","n":2}`)))
	x.apply(t, x.delete(0, "l1"))
	x.apply(t, x.upsert(0, "l1", x.out(0, `by_owner["u2"]`, "lists", "l1", `{"id":"l1","n":3}`)))
	x.commit(t, nil)
	x.apply(t, x.delete(0, "l1"), x.delete(0, "never"))
	x.commit(t, nil)
	equal(t, []string{
		`(2,1,"by_owner[""u1""]",lists,l1,,"{""id"":""l1""}")`,
		`(3,1,"by_owner[""u1""]",lists,l1,,"{""id"":""l1"",""n"":2}")`,
		`(4,2,"by_owner[""u1""]",lists,l1,,)`,
		`(5,1,"by_owner[""u2""]",lists,l1,,"{""id"":""l1"",""n"":2}")`,
		`(6,2,"by_owner[""u2""]",lists,l1,,)`,
		`(7,1,"by_owner[""u2""]",lists,l1,,"{""id"":""l1"",""n"":3}")`,
		`(8,2,"by_owner[""u2""]",lists,l1,,)`,
	}, lines(t, x.conn, opLines))
	equal(t, []string{`(1,4,3,0,28,-1)`, `(2,8,4,0,34,-1)`},
		lines(t, x.conn, `SELECT bucket, last_op, ops, rows, bytes, -1 FROM millrace.bucket_totals ORDER BY 1`))
	equal(t, int64(0), value[int64](t, x.conn, `SELECT count(*) FROM millrace.row_state`))
	equal(t, []string{`(l1,2,4)`, `(l1,5,6)`, `(l1,7,8)`},
		lines(t, x.conn, `SELECT row_key, since_op, ended_op FROM millrace.ended_outputs ORDER BY ended_op`))
}

func TestSuppressUnchanged(t *testing.T) {
	x := newWorld(t, Options{SuppressUnchanged: true})
	put := func(data string, buckets ...string) {
		c := x.upsert(0, "k")
		for _, b := range buckets {
			c.Outputs = append(c.Outputs, x.out(0, b, "lists", "k", data))
		}
		x.apply(t, c)
		x.commit(t, nil)
	}
	put(`{"n":1}`, "a")
	put(`{"n":1}`, "a")
	must(t, x.w.Close(t.Context()))
	x.w = lead(t, x.store) // the digest is in the tables
	put(`{"n":1}`, "a")
	put(`{"n":1}`, "a", "b")
	put(`{"n":2}`, "a", "b")
	equal(t, []string{
		`(2,1,a,lists,k,,"{""n"":1}")`, `(3,1,b,lists,k,,"{""n"":1}")`,
		`(4,1,a,lists,k,,"{""n"":2}")`, `(5,1,b,lists,k,,"{""n"":2}")`,
	}, lines(t, x.conn, opLines))
}

// TestLookupsTakeNumbers: each change takes one, unchanged entries none, and
// what is opened and closed in one flush leaves nothing.
func TestLookupsTakeNumbers(t *testing.T) {
	for _, piece := range []int{DefaultPieceBytes, 1} {
		x := newWorld(t, Options{PieceBytes: piece})
		put := func(keys ...string) {
			c := x.upsert(0, "k")
			for _, k := range keys {
				c.Lookups = append(c.Lookups, x.look(k, "[]"))
			}
			x.apply(t, c)
		}
		put("a", "b")
		x.commit(t, nil)
		put("a", "b", "a")
		c := x.commit(t, nil)
		equal(t, []string{"({})"}, lines(t, x.conn, `SELECT lookups FROM millrace.checkpoint_log WHERE seq = $1`, c.Seq))
		put("b", "c")
		put("b", "d")
		c = x.commit(t, nil)
		x.apply(t, x.delete(0, "k"))
		x.commit(t, nil)
		equal(t, []string{"(a,2,4)", "(b,3,8)", "(d,7,9)"}, lines(t, x.conn, `SELECT key, added, removed FROM millrace.lookups ORDER BY added`))
		equal(t, []string{"({3})"}, lines(t, x.conn, `SELECT lookups FROM millrace.checkpoint_log WHERE seq = $1`, c.Seq))
	}
}
