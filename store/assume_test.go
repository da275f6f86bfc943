package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

// believe lets this test end with what it began with.
func believe(t *testing.T) {
	distrustNew.Store(false)
	t.Cleanup(func() { distrustNew.Store(false) })
}

func (x *world) newRow(key, bucket string) millrace.Change {
	c := x.upsert(1, key, x.out(1, bucket, "todos", key, `{"id":"`+key+`"}`))
	c.New = true
	c.Scope = &millrace.Scope{Table: c.Scope.Table, Buckets: c.Scope.Buckets[1:], Lookups: c.Scope.Lookups}
	return c
}

// wrongly checks the failure of a flush with a row that is not new, and that
// the next term gets it right.
func (x *world) wrongly(t *testing.T, err error, again ...millrace.Change) {
	t.Helper()
	if !errors.Is(err, errNotNew) {
		t.Fatalf("a row that is not new was taken: %v", err)
	}
	must(t, x.w.Close(t.Context()))
	equal(t, int64(1), value[int64](t, x.conn, `SELECT count(*) FROM millrace.ops`))
	x.w = lead(t, x.store)
	x.apply(t, again...)
	x.commit(t, nil)
	equal(t, int64(1), value[int64](t, x.conn, `SELECT count(*) FROM millrace.ops WHERE kind = 2`))
}

func TestNewRowsAreNotLookedFor(t *testing.T) {
	believe(t)
	x := newWorld(t, Options{})
	x.apply(t, x.newRow("1", `b["x"]`))
	must(t, x.w.loadBefore(t.Context(), []millrace.Change{x.newRow("2", `b["x"]`)}))
	for _, g := range x.w.load.groups {
		equal(t, 0, len(g.scope.Buckets))
	}
	// Changed again before and after it is written.
	x.apply(t, x.upsert(1, "1", x.out(1, `b["y"]`, "todos", "1", `{}`)))
	x.commit(t, nil)
	x.apply(t, x.upsert(1, "1", x.out(1, `b["z"]`, "todos", "1", `{}`)))
	x.commit(t, nil)
	equal(t, []string{"(2,x,PUT)", "(3,x,REMOVE)", "(4,y,PUT)", "(5,y,REMOVE)", "(6,z,PUT)"}, lines(t, x.conn, `
		SELECT o.op_id, substr(n.name, 4, 1), (ARRAY['PUT', 'REMOVE'])[o.kind] FROM millrace.ops o JOIN millrace.bucket_names n ON n.id = o.bucket ORDER BY 1`))
	equal(t, int64(1), value[int64](t, x.conn, `SELECT count(*) FROM millrace.row_state`))
	equal(t, false, distrustNew.Load())
}

func TestRowWronglyCalledNew(t *testing.T) {
	for name, flush := range map[string]func(x *world) error{
		"written at commit": func(x *world) error {
			x.apply(t, x.newRow("1", `b["y"]`))
			_, err := x.w.Commit(t.Context(), &millrace.Flush{})
			return err
		},
		"changed before it is written": func(x *world) error {
			x.apply(t, x.newRow("1", `b["y"]`))
			return x.w.Apply(t.Context(), []millrace.Change{x.delete(1, "1")})
		},
		"written in a piece": func(x *world) error {
			c := x.newRow("2", `b["y"]`)
			c.Outputs[0].Data = strings.Repeat(" ", 2_000) + `{}`
			return x.w.Apply(t.Context(), []millrace.Change{x.newRow("1", `b["y"]`), c})
		},
	} {
		t.Run(name, func(t *testing.T) {
			believe(t)
			x := newWorld(t, Options{PieceBytes: 2_000})
			x.apply(t, x.newRow("1", `b["x"]`))
			x.commit(t, nil)
			x.w.rows.drop() // so that only the tables know
			x.wrongly(t, flush(x), x.newRow("1", `b["y"]`))
		})
	}
}

// TestNewRowWithoutProof: where no row state would be written, and for lookups,
// rows are looked for.
func TestNewRowWithoutProof(t *testing.T) {
	believe(t)
	x := newWorld(t, Options{})
	x.apply(t, x.newRow("1", `b["x"]`))
	x.commit(t, nil)
	x.w.rows.drop()
	filtered := x.upsert(1, "1")
	filtered.New = true
	x.apply(t, filtered)
	x.commit(t, nil)
	equal(t, int64(0), value[int64](t, x.conn, `SELECT count(*) FROM millrace.row_state`))
	c := x.newRow("2", `b["x"]`)
	c.Lookups = []millrace.Lookup{x.look(`["u"]`, `[]`)}
	x.apply(t, c)
	x.commit(t, nil)
	x.w.rows.drop()
	gone := x.newRow("2", `b["x"]`)
	gone.Scope = &millrace.Scope{Table: c.Scope.Table, Lookups: c.Scope.Lookups}
	gone.Outputs = nil
	x.apply(t, gone)
	x.commit(t, nil)
	equal(t, int64(1), value[int64](t, x.conn, `SELECT count(*) FROM millrace.lookups WHERE removed < 9223372036854775807`))
	equal(t, false, distrustNew.Load())
}
