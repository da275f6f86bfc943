package syncrules

import (
	"strings"
	"testing"
)

func messages(diags Diagnostics) []string {
	var list []string
	for _, d := range diags {
		list = append(list, d.Message)
	}
	return list
}

func expectMessages(t *testing.T, diags Diagnostics, want ...string) {
	t.Helper()
	got := messages(diags)
	if len(got) != len(want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("%d: %q, want %q", i, got[i], want[i])
		}
	}
}

func TestWarningsOfPublicTables(t *testing.T) {
	buckets := mustCompile(t, `
bucket_definitions:
  public:
    data: ["SELECT * FROM users", "SELECT * FROM notes WHERE state = 'published'"]
  meant:
    accept_potentially_dangerous_queries: true
    data: ["SELECT * FROM countries"]
  checked:
    parameters: SELECT WHERE request.jwt() ->> 'role' = 'admin'
    data: ["SELECT * FROM audits"]
  mine:
    parameters: SELECT request.user_id() AS u
    data: ["SELECT * FROM lists WHERE owner = bucket.u"]
  joined:
    parameters: SELECT id AS l FROM rooms WHERE open
    data: ["SELECT * FROM chats WHERE room = bucket.l"]
`)
	streams := mustCompile(t, `config: {edition: 3}
streams:
  subquery:
    query: SELECT id FROM books WHERE shelf IN (SELECT id FROM shelves WHERE kind = 'x')
  granted:
    query: SELECT id FROM audits WHERE auth.user_id() IN (SELECT user_id FROM admins)
`)
	expectMessages(t, append(buckets.Warnings(), streams.Warnings()...),
		"all rows of table users are synced to every user",
		"the selected rows of table notes are synced to every user",
		"all rows of table chats are synced to every user",
		"all rows of table books are synced to every user",
	)
}

func TestWarningsOfTypes(t *testing.T) {
	rules := mustCompile(t, `config: {edition: 3, timestamp_max_precision: seconds}
streams:
  s:
    queries:
      - SELECT * FROM parcels WHERE owner = auth.user_id() AND price > 10
      - SELECT id, photo, weight * 2 AS w, CAST(price AS real) AS p FROM parcels WHERE owner = auth.user_id()
`)
	tables := []Table{{
		Schema: "public", Name: "parcels",
		Columns: []string{"id", "owner", "price", "weight", "photo", "at", "total"},
		Types:   []string{"uuid", "text", "numeric(10,2)", "numeric", "bytea", "timestamp(3) with time zone", "bigint"},
	}}
	expectMessages(t, rules.Check(tables),
		"column photo is binary (bytea)",
		"column at (timestamptz) is cut to 0 fractional digits",
		"of type bigint are parcels.total",
		"numeric column price is text here",
		"column photo is binary (bytea)",
		"numeric column weight is computed with",
		"casting numeric column price to real",
	)
	tables[0].Types = nil
	expectMessages(t, rules.Check(tables))
}
