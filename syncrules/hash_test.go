package syncrules

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files; read the difference before committing it")

// TestGoldenHashes pins the hashes of definitions. A change here means that
// deployed definitions are built again after an upgrade: it must be wanted,
// and come with a raised version of what changed.
func TestGoldenHashes(t *testing.T) {
	var b strings.Builder
	for _, name := range []string{"todos_buckets.yaml", "todos_streams.yaml", "everything.yaml"} {
		rules := compileFile(t, filepath.Join("testdata", "examples", name))
		for _, d := range rules.Definitions() {
			b.WriteString(name + " " + d.Key + " " + d.Hash + "\n")
		}
	}
	path := filepath.Join("testdata", "hashes.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("hashes are\n%swant\n%s", b.String(), want)
	}
}

// hashes maps the keys of the definitions of a file to their hashes.
func hashes(t *testing.T, src string) map[string]string {
	t.Helper()
	rules, diags := Compile("rules.yaml", []byte(src))
	if rules == nil {
		t.Fatalf("%s\n%s", src, diags.Error())
	}
	m := map[string]string{}
	for _, d := range rules.Definitions() {
		m[d.Key] = d.Hash
	}
	return m
}

const hashBase = `
bucket_definitions:
  a:
    parameters: SELECT id AS p FROM users WHERE id = request.user_id()
    data:
      - SELECT id, name FROM t WHERE owner = bucket.p AND n > 1
      - SELECT * FROM u WHERE owner = bucket.p
  b:
    data:
      - SELECT id FROM v
`

func TestHashIgnoresSpelling(t *testing.T) {
	base := hashes(t, hashBase)
	same := map[string]string{
		"white space and comments": `
# a comment
bucket_definitions:
  a:
    parameters: |
      SELECT id AS p   -- the user
        FROM users WHERE id = request.user_id()
    data:
      - >
        SELECT id,
          name FROM t WHERE owner = bucket.p AND (n > 1)
      - "SELECT * FROM u WHERE owner = bucket.p;"
  b: {data: ["select \"id\" from public.v"]}
`,
		"order": `
bucket_definitions:
  b:
    data:
      - SELECT id FROM v
  a:
    data:
      - SELECT * FROM u WHERE bucket.p = owner
      - SELECT id, name FROM t WHERE owner = bucket.p AND n > 1
    parameters: SELECT id AS p FROM users WHERE request.user_id() = id
`,
		"priority and acceptance": strings.Replace(hashBase, "  a:\n", "  a:\n    priority: 1\n    accept_potentially_dangerous_queries: true\n", 1),
		"names of parameters":     strings.NewReplacer("AS p ", "AS q ", "bucket.p", "bucket.q").Replace(hashBase),
		"alias that is the name":  strings.Replace(hashBase, "FROM t WHERE owner", "FROM t AS t WHERE t.owner", 1),
	}
	for name, src := range same {
		got := hashes(t, src)
		for key, hash := range base {
			if got[key] != hash {
				t.Errorf("%s: %s has another hash", name, key)
			}
		}
	}
	// A parameter query does not change what is in the buckets.
	other := hashes(t, strings.Replace(hashBase, "WHERE id = request", "WHERE active AND id = request", 1))
	if other["bucket:a"] != base["bucket:a"] || other["lookup:a/1"] == base["lookup:a/1"] {
		t.Error("a changed parameter query changes the lookup's hash only")
	}
}

func TestHashSeesMeaning(t *testing.T) {
	base := hashes(t, hashBase)
	different := map[string]string{
		"column":       strings.Replace(hashBase, "id, name FROM", "id, title FROM", 1),
		"output name":  strings.Replace(hashBase, "id, name FROM", "id, name AS title FROM", 1),
		"column order": strings.Replace(hashBase, "id, name FROM", "name, id FROM", 1),
		"filter":       strings.Replace(hashBase, "n > 1", "n > 2", 1),
		"literal type": strings.Replace(hashBase, "n > 1", "n > 1.0", 1),
		"operator":     strings.Replace(hashBase, "n > 1", "n >= 1", 1),
		"alias":        strings.Replace(hashBase, "FROM t WHERE", "FROM t AS tt WHERE", 1),
		"schema":       strings.Replace(hashBase, "FROM t WHERE", "FROM s.t WHERE", 1),
		"wildcard":     strings.Replace(hashBase, "FROM t WHERE", `FROM "t%" WHERE`, 1),
		"more data":    strings.Replace(hashBase, "  b:\n", "      - SELECT id FROM w WHERE o = bucket.p\n  b:\n", 1),
		"mapping":      "config: {timestamps_iso8601: true}" + hashBase,
		"custom types": "config: {custom_postgres_types: true}" + hashBase,
		"key":          strings.Replace(hashBase, "WHERE owner = bucket.p AND", "WHERE holder = bucket.p AND", 1),
	}
	for name, src := range different {
		if got := hashes(t, src); got["bucket:a"] == base["bucket:a"] {
			t.Errorf("%s: the hash of a is the same", name)
		}
	}
	renamed := hashes(t, strings.Replace(hashBase, "  a:\n", "  c:\n", 1))
	if renamed["bucket:c"] == base["bucket:a"] {
		t.Error("the definition's name is part of its bucket names")
	}
	if renamed["lookup:c/1"] != base["lookup:a/1"] {
		t.Error("the name is not part of a lookup's meaning")
	}
}

func TestHashOrderOfParameters(t *testing.T) {
	const src = `
bucket_definitions:
  a:
    parameters: SELECT request.user_id() AS p, request.jwt() ->> 'o' AS q
    data:
      - SELECT id FROM t WHERE x = bucket.p AND y = bucket.q
`
	swapped := strings.Replace(src, "request.user_id() AS p, request.jwt() ->> 'o' AS q", "request.jwt() ->> 'o' AS q, request.user_id() AS p", 1)
	if hashes(t, src)["bucket:a"] == hashes(t, swapped)["bucket:a"] {
		t.Error("the order of values is part of the bucket names")
	}
}

// TestHashNames: everything that enters a hash has a name and a version.
func TestHashNames(t *testing.T) {
	seen := map[string]bool{}
	for op, name := range opNames {
		if !strings.Contains(name, "@") || seen[name] {
			t.Errorf("opcode %d is called %q", op, name)
		}
		seen[name] = true
	}
	if len(opNames) != int(opCall)+1 {
		t.Error("an opcode has no name")
	}
	for name, f := range functions {
		if f.name != name || f.version < 1 || f.legacy != nil && f.legacy.name == name {
			t.Errorf("function %q: %+v", name, f)
		}
	}
}

// TestHashOfStreams: a CTE, a subquery, a join and a derived table that say
// the same are the same definitions.
func TestHashOfStreams(t *testing.T) {
	stream := func(rest string) string { return "config: {edition: 3}\nstreams:\n  s:\n" + rest }
	base := hashes(t, stream("    query: SELECT id FROM todos WHERE list_id IN (SELECT id FROM lists WHERE owner_id = auth.user_id())\n"))
	for name, rest := range map[string]string{
		"cte":      "    with: {mine: SELECT id FROM lists WHERE owner_id = auth.user_id()}\n    query: SELECT id FROM todos WHERE list_id IN mine\n",
		"cte join": "    with: {mine: SELECT id AS x FROM lists l WHERE auth.user_id() = l.owner_id}\n    query: SELECT todos.id FROM todos JOIN mine m ON m.x = todos.list_id\n",
		"join":     "    query: SELECT todos.id FROM lists AS l, todos WHERE l.id = todos.list_id AND l.owner_id = auth.user_id()\n",
		"derived":  "    query: SELECT todos.id FROM todos INNER JOIN (SELECT id FROM lists WHERE owner_id = auth.parameter('sub')) AS x (y) ON todos.list_id = x.y\n",
		"priority": "    auto_subscribe: true\n    priority: 0\n    query: SELECT id FROM todos WHERE list_id IN (SELECT id FROM lists WHERE owner_id = auth.user_id())\n",
	} {
		got := hashes(t, stream(rest))
		for key, hash := range base {
			if got[key] != hash {
				t.Errorf("%s: %s has another hash", name, key)
			}
		}
		if len(got) != len(base) {
			t.Errorf("%s: %d definitions, not %d", name, len(got), len(base))
		}
	}
}
