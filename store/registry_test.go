package store

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace/millrace"
)

func TestStateIsWhatWasSaved(t *testing.T) {
	x := newWorld(t, Options{})
	ctx := t.Context()
	x.source.ConsistentPoint, x.source.Exported, x.source.Durable = 0x1_0000_0010, "7:9:8", 0xF000_0000_0000_0010
	must(t, x.w.SaveSource(ctx, &x.source))
	lower := x.source
	lower.ID, lower.Durable = 0, 5
	must(t, x.w.SaveSource(ctx, &lower))
	if lower.ID != x.source.ID || lower.Durable != x.source.Durable {
		t.Errorf("a source saved again: %+v", lower)
	}
	x.tables[1].Columns = append(x.tables[1].Columns, millrace.SourceColumn{Name: "n", TypeOID: 4_000_000_000, Type: "mood"})
	must(t, x.w.SaveTable(ctx, &x.tables[1]))
	building, err := x.w.Deploy(ctx, "more rules", testDefinitions[:1])
	must(t, err)
	long := strings.Repeat("é", 3000)
	now := time.Now().Truncate(time.Microsecond)
	waiting := &millrace.Copy{RuleSet: building.ID, Table: x.tables[0].ID, Definitions: []millrace.DefinitionID{1}, State: millrace.CopyWaiting, Estimate: -1, WaitFor: []uint64{1 << 40, 7}}
	running := &millrace.Copy{RuleSet: building.ID, Table: x.tables[1].ID, Definitions: []millrace.DefinitionID{1}, State: millrace.CopyRunning,
		Filenode: 4_000_000_000, EndPage: 4_000_000_001, Cursor: 3, Rows: 4, Estimate: 100, StartedAt: now}
	old := &millrace.Copy{RuleSet: x.set.ID, Table: x.tables[0].ID, State: millrace.CopyDone, DoneAt: now}
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{waiting, running, old}})
	if waiting.ID != 1 || running.ID != 2 || old.ID != 3 {
		t.Errorf("copies are numbered %d, %d, %d", waiting.ID, running.ID, old.ID)
	}
	running.Cursor = 9
	c := x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{running}, RereadAdd: []millrace.Reread{{Copy: 2, Key: "a"}, {Copy: 2, Key: long}, {Copy: 2, Key: "a"}, {Copy: 1, Key: "gone"}}})
	c = x.commit(t, &millrace.Flush{RereadDone: []millrace.Reread{{Copy: 1, Key: "gone"}, {Copy: 1, Key: "never"}}})
	must(t, x.w.Close(ctx))
	x.w = lead(t, x.store)
	got, err := x.w.State(ctx)
	must(t, err)
	set := *x.set
	set.State, set.ActiveFrom = millrace.RuleSetActive, 1
	want := &millrace.DecoderState{
		Head: c, Sources: []millrace.Source{x.source}, Tables: x.tables[:], RuleSets: []millrace.RuleSet{set, *building},
		Copies: []millrace.Copy{*waiting, *running}, Rereads: []millrace.Reread{{Copy: 2, Key: "a"}, {Copy: 2, Key: long}},
		Definitions: set.Definitions,
	}
	if d := cmp.Diff(want, got, cmpopts.EquateApproxTime(0), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("state (-want +got):\n%s", d)
	}

	running.State = millrace.CopyDone
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{running}})
	if got, err = x.w.State(ctx); err != nil || len(got.Copies) != 2 || len(got.Rereads) != 0 {
		t.Errorf("a done copy of a building set: %+v, %v", got, err)
	}
	x.commit(t, &millrace.Flush{Activate: building.ID})
	if got, err = x.w.State(ctx); err != nil || len(got.Copies) != 1 || got.RuleSets[0].State != millrace.RuleSetRetired || got.RuleSets[1].ActiveFrom != 2 {
		t.Errorf("after activation: %+v, %v", got, err)
	}
}

func TestDeployReusesDefinitions(t *testing.T) {
	x := newWorld(t, Options{})
	defs := append([]millrace.Definition{{Kind: millrace.BucketDefinition, Key: "bucket:new", Name: "new", Hash: "dd"}}, testDefinitions[1:]...)
	// One content twice in a set, and a hash that another kind has too.
	defs = append(defs, millrace.Definition{Kind: millrace.LookupDefinition, Key: "lookup:new/1", Name: "new", Hash: "cc"},
		millrace.Definition{Kind: millrace.LookupDefinition, Key: "lookup:new/2", Name: "new", Hash: "bb"})
	set, err := x.w.Deploy(t.Context(), "rules 2", defs)
	must(t, err)
	var ids []millrace.DefinitionID
	for _, d := range set.Definitions {
		ids = append(ids, d.ID)
	}
	equal(t, []millrace.DefinitionID{4, 2, 3, 3, 5}, ids)
	equal(t, x.set.Definitions[1], set.Definitions[1])
	if p := set.Definitions[0].WirePrefix; !regexp.MustCompile(`^[a-z2-7]{5}$`).MatchString(p) {
		t.Errorf("wire prefix %q", p)
	}
	if set.ID != 2 || set.State != millrace.RuleSetBuilding || set.ActiveFrom != 0 {
		t.Errorf("%+v", set)
	}
	equal(t, []string{"(ops_1)", "(ops_2)", "(ops_4)", "(row_state_1)", "(row_state_2)", "(row_state_4)"}, lines(t, x.conn, `
		SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent IN ('millrace.ops'::regclass, 'millrace.row_state'::regclass) ORDER BY 1`))
	for _, bad := range [][]millrace.Definition{
		{defs[0], defs[0]},
		{{Kind: "table", Key: "x", Hash: "x"}},
		{{Kind: millrace.BucketDefinition, Key: "x"}},
	} {
		if _, err := x.w.Deploy(t.Context(), "bad", bad); err == nil {
			t.Errorf("%v was deployed", bad)
		}
	}
	if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.rule_sets`); n != 2 {
		t.Errorf("%d rule sets", n)
	}
}

// TestDeployBesideReaders attaches partitions while a reader holds ops open,
// and waits for one that locks it.
func TestDeployBesideReaders(t *testing.T) {
	x := newWorld(t, Options{})
	exec(t, x.conn, `BEGIN; SELECT count(*) FROM millrace.ops`)
	one := []millrace.Definition{{Kind: millrace.BucketDefinition, Key: "a", Name: "a", Hash: "a1"}}
	if _, err := x.w.Deploy(t.Context(), "a", one); err != nil {
		t.Fatal(err)
	}
	exec(t, x.conn, `COMMIT; BEGIN; LOCK TABLE millrace.ops IN SHARE MODE`)
	done := make(chan error)
	go func() {
		one[0].Hash = "a2"
		_, err := x.w.Deploy(t.Context(), "b", one)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("deployed beside a lock: %v", err)
	case <-time.After(1200 * time.Millisecond): // longer than one try
	}
	exec(t, x.conn, `COMMIT`)
	must(t, <-done)
}

func TestActivationStandsAlone(t *testing.T) {
	x := newWorld(t, Options{})
	set, err := x.w.Deploy(t.Context(), "again", testDefinitions)
	must(t, err)
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	if _, err := x.w.Commit(t.Context(), &millrace.Flush{Activate: set.ID}); err == nil || !strings.Contains(err.Error(), "flush of its own") {
		t.Errorf("with other changes: %v", err)
	}
	if _, err := x.w.Commit(t.Context(), &millrace.Flush{Activate: 9}); err == nil || !strings.Contains(err.Error(), "no such rule set") {
		t.Errorf("an unknown set: %v", err)
	}
	if _, err := x.w.Commit(t.Context(), &millrace.Flush{Activate: x.set.ID}); err == nil {
		t.Error("the active set was activated again")
	}
	c := x.commit(t, &millrace.Flush{Activate: set.ID})
	if c.OpID != 2 {
		t.Errorf("activated at op id %d", c.OpID)
	}
}

func TestReport(t *testing.T) {
	x := newWorld(t, Options{})
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	must(t, x.w.writeOut(t.Context())) // a flush is open
	r := millrace.SourceReport{Source: x.source.ID, Received: 30, Applied: 20, Confirmed: 10, Head: 50, HeadAt: time.Now(), Retained: -1,
		SlotState: "reserved", WaitingFor: "a lock on public.todos", ErrorCode: "MR1003", Error: "slot is gone"}
	must(t, x.w.Report(t.Context(), r))
	r.ErrorCode, r.Error, r.Retained = "", "", 4096
	must(t, x.w.Report(t.Context(), r))
	x.commit(t, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: 0x20}}})
	equal(t, []string{`(main,0/20,0/1E,0/A,18,4096,"a lock on public.todos",)`},
		lines(t, x.conn, `SELECT source, durable, received, confirmed, lag_bytes, retained_bytes, waiting_for, error FROM millrace.replication`))
	equal(t, []string{`(1,3,2,test,"main: a lock on public.todos",)`},
		lines(t, x.conn, `SELECT rule_set, op_id + 1, seq, decoder, waiting_for, errors FROM millrace.status`))
	if err := x.w.Report(t.Context(), millrace.SourceReport{Source: 77}); err == nil {
		t.Error("a report on an unknown source was taken")
	}
}

func TestPositionsNeverGoBack(t *testing.T) {
	x := newWorld(t, Options{})
	x.commit(t, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: 0x50}}})
	c := x.commit(t, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: 0x40}}})
	equal(t, []string{`(0/50)`}, lines(t, x.conn, `SELECT durable FROM millrace.sources`))
	equal(t, []string{fmt.Sprintf(`("{""main"": ""0/50""}",0,0,%d)`, c.OpID)},
		lines(t, x.conn, `SELECT lsns, changed_buckets, changed_lookups, op_id FROM millrace.checkpoints ORDER BY seq DESC LIMIT 1`))
	if _, err := x.w.Commit(t.Context(), &millrace.Flush{Positions: []millrace.SourcePosition{{Source: 9, LSN: 1}}}); err == nil {
		t.Error("a position of an unknown source was taken")
	}
}
