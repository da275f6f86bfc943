package main

import (
	"database/sql"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/millrace/millrace/clientsdk"
	demoschema "github.com/millrace/millrace/cmd/millrace/testdata/gen"
	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/inspect/clientschema"
	"github.com/millrace/millrace/internal/pgtest"
)

var update = flag.Bool("update", false, "rewrite golden files; read the difference before committing it")

// genRules reads what the demo has and more: computed columns, a renamed table,
// names that need quotes.
const genRules = `config: {edition: 3}
streams:
  my_lists:
    auto_subscribe: true
    with:
      owned: SELECT id FROM lists WHERE owner_id = auth.user_id()
    queries:
      - SELECT * FROM lists WHERE id IN owned
      - SELECT * FROM todos WHERE list_id IN owned
      - SELECT list_id || '.' || user_id AS id, list_id, user_id FROM list_members WHERE list_id IN owned
  everything:
    query: SELECT id, price, price > '5' AS dear, weight * 2 AS double_weight, base64(picture) AS picture, picture AS raw, "size$" FROM items AS "my-items" WHERE owner = auth.user_id()
`

var genSchema = demo.Schema + `
CREATE TABLE items (id bigint PRIMARY KEY, owner text, price numeric(10,2), weight real, picture bytea, "size$" integer);`

// goldens are where the generated files are kept. Those of our own SDKs are
// compiled: Go by this test, TypeScript by the check of the SDK's own tests and,
// for the official SDK, by the end-to-end tests. For Dart, Kotlin and Swift there
// is no compiler here: their goldens follow the SDKs' documentation.
var goldens = map[string]string{
	"ts": "../../clientsdk/typescript/test/generated/schema.ts", "go": "testdata/gen/schema.go", "sql": "testdata/gen/schema.sql",
	"powersync-ts": "testdata/gen/powersync.ts", "dart": "testdata/gen/schema.dart", "kotlin": "testdata/gen/Schema.kt", "swift": "testdata/gen/Schema.swift",
}

func TestGenerate(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	execSQL(t, uri, genSchema)
	rules := writeFile(t, "sync.yaml", genRules)
	for _, l := range clientschema.Languages {
		args := []string{"gen", l.Name, rules, "--source", uri}
		switch l.Name {
		case "kotlin":
			args = append(args, "--package", "com.example.app")
		case "powersync-ts":
			args = append(args, "--import", "@powersync/node")
		}
		out, errOut, code := run(t, args...)
		if code != exitOK {
			t.Fatalf("%s: exit code %d: %s", l.Name, code, errOut)
		}
		if !strings.Contains(errOut, "column picture is binary (bytea) and is left out") {
			t.Errorf("%s: it does not tell of a column that is left out: %s", l.Name, errOut)
		}
		file := goldens[l.Name]
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if out != string(want) {
			t.Errorf("%s is not what millrace gen %s writes (run the test with -update, and read the difference):\n%s", file, l.Name, out)
		}
		// The file it wrote is up to date, one with a change is not.
		written := filepath.Join(t.TempDir(), "out")
		if _, errOut, code := run(t, append(args, "-o", written)...); code != exitOK {
			t.Fatalf("%s: -o: exit code %d: %s", l.Name, code, errOut)
		}
		if _, errOut, code := run(t, append(args, "--check", written)...); code != exitOK {
			t.Errorf("%s: --check of what was just written: exit code %d: %s", l.Name, code, errOut)
		}
	}
}

func TestGenerateChecks(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	execSQL(t, uri, genSchema)
	cfg := configFile(t, uri, "postgres://u:secret@127.0.0.1:1/m", "")
	out, errOut, code := run(t, "gen", "ts", "-c", cfg) // with the rules beside it
	if code != exitOK || !strings.Contains(out, "  todos: table({\n    list_id: text, // uuid\n") {
		t.Fatalf("exit code %d: %s%s", code, out, errOut)
	}
	old := writeFile(t, "schema.ts", strings.Replace(out, "completed: integer", "done: integer", 1))
	_, errOut, code = run(t, "gen", "ts", "-c", cfg, "--check", old)
	if code != exitFinding || !strings.Contains(errOut, `out of date, from line 9 on: it has "done: integer, // boolean", and should have "completed: integer, // boolean"`) || !strings.Contains(errOut, "-o "+old) {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	windows := writeFile(t, "schema.ts", strings.ReplaceAll(out, "\n", "\r\n"))
	if _, errOut, code = run(t, "gen", "ts", "-c", cfg, "--check", windows); code != exitOK {
		t.Errorf("with the line ends of Windows: exit code %d: %s", code, errOut)
	}
	missing := writeFile(t, "sync.yaml", "bucket_definitions:\n  a: {data: [SELECT * FROM todo]}\n")
	spaced := writeFile(t, "sync.yaml", "bucket_definitions:\n  a: {data: ['SELECT id, title AS \"a title\" FROM todos']}\n")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing to write for", []string{"gen"}, exitUsage, "gen ts, go, sql"},
		{"an unknown language", []string{"gen", "cobol"}, exitUsage, "gen cobol: there is only ts, go"},
		{"a file that is not there", []string{"gen", "ts", "-c", cfg, "--check", "nope.ts"}, exitFinding, "nope.ts is not there"},
		{"-o and --check", []string{"gen", "ts", "-c", cfg, "--check", "a", "-o", "b"}, exitUsage, "exclude each other"},
		{"no rules", []string{"gen", "ts", "--source", uri}, exitUsage, "name the rules file"},
		{"no source", []string{"gen", "ts", missing, "--data", t.TempDir()}, exitUsage, "which source?"},
		{"a table that is not there", []string{"gen", "ts", missing, "--source", uri}, exitFinding, "line 2, column 28: no source has the table public.todo"},
		{"a name the official SDKs refuse", []string{"gen", "dart", spaced, "--source", uri}, exitFinding, `table "todos", column "a title": the PowerSync SDKs take no name with a space`},
		{"a package that is no name", []string{"gen", "go", "-c", cfg, "--package", "my-app"}, exitUsage, "no name of a Go package"},
		{"a folder that is not there", []string{"gen", "ts", "-c", cfg, "-o", "/nope/schema.ts"}, exitUsage, "write the schema"},
	} {
		_, errOut, code := run(t, tc.args...)
		if code != tc.code || !strings.Contains(errOut, tc.want) {
			t.Errorf("%s: exit code %d: %s", tc.name, code, errOut)
		}
	}
}

// The Go SDK opens a database with the generated schema, which therefore
// compiles, and the tables can be used by their names.
func TestGeneratedGoSchemaOpens(t *testing.T) {
	db, err := clientsdk.Open(t.Context(), clientsdk.Options{Path: filepath.Join(t.TempDir(), "app.db"), Schema: demoschema.Schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// SQLite takes the generated SQL.
func TestGeneratedSQLRuns(t *testing.T) {
	b, err := os.ReadFile(goldens["sql"])
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), string(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO "my-items" (id, price, dear, double_weight, picture, "size$") VALUES ('1', '9.50', 1, 2.5, 'eA==', 3)`); err != nil {
		t.Error(err)
	}
}
