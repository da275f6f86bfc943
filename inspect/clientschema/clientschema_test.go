package clientschema

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

func compile(t *testing.T, text string) *syncrules.Rules {
	t.Helper()
	rules, diags := syncrules.Compile("sync.yaml", []byte(text))
	if rules == nil {
		t.Fatal(diags)
	}
	return rules
}

func column(name, typ string) catalog.Column { return catalog.Column{Name: name, TypeName: typ} }

func table(name string, columns ...catalog.Column) catalog.Table {
	return catalog.Table{TableName: catalog.TableName{Schema: "public", Name: name}, Columns: columns}
}

// Shards have the same table, perhaps with another type while it is migrated;
// domains count as what they are decoded to.
func TestSchemaOfSeveralSources(t *testing.T) {
	rules := compile(t, `config: {edition: 3}
streams:
  a: {query: "SELECT * FROM todos"}
  b: {query: "SELECT id, n FROM \"other.public\".things"}
`)
	count := &pgvalue.Type{OID: 50_000, Name: "count", Kind: pgvalue.Domain, Element: pgvalue.Builtin(20)}
	domain := column("n", "count")
	domain.Type = count
	s, err := Of(rules, []Source{
		{Tags: []string{"east", "default"}, Tables: []catalog.Table{table("todos", column("id", "text"), column("done", "boolean"), column("size", "integer"))}},
		{Tags: []string{"west", "default"}, Tables: []catalog.Table{table("todos", column("id", "text"), column("done", "text"), column("size", "real"), column("new", "text"))}},
		{Tags: []string{"other"}, Tables: []catalog.Table{table("things", column("id", "text"), domain), table("todos", column("id", "text"), column("never", "text"))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ct := range s.Tables {
		for _, c := range ct.Columns {
			got = append(got, ct.Name+"."+c.Name+" "+kindName(c.Kind))
		}
	}
	if want := "things.n integer, todos.done text, todos.size real, todos.new text"; strings.Join(got, ", ") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, ", "), want)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	for _, tc := range []struct{ name, query, want string }{
		{"a table of the client", `SELECT id FROM todos AS mr_rows`, `table "mr_rows": names that start with mr_`},
		{"a table of SQLite", `SELECT id FROM todos AS sqlite_stat1`, `table "sqlite_stat1": names that start with mr_ or sqlite_`},
		{"a quote", `SELECT id, done AS \"a'b\" FROM todos`, `column "a'b": the name has a quote`},
		{"too long", `SELECT id, done AS ` + strings.Repeat("x", 129) + ` FROM todos`, "longer than 128 bytes"},
		{"case alone", `SELECT id, done, done AS \"Done\" FROM todos`, `columns "done" and "Done" differ only in case`},
		{"no such table", `SELECT id FROM todoes`, "line 3, column 30: no source has the table public.todoes"},
	} {
		rules := compile(t, "config: {edition: 3}\nstreams:\n  a: {query: \""+tc.query+"\"}\n")
		_, err := Of(rules, []Source{{Tags: []string{"default"}, Tables: []catalog.Table{table("todos", column("id", "text"), column("done", "boolean"))}}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// Whatever names pass the check, the text is well-formed: Go parses, and no name
// gets out of the quotes of the other languages.
func TestAnyNameIsQuoted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"$x", "${x}", `\(x)`, "a-b", "class", "__proto__", "x*/y", "日本", "a b", "1a", "--", "//"})).Draw(t, "name")
		typ := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"numeric(10,2)", "a\nb", "*/", "\u2028"})).Draw(t, "type")
		s := &Schema{Tables: []syncrules.ClientTable{{Name: name, Columns: []syncrules.ClientColumn{{Name: name, Kind: millrace.KindInteger, From: typ}}}}}
		if len(s.check()) > 0 {
			return
		}
		lines := map[string]int{}
		for _, l := range Languages {
			b, err := l.Write(s, Options{Rules: "sync.yaml"})
			if err != nil {
				if l.official && s.checkOfficial() != nil {
					continue
				}
				t.Fatalf("%s: %v", l.Name, err)
			}
			lines[l.Name] = strings.Count(string(b), "\n")
			if l.Name == "go" {
				if _, err := parser.ParseFile(token.NewFileSet(), "schema.go", b, 0); err != nil {
					t.Fatalf("%v\n%s", err, b)
				}
			}
			for line := range strings.Lines(string(b)) {
				code, _, _ := strings.Cut(line, " "+l.comment+" ")
				if strings.HasPrefix(line, "//") || strings.HasPrefix(line, "--") || l.Name == "go" || strings.Contains(name, l.comment) {
					continue
				}
				if strings.Count(code, `"`)%2 != 0 || l.Name != "sql" && strings.Count(code, "'")%2 != 0 {
					t.Fatalf("%s: a quote is open in %q", l.Name, line)
				}
				if (l.Name == "dart" || l.Name == "kotlin") && strings.Contains(strings.ReplaceAll(code, `\$`, ""), "$") {
					t.Fatalf("%s: a variable would be put into %q", l.Name, line)
				}
			}
		}
		// The same tables without their names have as many lines: none breaks one.
		plain := &Schema{Tables: []syncrules.ClientTable{{Name: "t", Columns: []syncrules.ClientColumn{{Name: "c", Kind: millrace.KindInteger}}}}}
		for _, l := range Languages {
			b, err := l.Write(plain, Options{Rules: "sync.yaml"})
			if n, ok := lines[l.Name]; err != nil || ok && n != strings.Count(string(b), "\n") {
				t.Fatalf("%s: %d lines with name %q, %d with a plain one (%v)", l.Name, n, name, strings.Count(string(b), "\n"), err)
			}
		}
	})
}
