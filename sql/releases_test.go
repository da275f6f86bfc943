package sql_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/migrations"
)

// The files testdata/used_NNNN.txt list what the programs of the release with
// migration NNNN use of the schema. While the schema serves that release, all of it
// must be there as it was.
const usedFile = "testdata/used_%04d.txt"

// usedNames are the words after "millrace." in the texts of all programs.
func usedNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	word := regexp.MustCompile(`\bmillrace\.([a-z_0-9]+)`)
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (slices.Contains([]string{"node_modules", "testdata", "bench", "e2e", "internal", ".git", "bin"}, entry.Name())) {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				for _, m := range word.FindAllStringSubmatch(lit.Value, -1) {
					names[m[1]] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// surface describes the objects of the schema, a line each: functions with their
// signature, columns with their type, and columns that a writer must know.
func surface(t *testing.T, conn *pgx.Conn) (lines map[string]string, must map[string]bool) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		SELECT p.proname::text, format('%s %s(%s) %s', CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.proname,
			regexp_replace(pg_get_function_arguments(p.oid), '\mIN ', '', 'g'), coalesce('returns ' || pg_get_function_result(p.oid), '')), false
		FROM pg_proc p WHERE p.pronamespace = 'millrace'::regnamespace
		UNION ALL
		SELECT c.relname::text, format('column %s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)),
			c.relkind IN ('r', 'p') AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'millrace'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c') AND c.relname !~ '^schema_migrations'`)
	if err != nil {
		t.Fatal(err)
	}
	lines, must = map[string]string{}, map[string]bool{}
	var name, line string
	var needed bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &line, &needed}, func() error {
		line = strings.TrimSpace(line)
		lines[line] = name
		must[line] = needed
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines, must
}

// missed lists what a release that uses the lines of a record misses in the schema.
func missed(used []string, now map[string]string, must map[string]bool) (problems []string) {
	tables := map[string]bool{}
	known := map[string]bool{}
	for _, line := range used {
		known[line] = true
		if rest, ok := strings.CutPrefix(line, "column "); ok {
			table, _, _ := strings.Cut(rest, ".")
			tables[table] = true
		}
		if _, ok := now[line]; !ok {
			problems = append(problems, "it has no "+line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(must)) {
		if must[line] && tables[now[line]] && !known[line] {
			problems = append(problems, "that release does not fill in "+line)
		}
	}
	return problems
}

// TestReleasesKeepTheirFunctions: as long as the schema serves a release, whatever
// its programs use keeps its name, signature and type. A function that changes gets
// another name; the old one goes when the last release that calls it does.
func TestReleasesKeepTheirFunctions(t *testing.T) {
	conn := migrated(t)
	now, must := surface(t, conn)
	if *update {
		var lines []string
		names := usedNames(t)
		for line, name := range now {
			if names[name] {
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		if err := os.WriteFile(fmt.Sprintf(usedFile, migrations.Latest), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state, err := migrations.Read(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/used_*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var number int
		if _, err := fmt.Sscanf(filepath.Base(file), "used_%d.txt", &number); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if number < state.Oldest {
			t.Logf("%s is of a release that the schema does not serve any more (since %d): it and what was kept for it may go", file, state.Oldest)
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range missed(strings.Split(strings.TrimSpace(string(text)), "\n"), now, must) {
			t.Errorf("the schema serves the release with migration %d, but %s: keep it, under another name for what is new; "+
				"or let the newest migration end what is served; or, if there is no such release yet, run go test ./sql -run TestReleases -update", number, problem)
		}
	}
}

// TestMissedIsFound: each way in which a migration may break a release that runs.
func TestMissedIsFound(t *testing.T) {
	conn := migrated(t)
	before, _ := surface(t, conn)
	used := slices.Sorted(maps.Keys(before))
	if names := usedNames(t); !names["add_partitions"] || !names["head"] || !names["row_history"] {
		t.Fatalf("the programs use %v", slices.Sorted(maps.Keys(names)))
	}
	for change, want := range map[string]string{
		`SELECT 1`: "",
		`ALTER TABLE millrace.relay_reports ADD COLUMN note text`:                                                      "",
		`ALTER TABLE millrace.relay_reports ADD COLUMN note text NOT NULL DEFAULT ''`:                                  "",
		`CREATE FUNCTION millrace.op_time_v2(op_id bigint, source text) RETURNS timestamptz LANGUAGE sql RETURN now()`: "",
		`ALTER TABLE millrace.relay_reports ADD COLUMN note text NOT NULL`:                                             "that release does not fill in column relay_reports.note text",
		`ALTER TABLE millrace.leader DROP COLUMN beat`:                                                                 "it has no column leader.beat bigint",
		`ALTER TABLE millrace.leader ALTER beat TYPE numeric`:                                                          "it has no column leader.beat bigint",
		`DROP PROCEDURE millrace.add_partitions`:                                                                       "it has no procedure add_partitions(definition integer)",
		`DROP PROCEDURE millrace.add_partitions;
			CREATE PROCEDURE millrace.add_partitions(definition integer, note text) LANGUAGE sql AS ''`: "it has no procedure add_partitions(definition integer)",
		`ALTER TABLE millrace.row_errors RENAME TO errors`: "it has no column row_errors.",
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		now, must := surface(t, conn)
		problems := strings.Join(missed(used, now, must), "\n")
		if (want == "") != (problems == "") || !strings.Contains(problems, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", change, problems, want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
