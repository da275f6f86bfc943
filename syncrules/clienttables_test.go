package syncrules

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

func clientTables(t *testing.T, rules string, tables ...Table) map[string][]string {
	t.Helper()
	compiled, diags := Compile("f", []byte(rules))
	if compiled == nil {
		t.Fatal(diags)
	}
	kinds := map[millrace.ValueKind]string{millrace.KindText: "text", millrace.KindInteger: "integer", millrace.KindReal: "real"}
	got := map[string][]string{}
	last := ""
	for _, ct := range compiled.ClientTables(tables) {
		if ct.Name <= last {
			t.Errorf("%s comes after %s", ct.Name, last)
		}
		last = ct.Name
		got[ct.Name] = []string{}
		for _, c := range ct.Columns {
			text := c.Name + " " + kinds[c.Kind]
			if c.From != "" {
				text += " (" + c.From + ")"
			}
			got[ct.Name] = append(got[ct.Name], text)
		}
	}
	return got
}

func TestClientTables(t *testing.T) {
	todos := Table{Schema: "public", Name: "todos",
		Columns: []string{"id", "list", "done", "score", "price", "picture", "_hidden", "seen"},
		Types:   []string{"uuid", "bigint", "boolean", "double precision", "numeric(10,2)", "bytea", "smallint", "timestamp with time zone"}}
	notes := Table{Schema: "public", Name: "notes", Columns: []string{"id", "done", "score"}, Types: []string{"text", "integer", "integer"}}
	other := Table{Tag: "other", Schema: "s", Name: "things", Columns: []string{"id", "n"}, Types: []string{"text", "real"}}
	for _, tc := range []struct {
		name, rules string
		want        map[string][]string
	}{
		{"a star, and a column before it that replaces", `config: {edition: 3}
streams:
  s: {query: "SELECT *, done + 1 AS done, base64(picture) AS picture FROM todos"}`,
			map[string][]string{"todos": {"list integer (bigint)", "done integer", "score real (double precision)", "price text (numeric(10,2))",
				"picture text", "_hidden integer (smallint)", "seen text (timestamp with time zone)"}}},
		{"the star of bucket definitions: no underscores, and not over what came before", `bucket_definitions:
  b: {data: ["SELECT list AS id, 'x' AS score, * FROM todos"]}`,
			map[string][]string{"todos": {"score text", "list integer (bigint)", "done integer (boolean)", "price text (numeric(10,2))", "seen text (timestamp with time zone)"}}},
		{"several queries of one table", `bucket_definitions:
  b: {data: ["SELECT id, done, score FROM todos", "SELECT id, done, score AS score, 'x' AS kind FROM notes AS todos"]}`,
			map[string][]string{"todos": {"done integer", "score real", "kind text"}}},
		{"kinds that disagree", `bucket_definitions:
  b: {data: ["SELECT id, score AS v FROM todos", "SELECT id, id AS v FROM notes AS todos"]}`,
			map[string][]string{"todos": {"v text"}}},
		{"another name, another connection, a wildcard", `config: {edition: 3}
streams:
  a: {query: "SELECT id, n FROM \"other.s\".things AS gadgets"}
  b: {query: "SELECT id FROM \"not%\""}`,
			map[string][]string{"gadgets": {"n real (real)"}, "notes": {}}},
		{"columns that are not there, and tables that are not", `bucket_definitions:
  b: {data: ["SELECT id, nope, done FROM notes", "SELECT * FROM missing"]}`,
			map[string][]string{"notes": {"done integer (integer)"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, clientTables(t, tc.rules, todos, notes, other)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestKindsOfExpressions(t *testing.T) {
	table := Table{Schema: "public", Name: "t", Columns: []string{"i", "r", "x", "b", "u"}, Types: []string{"int4", "float8", "text", "bytea"}}
	for expression, want := range map[string]kind{
		"i": kindInteger, "r": kindReal, "x": kindText, "b": kindBlob, "u": kindText, "NULL": kindNull, "1": kindInteger, "1.5": kindReal, "'a'": kindText, "TRUE": kindInteger,
		"i + 1": kindInteger, "i / 2": kindInteger, "i * 1.5": kindReal, "r - i": kindReal, "x + 1": kindReal, "-i": kindInteger, "-x": kindReal, "i & 3": kindInteger,
		"x || i": kindText, "x = 1": kindInteger, "NOT i": kindInteger, "x IS NULL": kindInteger, "i IN (1, 2)": kindInteger, "x LIKE 'a%'": kindInteger, "i BETWEEN 1 AND 2": kindInteger,
		"CAST(x AS integer)": kindInteger, "CAST(i AS real)": kindReal, "CAST(i AS text)": kindText, "CAST(x AS numeric)": kindReal, "CAST(i AS numeric)": kindInteger,
		"x -> 'a'": kindText, "x ->> 'a'": kindMixed, "json_extract(x, '$.a')": kindMixed,
		"CASE WHEN i THEN 1 ELSE 2.5 END": kindReal, "CASE WHEN i THEN 1 END": kindInteger, "CASE WHEN i THEN 1 ELSE 'x' END": kindMixed,
		"CASE x WHEN 'a' THEN 1 WHEN 'b' THEN 2 END": kindInteger, "CASE x WHEN 'a' THEN 'n' ELSE x END": kindText,
		"coalesce(i, r)": kindReal, "ifnull(x, 'none')": kindText, "iif(i, 1, NULL)": kindInteger, "nullif(i, 0)": kindInteger, "coalesce(x, i)": kindMixed,
		"length(x)": kindInteger, "upper(x)": kindText, "round(i)": kindReal, "abs(i)": kindInteger, "abs(x)": kindReal, "unixepoch(x)": kindInteger, "unixepoch(x, 'subsec')": kindReal,
		"datetime(x)": kindText, "base64(b)": kindText, "st_x(x)": kindReal, "uuid_blob(x)": kindBlob,
	} {
		src, err := json.Marshal(map[string]any{"config": map[string]any{"edition": 3}, "streams": map[string]any{"s": map[string]any{"query": "SELECT x AS id, " + expression + " AS v FROM t"}}})
		if err != nil {
			t.Fatal(err)
		}
		rules, diags := Compile("f", src)
		if rules == nil {
			t.Fatalf("%s: %v", expression, diags)
		}
		if got := table.kindOf(rules.defs[0].data[0].items[1].e); got != want {
			t.Errorf("%s is of kind %d, want %d", expression, got, want)
		}
	}
}

// beyond64 finds what may compute integers of more than 64 bits.
var beyond64 = regexp.MustCompile(`922337203685477580|123456789012345678|1e21|<<`)

// Whatever an expression, its values are of the kind that was inferred, in both
// engines: an integer may stand for a real.
func TestInferredKindsAreTrue(t *testing.T) {
	table := Table{Schema: "public", Name: "t", Columns: []string{"a", "b", "c", "d"}, Types: []string{"int8", "float8", "text", "bytea"}}
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, list ...millrace.Value) millrace.Value {
			return rapid.SampledFrom(append(list, millrace.Null)).Draw(t, name)
		}
		row := []millrace.Value{
			pick("a", millrace.Integer(0), millrace.Integer(1), millrace.Integer(-7)),
			pick("b", millrace.Real(0.5), millrace.Real(3), millrace.Real(-2.5)),
			pick("c", millrace.Text(""), millrace.Text("10"), millrace.Text("x"), millrace.Text("1.5e1")),
			pick("d", millrace.Blob("ab"), millrace.Blob("12")),
		}
		for range 50 {
			x := strings.ReplaceAll(drawExact(t, rapid.IntRange(1, 3).Draw(t, "depth"), false).rules, "%%", "%")
			if beyond64.MatchString(x) {
				continue // integers that overflow are reals
			}
			for _, exact := range []bool{false, true} {
				src, err := json.Marshal(map[string]any{
					"config":  map[string]any{"edition": 3, "unstable_sqlite_expression_engine": exact},
					"streams": map[string]any{"s": map[string]any{"query": "SELECT c AS id, " + x + " AS x FROM t"}},
				})
				if err != nil {
					t.Fatal(err)
				}
				rules, diags := Compile("f", src)
				if rules == nil {
					t.Fatalf("%s: %v", x, diags)
				}
				q := rules.defs[0].data[0]
				b := &binding{plan: &TablePlan{exact: exact, needed: make([]bool, 4)}, columns: map[string]int{"a": 0, "b": 1, "c": 2, "d": 3}}
				v := b.compilerFor(q.rel.table, nil).compile(q.items[1].e)(&env{row: row, exact: exact})
				inferred := table.kindOf(q.items[1].e)
				got := valueKind(v)
				allowed := []kind{kindNull, inferred}
				if inferred == kindReal {
					allowed = append(allowed, kindInteger)
				}
				if inferred != kindMixed && !slices.Contains(allowed, got) {
					t.Fatalf("%s with %s (exact %v) is of kind %d, inferred is %d", x, fmt.Sprint(row), exact, got, inferred)
				}
			}
		}
	})
}
