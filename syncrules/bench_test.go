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
	outputs := float64(len(out.Rows))
	for b.Loop() {
		out.Reset()
		ev.Eval(row, &out)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(outputs, "outputs/row")
}

var benchTodo = []millrace.Value{
	millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0001"), millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0002"),
	millrace.Text("Buy milk, eggs and something nice for the weekend"), millrace.Integer(0),
	millrace.Text("8c5a3b9e-4f0f-4d0c-9f5e-2b7b8a1f0003"), millrace.Text("2026-01-01T10:20:30.123456Z"), millrace.Null,
}

// BenchmarkEvaluate evaluates one row again and again; rows/s is per core.
func BenchmarkEvaluate(b *testing.B) {
	b.Run("todos_buckets", func(b *testing.B) {
		benchmarkRows(b, compileFile(b, filepath.Join("testdata", "examples", "todos_buckets.yaml")), demoTables[3], benchTodo)
	})
	b.Run("todos_streams", func(b *testing.B) {
		benchmarkRows(b, compileFile(b, filepath.Join("testdata", "examples", "todos_streams.yaml")), demoTables[3], benchTodo)
	})
	b.Run("fifty_definitions_one_table", func(b *testing.B) {
		benchmarkRows(b, fiftyDefinitions(b, func(int) string { return "todos" }), demoTables[3], benchTodo)
	})
	// Of fifty definitions only the one that reads the row's table costs.
	b.Run("fifty_definitions_fifty_tables", func(b *testing.B) {
		rules := fiftyDefinitions(b, func(i int) string { return fmt.Sprintf("t%02d", i) })
		table := demoTables[3]
		table.Name = "t49"
		benchmarkRows(b, rules, table, benchTodo)
	})
	b.Run("forty_columns", func(b *testing.B) {
		table, row := wideTable()
		benchmarkRows(b, mustCompile(b, "bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM wide\n"), table, row)
	})
	const expressions = "SELECT id, upper(title) AS title, list_id || '.' || created_by AS pair, substring(created_at, 1, 10) AS day, json_extract('{\"a\":{\"b\":7}}', '$.a.b') AS n FROM todos WHERE created_by = auth.user_id() AND (completed = 0 OR created_at > '2020')"
	b.Run("expressions", func(b *testing.B) {
		benchmarkRows(b, mustCompile(b, "config: {edition: 3}\nstreams:\n  s:\n    query: |\n      "+expressions), demoTables[3], benchTodo)
	})
	b.Run("expressions_exact", func(b *testing.B) {
		benchmarkRows(b, mustCompile(b, "config: {edition: 3, unstable_sqlite_expression_engine: true}\nstreams:\n  s:\n    query: |\n      "+expressions), demoTables[3], benchTodo)
	})
}

func fiftyDefinitions(b *testing.B, table func(int) string) *Rules {
	var src strings.Builder
	src.WriteString("bucket_definitions:\n")
	for i := range 50 {
		fmt.Fprintf(&src, "  d%02d:\n    parameters: SELECT request.jwt() ->> 'k%d' AS k\n    data:\n      - SELECT * FROM %s WHERE list_id = bucket.k AND completed < %d\n", i, i, table(i), i-24)
	}
	return mustCompile(b, src.String())
}

// wideTable has forty columns of all kinds.
func wideTable() (Table, []millrace.Value) {
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
	return table, row
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
