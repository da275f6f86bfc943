package store

import (
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

// A source whose history is lost gets a successor of its name; the definitions
// that read it get successors too, the others keep their history. What is served
// does not change.
func TestRA46_RestartHistory(t *testing.T) {
	for _, restored := range []bool{false, true} {
		x := newWorld(t, Options{})
		x.history(t)
		ctx := t.Context()
		before := x.set.Definitions
		building, err := x.w.Deploy(ctx, "more rules", testDefinitions[:1])
		must(t, err)
		head := x.w.head
		renewed := lines(t, x.conn, `SELECT renewed FROM millrace.head`)[0]
		r := millrace.HistoryRestart{
			Source: x.source.ID, Reason: "the slot is gone", Restored: restored,
			Lost: []millrace.DefinitionID{before[0].ID, before[2].ID}, Content: "more rules", Definitions: testDefinitions[:],
		}
		must(t, x.w.RestartHistory(ctx, r))
		if err := x.w.RestartHistory(ctx, r); err == nil || !strings.Contains(err.Error(), "lost already") {
			t.Errorf("the same source a second time: %v", err)
		}
		must(t, x.w.Close(ctx))
		x.w = lead(t, x.store)
		got, err := x.w.State(ctx)
		must(t, err)
		if len(got.Sources) != 2 {
			t.Fatalf("sources %+v", got.Sources)
		}
		old, next := got.Sources[0], got.Sources[1]
		if old.Was != x.source.Name || old.LostAt.IsZero() || old.Name == x.source.Name || old.Durable == 0 {
			t.Errorf("the old source: %+v", old)
		}
		if next.Name != x.source.Name || !next.LostAt.IsZero() || next.ConsistentPoint != 0 || next.Durable != 0 || next.Slot != x.source.Slot || next.PlainIDs != x.source.PlainIDs {
			t.Errorf("its successor: %+v", next)
		}
		set := got.RuleSets[len(got.RuleSets)-1]
		if len(got.RuleSets) != 2 || set.State != millrace.RuleSetBuilding || set.ID <= building.ID {
			t.Fatalf("rule sets %+v", got.RuleSets)
		}
		for i, d := range set.Definitions {
			if lost := i != 1; lost == (d.ID == before[i].ID) || d.Hash != before[i].Hash {
				t.Errorf("definition %s is %d, was %d; hash %s", d.Key, d.ID, before[i].ID, d.Hash)
			}
		}
		for _, d := range before {
			if w := got.RuleSets[0].Without[d.ID]; len(w) != 1 || w[0] != next.ID {
				t.Errorf("definition %d goes without %v", d.ID, w)
			}
		}
		if w := set.Without[set.Definitions[0].ID]; len(w) != 0 {
			t.Errorf("the new definition goes without %v", w)
		}
		if n := len(lines(t, x.conn, `SELECT * FROM millrace.bucket_rows('by_owner["b"]')`)); n != 1 {
			t.Errorf("%d rows are served", n)
		}
		prefix := got.RuleSets[0].Definitions[0].WirePrefix
		if now := lines(t, x.conn, `SELECT renewed FROM millrace.head`)[0]; restored != (now != renewed) || restored != (prefix != before[0].WirePrefix) {
			t.Errorf("restored %t: names renewed %s, before %s; prefix %s, before %s", restored, now, renewed, prefix, before[0].WirePrefix)
		}
		if jumped := got.Head.OpID >= head.OpID+millrace.OpID(opIDJump); jumped != restored {
			t.Errorf("restored %t: op id %d after %d", restored, got.Head.OpID, head.OpID)
		}
		// The term that did it goes on with what it wrote.
		x.commit(t, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: next.ID, LSN: 7}}})
		if got := x.w.head.OpID; got < head.OpID {
			t.Errorf("op ids went back to %d", got)
		}
	}
}

// SA: a sidecar that was restored by an operator's word: the leader loses its
// term, all names are new, and op ids never go back.
func TestRA46_RestoredByAnOperator(t *testing.T) {
	x := newWorld(t, quick)
	x.history(t)
	old := x.w
	exec(t, x.conn, `INSERT INTO millrace.write_requests (user_id, id, managed, heads, acked_id, acked_seq) VALUES ('seen', 90, true, '{}', 90, 1), ('own', 7, false, '{}', 7, 1)`)
	exec(t, x.conn, `SELECT setval('millrace.write_checkpoint_ids', 90)`)
	began := value[int64](t, x.conn, `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8`)
	op, err := x.store.Restored(t.Context(), "operator")
	must(t, err)
	if op < old.head.OpID+millrace.OpID(opIDJump) {
		t.Errorf("op id %d after %d", op, old.head.OpID)
	}
	_, err = old.Commit(t.Context(), &millrace.Flush{})
	wantLost(t, err)
	x.w = lead(t, x.store)
	got, err := x.w.State(t.Context())
	must(t, err)
	for i, d := range got.RuleSets[0].Definitions {
		if d.ID != x.set.Definitions[i].ID || d.Kind == millrace.BucketDefinition && d.WirePrefix == x.set.Definitions[i].WirePrefix {
			t.Errorf("definition %+v, was %+v", d, x.set.Definitions[i])
		}
	}
	if x.w.head.OpID != op {
		t.Errorf("the next term begins at %d, want %d", x.w.head.OpID, op)
	}
	// Numbers of uploads are above any that the lost sidecar gave, and are to be
	// answered again; what a device counted by itself is not known any more.
	equal(t, []string{"(seen,t,0,0,t)"}, lines(t, x.conn, `SELECT user_id, id > $1, acked_id, acked_seq, heads IS NULL FROM millrace.write_requests`, began))
	if n := value[int64](t, x.conn, `SELECT nextval('millrace.write_checkpoint_ids')`); n <= began {
		t.Errorf("the next number is %d, want one above %d", n, began)
	}
}
