package store

import (
	"testing"

	"github.com/millrace/millrace"
)

// Ids that two sources have in one bucket are counted, and shown until one goes.
func TestSharedIDsAreCounted(t *testing.T) {
	x := newWorld(t, Options{})
	west := millrace.Source{Name: "west", SystemID: "2", Database: "app", Slot: "s", Publication: "p"}
	must(t, x.w.SaveSource(t.Context(), &west))
	x.tables[1].Source = west.ID
	must(t, x.w.SaveTable(t.Context(), &x.tables[1]))
	a, b := `by_owner["a"]`, `by_owner["b"]`
	shared := func(bucket, id string) millrace.Output {
		out := x.out(0, bucket, "lists", id, `{"n":2}`)
		out.Subkey = "2/" + id
		return out
	}
	x.apply(t,
		x.upsert(0, "1", x.out(0, a, "lists", "1", `{"n":1}`)),
		x.upsert(0, "2", x.out(0, a, "lists", "2", `{"n":1}`), x.out(0, b, "lists", "2", `{"n":1}`)),
		x.upsert(0, "3", x.out(0, a, "lists", "3", `{"n":1}`)),
		x.upsert(1, "1", shared(a, "1")),
		x.upsert(1, "2", shared(b, "2")),
		x.upsert(1, "3", shared(b, "3")), // in another bucket
	)
	x.commit(t, nil)
	count := func(want string) {
		t.Helper()
		must(t, x.w.CountSharedIDs(t.Context(), []millrace.DefinitionID{x.set.Definitions[0].ID}))
		equal(t, []string{want}, lines(t, x.conn, `SELECT shared_ids FROM millrace.status`))
	}
	count("(2)")
	equal(t, []string{`("by_owner[""a""] lists 1")`}, lines(t, x.conn, `SELECT example FROM millrace.shared_ids`))
	x.apply(t, x.delete(1, "1"))
	x.commit(t, nil)
	count("(1)")
	x.apply(t, x.delete(0, "2"))
	x.commit(t, nil)
	count("(0)")
}
