package syncrules

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

func benchmarkRows(b *testing.B, rules *Rules, table Table, row []millrace.Value) {
	plan := rules.Bind(table)
	if plan == nil {
		b.Fatal("table is not used")
	}
	ev := plan.Evaluator()
	var out Output
	ev.Eval(row, &out)
	if len(out.Rows) == 0 || len(out.Errors) > 0 {
		b.Fatal("no output", out.Errors)
	}
	b.ReportAllocs()
	b.ReportMetric(float64(len(out.Rows)), "outputs/row")
	for b.Loop() {
		out.Reset()
		ev.Eval(row, &out)
	}
}

var benchTodo = []millrace.Value{
	millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0001"), millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0002"),
	millrace.Text("Buy milk, eggs and something nice for the weekend"), millrace.Integer(0),
	millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0003"), millrace.Text("2026-01-01T10:20:30.123456Z"), millrace.Null,
}

func BenchmarkTodosBuckets(b *testing.B) {
	rules := compileFile(b, filepath.Join("testdata", "examples", "todos_buckets.yaml"))
	benchmarkRows(b, rules, demoTables[3], benchTodo)
}

func BenchmarkTodosStreams(b *testing.B) {
	rules := compileFile(b, filepath.Join("testdata", "examples", "todos_streams.yaml"))
	benchmarkRows(b, rules, demoTables[3], benchTodo)
}

// BenchmarkFiftyDefinitions has fifty bucket definitions over one table.
func BenchmarkFiftyDefinitions(b *testing.B) {
	var src strings.Builder
	src.WriteString("bucket_definitions:\n")
	for i := range 50 {
		fmt.Fprintf(&src, "  d%02d:\n    parameters: SELECT request.jwt() ->> 'k%d' AS k\n    data:\n      - SELECT * FROM todos WHERE list_id = bucket.k AND completed < %d\n", i, i, i-24)
	}
	rules, diags := Compile("fifty.yaml", []byte(src.String()))
	if rules == nil {
		b.Fatal(diags.Error())
	}
	benchmarkRows(b, rules, demoTables[3], benchTodo)
}

// BenchmarkWideTable selects forty columns.
func BenchmarkWideTable(b *testing.B) {
	table := Table{Schema: "public", Name: "wide"}
	var row []millrace.Value
	for i := range 40 {
		table.Columns = append(table.Columns, fmt.Sprintf("c%d", i))
		switch i % 4 {
		case 0:
			row = append(row, millrace.Text("some text of medium length"))
		case 1:
			row = append(row, millrace.Integer(int64(i)*1234567))
		case 2:
			row = append(row, millrace.Real(float64(i)*1.25))
		case 3:
			row = append(row, millrace.Null)
		}
	}
	table.Columns[0] = "id"
	rules, diags := Compile("wide.yaml", []byte("bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM wide\n"))
	if rules == nil {
		b.Fatal(diags.Error())
	}
	benchmarkRows(b, rules, table, row)
}

// BenchmarkExpressions computes columns.
func BenchmarkExpressions(b *testing.B) {
	rules, diags := Compile("expr.yaml", []byte(`
bucket_definitions:
  mine:
    parameters: SELECT request.user_id() AS u
    data:
      - SELECT id, upper(title) AS title, list_id || '.' || created_by AS pair, substring(created_at, 1, 10) AS day, json_extract('{"a":{"b":7}}', '$.a.b') AS n FROM todos WHERE created_by = bucket.u AND (completed = 0 OR created_at > '2020')
`))
	if rules == nil {
		b.Fatal(diags.Error())
	}
	benchmarkRows(b, rules, demoTables[3], benchTodo)
}

func BenchmarkResolve(b *testing.B) {
	rules := compileFile(b, filepath.Join("testdata", "examples", "todos_streams.yaml"))
	b.ReportAllocs()
	for b.Loop() {
		res, err := rules.Resolve(Request{Claims: []byte(`{"sub":"u1"}`), IncludeDefaults: true})
		if err != nil {
			b.Fatal(err)
		}
		for len(res.Pending()) > 0 {
			results := make([]LookupResult, len(res.Pending()))
			for i, k := range res.Pending() {
				results[i] = LookupResult{k, []string{`["l1"]`, `["l2"]`}}
			}
			res.Feed(results)
		}
		if buckets, errs := res.Buckets(); len(buckets) == 0 || len(errs) > 0 {
			b.Fatal(buckets, errs)
		}
	}
}
