package store

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// A replacement writes what differs and nothing else; where nothing of a bucket
// that the table alone feeds stays, one CLEAR takes the place of the REMOVEs.
func TestReplaceWritesWhatDiffers(t *testing.T) {
	x := newWorld(t, Options{})
	x.castShadows(t)
	row := func(scope *millrace.Scope, bucket, key, data string) millrace.Change {
		c := x.upsert(0, key, x.out(0, bucket, "lists", key, data))
		c.Scope = scope
		c.Lookups = []millrace.Lookup{x.look(fmt.Sprintf(`["%s"]`, key), "[]")}
		return c
	}
	live, shadow := x.scopes[0], x.shadows[0]
	x.apply(t, row(live, "a", "same", "1"), row(live, "a", "other", "1"), row(live, "a", "gone", "1"),
		row(live, "left", "l1", "1"), row(live, "left", "l2", "1"))
	shared := x.upsert(1, "s", x.out(0, "shared", "todos", "s", "1"))
	x.apply(t, shared, row(live, "shared", "m1", "1"), row(live, "shared", "m2", "1"))
	before := x.commit(t, nil)
	x.apply(t, row(shadow, "a", "same", "1"), row(shadow, "a", "other", "2"), row(shadow, "new", "n", "1"))
	middle := x.commit(t, nil)
	if middle.OpID != before.OpID {
		t.Fatalf("a shadow took op ids: %d after %d", middle.OpID, before.OpID)
	}
	x.apply(t, millrace.Change{Scope: shadow, Kind: millrace.ChangeReplace})
	x.commit(t, nil)
	equal(t, []string{
		`(4,left,,)`, `(2,a,gone,)`, `(2,shared,m1,)`, `(2,shared,m2,)`, `(1,a,other,2)`, `(1,new,n,1)`,
	}, lines(t, x.conn, fmt.Sprintf(`SELECT o.kind, n.name, o.row_id, o.data FROM millrace.ops o JOIN millrace.bucket_names n ON n.id = o.bucket
		WHERE o.op_id > %d ORDER BY o.op_id`, before.OpID)))
	equal(t, []string{`(n)`, `(other)`, `(same)`}, lines(t, x.conn, `SELECT row_key FROM millrace.lookups WHERE removed = 9223372036854775807 ORDER BY key`))
	equal(t, []string{}, lines(t, x.conn, `SELECT v.* FROM millrace.buckets b CROSS JOIN LATERAL millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`))
	equal(t, []string{`(gone)`, `(l1)`, `(l2)`, `(m1)`, `(m2)`}, lines(t, x.conn, `SELECT row_key FROM millrace.ended_outputs ORDER BY row_key`))
}

// What a person must act upon is noted once, and ends with the cure.
func TestSchemaChanges(t *testing.T) {
	x := newWorld(t, Options{})
	needs := millrace.SchemaChange{Source: x.source.ID, Object: "public.lists", Change: "no key", Action: "not synced", Code: "MR1017", Cure: "add one"}
	for range 2 {
		x.commit(t, &millrace.Flush{SchemaChanges: []millrace.SchemaChange{needs}})
	}
	equal(t, []string{`(public.lists,"needs action",MR1017,"add one")`}, lines(t, x.conn, `SELECT object, state, code, cure FROM millrace.schema_changes`))
	c := &millrace.Copy{RuleSet: x.set.ID, Table: x.tables[0].ID, State: millrace.CopyRunning, Shadow: true, Estimate: 7}
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{c}, SchemaChanges: []millrace.SchemaChange{
		{Source: x.source.ID, Object: "public.lists", Change: "it can be synced", Action: "copied", CopyOf: c}}})
	equal(t, []string{`(cured,)`, `(copying,7)`}, lines(t, x.conn, `SELECT state, estimated_rows FROM millrace.schema_changes`))
	c.State = millrace.CopyDone
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{c}})
	equal(t, []string{`(cured)`, `(done)`}, lines(t, x.conn, `SELECT state FROM millrace.schema_changes`))
	// The next term knows why a table was copied lately.
	must(t, x.w.Close(t.Context()))
	x.w = lead(t, x.store)
	state, err := x.w.State(t.Context())
	must(t, err)
	if r := state.Recopies; len(r) != 1 || r[0].Table != x.tables[0].ID || r[0].Change != "it can be synced" || r[0].At.IsZero() {
		t.Errorf("recopies %+v", r)
	}
	exec(t, x.conn, `UPDATE millrace.schema_events SET at = at - interval '61 minutes'`)
	if state, err = x.w.State(t.Context()); err != nil || len(state.Recopies) != 0 {
		t.Errorf("recopies %+v (%v) of more than an hour ago", state.Recopies, err)
	}
}

// A copy that is begun in a later term has nothing of one that was deleted with
// its rule set or source: neither its number nor, so, what is left in its shadow.
func TestShadowOfADeletedCopy(t *testing.T) {
	x := newWorld(t, Options{})
	x.castShadows(t)
	c := x.upsert(0, "old", x.out(0, "a", "lists", "old", "1"))
	c.Scope = x.shadows[0]
	x.apply(t, c)
	x.commit(t, nil)
	exec(t, x.conn, `DELETE FROM millrace.copies`)
	must(t, x.w.Close(t.Context()))
	x.w = lead(t, x.store)
	next := &millrace.Copy{RuleSet: x.set.ID, Table: x.tables[0].ID, State: millrace.CopyRunning, Shadow: true}
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{next}})
	equal(t, []string{`(0)`}, lines(t, x.conn, fmt.Sprintf(`SELECT count(*) FROM millrace.shadow_rows WHERE copy = %d`, next.ID)))
}
