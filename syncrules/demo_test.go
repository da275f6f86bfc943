package syncrules

import (
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/millrace/millrace"
)

var demoTables = []Table{
	{Schema: "public", Name: "users", Columns: []string{"id", "name"}},
	{Schema: "public", Name: "lists", Columns: []string{"id", "name", "owner_id", "created_at"}},
	{Schema: "public", Name: "list_members", Columns: []string{"list_id", "user_id"}},
	{Schema: "public", Name: "todos", Columns: []string{"id", "list_id", "title", "completed", "created_by", "created_at", "completed_at"}},
}

var demoRows = map[string][][]millrace.Value{
	"users": {{millrace.Text("ada"), millrace.Text("Ada")}, {millrace.Text("ben"), millrace.Text("Ben")}},
	"lists": {
		{millrace.Text("l1"), millrace.Text("Groceries"), millrace.Text("ada"), millrace.Text("2026-01-01T00:00:00.000000Z")},
		{millrace.Text("l2"), millrace.Text("Work"), millrace.Text("ben"), millrace.Text("2026-01-02T00:00:00.000000Z")},
		{millrace.Text("l3"), millrace.Text("Secret"), millrace.Text("cyd"), millrace.Text("2026-01-03T00:00:00.000000Z")},
	},
	"list_members": {{millrace.Text("l2"), millrace.Text("ada")}, {millrace.Text("l3"), millrace.Text("cyd")}},
	"todos": {
		{millrace.Text("t1"), millrace.Text("l1"), millrace.Text("Milk"), millrace.Integer(0), millrace.Text("ada"), millrace.Text("2026-01-01T00:00:00.000000Z"), millrace.Null},
		{millrace.Text("t2"), millrace.Text("l2"), millrace.Text("Report"), millrace.Integer(1), millrace.Text("ben"), millrace.Null, millrace.Null},
		{millrace.Text("t3"), millrace.Text("l3"), millrace.Text("Hide"), millrace.Integer(1), millrace.Text("cyd"), millrace.Null, millrace.Null},
	},
}

func compileFile(tb testing.TB, path string) *Rules {
	tb.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	rules, diags := Compile(path, src)
	if rules == nil || len(diags) > 0 {
		tb.Fatal(diags.Error())
	}
	return rules
}

// syncedRows is what a user has: every row as "type id data", sorted.
func syncedRows(t *testing.T, rules *Rules, user string) []string {
	t.Helper()
	var rows []string
	for _, r := range rowsGiven(t, rules, demoTables, demoRows, Request{Claims: []byte(`{"sub":"` + user + `"}`), IncludeDefaults: true}) {
		rows = append(rows, r.Type+" "+r.RowID+" "+r.Data)
	}
	sort.Strings(rows)
	return unique(rows)
}

func TestDemoRules(t *testing.T) {
	want := []string{
		`list_members l2.ada {"id":"l2.ada","list_id":"l2","user_id":"ada"}`,
		`lists l1 {"id":"l1","name":"Groceries","owner_id":"ada","created_at":"2026-01-01T00:00:00.000000Z"}`,
		`lists l2 {"id":"l2","name":"Work","owner_id":"ben","created_at":"2026-01-02T00:00:00.000000Z"}`,
		`todos t1 {"id":"t1","list_id":"l1","title":"Milk","completed":0,"created_by":"ada","created_at":"2026-01-01T00:00:00.000000Z","completed_at":null}`,
		`todos t2 {"id":"t2","list_id":"l2","title":"Report","completed":1,"created_by":"ben","created_at":null,"completed_at":null}`,
	}
	paths, err := filepath.Glob(filepath.Join("testdata", "examples", "todos_*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no examples", err)
	}
	for _, path := range paths {
		rules := compileFile(t, path)
		if got := syncedRows(t, rules, "ada"); !equalLists(got, want) {
			t.Errorf("%s: ada has\n%q, want\n%q", path, got, want)
		}
		if got := syncedRows(t, rules, "nobody"); len(got) != 0 {
			t.Errorf("%s: nobody has %q", path, got)
		}
	}
}

// TestDemoFile keeps the file the demo runs with equal to the one tested here.
func TestDemoFile(t *testing.T) {
	demo, err := os.ReadFile(filepath.Join("..", "demo", "sync.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join("testdata", "examples", "todos_streams.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if string(demo) != string(example) {
		t.Error("demo/sync.yaml and testdata/examples/todos_streams.yaml differ")
	}
}

// TestDemoOneBucketPerList: todos are written once, whichever way a user has
// their list.
func TestDemoOneBucketPerList(t *testing.T) {
	for _, name := range []string{"todos_buckets.yaml", "todos_streams.yaml"} {
		plan := compileFile(t, filepath.Join("testdata", "examples", name)).Bind(demoTables[3])
		var out Output
		plan.Evaluator().Eval(demoRows["todos"][0], &out)
		if len(out.Rows) != 1 || !out.Rows[0].SingleTable || len(out.Lookups) != 0 {
			t.Errorf("%s: %+v", name, out)
		}
	}
}
