package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

var eventDefinitions = []millrace.Definition{
	{Kind: millrace.EventDefinition, Key: "event:write_checkpoints", Name: "write_checkpoints", Hash: "e1"},
	{Kind: millrace.EventDefinition, Key: "event:checkpoint_requests", Name: "checkpoint_requests", Hash: "e2"},
}

// withEvents deploys the rules of the world with events, and gives the events'
// ids and the scope of a table that only they read.
func (x *world) withEvents(tb testing.TB, hashes ...string) (*millrace.RuleSet, *millrace.Scope) {
	tb.Helper()
	definitions := slices.Clone(testDefinitions)
	for i, d := range eventDefinitions {
		if d.Hash = hashes[i]; d.Hash != "" {
			definitions = append(definitions, d)
		}
	}
	set, err := x.w.Deploy(tb.Context(), "rules with events "+strings.Join(hashes, " "), definitions)
	must(tb, err)
	scope := &millrace.Scope{Table: x.tables[1].ID}
	for _, d := range set.Definitions[len(testDefinitions):] {
		if d.WirePrefix != "" {
			tb.Errorf("an event has the wire prefix %q", d.WirePrefix)
		}
		scope.Events = append(scope.Events, d.ID)
	}
	return set, scope
}

func marked(scope *millrace.Scope, key string, marks ...millrace.WriteMark) millrace.Change {
	return millrace.Change{Scope: scope, Kind: millrace.ChangeUpsert, Key: key, Marks: marks}
}

// R40: a custom write checkpoint comes with the checkpoint of its flush, only
// grows, and stays when the row goes.
func TestR40_CustomWriteCheckpoints(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	set, scope := x.withEvents(t, "e1", "e2")
	x.commit(t, &millrace.Flush{Activate: set.ID})
	first, second := scope.Events[0], scope.Events[1]
	counters := func() (list []millrace.WriteCheckpoint) {
		t.Helper()
		s := snapshot(t, r)
		events, err := s.Events(t.Context())
		must(t, err)
		equal(t, scope.Events, events)
		list, err = s.WriteCheckpoints(t.Context(), events, []string{"u/a", "u/b", "nobody"})
		must(t, err)
		slices.SortFunc(list, func(x, y millrace.WriteCheckpoint) int { return strings.Compare(x.User, y.User) })
		return list
	}
	acked := func(seq int64) (users []string) {
		t.Helper()
		list, ok, err := snapshot(t, r).AcknowledgedAfter(t.Context(), scope.Events, seq, 10)
		must(t, err)
		if !ok {
			t.Error("more than ten")
		}
		for _, w := range list {
			users = append(users, fmt.Sprintf("%s=%d", w.User, w.Acknowledged))
		}
		slices.Sort(users)
		return users
	}
	x.apply(t, marked(scope, "1", millrace.WriteMark{Definition: first, User: "u/a", ID: 3}), marked(scope, "2", millrace.WriteMark{Definition: first, User: "u/b", ID: 1}),
		marked(scope, "1", millrace.WriteMark{Definition: first, User: "u/a", ID: 5}), marked(scope, "1", millrace.WriteMark{Definition: first, User: "u/a", ID: 4}))
	equal(t, []millrace.WriteCheckpoint(nil), counters())
	c := x.commit(t, nil)
	equal(t, []millrace.WriteCheckpoint{{User: "u/a", ID: 5, Acknowledged: 5, Seq: c.Seq}, {User: "u/b", ID: 1, Acknowledged: 1, Seq: c.Seq}}, counters())
	equal(t, []string{"u/a=5", "u/b=1"}, acked(c.Seq-1))
	equal(t, []string(nil), acked(c.Seq))
	if c.OpID != x.set.ActiveFrom && value[int64](t, x.conn, `SELECT count(*) FROM millrace.ops`) != 0 {
		t.Error("a write checkpoint took ops")
	}

	// A lower number, a deleted row and a truncated table change nothing; of two
	// events the greater number counts.
	x.apply(t, marked(scope, "1", millrace.WriteMark{Definition: first, User: "u/a", ID: 2}), millrace.Change{Scope: scope, Kind: millrace.ChangeDelete, Key: "1"},
		millrace.Change{Scope: scope, Kind: millrace.ChangeTruncate}, marked(scope, "9", millrace.WriteMark{Definition: second, User: "u/b", ID: 7}))
	d := x.commit(t, nil)
	equal(t, []millrace.WriteCheckpoint{{User: "u/a", ID: 5, Acknowledged: 5, Seq: c.Seq}, {User: "u/b", ID: 7, Acknowledged: 7, Seq: d.Seq}}, counters())
	equal(t, []string{"u/b=7"}, acked(c.Seq))

	// Numbers that the server gave do not count, those that the client gave do.
	ids, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "u/a"}, {User: "u/b", ID: 9}})
	must(t, err)
	e := x.commit(t, &millrace.Flush{Acknowledge: []millrace.WriteRequest{{User: "u/a", ID: ids[0]}, {User: "u/b", ID: 9}}})
	equal(t, []millrace.WriteCheckpoint{{User: "u/a", ID: 5, Acknowledged: 5, Seq: c.Seq}, {User: "u/b", ID: 9, Acknowledged: 9, Seq: e.Seq}}, counters())
	equal(t, []string{"u/b=9"}, acked(d.Seq))
	// A client that was told the server's number takes it over.
	held, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "u/a", ID: 6}})
	must(t, err)
	equal(t, ids[:1], held)
	_, err = r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "u/a", ID: held[0]}})
	must(t, err)
	if got := counters()[0]; got.Acknowledged != held[0] {
		t.Errorf("the number the client took over is %+v", got)
	}
	equal(t, []string{
		"(u/a,client,,t)", "(u/a,custom,write_checkpoints,t)", "(u/b,client,,t)", "(u/b,custom,checkpoint_requests,t)", "(u/b,custom,write_checkpoints,t)",
	}, lines(t, x.conn, `SELECT user_id, kind, event, served FROM millrace.write_checkpoints ORDER BY user_id, kind, event`))
}

// R40: they belong to a definition: those of rules that are being built are seen
// by nobody, those of retired rules come back with a roll-back, and what is
// dropped is gone.
func TestR40_CustomWriteCheckpointsPerVersion(t *testing.T) {
	x := newWorld(t, changing)
	r := openReader(t, x.uri)
	old, before := x.withEvents(t, "e1", "")
	x.commit(t, &millrace.Flush{Activate: old.ID})
	next, after := x.withEvents(t, "e9", "")
	if before.Events[0] == after.Events[0] {
		t.Fatal("another content has the same definition")
	}
	both := &millrace.Scope{Table: before.Table, Events: []millrace.DefinitionID{before.Events[0], after.Events[0]}}
	x.apply(t, marked(both, "1", millrace.WriteMark{Definition: before.Events[0], User: "u", ID: 3}, millrace.WriteMark{Definition: after.Events[0], User: "u", ID: 30}))
	x.commit(t, nil)
	told := func() int64 {
		t.Helper()
		s := snapshot(t, r)
		events, err := s.Events(t.Context())
		must(t, err)
		list, err := s.WriteCheckpoints(t.Context(), events, []string{"u"})
		must(t, err)
		if len(list) != 1 {
			t.Fatalf("counters %+v", list)
		}
		return list[0].Acknowledged
	}
	equal(t, int64(3), told())
	equal(t, []string{"(u,3,t)", "(u,30,f)"}, lines(t, x.conn, `SELECT user_id, id, served FROM millrace.write_checkpoints ORDER BY id`))
	equal(t, []string{}, lines(t, x.conn, `SELECT user_id FROM millrace.pending_write_checkpoints`))
	x.commit(t, &millrace.Flush{Activate: next.ID})
	equal(t, int64(30), told())
	equal(t, []string{"(u,3,f)", "(u,30,t)"}, lines(t, x.conn, `SELECT user_id, id, served FROM millrace.write_checkpoints ORDER BY id`))

	x.apply(t, marked(both, "1", millrace.WriteMark{Definition: before.Events[0], User: "u", ID: 4}, millrace.WriteMark{Definition: after.Events[0], User: "u", ID: 40}))
	x.commit(t, nil)
	back, again := x.withEvents(t, "e1", "") // rolled back before it was dropped
	x.commit(t, &millrace.Flush{Activate: back.ID})
	equal(t, before.Events, again.Events)
	equal(t, int64(4), told())

	_, err := x.w.RetireRules(t.Context())
	must(t, err)
	x.dropped(t, after.Events[0])
	equal(t, []string{fmt.Sprintf("(%d)", before.Events[0])}, lines(t, x.conn, `SELECT definition FROM millrace.custom_write_checkpoints`))
}

// What the flush cannot store is an error of the caller; errors of rows are
// listed, and go when the row is right.
func TestMarksOfNoScope(t *testing.T) {
	x := newWorld(t, Options{})
	_, scope := x.withEvents(t, "e1", "")
	event := scope.Events[0]
	for _, c := range []millrace.Change{
		marked(scope, "1", millrace.WriteMark{Definition: event + 1, User: "u", ID: 1}),
		marked(scope, "1", millrace.WriteMark{Definition: event, User: "u"}),
		marked(scope, "1", millrace.WriteMark{Definition: event, ID: 1}),
		marked(scope, "1", millrace.WriteMark{Definition: event, User: strings.Repeat("u", 2049), ID: 1}),
		{Scope: scope, Kind: millrace.ChangeDelete, Key: "1", Marks: []millrace.WriteMark{{Definition: event, User: "u", ID: 1}}},
	} {
		if err := x.w.Apply(t.Context(), []millrace.Change{c}); err == nil {
			t.Errorf("%+v is applied", c.Marks)
		}
	}
	bad := marked(scope, "1")
	bad.Errors = []millrace.RowError{{Definition: event, Message: "user_id is empty"}}
	x.apply(t, bad)
	x.commit(t, nil)
	errors := func() []string {
		return lines(t, x.conn, `SELECT definition, row_key, message FROM millrace.row_errors`)
	}
	equal(t, []string{fmt.Sprintf(`(%d,1,"user_id is empty")`, event)}, errors())
	x.apply(t, marked(scope, "1", millrace.WriteMark{Definition: event, User: "u", ID: 1}))
	x.commit(t, nil)
	equal(t, []string{}, errors())
}

// However changes are cut into calls, pieces and flushes, and whichever of these
// are rolled back: what is told of a device is the greatest number that was
// committed, with the checkpoint that brought it.
func TestMarksModel(t *testing.T) {
	x := newWorld(t, Options{PieceBytes: 500})
	set, scope := x.withEvents(t, "e1", "")
	x.commit(t, &millrace.Flush{Activate: set.ID})
	shadow := *scope
	shadow.Shadow = 77
	event := scope.Events[0]
	type mark struct{ id, seq int64 }
	committed := map[string]mark{}
	rapid.Check(t, func(rt *rapid.T) {
		open := map[string]int64{}
		for range rapid.IntRange(1, 4).Draw(rt, "calls") {
			var changes []millrace.Change
			for i := range rapid.IntRange(1, 20).Draw(rt, "changes") {
				user := rapid.SampledFrom([]string{"a", "b", "c/1", "c/2"}).Draw(rt, "user")
				id := rapid.Int64Range(1, 1000).Draw(rt, "id")
				to := scope
				if rapid.Bool().Draw(rt, "in a shadow") {
					to = &shadow
				}
				changes = append(changes, marked(to, fmt.Sprint(i), millrace.WriteMark{Definition: event, User: user, ID: id}))
				open[user] = max(open[user], id)
			}
			must(t, x.w.Apply(t.Context(), changes))
		}
		if rapid.Bool().Draw(rt, "roll back") {
			must(t, x.w.Rollback(t.Context()))
		} else {
			c := x.commit(t, nil)
			for user, id := range open {
				if committed[user].id < id {
					committed[user] = mark{id, c.Seq}
				}
			}
		}
		want := []string{}
		for user, m := range committed {
			want = append(want, fmt.Sprintf("(%s,%d,%d)", user, m.id, m.seq))
		}
		slices.Sort(want)
		got := lines(t, x.conn, `SELECT user_id, id, seq FROM millrace.custom_write_checkpoints ORDER BY 1`)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			rt.Fatalf("stored %v, want %v", got, want)
		}
	})
}
