package syncrules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

func mustCompile(tb testing.TB, src string) *Rules {
	tb.Helper()
	rules, diags := Compile("rules.yaml", []byte(src))
	if rules == nil {
		tb.Fatalf("%s\n%s", src, diags.Error())
	}
	return rules
}

// evalRow evaluates a row given as column, value pairs.
func evalRow(tb testing.TB, rules *Rules, table string, pairs ...any) *Output {
	tb.Helper()
	t := Table{Schema: "public", Name: table}
	var row []millrace.Value
	for i := 0; i < len(pairs); i += 2 {
		t.Columns = append(t.Columns, pairs[i].(string))
		switch v := pairs[i+1].(type) {
		case nil:
			row = append(row, millrace.Null)
		case string:
			row = append(row, millrace.Text(v))
		case int:
			row = append(row, millrace.Integer(int64(v)))
		case float64:
			row = append(row, millrace.Real(v))
		case millrace.Value:
			row = append(row, v)
		default:
			tb.Fatalf("value %T", v)
		}
	}
	out := &Output{}
	plan := rules.Bind(t)
	if plan == nil {
		tb.Fatalf("table %s is not used", table)
	}
	plan.Evaluator().Eval(row, out)
	return out
}

// failer is a test, or a case of a property.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// rowsGiven are the rows of the tables that a request gets, once for each of its
// buckets that they are in.
func rowsGiven(tb failer, rules *Rules, tables []Table, rows map[string][][]millrace.Value, q Request) []OutputRow {
	tb.Helper()
	var out Output
	for _, table := range tables {
		plan := rules.Bind(table)
		if plan == nil {
			continue
		}
		ev := plan.Evaluator()
		for _, row := range rows[table.Name] {
			ev.Eval(row, &out)
		}
	}
	if len(out.Errors) > 0 {
		tb.Fatal(out.Errors)
	}
	buckets, errs := resolve(tb, rules, q, &out)
	if len(errs) > 0 {
		tb.Fatal(errs)
	}
	var given []OutputRow
	for _, b := range buckets {
		for _, r := range out.Rows {
			if r.Definition == b.Definition && r.Bucket == b.Name {
				given = append(given, r)
			}
		}
	}
	return given
}

// resolve resolves a request over the lookups of the outputs.
func resolve(tb failer, rules *Rules, q Request, rows ...*Output) ([]ResolvedBucket, []ResolveError) {
	tb.Helper()
	res, err := rules.Resolve(q)
	if err != nil {
		tb.Fatal(err)
	}
	for len(res.Pending()) > 0 {
		var results []LookupResult
		for _, k := range res.Pending() {
			r := LookupResult{LookupKey: k}
			for _, out := range rows {
				for _, l := range out.Lookups {
					if l.Definition == k.Definition && l.Key == k.Key {
						r.Outputs = append(r.Outputs, l.Outputs)
					}
				}
			}
			results = append(results, r)
		}
		res.Feed(results)
	}
	return res.Buckets()
}

func names(buckets []ResolvedBucket) string {
	var list []string
	for _, b := range buckets {
		list = append(list, b.Name)
	}
	return strings.Join(list, " ")
}

// TestSameParameterTwice: both conditions must hold.
func TestSameParameterTwice(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  b:
    parameters: SELECT request.user_id() AS v
    data:
      - SELECT id FROM t WHERE a = bucket.v AND b = bucket.v
  c:
    parameters: SELECT region AS v FROM couriers WHERE id = request.user_id() AND team = request.user_id()
    data:
      - SELECT id FROM parcels WHERE v = bucket.v
`)
	if out := evalRow(t, rules, "t", "id", "1", "a", "u1", "b", "u1"); len(out.Rows) != 1 || out.Rows[0].Bucket != `b["u1"]` {
		t.Errorf("equal values: %+v", out.Rows)
	}
	if out := evalRow(t, rules, "t", "id", "1", "a", "u1", "b", "u2"); len(out.Rows) != 0 {
		t.Errorf("different values: %+v", out.Rows)
	}
	if out := evalRow(t, rules, "couriers", "id", "u1", "team", "t1", "region", "n"); len(out.Lookups) != 0 {
		t.Errorf("different columns: %+v", out.Lookups)
	}
	if out := evalRow(t, rules, "couriers", "id", "u1", "team", "u1", "region", "n"); len(out.Lookups) != 1 || out.Lookups[0].Key != `["u1"]` || out.Lookups[0].Outputs != `["n"]` {
		t.Errorf("equal columns: %+v", out.Lookups)
	}
}

// TestParameterOrder: values go by name, not by the order of each query.
func TestParameterOrder(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  b:
    parameters:
      - SELECT region AS v, team AS w FROM couriers WHERE id = request.user_id()
      - SELECT request.jwt() ->> 'w' AS w, request.jwt() ->> 'v' AS v
    data:
      - SELECT id FROM parcels WHERE v = bucket.v AND w = bucket.w
`)
	row := evalRow(t, rules, "parcels", "id", "p", "v", "s", "w", "t1")
	buckets, errs := resolve(t, rules, Request{Claims: []byte(`{"sub":"zz","v":"s","w":"t1"}`), IncludeDefaults: true})
	if len(errs) > 0 || names(buckets) != row.Rows[0].Bucket {
		t.Errorf("request has %s, row is in %s", names(buckets), row.Rows[0].Bucket)
	}
}

func TestNamesAndKeys(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  b:
    parameters: SELECT request.jwt() ->> 'k' AS k
    data:
      - SELECT id FROM t WHERE k = bucket.k
`)
	// Equal numbers give one name, whatever their type on either side.
	for _, c := range []struct {
		row   any
		claim string
		want  string
	}{
		{"x", `"x"`, `b["x"]`},
		{7, `7`, `b[7]`},
		{7.0, `7`, `b[7]`},
		{7.5, `7.5`, `b[7.5]`},
		{1 << 40, `1099511627776`, `b[1099511627776]`},
		{1e21, `1e21`, `b[1e+21]`},
		{1, `true`, `b[1]`},
		{"7", `"7"`, `b["7"]`},
		{"a\"\n", `"a\"\n"`, `b["a\"\n"]`},
	} {
		out := evalRow(t, rules, "t", "id", "1", "k", c.row)
		if len(out.Rows) != 1 || out.Rows[0].Bucket != c.want {
			t.Errorf("row %v is in %+v, want %s", c.row, out.Rows, c.want)
		}
		buckets, _ := resolve(t, rules, Request{Claims: []byte(`{"k":` + c.claim + `}`), IncludeDefaults: true})
		if names(buckets) != c.want {
			t.Errorf("claim %s resolves to %s, want %s", c.claim, names(buckets), c.want)
		}
	}
	for _, v := range []any{nil, millrace.Blob("x")} {
		if out := evalRow(t, rules, "t", "id", "1", "k", v); len(out.Rows) != 0 || len(out.Errors) != 0 {
			t.Errorf("%v matches: %+v", v, out)
		}
	}
}

func TestRowLimits(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  b:
    parameters: SELECT v FROM u WHERE k = request.user_id()
    data:
      - SELECT id FROM t WHERE v = bucket.v
`)
	long := strings.Repeat("x", 1000)
	for _, c := range []struct {
		table string
		pairs []any
		want  string
	}{
		{"t", []any{"id", "1", "v", long}, "bucket name would be 1005 bytes long"},
		{"t", []any{"id", long + "x", "v", "1"}, "row id is 1001 bytes long"},
		{"u", []any{"k", long, "v", "1"}, "lookup key would be 1004 bytes long"},
	} {
		out := evalRow(t, rules, c.table, c.pairs...)
		if len(out.Rows)+len(out.Lookups) != 0 || len(out.Errors) != 1 || !strings.Contains(out.Errors[0].Message, c.want) {
			t.Errorf("%s: %+v, want error %q", c.table, out.Errors, c.want)
		}
	}
	if out := evalRow(t, rules, "t", "id", long, "v", long[:990]); len(out.Rows) != 1 {
		t.Errorf("at the limits: %+v", out)
	}
}

func TestManyElements(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  s:
    query: SELECT id FROM t WHERE auth.user_id() IN users
`)
	array := func(n, distinct int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("%q", fmt.Sprint("u", i%distinct))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	if out := evalRow(t, rules, "t", "id", "1", "users", array(3000, 1500)); len(out.Rows) != 1500 || len(out.Errors) != 0 {
		t.Errorf("3000 elements: %d rows, %v", len(out.Rows), out.Errors)
	}
	if out := evalRow(t, rules, "t", "id", "1", "users", array(12000, 12000)); len(out.Rows) != 0 || len(out.Errors) != 1 {
		t.Errorf("12000 elements: %d rows, %v", len(out.Rows), out.Errors)
	}
}

func TestErrorsStayInTheirDefinition(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  good:
    data:
      - SELECT id, a FROM t
  bad:
    data:
      - SELECT id, a ->> 'x' AS x FROM t
`)
	out := evalRow(t, rules, "t", "id", "1", "a", "{no json")
	if len(out.Rows) != 1 || out.Rows[0].Bucket != "good[]" {
		t.Errorf("rows %+v", out.Rows)
	}
	if len(out.Errors) != 1 || rules.Definitions()[out.Errors[0].Definition].Name != "bad" {
		t.Errorf("errors %+v", out.Errors)
	}
}

func TestNeededColumns(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  b:
    parameters: SELECT region AS r FROM t WHERE owner = request.user_id()
    data:
      - SELECT id, name FROM t WHERE region = bucket.r AND kind = 'x'
`)
	table := Table{Schema: "public", Name: "t", Columns: []string{"id", "name", "region", "kind", "owner", "unused"}}
	plan := rules.Bind(table)
	if got, want := fmt.Sprint(plan.NeededColumns()), "[true true true true true false]"; got != want {
		t.Errorf("needed %s, want %s", got, want)
	}
	if got := fmt.Sprint(plan.Definitions()); got != "[0 1]" {
		t.Errorf("definitions %s", got)
	}
	if rules.Bind(Table{Schema: "public", Name: "other"}) != nil || rules.Uses("", "public", "other") || !rules.Uses("default", "public", "t") {
		t.Error("a table is used iff a definition names it")
	}
}

func TestSingleTable(t *testing.T) {
	rules := mustCompile(t, `
bucket_definitions:
  one:
    data:
      - SELECT id FROM t
      - SELECT id, a FROM t
      - SELECT id FROM u
  two:
    data:
      - SELECT id FROM t AS x
      - SELECT id FROM u AS x
  wild:
    data:
      - SELECT id FROM "t%"
`)
	for _, r := range evalRow(t, rules, "t", "id", "1", "a", "2").Rows {
		want := strings.HasPrefix(r.Bucket, "one")
		if r.SingleTable != want {
			t.Errorf("%s: single table is %v", r.Bucket, r.SingleTable)
		}
	}
}

func TestSubscriptions(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  mine:
    auto_subscribe: true
    priority: 2
    query: SELECT id FROM t WHERE owner = auth.user_id()
  one:
    accept_potentially_dangerous_queries: true
    query: SELECT id FROM t WHERE id = subscription.parameter('id')
`)
	first := 0
	buckets, errs := resolve(t, rules, Request{
		Claims:          []byte(`{"sub":"u1"}`),
		IncludeDefaults: true,
		Subscriptions: []Subscription{
			{Stream: "one", Parameters: []byte(`{"id":"a"}`)},
			{Stream: "nope", Parameters: []byte(`{}`)},
			{Stream: "one", Parameters: []byte(`{"id":"a"}`), Priority: &first},
			{Stream: "one", Parameters: []byte(`{}`)},
		},
	})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	got := fmt.Sprintf("%+v", buckets)
	want := `[{Definition:0 Name:mine|0["u1"] Source:mine Priority:2 Reasons:[-1]} {Definition:1 Name:one|0["a"] Source:one Priority:0 Reasons:[0 2]}]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := rules.Resolve(Request{Claims: []byte(`[]`)}); err == nil {
		t.Error("claims that are not an object are accepted")
	}
	if buckets, _ := resolve(t, rules, Request{Claims: []byte(`{"sub":"u1"}`)}); len(buckets) != 0 {
		t.Errorf("without defaults: %s", names(buckets))
	}
}

// TestParametersDoNotWiden: what a client sends cannot reach beyond what the
// token grants (I9).
func TestParametersDoNotWiden(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  s:
    query: SELECT id FROM tasks WHERE project = subscription.parameter('p') AND project IN (SELECT project FROM members WHERE user_id = auth.user_id())
`)
	member := evalRow(t, rules, "members", "id", "m", "project", "p1", "user_id", "u1")
	for p, want := range map[string]string{`"p1"`: `s|0["p1"]`, `"p2"`: "", `["p1"]`: "", `null`: ""} {
		buckets, errs := resolve(t, rules, Request{
			Claims:        []byte(`{"sub":"u1"}`),
			Subscriptions: []Subscription{{Stream: "s", Parameters: []byte(`{"p":` + p + `}`)}},
		}, member)
		if len(errs) > 0 || names(buckets) != want {
			t.Errorf("parameter %s gives %q %v, want %q", p, names(buckets), errs, want)
		}
	}
}

// TestFailureStaysInItsStream: a claim of the wrong form fails the streams
// that need it, no others.
func TestFailureStaysInItsStream(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  ok:
    auto_subscribe: true
    query: SELECT id FROM t
  ids:
    auto_subscribe: true
    query: SELECT id FROM u WHERE id IN auth.parameter('ids')
`)
	buckets, errs := resolve(t, rules, Request{Claims: []byte(`{"ids":"not json"}`), IncludeDefaults: true})
	if names(buckets) != "ok|0[]" || len(errs) != 1 || errs[0].Source != "ids" {
		t.Errorf("%s, %v", names(buckets), errs)
	}
}

// TestOutputIsReused: an Output keeps its memory, and evaluation allocates
// nothing once warm.
func TestOutputIsReused(t *testing.T) {
	rules := compileFile(t, "testdata/examples/todos_streams.yaml")
	ev := rules.Bind(demoTables[3]).Evaluator()
	var out Output
	allocs := testing.AllocsPerRun(100, func() {
		out.Reset()
		ev.Eval(benchTodo, &out)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per row", allocs)
	}
	if len(out.Rows) != 1 {
		t.Errorf("rows %+v", out.Rows)
	}
}
