package syncrules

import (
	"bytes"
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	src := `bucket_definitions:
  a:
    data:
      - SELECT id, upperr(name) AS n FROM t
`
	rules, diags := Compile("sync.yaml", []byte(src))
	if rules != nil {
		t.Fatal("compiles")
	}
	var b bytes.Buffer
	if err := diags.Render(&b, []byte(src)); err != nil {
		t.Fatal(err)
	}
	want := `sync.yaml:4:20: error: unknown function upperr
          - SELECT id, upperr(name) AS n FROM t
                       ^^^^^^
    hint: did you mean "upper"?
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestPositions: a place in a query is found again in the file, however the
// query is written in YAML.
func TestPositions(t *testing.T) {
	for name, src := range map[string]string{
		"plain":          "      - SELECT id, nope(z) AS w FROM t\n",
		"plain, folded":  "      - SELECT id,\n          nope(z) AS w\n          FROM t\n",
		"single quoted":  "      - 'SELECT id, ''x'' AS y, nope(z) AS w FROM t'\n",
		"double quoted":  "      - \"SELECT id, \\\"x\\\" AS y,\\n\\x20nope(z) AS w FROM t\"\n",
		"double, folded": "      - \"SELECT id,\n         nope(z) \\\n         AS w FROM t\"\n",
		"literal":        "      - |\n        SELECT id,\n          nope(z) AS w\n        FROM t\n",
		"literal, strip": "      - |-   # comment\n\n        SELECT id,\n\n        nope(z) AS w FROM t\n",
		"folded":         "      - >-\n        SELECT id,\n        nope(z) AS w\n        FROM t\n",
		"non-ASCII":      "      - SELECT id, 'größe 😀' AS s, nope(z) AS w FROM t\n",
		"tagged":         "      - !!str SELECT id, nope(z) AS w FROM t\n",
		"flow":           "      [\"SELECT id, nope(z) AS w FROM t\"]\n",
	} {
		file := "bucket_definitions:\n  a:\n    data:\n" + src
		_, diags := Compile("f", []byte(file))
		found := false
		for _, d := range diags {
			if d.Severity != Fatal {
				continue
			}
			found = true
			if got := file[d.Start:d.End]; got != "nope" {
				t.Errorf("%s: %q is marked: %s", name, got, d)
			}
			line := strings.Count(file[:d.Start], "\n") + 1
			if d.Line != line {
				t.Errorf("%s: line %d, want %d", name, d.Line, line)
			}
		}
		if !found {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestAllErrors: everything wrong in a file is reported at once, in order.
func TestAllErrors(t *testing.T) {
	_, diags := Compile("f", []byte(`
config: {edition: 2, fixd_json_extract: true}
bucket_definitions:
  a:
    priority: 7
    data:
      - SELECT id, nope(x) AS y FROM t LIMIT 3
      - SELECT id FROM
  b:
    dta: []
streams:
  s:
    query: SELECT id FROM t WHERE n > auth.user_id()
`))
	want := []string{
		`unknown key "fixd_json_extract"`, "priority must be one of", "unknown function nope", "LIMIT cannot be used",
		"the query ends where a table name was expected", `unknown key "dta"`, `bucket definition "b" has no data`,
		"a row and the request can only be compared",
	}
	var got []string
	for _, d := range diags {
		if d.Severity == Fatal {
			got = append(got, d.Message)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got\n%s", strings.Join(got, "\n"))
	}
	for i, w := range want {
		if !strings.Contains(got[i], w) {
			t.Errorf("%d: %q, want %q", i, got[i], w)
		}
	}
}

func TestHints(t *testing.T) {
	for query, hint := range map[string]string{
		"SELECT id FROM t WHERE tt.a = 1":                         `did you mean "t"?`,
		"SELECT id, lenght(a) AS n FROM t":                        `did you mean "length"?`,
		"SELECT id, now() AS n FROM t":                            "cannot depend on the time",
		"SELECT id, concat(a, 1) AS n FROM t":                     "use the operator ||",
		"SELECT id FROM t WHERE a = auth.userid()":                `did you mean "auth.user_id"?`,
		"SELECT id, name FROM t JOIN u ON u.id = t.id":            "write it as t.id or u.id",
		"SELECT t.id FROM t JOIN c ON c.o = t.o":                  "it has org",
		"WITH x AS (SELECT 1) SELECT id FROM t":                   "under with:",
		"SELECT id FROM t WHERE a NOT IN (SELECT x FROM u)":       "sync what is wanted",
		"SELECT t.id FROM t LEFT JOIN u ON u.id = t.id":           "inner JOIN",
		"SELECT id FROM t; SELECT id FROM u":                      "one query per list item",
		"SELECT id FROM t WHERE a -> b = 1":                       "single quotes",
		"SELECT id, CAST(a AS varchar(5)) AS x FROM t":            "types are text",
		"SELECT t.id FROM t, json_eech(auth.parameter('x')) AS j": `did you mean "json_each"?`,
		"SELECT id FROM t ORDER BY id":                            "in the app's query",
		"SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u)":         "x IN (SELECT",
		"SELECT id FROM t WHERE a = (SELECT b FROM u)":            "after IN",
	} {
		src := "config: {edition: 3}\nwith:\n  c: SELECT org FROM m WHERE u = auth.user_id()\nstreams:\n  s:\n    query: |\n      " + query + "\n"
		_, diags := Compile("f", []byte(src))
		found := false
		for _, d := range diags {
			found = found || d.Severity == Fatal && strings.Contains(d.Hint, hint)
		}
		if !found {
			t.Errorf("%s: no hint %q in %v", query, hint, diags)
		}
	}
}

func TestHostileInput(t *testing.T) {
	stream := func(where string) string {
		return "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT id FROM t WHERE " + where + "\n"
	}
	many := strings.Repeat
	for name, src := range map[string]string{
		"too large":        "# " + many("x", maxFileBytes),
		"parentheses":      stream(many("(", 100_000) + "1" + many(")", 100_000)),
		"unclosed":         stream(many("(", 100_000)),
		"not":              stream(many("NOT ", 100_000) + "a"),
		"minus":            stream(many("- ", 100_000) + "a"),
		"long sum":         stream("a" + many(" + a", 100_000)),
		"long or":          stream("a" + many(" OR b = auth.user_id()", 20_000)),
		"subqueries":       stream(many("a IN (SELECT a FROM t WHERE ", 5_000) + "1" + many(")", 5_000)),
		"many tables":      "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT a.id FROM a" + many(", t", 100_000) + "\n",
		"many columns":     "bucket_definitions:\n  s:\n    data:\n      - SELECT id" + many(", a", 100_000) + " FROM t\n",
		"many arguments":   stream("ifnull(a" + many(", 1", 100_000) + ")"),
		"case":             stream(many("CASE WHEN ", 10_000)),
		"flow nesting":     many("[", 100_000),
		"flow map nesting": many("{a: ", 100_000),
	} {
		rules, diags := Compile("f", []byte(src))
		if rules != nil || !diags.Fatal() {
			t.Errorf("%s is accepted", name)
		}
		if len(diags) > maxDiagnostics {
			t.Errorf("%s: %d diagnostics", name, len(diags))
		}
	}
}

func TestCheckAgainstSource(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  s:
    query: SELECT id, titel FROM todos WHERE list_id IN (SELECT id FROM list WHERE owner_id = auth.user_id())
`)
	diags := rules.Check([]Table{
		{Schema: "public", Name: "todos", Columns: []string{"id", "title", "list_id"}},
		{Schema: "public", Name: "lists", Columns: []string{"id", "owner_id"}},
	})
	var got []string
	for _, d := range diags {
		got = append(got, d.Message+" / "+d.Hint)
	}
	want := `table todos has no column titel / did you mean "title"?; the source has no table public.list / did you mean "lists"?`
	if strings.Join(got, "; ") != want {
		t.Errorf("got %s", strings.Join(got, "; "))
	}
}
