package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// changing makes retirement and dropping quick.
var changing = Options{RulesKeep: time.Microsecond, dropPoll: 50 * time.Millisecond}

// otherDefinitions have the lookup and the second bucket definition of
// testDefinitions, and another first one.
func otherDefinitions(hash string) []millrace.Definition {
	return append([]millrace.Definition{{Kind: millrace.BucketDefinition, Key: "bucket:by_owner", Name: "by_owner", Hash: hash}}, testDefinitions[1:]...)
}

// replace deploys a set, puts it in force and retires the one before.
func (x *world) replace(tb testing.TB, hash string) *millrace.RuleSet {
	tb.Helper()
	set, err := x.w.Deploy(tb.Context(), "rules with "+hash, otherDefinitions(hash))
	must(tb, err)
	x.commit(tb, &millrace.Flush{Activate: set.ID})
	_, err = x.w.RetireRules(tb.Context())
	must(tb, err)
	return set
}

func definitionState(tb testing.TB, conn *pgx.Conn, id millrace.DefinitionID) string {
	tb.Helper()
	return value[string](tb, conn, `SELECT state FROM millrace.definitions WHERE id = $1`, int32(id))
}

// dropped waits until the history of a definition is gone.
func (x *world) dropped(tb testing.TB, id millrace.DefinitionID) {
	tb.Helper()
	pgtest.Eventually(tb, time.Minute, func() error {
		if s := definitionState(tb, x.conn, id); s != "dropped" {
			return fmt.Errorf("definition %d is %s", id, s)
		}
		return nil
	})
}

// R51–R53: what only a retired rule set used is dropped, and nothing of what
// others use; the content gets a new history if it comes back.
func TestRetiredDefinitionIsDropped(t *testing.T) {
	x := newWorld(t, changing)
	for i := range 50 {
		key := fmt.Sprint(i)
		x.apply(t, x.upsert(0, key, x.out(0, "own"+key, "lists", key, "{}"), x.out(1, "list", "lists", key, "{}")))
	}
	x.commit(t, nil)
	x.apply(t, x.upsert(0, "0", x.out(1, "list", "lists", "0", "{}")), x.upsert(0, "1", x.out(0, "own1", "lists", "1", "{}")))
	x.commit(t, nil)
	equal(t, []string{"(1)", "(2)"}, lines(t, x.conn, `SELECT definition FROM millrace.ended_outputs ORDER BY 1`))
	old := x.set.Definitions
	set := x.replace(t, "a2")
	if set.Definitions[0].ID == old[0].ID || set.Definitions[1].ID != old[1].ID || set.Definitions[2].ID != old[2].ID {
		t.Fatalf("definitions %v after %v", set.Definitions, old)
	}
	last := value[int64](t, x.conn, `SELECT max(id) FROM millrace.bucket_names`)
	x.dropped(t, old[0].ID)
	equal(t, []string{"(ops_2)", "(ops_4)", "(row_state_2)", "(row_state_4)"}, lines(t, x.conn, `
		SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'millrace'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^(ops|row_state)_' ORDER BY 1`))
	equal(t, []string{"(list,49)"}, lines(t, x.conn, `SELECT name, rows FROM millrace.buckets`))
	equal(t, []string{"(2)"}, lines(t, x.conn, `SELECT definition FROM millrace.ended_outputs`))
	if now := value[int64](t, x.conn, `SELECT max(id) FROM millrace.bucket_names`); now != last {
		t.Errorf("the greatest bucket number was %d and is %d: it would be given again", last, now)
	}
	equal(t, []string{"(1,dropped,3,3)", "(2,active,3,1)"}, lines(t, x.conn, `SELECT rule_set, state, definitions, new_definitions FROM millrace.rules`))
	state, err := x.w.State(t.Context())
	must(t, err)
	if len(state.RuleSets) != 1 || len(state.Definitions) != 3 {
		t.Errorf("the next term would feed %+v", state.RuleSets)
	}
	if deployed, err := x.w.Deployed(t.Context(), "rules"); err != nil || !deployed {
		t.Errorf("the first content was deployed: %t, %v", deployed, err)
	}
	back, err := x.w.Deploy(t.Context(), "rules", testDefinitions)
	must(t, err)
	if d := back.Definitions[0]; d.ID == old[0].ID || d.WirePrefix == old[0].WirePrefix {
		t.Errorf("a dropped history came back: %+v", d)
	}
}

// R50: the history of a definition stays while a live relay serves a rule set
// that has it.
func TestRelayHoldsRetiredDefinition(t *testing.T) {
	x := newWorld(t, changing)
	exec(t, x.conn, `INSERT INTO millrace.relay_reports (id, name, listen, started_at, op_id, rule_sets, connections, at)
		VALUES ('r', 'relay', '', now(), 1, '{1}', 1, now())`)
	old := x.set.Definitions[0].ID
	x.replace(t, "a2")
	x.replace(t, "a3") // its predecessor is held by nobody: the dropper has looked when that is gone
	x.dropped(t, 4)
	if s := definitionState(t, x.conn, old); s != "dropping" {
		t.Errorf("while a relay serves it, it is %s", s)
	}
	exec(t, x.conn, `UPDATE millrace.relay_reports SET rule_sets = '{3}'`)
	x.dropped(t, old)
}

// Dropping a history waits for a reader that holds a snapshot open, and nobody
// waits behind it: neither readers nor the writer nor the next deploy.
func TestNobodyQueuesBehindDropping(t *testing.T) {
	x := newWorld(t, changing)
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	x.commit(t, nil)
	old := x.set.Definitions[0].ID
	holder := connect(t, x.uri)
	exec(t, holder, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	rows := value[int](t, holder, `SELECT count(*) FROM millrace.ops`)
	x.replace(t, "a2")
	pgtest.Eventually(t, time.Minute, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM pg_stat_activity WHERE query ~ 'DETACH PARTITION' AND wait_event_type = 'Lock' AND datname = current_database()`); n == 0 {
			return fmt.Errorf("nothing is being detached")
		}
		return nil
	})
	exec(t, x.conn, `SET lock_timeout = '3s'`) // far more than any of it takes, unless it waits
	if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.ops`); n != 0 {
		t.Errorf("a new reader sees %d ops of a definition that is being dropped", n)
	}
	x.scopes[0] = &millrace.Scope{Table: x.tables[0].ID, Buckets: []millrace.DefinitionID{2}}
	x.apply(t, x.upsert(0, "k2", millrace.Output{Definition: 2, Bucket: "b", Type: "lists", RowID: "k2", Data: "{}"}))
	x.commit(t, nil)
	set := x.replace(t, "a3") // attaches
	x.apply(t, millrace.Change{Scope: &millrace.Scope{Table: x.tables[0].ID, Buckets: []millrace.DefinitionID{set.Definitions[0].ID}}, Kind: millrace.ChangeUpsert, Key: "k3",
		Outputs: []millrace.Output{{Definition: set.Definitions[0].ID, Bucket: "b", Type: "lists", RowID: "k3", Data: "{}"}}})
	x.commit(t, nil)
	if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.ops`); n != 2 {
		t.Errorf("a new reader sees %d ops, 2 were written", n)
	}
	if s := definitionState(t, x.conn, old); s != "dropping" {
		t.Errorf("under a reader it is %s", s)
	}
	if n := value[int](t, holder, `SELECT count(*) FROM millrace.bucket_totals`); n != rows {
		t.Errorf("the reader's snapshot has %d totals, it had %d", n, rows)
	}
	exec(t, holder, `COMMIT`)
	x.dropped(t, old)
	x.dropped(t, 4)
}

// SA-35: dropping that is interrupted anywhere is finished by the next term.
func TestSA35_InterruptedDropping(t *testing.T) {
	for _, step := range []string{"detach pending", "detached", "dropped"} {
		t.Run(step, func(t *testing.T) {
			x := newWorld(t, Options{RulesKeep: time.Microsecond, dropPoll: time.Hour})
			x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}"), x.out(1, "b", "lists", "k", "{}")))
			x.commit(t, nil)
			old := x.set.Definitions[0].ID
			x.replace(t, "a2")
			switch step {
			case "detach pending":
				holder := connect(t, x.uri)
				exec(t, holder, `BEGIN; SELECT count(*) FROM millrace.ops`)
				victim := connect(t, x.uri)
				done := make(chan error, 1)
				go func() {
					_, err := victim.Exec(context.Background(), `ALTER TABLE millrace.ops DETACH PARTITION millrace.ops_1 CONCURRENTLY`)
					done <- err
				}()
				pgtest.Eventually(t, time.Minute, func() error {
					if !value[bool](t, x.conn, `SELECT bool_or(inhdetachpending) FROM pg_inherits`) {
						return fmt.Errorf("not pending")
					}
					return nil
				})
				exec(t, x.conn, `SELECT pg_terminate_backend($1::int)`, int32(victim.PgConn().PID()))
				if err := <-done; err == nil {
					t.Fatal("the detach was not interrupted")
				}
				exec(t, holder, `COMMIT`)
			case "detached":
				exec(t, x.conn, `ALTER TABLE millrace.ops DETACH PARTITION millrace.ops_1`)
			case "dropped":
				exec(t, x.conn, `DROP TABLE millrace.ops_1`)
			}
			must(t, x.w.Close(t.Context()))
			st := openStore(t, x.uri, changing)
			x.w = lead(t, st)
			x.dropped(t, old)
			equal(t, []string{"(ops_2)", "(ops_4)", "(row_state_2)", "(row_state_4)"}, lines(t, x.conn, `
				SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'millrace'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^(ops|row_state)_' ORDER BY 1`))
			equal(t, []string{"(b,1)"}, lines(t, x.conn, `SELECT name, rows FROM millrace.buckets WHERE rows > 0`))
		})
	}
}

// P86: a set that replaces one being built takes over its copies, for what both
// have.
func TestDeployTakesOverCopies(t *testing.T) {
	x := newWorld(t, changing)
	first, err := x.w.Deploy(t.Context(), "first", append(otherDefinitions("n1"), millrace.Definition{Kind: millrace.LookupDefinition, Key: "lookup:n", Name: "n", Hash: "n2"}))
	must(t, err)
	both := &millrace.Copy{RuleSet: first.ID, Table: x.tables[0].ID, Definitions: []millrace.DefinitionID{first.Definitions[0].ID, first.Definitions[3].ID}, State: millrace.CopyRunning, Cursor: 7}
	one := &millrace.Copy{RuleSet: first.ID, Table: x.tables[1].ID, Definitions: []millrace.DefinitionID{first.Definitions[3].ID}, State: millrace.CopyRunning}
	x.commit(t, &millrace.Flush{Copies: []*millrace.Copy{both, one}, RereadAdd: []millrace.Reread{{Copy: 2, Key: "k"}}})
	second, err := x.w.Deploy(t.Context(), "second", otherDefinitions("n1"))
	must(t, err)
	if second.Definitions[0] != first.Definitions[0] {
		t.Errorf("%+v, it was %+v", second.Definitions[0], first.Definitions[0])
	}
	equal(t, []string{fmt.Sprintf("(%d,{%d},7)", second.ID, first.Definitions[0].ID)}, lines(t, x.conn, `SELECT rule_set, definitions, cursor_page FROM millrace.copies`))
	equal(t, []string{"(1,active)", "(2,abandoned)", "(3,building)"}, lines(t, x.conn, `SELECT rule_set, state FROM millrace.rules`))
	x.dropped(t, first.Definitions[3].ID)
	// Given up, it leaves nothing.
	if _, err := x.w.AnswerRules(t.Context(), millrace.RuleAnswer{Request: 1, Abandon: true}); err != nil {
		t.Fatal(err)
	}
	x.dropped(t, first.Definitions[0].ID)
	equal(t, []string{}, lines(t, x.conn, `SELECT FROM millrace.copies`))
}

// At most ten replaced sets are fed, the newest.
func TestRetiredSetsAreBounded(t *testing.T) {
	x := newWorld(t, Options{})
	for i := range 13 {
		set, err := x.w.Deploy(t.Context(), fmt.Sprint("rules ", i), otherDefinitions(fmt.Sprint("h", i%2)))
		must(t, err)
		x.commit(t, &millrace.Flush{Activate: set.ID})
	}
	ended, err := x.w.RetireRules(t.Context())
	must(t, err)
	if len(ended) != 3 {
		t.Errorf("%v are ended of 13", ended)
	}
	equal(t, []string{"(1,dropped)", "(2,dropped)", "(3,dropped)", "(4,retired)"}, lines(t, x.conn, `SELECT rule_set, state FROM millrace.rules LIMIT 4`))
}

// What a person asks for is stored with its answer.
func TestRuleRequests(t *testing.T) {
	x := newWorld(t, Options{})
	rules, err := x.store.Rules(t.Context())
	must(t, err)
	defer rules.Close()
	woken := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- x.w.WatchRules(ctx, func() { woken <- struct{}{} }) }()
	id, err := rules.Request(t.Context(), millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: "new rules", File: "sync.yaml"})
	must(t, err)
	select {
	case <-woken:
	case <-time.After(time.Minute):
		t.Fatal("nobody is told of the request")
	}
	cancel()
	<-watched
	back, err := rules.Request(t.Context(), millrace.RuleRequest{Kind: millrace.RequestRollback, Target: 1})
	must(t, err)
	requests, err := x.w.RuleRequests(t.Context())
	must(t, err)
	equal(t, []millrace.RuleRequest{
		{ID: id, Kind: millrace.RequestDeploy, Content: "new rules", File: "sync.yaml"}, {ID: back, Kind: millrace.RequestRollback, Target: 1}}, requests)
	set, err := x.w.AnswerRules(t.Context(), millrace.RuleAnswer{Request: id, Message: "deployed", RollsBack: 1,
		Deploy: &millrace.RuleSet{Content: "new rules", Definitions: otherDefinitions("n")}})
	must(t, err)
	_, err = x.w.AnswerRules(t.Context(), millrace.RuleAnswer{Request: back, Refused: true, Message: "no"})
	must(t, err)
	p, err := rules.Progress(t.Context(), id)
	must(t, err)
	if p.State != "done" || p.RuleSet != set.ID || p.SetState != millrace.RuleSetBuilding || p.Message != "deployed" {
		t.Errorf("%+v", p)
	}
	if p, err = rules.Progress(t.Context(), back); err != nil || p.State != "refused" || p.RuleSet != 0 || p.Message != "no" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err = rules.Progress(t.Context(), 99); err == nil {
		t.Error("the progress of what was never asked for")
	}
	d, err := rules.Deployed(t.Context())
	must(t, err)
	if d.Active.ID != 1 || d.Building.ID != set.ID || len(d.Fed) != 4 {
		t.Errorf("%+v", d)
	}
	equal(t, []string{"(2,sync.yaml,1)"}, lines(t, x.conn, `SELECT rule_set, file, rolls_back FROM millrace.rules WHERE state = 'building'`))
	if requests, err = x.w.RuleRequests(t.Context()); err != nil || len(requests) != 0 {
		t.Errorf("%v are left, %v", requests, err)
	}
}

// A table of which a fed definition still has rows is not forgotten.
func TestForgetTables(t *testing.T) {
	x := newWorld(t, Options{dropPoll: 50 * time.Millisecond})
	c := x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}"))
	x.apply(t, c)
	w := millrace.Change{Scope: &millrace.Scope{Table: x.tables[1].ID}, Kind: millrace.ChangeUpsert, Key: "k"}
	w.Wide, w.WideValues = millrace.WideStore, []byte("long")
	x.apply(t, w)
	x.commit(t, nil)
	forgotten, err := x.w.ForgetTables(t.Context(), []millrace.TableID{x.tables[0].ID, x.tables[1].ID})
	must(t, err)
	equal(t, []millrace.TableID{x.tables[1].ID}, forgotten)
	state, err := x.w.State(t.Context())
	must(t, err)
	if len(state.Tables) != 1 || state.Tables[0].ID != x.tables[0].ID {
		t.Errorf("tables %+v", state.Tables)
	}
	pgtest.Eventually(t, time.Minute, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.row_wide`); n != 0 {
			return fmt.Errorf("%d long values are kept", n)
		}
		return nil
	})
	again := x.tables[1]
	again.ID = 0
	must(t, x.w.SaveTable(t.Context(), &again))
	if again.ID != 3 {
		t.Errorf("a table that is used again has number %d", again.ID)
	}
}
