package syncrules

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

const eventFile = `
config: {edition: 3}
streams:
  all: {query: SELECT * FROM todos}
event_definitions:
  write_checkpoints:
    payloads:
      - %s
`

// marks evaluates a row of public.marks.
func marks(t testing.TB, rules *Rules, columns []string, row ...millrace.Value) (got []string) {
	t.Helper()
	plan := rules.Bind(Table{Schema: "public", Name: "marks", Columns: columns})
	if plan == nil {
		t.Fatal("the table is not read")
	}
	var out Output
	plan.Evaluator().Eval(row, &out)
	for _, m := range out.Marks {
		if d := rules.Definitions()[m.Definition]; d.Kind != millrace.EventDefinition {
			t.Errorf("a write checkpoint of %+v", d)
		}
		got = append(got, fmt.Sprintf("%s=%d", m.User, m.Checkpoint))
	}
	for _, e := range out.Errors {
		got = append(got, "error: "+e.Message)
	}
	return got
}

func TestEventPayloads(t *testing.T) {
	text, integer := millrace.Text, millrace.Integer
	columns := []string{"user_id", "client_id", "checkpoint", "kind"}
	const plain = "SELECT user_id, client_id, checkpoint FROM marks"
	number := "error: checkpoint must be a whole number from 1 to 9223372036854775806"
	device := "error: user_id must be a text or a number, client_id likewise or null"
	for _, c := range []struct {
		query string
		row   []millrace.Value
		want  string // empty: nothing
	}{
		{plain, []millrace.Value{text("u"), text("c"), integer(7), millrace.Null}, "u/c=7"},
		{plain, []millrace.Value{integer(12), integer(3), text("7"), millrace.Null}, "12/3=7"},
		{plain, []millrace.Value{text("u"), millrace.Null, millrace.Real(7), millrace.Null}, "u=7"},
		{plain, []millrace.Value{text("u"), text(""), integer(1<<63 - 2), millrace.Null}, "u=9223372036854775806"},
		{plain, []millrace.Value{text("u"), text("c"), integer(1<<63 - 1), millrace.Null}, number},
		{plain, []millrace.Value{text("u"), text("c"), integer(0), millrace.Null}, number},
		{plain, []millrace.Value{text("u"), text("c"), text("seven"), millrace.Null}, number},
		{plain, []millrace.Value{text("u"), text("c"), millrace.Real(1.5), millrace.Null}, number},
		{plain, []millrace.Value{text("u"), text("c"), millrace.Null, millrace.Null}, number},
		{plain, []millrace.Value{millrace.Null, text("c"), integer(1), millrace.Null}, device},
		{plain, []millrace.Value{text("u"), millrace.Blob("\x01"), integer(1), millrace.Null}, device},
		{plain, []millrace.Value{text(""), text("c"), integer(1), millrace.Null}, "error: user_id is empty"},
		{plain, []millrace.Value{text(strings.Repeat("u", 2048)), text("c"), integer(1), millrace.Null}, "error: user_id and client_id have 2050 bytes, at most 2048 are stored"},
		{"SELECT * FROM marks", []millrace.Value{text("u"), text("c"), integer(7), millrace.Null}, "u/c=7"},
		{"SELECT upper(user_id) AS user_id, * FROM marks", []millrace.Value{text("u"), text("c"), integer(7), millrace.Null}, "U/c=7"},
		{"SELECT *, checkpoint + 1 AS checkpoint FROM marks", []millrace.Value{text("u"), text("c"), integer(7), millrace.Null}, "u/c=8"},
		{"SELECT m.user_id, 'd' AS client_id, m.checkpoint FROM marks m WHERE m.kind = 'x' OR m.kind = 'y'", []millrace.Value{text("u"), text("c"), integer(7), text("y")}, "u/d=7"},
		{"SELECT m.user_id, 'd' AS client_id, m.checkpoint FROM marks m WHERE m.kind = 'x' OR m.kind = 'y'", []millrace.Value{text("u"), text("c"), integer(7), text("z")}, ""},
		{"SELECT user_id, client_id, checkpoint FROM \"mar%\"", []millrace.Value{text("u"), text("c"), integer(7), millrace.Null}, "u/c=7"},
	} {
		got := strings.Join(marks(t, mustCompile(t, fmt.Sprintf(eventFile, "|-\n        "+c.query)), columns, c.row...), "; ")
		if got != c.want {
			t.Errorf("%s of %v gives %q, want %q", c.query, c.row, got, c.want)
		}
	}
	// * over a table without the columns.
	if got := marks(t, mustCompile(t, fmt.Sprintf(eventFile, "SELECT * FROM marks")), []string{"checkpoint"}, integer(1)); len(got) != 1 || got[0] != device {
		t.Errorf("without user_id: %q", got)
	}
}

// An event is a definition like others: it has a content hash, and its tables
// are read.
func TestEventDefinitions(t *testing.T) {
	find := func(rules *Rules, key string) Definition {
		i := slices.IndexFunc(rules.Definitions(), func(d Definition) bool { return d.Key == key })
		if i < 0 {
			t.Fatalf("no %s among %+v", key, rules.Definitions())
		}
		return rules.Definitions()[i]
	}
	const key = "event:write_checkpoints"
	rules := mustCompile(t, fmt.Sprintf(eventFile, "SELECT user_id, client_id, checkpoint FROM marks"))
	d := find(rules, key)
	if d.Kind != millrace.EventDefinition || d.Name != "write_checkpoints" || len(d.Hash) != 64 {
		t.Errorf("definition %+v", d)
	}
	if !rules.Uses("", "public", "marks") || len(rules.Reads([]string{"default"})) != 2 || len(rules.Reads([]string{"other"})) != 0 {
		t.Error("the event's table is not read")
	}
	same := mustCompile(t, fmt.Sprintf(eventFile, "select  client_id, m.user_id, m.checkpoint, 1 AS other from marks AS m"))
	if find(same, key).Hash != d.Hash {
		t.Error("another spelling of the same is another content")
	}
	for _, other := range []string{
		"SELECT user_id, client_id, checkpoint FROM marks WHERE checkpoint > 1",
		"SELECT user_id, client_id, checkpoint FROM marks2",
		"SELECT user_id, checkpoint FROM marks",
		"SELECT user_id, client_id, checkpoint FROM marks\n      - SELECT user_id, client_id, checkpoint FROM more",
	} {
		if find(mustCompile(t, fmt.Sprintf(eventFile, other)), key).Hash == d.Hash {
			t.Errorf("%s has the same hash", other)
		}
	}
	requests := mustCompile(t, strings.Replace(fmt.Sprintf(eventFile, "SELECT user_id, client_id, checkpoint FROM marks"), "write_checkpoints", "checkpoint_requests", 1))
	if find(requests, "event:checkpoint_requests").Hash == d.Hash {
		t.Error("two events have the same hash")
	}
}

func TestExplainEvent(t *testing.T) {
	rules := mustCompile(t, fmt.Sprintf(eventFile, "SELECT user_id, client_id, checkpoint FROM marks WHERE checkpoint > 5"))
	table := Table{Schema: "public", Name: "marks", Columns: []string{"user_id", "client_id", "checkpoint"}}
	explain := func(n int64) RowExplanation {
		list := rules.ExplainRow(table, []millrace.Value{millrace.Text("u"), millrace.Text("c"), millrace.Integer(n)})
		if len(list) != 1 {
			t.Fatalf("%+v", list)
		}
		return list[0]
	}
	if x := explain(6); !x.In() || x.Names[0] != "u/c" || x.Outputs[0] != "6" {
		t.Errorf("explained %+v", x)
	}
	if x := explain(5); x.In() || len(x.Branches) != 1 || x.Branches[0].Conditions[0].Holds {
		t.Errorf("explained %+v", x)
	}
}

// Columns of an event's table that do not exist are warned of.
func TestCheckEvent(t *testing.T) {
	rules := mustCompile(t, fmt.Sprintf(eventFile, "SELECT user_id, client_id, nr AS checkpoint FROM marks"))
	found := rules.Check([]Table{{Schema: "public", Name: "todos", Columns: []string{"id"}}, {Schema: "public", Name: "marks", Columns: []string{"user_id", "client_id", "checkpoint"}}})
	if len(found) != 1 || !strings.Contains(found[0].Message, "nr") {
		t.Errorf("found %v", found)
	}
	if found := rules.CheckSources([]SourceTags{{Name: "main", Tags: []string{"other"}}}); len(found) != 2 {
		t.Errorf("tags: %v", found)
	}
}
