package syncrules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

const explainRules = `config: {edition: 3}
streams:
  shared:
    auto_subscribe: true
    query: |
      SELECT * FROM lists
      WHERE state != 'lost' AND n > 3 AND id IN (SELECT list_id FROM members WHERE user_id = auth.user_id() AND role = 'reader')
  tagged:
    auto_subscribe: true
    query: SELECT * FROM lists WHERE auth.parameter('team') IN teams AND auth.parameter('level') = 2
  picked:
    accept_potentially_dangerous_queries: true
    query: SELECT id FROM lists WHERE id IN subscription.parameter('ids')
`

// explained renders the explanations of a row, one line per condition and key.
func explained(rules *Rules, list []RowExplanation) string {
	var b strings.Builder
	defs := rules.Definitions()
	for _, x := range list {
		fmt.Fprintf(&b, "%s %d:%d in=%v %v", defs[x.Definition].Key, x.At.Line, x.At.Column, x.In(), x.Names)
		if x.Err != "" {
			b.WriteString(" error: " + x.Err)
		}
		b.WriteByte('\n')
		for _, br := range x.Branches {
			fmt.Fprintf(&b, "  matches=%v\n", br.Matches)
			for _, c := range br.Conditions {
				fmt.Fprintf(&b, "    %d:%d %s\n", c.At.Line, c.At.Column, c)
			}
			for _, k := range br.Keys {
				fmt.Fprintf(&b, "    key %s\n", k)
			}
		}
	}
	return b.String()
}

func listRow(values ...any) (Table, []millrace.Value) {
	t := Table{Schema: "public", Name: "lists", Columns: []string{"id", "state", "n", "teams"}}
	row := make([]millrace.Value, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case string:
			row[i] = millrace.Text(v)
		case int:
			row[i] = millrace.Integer(int64(v))
		}
	}
	return t, row
}

func TestExplainRow(t *testing.T) {
	rules := mustCompile(t, explainRules)
	table, row := listRow("l1", "lost", 7, `["a","b"]`)
	got := explained(rules, rules.ExplainRow(table, row))
	want := `bucket:shared|0 6:21 in=false []
  matches=false
    7:13 state != 'lost' is false (state = "lost")
    7:33 n > 3 is true (n = 7)
    key id = "l1"
bucket:tagged|0 10:26 in=true [tagged|0["a"] tagged|0["b"]]
  matches=true
    10:64 an array has elements is true (teams = "[\"a\",\"b\"]")
    key teams = "[\"a\",\"b\"]"
bucket:picked|0 13:27 in=true [picked|0["l1"]]
  matches=true
    key id = "l1"
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// What cannot be evaluated says so; a null matches nothing.
	table, row = listRow(nil, "open", 7, `no json`)
	got = explained(rules, rules.ExplainRow(table, row))
	for _, want := range []string{
		`id can match (null and blobs never do) is false (id = null)`,
		`bucket:tagged|0 10:26 in=false [] error: IN needs the text of a JSON array: invalid JSON`,
		`an array has elements fails: `,
	} {
		if !strings.Contains(strings.ReplaceAll(got, "json_each: invalid", "IN needs the text of a JSON array: invalid"), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestExplainLookupRow(t *testing.T) {
	rules := mustCompile(t, explainRules)
	table := Table{Schema: "public", Name: "members", Columns: []string{"list_id", "user_id", "role"}}
	for role, want := range map[string]string{
		"reader": `lookup:shared/0 7:70 in=true [["u1"]]`,
		"banned": `role = 'reader' is false (role = "banned")`,
	} {
		list := rules.ExplainRow(table, []millrace.Value{millrace.Text("l1"), millrace.Text("u1"), millrace.Text(role)})
		if got := explained(rules, list); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", role, want, got)
		}
	}
}

func TestExplainRequest(t *testing.T) {
	rules := mustCompile(t, explainRules)
	explain := func(q Request, entries map[string][]string) map[string]RequestExplanation {
		res, err := rules.Resolve(q)
		if err != nil {
			t.Fatal(err)
		}
		for len(res.Pending()) > 0 {
			var results []LookupResult
			for _, k := range res.Pending() {
				results = append(results, LookupResult{k, entries[k.Key]})
			}
			res.Feed(results)
		}
		bySource := map[string]RequestExplanation{}
		for _, x := range res.Explain() {
			bySource[x.Source] = x
		}
		return bySource
	}
	entries := map[string][]string{`["u1"]`: {`["l1"]`, `["l2"]`, `[null]`}}
	got := explain(Request{Claims: []byte(`{"sub":"u1","team":"a","level":1}`), IncludeDefaults: true}, entries)
	shared := got["shared"]
	if strings.Join(shared.Buckets, " ") != `shared|0["l1"] shared|0["l2"]` || !shared.Granted() || shared.Refusal() != "" {
		t.Errorf("shared: %+v", shared)
	}
	step := shared.Steps[0]
	if step.Table != "public.members" || step.Keys[0].Found != 3 || step.Keys[0].Key != `["u1"]` || step.Keys[0].String() != `user_id = "u1"` {
		t.Errorf("step %+v", step)
	}
	for source, want := range map[string]string{
		"tagged": `auth.parameter('level') = 2 is false (auth.parameter('level') = 1.0)`,
		"picked": "the request does not subscribe to stream picked",
	} {
		if got[source].Refusal() != want {
			t.Errorf("%s: %q, want %q", source, got[source].Refusal(), want)
		}
	}
	got = explain(Request{Claims: []byte(`{"sub":"u2","level":2}`), IncludeDefaults: true,
		Subscriptions: []Subscription{{Stream: "picked", Parameters: []byte(`{"ids":[]}`)}}}, entries)
	for source, want := range map[string]string{
		"shared": `no row of table public.members has user_id = "u2"`,
		"tagged": `auth.parameter('team') = null matches nothing`,
		"picked": "subscription.parameter('ids') has no elements that meet the conditions",
	} {
		if got[source].Refusal() != want {
			t.Errorf("%s: %q, want %q", source, got[source].Refusal(), want)
		}
	}
	got = explain(Request{Claims: []byte(`{}`), IncludeDefaults: true,
		Subscriptions: []Subscription{{Stream: "picked", Parameters: []byte(`{"ids":"x"}`)}}}, entries)
	for source, want := range map[string]string{
		"picked": "it failed: json_each: invalid JSON",
		"shared": `no row of table public.members has user_id = null`,
	} {
		if got[source].Refusal() != want {
			t.Errorf("%s: %q, want %q", source, got[source].Refusal(), want)
		}
	}
}

func TestExplainBucketDefinition(t *testing.T) {
	rules := mustCompile(t, `bucket_definitions:
  mine:
    parameters: SELECT list_id FROM members WHERE user_id = request.user_id() AND request.jwt() ->> 'role' = 'admin'
    data:
      - SELECT * FROM lists WHERE id = bucket.list_id AND (state = 'open' OR n IS NULL)
`)
	table, row := listRow("l1", "lost", 7, "")
	got := explained(rules, rules.ExplainRow(table, row))
	if want := `(state = 'open') OR n IS NULL is false (state = "lost", n = 7)`; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
	res, err := rules.Resolve(Request{Claims: []byte(`{"sub":"u1","role":"guest"}`), IncludeDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range res.Pending() {
		res.Feed([]LookupResult{{LookupKey: k}})
	}
	x := res.Explain()
	if len(x) != 1 || x[0].Granted() || !strings.Contains(x[0].Refusal(), "request.jwt() ->> 'role' = 'admin'") {
		t.Errorf("%+v", x)
	}
}
