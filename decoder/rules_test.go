package decoder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// deployRules are three bucket definitions over two tables; v says which
// columns the third has.
func deployRules(v string) string {
	return `bucket_definitions:
  one:
    data: ["SELECT id, v FROM t"]
  two:
    data: ["SELECT id, v FROM u"]
  three:
    data: ["SELECT id, ` + v + ` FROM t"]
`
}

var deployTables = []string{
	"create table t(id int primary key, v int, w int)", "insert into t select g, g, -g from generate_series(1, 3000) g",
	"create table u(id int primary key, v int)", "insert into u select g, g from generate_series(1, 500) g",
}

const (
	oneQuery    = `select 'one[]', id::text, format('{"id":%s,"v":%s}', id, v) from t`
	twoQuery    = `select 'two[]', id::text, format('{"id":%s,"v":%s}', id, v) from u`
	threeWQuery = `select 'three[]', id::text, format('{"id":%s,"w":%s}', id, w) from t`
	threeVQuery = `select 'three[]', id::text, format('{"id":%s,"v":%s}', id, v) from t`
)

// ask stores a request and waits for its answer.
func (f *fixture) ask(r millrace.RuleRequest) (a millrace.RuleAnswer) {
	f.t.Helper()
	id := f.sidecar.Request(r)
	pgtest.Eventually(f.t, patience, func() error {
		if err := f.term.failed(); err != nil {
			f.t.Fatalf("the term ended: %v", err)
		}
		var ok bool
		if a, ok = f.sidecar.Answer(id); !ok {
			return errors.New("no answer")
		}
		return nil
	})
	return a
}

func (f *fixture) deploy(content string) millrace.RuleAnswer {
	f.t.Helper()
	return f.ask(millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: content, File: "sync.yaml"})
}

func (f *fixture) rollback(target millrace.RuleSetID) millrace.RuleAnswer {
	f.t.Helper()
	return f.ask(millrace.RuleRequest{Kind: millrace.RequestRollback, Target: target})
}

// inForce waits until a rule set is in force and what was committed is durable.
func (f *fixture) inForce(id millrace.RuleSetID) {
	f.t.Helper()
	f.active(id)
	f.settled()
}

func (f *fixture) ids() map[string]millrace.DefinitionID {
	ids := map[string]millrace.DefinitionID{}
	set, _ := f.sidecar.Active()
	for _, d := range set.Definitions {
		ids[d.Key] = d.ID
	}
	return ids
}

// RA-48: a deploy while the decoder runs copies only what the changed
// definition needs, and the others go on with what they have.
func TestRA47_RA48_DeployWhileRunning(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
	f.start()
	f.inForce(1)
	before := f.ids()
	puts, _ := f.sidecar.Ops()
	copies := len(f.sidecar.Copies())

	if a := f.deploy(deployRules("w")); a.Deploy == nil || a.RuleSet != 2 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(2)
	after := f.ids()
	for key, id := range before {
		if changed := after[key] != id; changed != strings.Contains(key, "three") {
			t.Errorf("%s was definition %d and is %d", key, id, after[key])
		}
	}
	if now, _ := f.sidecar.Ops(); now-puts != 3000 {
		t.Errorf("%d rows were put for a changed definition of 3000 rows", now-puts)
	}
	for _, c := range f.sidecar.Copies()[copies:] {
		if len(c.Definitions) != 1 || c.Rows != 3000 {
			t.Errorf("copied: %+v", c)
		}
	}
	f.exec("update t set v = v + 1, w = w - 1 where id % 7 = 0; delete from u where id < 10")
	f.settled()
	f.contentEquals("bucket:one", oneQuery)
	f.contentEquals("bucket:two", twoQuery)
	f.contentEquals("bucket:three", threeWQuery)

	// The replaced set is fed still: going back is instant, and right.
	puts, _ = f.sidecar.Ops()
	if a := f.rollback(0); a.RollsBack != 1 || a.RuleSet != 3 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(3)
	if now, _ := f.sidecar.Ops(); now != puts {
		t.Errorf("%d rows were put for a roll-back", now-puts)
	}
	if ids := f.ids(); fmt.Sprint(ids) != fmt.Sprint(before) {
		t.Errorf("definitions %v after the roll-back, %v before", ids, before)
	}
	f.contentEquals("bucket:three", threeVQuery)
	// And forth again.
	if a := f.rollback(0); a.RollsBack != 2 || a.RuleSet != 4 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(4)
	f.contentEquals("bucket:three", threeWQuery)
	// The first content again, by its name: nothing is copied (A, B, A).
	if a := f.deploy(deployRules("v")); a.RuleSet != 5 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(5)
	if ids := f.ids(); fmt.Sprint(ids) != fmt.Sprint(before) {
		t.Errorf("definitions %v when the content came back, %v before", ids, before)
	}
	if now, _ := f.sidecar.Ops(); now != puts {
		t.Errorf("%d rows were put for a content that is fed", now-puts)
	}
	// Once it is not kept any more, it is built anew.
	changed := f.ids()
	f.deploy(deployRules("w"))
	f.inForce(6)
	for _, s := range f.sidecar.RuleSets() {
		f.sidecar.Retire(s.ID)
	}
	pgtest.Eventually(t, patience, func() error {
		if s := f.sidecar.RuleSets()[4]; s.State != millrace.RuleSetDropped {
			return fmt.Errorf("rule set %d is %s", s.ID, s.State)
		}
		return nil
	})
	if a := f.rollback(0); !a.Refused {
		t.Errorf("a roll-back to what is not kept: %+v", a)
	}
	f.exec("update t set v = v + 1 where id % 5 = 0")
	f.deploy(deployRules("v"))
	f.inForce(7)
	if ids := f.ids(); ids["bucket:three"] == changed["bucket:three"] {
		t.Error("a retired definition came back")
	}
	f.contentEquals("bucket:three", threeVQuery)
}

// P87: what changes nothing does nothing, and what is not valid changes nothing.
func TestDeployThatChangesNothing(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
	f.start()
	f.inForce(1)
	for _, content := range []string{deployRules("v"), "# a comment\n" + deployRules("v")} {
		if a := f.deploy(content); a.Deploy != nil || a.Refused || a.RuleSet != 1 {
			t.Errorf("the content in force: %+v", a)
		}
	}
	if a := f.deploy(strings.Replace(deployRules("v"), "SELECT", "SELEKT", 1)); !a.Refused || !strings.Contains(a.Message, "sync.yaml:3:") {
		t.Errorf("rules that do not compile: %+v", a)
	}
	for _, target := range []millrace.RuleSetID{0, 7} {
		if a := f.rollback(target); !a.Refused {
			t.Errorf("a roll-back to %d: %+v", target, a)
		}
	}
	if a := f.rollback(1); a.Refused || a.RuleSet != 1 {
		t.Errorf("a roll-back to what is in force: %+v", a)
	}
	if sets := f.sidecar.RuleSets(); len(sets) != 1 {
		t.Errorf("%d rule sets", len(sets))
	}
	f.exec("insert into u values (9999, 1)")
	f.settled()
	f.contentEquals("bucket:two", twoQuery)
}

// P86: a deploy while one is being built takes its place. What both have goes
// on being copied, and what only the first has is given up.
func TestRA49_DeployReplacesOneBeingBuilt(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
	gate := make(chan struct{})
	f.config.wrap = func(r chunkReader) chunkReader { return &heldReader{r, gate} }
	f.config.pages, f.config.fixedPages = 4, true
	f.start()
	close(gate)
	f.inForce(1)
	_ = f.term.stop()
	gate = make(chan struct{})
	f.start()
	first := strings.Replace(deployRules("w"), "SELECT id, v FROM u", "SELECT id, v, 1 AS x FROM u", 1)
	if a := f.deploy(first); a.RuleSet != 2 {
		t.Fatalf("answer %+v", a)
	}
	pgtest.Eventually(t, patience, func() error {
		if n := len(f.sidecar.Copies()); n < 4 {
			return fmt.Errorf("%d copies", n)
		}
		return nil
	})
	building := f.sidecar.RuleSets()[1]
	if a := f.deploy(first); a.RuleSet != 2 || a.Deploy != nil {
		t.Errorf("the same content again: %+v", a)
	}
	f.exec("update t set w = w - 1 where id % 3 = 0")
	second := strings.Replace(deployRules("w"), "one:\n", "one:\n    priority: 1\n", 1)
	if a := f.deploy(second); a.RuleSet != 3 {
		t.Fatalf("answer %+v", a)
	}
	f.exec("update t set w = w - 1 where id % 3 = 1")
	close(gate)
	f.inForce(3)
	f.contentEquals("bucket:one", oneQuery)
	f.contentEquals("bucket:two", twoQuery)
	f.contentEquals("bucket:three", threeWQuery)
	if s := f.sidecar.RuleSets()[1]; s.State != millrace.RuleSetAbandoned {
		t.Errorf("the first is %s", s.State)
	}
	if id := building.Definitions[2].ID; id != f.ids()["bucket:three"] {
		t.Errorf("what both have was definition %d and is %v", id, f.ids())
	}
}

// While a set is being built, going back gives it up, and so does deploying
// what is in force.
func TestGiveUpWhatIsBeingBuilt(t *testing.T) {
	for name, back := range map[string]func(f *fixture) millrace.RuleAnswer{
		"roll back":             func(f *fixture) millrace.RuleAnswer { return f.rollback(0) },
		"deploy what is active": func(f *fixture) millrace.RuleAnswer { return f.deploy(deployRules("v")) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
			f.start()
			f.inForce(1)
			_ = f.term.stop()
			f.config.wrap = func(r chunkReader) chunkReader { return &heldReader{r, make(chan struct{})} }
			f.start()
			f.deploy(deployRules("w"))
			if a := back(f); !a.Abandon || a.RuleSet != 1 {
				t.Fatalf("answer %+v", a)
			}
			f.exec("update t set v = v + 1")
			f.inForce(1)
			f.contentEquals("bucket:three", threeVQuery)
			for _, c := range f.sidecar.Copies() {
				if c.State != millrace.CopyDone {
					t.Errorf("a copy is left: %+v", c)
				}
			}
		})
	}
}

// A table that no rules use is not followed, so what was kept of it is not used
// when it comes back.
func TestTableComesBack(t *testing.T) {
	const long = "repeat(md5(id::text), 90)"
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), append(deployTables, "alter table u add long text", "alter table u alter long set storage external", "update u set long = "+long)...)
	with := strings.Replace(deployRules("v"), "SELECT id, v FROM u", "SELECT id, v, long FROM u", 1)
	without := strings.Replace(deployRules("v"), "  two:\n    data: [\"SELECT id, v FROM u\"]\n", "", 1)
	f.config.Rules = with
	f.start()
	f.inForce(1)
	f.deploy(without)
	f.inForce(2)
	f.sidecar.Retire(1)
	var old millrace.TableID
	pgtest.Eventually(t, patience, func() error {
		for id := millrace.TableID(1); id <= 2; id++ {
			if f.sidecar.Forgotten(id) {
				old = id
				return nil
			}
		}
		return errors.New("no table is forgotten")
	})
	f.exec("update u set long = 'x' || long")
	f.settled()
	f.deploy(with)
	f.inForce(3)
	f.exec("update u set v = v + 1") // does not tell the long value
	f.settled()
	f.contentEquals("bucket:two", `select 'two[]', id::text, format('{"id":%s,"v":%s,"long":"%s"}', id, v, long) from u`)
	if !f.sidecar.Forgotten(old) || f.sidecar.Forgotten(3) {
		t.Error("the table has not got a new number")
	}
}

// Whatever step of a deploy fails, the next term goes on with it, and it is in
// force at last with the right content.
func TestRA47_FaultsOfDeploy(t *testing.T) {
	for _, step := range []sinktest.Step{sinktest.BeforeSave, sinktest.AfterSave, sinktest.BeforeCommit, sinktest.AfterCommit} {
		for nth := 1; ; nth++ {
			f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
			f.start()
			f.inForce(1)
			_ = f.term.stop()
			f.failAt(step, nth)
			f.sidecar.Request(millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: deployRules("w")})
			f.start()
			faults := f.survive(func() error {
				if set, _ := f.sidecar.Active(); set.ID != 2 {
					return fmt.Errorf("rule set %d is in force", set.ID)
				}
				return nil
			})
			f.exec("update t set w = w - 1 where id % 3 = 0")
			f.survive(func() error { return f.compare("bucket:three", threeWQuery) })
			f.contentEquals("bucket:one", oneQuery)
			f.contentEquals("bucket:two", twoQuery)
			_ = f.term.stop()
			if faults == 0 {
				if nth == 1 {
					t.Fatalf("%s: never reached", step)
				}
				t.Logf("%s: %d times", step, nth-1)
				break
			}
		}
	}
}

// Of several requests the last one counts.
func TestRA49_LastRequestCounts(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), deployRules("v"), deployTables...)
	a := f.sidecar.Request(millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: deployRules("v, w")})
	b := f.sidecar.Request(millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: deployRules("w")})
	f.start()
	f.inForce(2) // the file's content was 1, and never in force
	if answer, _ := f.sidecar.Answer(a); !answer.Superseded {
		t.Errorf("the first: %+v", answer)
	}
	if answer, _ := f.sidecar.Answer(b); answer.RuleSet != 2 {
		t.Errorf("the last: %+v", answer)
	}
	if s := f.sidecar.RuleSets()[0]; s.State != millrace.RuleSetAbandoned {
		t.Errorf("the file's content is %s", s.State)
	}
	f.contentEquals("bucket:three", threeWQuery)
}

// heldReader reads chunks once the gate is open.
type heldReader struct {
	chunkReader
	gate chan struct{}
}

func (r *heldReader) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	select {
	case <-r.gate:
		return r.chunkReader.ReadChunk(ctx, req, row)
	case <-ctx.Done():
		return catalog.Chunk{}, ctx.Err()
	}
}
