package syncrules

import "testing"

func TestSameContent(t *testing.T) {
	const file = "streams:\n  a:\n    query: SELECT * FROM t\n  b:\n    query: SELECT * FROM u\n"
	for _, c := range []struct {
		name, a, b string
		same       bool
	}{
		{"equal", file, file, true},
		{"equal and no YAML", "a: [", "a: [", true},
		{"comments", file, "# why\nstreams:\n  a: # here\n    query: SELECT * FROM t\n  b:\n    query: SELECT * FROM u", true},
		{"layout", file, `{"streams": {"b": {"query": "SELECT * FROM u"}, "a": {"query": "SELECT * FROM t"}}}`, true},
		{"another query", file, "streams:\n  a:\n    query: SELECT id FROM t\n  b:\n    query: SELECT * FROM u\n", false},
		{"another name", file, "streams:\n  c:\n    query: SELECT * FROM t\n  b:\n    query: SELECT * FROM u\n", false},
		{"order of a list", "a: [1, 2]", "a: [2, 1]", false},
		{"a text and a number", "a: 1", "a: '1'", false},
		{"one is no YAML", file, "a: [", false},
		{"both are empty", "", "# nothing", false},
	} {
		if got := SameContent([]byte(c.a), []byte(c.b)); got != c.same {
			t.Errorf("%s: %t", c.name, got)
		}
		if got := SameContent([]byte(c.b), []byte(c.a)); got != c.same {
			t.Errorf("%s, the other way round: %t", c.name, got)
		}
	}
}
