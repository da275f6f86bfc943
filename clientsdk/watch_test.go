package clientsdk

import (
	"slices"
	"strings"
	"testing"
)

func TestIdentifiers(t *testing.T) {
	for q, want := range map[string]string{
		`SELECT a.x FROM todos AS a`:                     "SELECT a x FROM todos AS a",
		`SELECT "to""dos", [a b], ` + "`c`":              "SELECT to\"dos a b c",
		`-- todos` + "\n" + `SELECT 'todos' /* todos */`: "SELECT",
		`"unclosed`:  "unclosed",
		`'unclosed`:  "",
		`[unclosed`:  "unclosed",
		`/* open`:    "",
		`-- open`:    "",
		`größe_1 $x`: "größe_1 $x",
		`a--b`:       "a",
	} {
		if got := strings.Join(slices.Collect(identifiers(q)), " "); got != want {
			t.Errorf("%q: %q, not %q", q, got, want)
		}
	}
}

// FuzzIdentifiers: every text ends, and a name that stands alone is found.
func FuzzIdentifiers(f *testing.F) {
	for _, q := range []string{`SELECT a FROM "b"`, `'x''y' [z`, "/*", "--", "`a``b`", `"`} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		for name := range identifiers(q) {
			if len(name) > len(q) {
				t.Fatalf("%q is longer than the text", name)
			}
		}
		if !slices.Contains(slices.Collect(identifiers("todos;"+q)), "todos") {
			t.Fatal("a name was not found")
		}
	})
}
