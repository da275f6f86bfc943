package decoder

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// spanRules are a definition for each of two sources and one that reads both; the
// arguments are the columns that the one of the first source, the one of the second
// and the one of both have.
func spanRules(first, second, both string) string {
	return fmt.Sprintf(`bucket_definitions:
  first:
    data: ["SELECT id, %s FROM t"]
  second:
    data: ['SELECT id, %s FROM "second.public".t']
  both:
    data: ["SELECT id, %[3]s FROM t", 'SELECT id, %[3]s FROM "second.public".t AS u']
`, first, second, both)
}

const spanTable = "create table t(id int primary key, v int, w int)"

// spanFixture has two sources in force; the second is on a server of its own.
func spanFixture(t *testing.T) (f *fixture, away *pgtest.Server, second *pgx.Conn) {
	t.Helper()
	away = pgtest.New(t, pgtest.Options{})
	f = newFixture(t, pgtest.Shared(t), spanRules("v", "v", "v"), spanTable, "insert into t select g, g, -g from generate_series(1, 200) g")
	uri := away.Database(t)
	second = connect(t, uri)
	for _, sql := range []string{spanTable, "insert into t select 1000 + g, g, -g from generate_series(1, 100) g"} {
		if _, err := second.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	f.config.Sources = append(f.config.Sources, SourceConfig{Name: "second", URI: uri})
	f.start()
	f.inForce(1)
	return f, away, second
}

// held is the rule set that waits for a source, as status views show it.
func (f *fixture) held(source string) millrace.RuleSetID {
	return f.sidecar.ReportOf(f.sidecar.Source(source).ID).Holds
}

// becomesHeld waits until the views say that a rule set waits for a source.
func (f *fixture) becomesHeld(source string, want millrace.RuleSetID) {
	f.t.Helper()
	pgtest.Eventually(f.t, 2*patience, func() error {
		if got := f.held(source); got != want {
			return fmt.Errorf("rule set %d waits for source %s, want %d", got, source, want)
		}
		return nil
	})
}

// rowsOf is how many rows the definitions whose key begins so have.
func (f *fixture) rowsOf(key string) int {
	f.t.Helper()
	return len(f.sidecar.Content(f.definition(key)))
}

// A deploy whose new definitions do not read a source comes into force while that
// source is down, and what the source wrote meanwhile comes when it is back.
func TestDeployWithoutASourceThatIsDown(t *testing.T) {
	f, away, second := spanFixture(t)
	_ = second.Close(context.Background())
	away.Kill(t)
	before := f.ids()
	if a := f.deploy(spanRules("w", "v", "v")); a.RuleSet != 2 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(2)
	if got := f.held("second"); got != 0 {
		t.Errorf("rule set %d waits for a source that none of its new definitions reads", got)
	}
	for key, id := range f.ids() {
		if kept := id == before[key]; kept == strings.Contains(key, "first") {
			t.Errorf("%s was definition %d and is %d", key, before[key], id)
		}
	}
	// The kept definitions have the rows of both sources all the while.
	if n := f.rowsOf("bucket:both"); n != 300 {
		t.Errorf("the definition that reads both has %d rows", n)
	}
	f.contentEquals("bucket:first", `select 'first[]', id::text, format('{"id":%s,"w":%s}', id, w) from t`)

	away.Start(t)
	second = connect(t, f.config.Sources[1].URI)
	if _, err := second.Exec(context.Background(), "delete from t where id > 1050"); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, 2*patience, func() error {
		if one, both := f.rowsOf("bucket:second"), f.rowsOf("bucket:both"); one != 50 || both != 250 {
			return fmt.Errorf("the definitions that read the source have %d and %d rows", one, both)
		}
		return nil
	})
}

// A deploy with a new definition that reads a source which is down waits, says for
// which one, and what is in force goes on; when the source is back it is copied and
// the rules switch at once.
func TestDeployWaitsForASourceThatIsDown(t *testing.T) {
	f, away, second := spanFixture(t)
	_ = second.Close(context.Background())
	away.Kill(t)
	if a := f.deploy(spanRules("v", "v", "w")); a.RuleSet != 2 {
		t.Fatalf("answer %+v", a)
	}
	f.becomesHeld("second", 2)
	f.becomesHeld("main", 0) // it has copied its part
	f.exec("update t set v = 7 where id <= 10")
	f.settled()
	if set, _ := f.sidecar.Active(); set.ID != 1 {
		t.Fatalf("rule set %d is in force before a source was copied", set.ID)
	}
	f.contentEquals("bucket:first", `select 'first[]', id::text, format('{"id":%s,"v":%s}', id, v) from t`)

	// A restart knows it as well, before any source has anything to tell.
	_ = f.term.stop()
	f.start()
	f.becomesHeld("second", 2)

	away.Start(t)
	f.inForce(2)
	f.becomesHeld("second", 0)
	if n := f.rowsOf("bucket:both"); n != 300 {
		t.Errorf("the new definition has %d rows when it comes into force", n)
	}
	for id, data := range f.sidecar.Content(f.definition("bucket:both")) {
		if !strings.Contains(data, `"w"`) {
			t.Fatalf("row %v is %s", id, data)
		}
	}
}

// A deploy in place of one that waits for a source which is down goes through if it
// does not need the source.
func TestDeployInPlaceOfOneThatWaits(t *testing.T) {
	f, away, second := spanFixture(t)
	_ = second.Close(context.Background())
	away.Kill(t)
	f.deploy(spanRules("v", "w", "v"))
	f.becomesHeld("second", 2)
	if a := f.deploy(spanRules("w", "v", "v")); a.RuleSet != 3 {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(3)
	f.becomesHeld("second", 0)
}
