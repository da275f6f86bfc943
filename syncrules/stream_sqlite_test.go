package syncrules

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// streamQueries are stream queries and the SQL that a database would answer
// for one user: ?1 is the user, ?2 the claim org, ?3 the claim ids.
var streamQueries = []struct{ stream, sql string }{
	{"SELECT id FROM depots", "SELECT id FROM depots"},
	{"SELECT id FROM packages WHERE owner_id = auth.user_id()", "SELECT id FROM packages WHERE owner_id = ?1"},
	{"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id())",
		"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = ?1)"},
	{"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id() AND role = 'admin') OR region = 'n'",
		"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = ?1 AND role = 'admin') OR region = 'n'"},
	{"SELECT packages.id FROM members m JOIN depots d ON d.org_id = m.org_id JOIN packages ON packages.depot_id = d.id WHERE m.user_id = auth.user_id() AND d.open = 1",
		"SELECT packages.id FROM members m JOIN depots d ON d.org_id = m.org_id JOIN packages ON packages.depot_id = d.id WHERE m.user_id = ?1 AND d.open = 1"},
	{"SELECT depots.id FROM depots JOIN members ON members.org_id = depots.org_id AND members.role = depots.region WHERE members.user_id = auth.user_id()",
		"SELECT depots.id FROM depots JOIN members ON members.org_id = depots.org_id AND members.role = depots.region WHERE members.user_id = ?1"},
	{"SELECT id FROM depots WHERE id IN auth.parameter('ids') AND org_id = auth.parameter('org')",
		"SELECT id FROM depots WHERE id IN (SELECT value FROM json_each(?3)) AND org_id = ?2"},
	{"SELECT id FROM packages WHERE auth.user_id() IN watchers",
		"SELECT id FROM packages WHERE ?1 IN (SELECT value FROM json_each(watchers))"},
	{"SELECT id FROM packages WHERE watchers && auth.parameter('ids')",
		"SELECT id FROM packages WHERE EXISTS (SELECT 1 FROM json_each(watchers) a JOIN json_each(?3) b ON a.value = b.value)"},
	{"SELECT id FROM packages WHERE watchers && (SELECT user_id FROM members WHERE org_id = auth.parameter('org'))",
		"SELECT id FROM packages WHERE EXISTS (SELECT 1 FROM json_each(watchers) a JOIN members b ON a.value = b.user_id AND b.org_id = ?2)"},
	{"SELECT id FROM packages WHERE auth.user_id() IN (SELECT user_id FROM members WHERE role = 'admin')",
		"SELECT id FROM packages WHERE ?1 IN (SELECT user_id FROM members WHERE role = 'admin')"},
	{"SELECT depots.id FROM depots, members WHERE members.user_id = auth.user_id() AND depots.open = 1",
		"SELECT depots.id FROM depots, members WHERE members.user_id = ?1 AND depots.open = 1"},
	{"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id()) AND id IN (SELECT depot_id FROM packages WHERE owner_id = auth.user_id())",
		"SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = ?1) AND id IN (SELECT depot_id FROM packages WHERE owner_id = ?1)"},
	{"SELECT id FROM depots WHERE org_id IN (SELECT members.org_id FROM members WHERE members.role = depots.region AND members.user_id = auth.user_id())",
		"SELECT id FROM depots WHERE org_id IN (SELECT members.org_id FROM members WHERE members.role = depots.region AND members.user_id = ?1)"},
	{"SELECT id FROM packages WHERE depot_id IN (SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id()) OR region = 'n')",
		"SELECT id FROM packages WHERE depot_id IN (SELECT id FROM depots WHERE org_id IN (SELECT org_id FROM members WHERE user_id = ?1) OR region = 'n')"},
	{"SELECT id FROM packages WHERE (owner_id = auth.user_id() OR depot_id IN (SELECT id FROM depots WHERE org_id = auth.parameter('org'))) AND (owner_id = 'u1' OR depot_id = 'd1')",
		"SELECT id FROM packages WHERE (owner_id = ?1 OR depot_id IN (SELECT id FROM depots WHERE org_id = ?2)) AND (owner_id = 'u1' OR depot_id = 'd1')"},
	{"SELECT depots.id FROM depots JOIN members a ON a.org_id = depots.org_id JOIN members b ON b.role = a.role WHERE a.user_id = auth.user_id() AND b.org_id = auth.parameter('org')",
		"SELECT depots.id FROM depots JOIN members a ON a.org_id = depots.org_id JOIN members b ON b.role = a.role WHERE a.user_id = ?1 AND b.org_id = ?2"},
	{"SELECT depots.id FROM depots JOIN members a ON a.org_id = depots.org_id JOIN members b ON b.role = depots.region AND b.user_id = a.user_id",
		"SELECT depots.id FROM depots JOIN members a ON a.org_id = depots.org_id JOIN members b ON b.role = depots.region AND b.user_id = a.user_id"},
	{"SELECT packages.id FROM packages, json_each(packages.watchers) AS w, members WHERE w.value = members.user_id AND members.org_id = auth.parameter('org')",
		"SELECT packages.id FROM packages, json_each(packages.watchers) AS w, members WHERE w.value = members.user_id AND members.org_id = ?2"},
	{"SELECT id FROM depots WHERE org_id = auth.parameter('org') AND org_id IN (SELECT org_id FROM members WHERE user_id = auth.user_id())",
		"SELECT id FROM depots WHERE org_id = ?2 AND org_id IN (SELECT org_id FROM members WHERE user_id = ?1)"},
	{"SELECT id FROM depots WHERE upper(org_id) IN (SELECT upper(org_id) FROM members WHERE user_id = auth.user_id()) AND NOT (open = 1)",
		"SELECT id FROM depots WHERE upper(org_id) IN (SELECT upper(org_id) FROM members WHERE user_id = ?1) AND open IS NOT 1"},
	{"SELECT depots.id FROM depots JOIN json_each('[\"d1\",\"d2\"]') AS x ON x.value = depots.id WHERE depots.org_id = auth.parameter('org')",
		"SELECT depots.id FROM depots JOIN json_each('[\"d1\",\"d2\"]') AS x ON x.value = depots.id WHERE depots.org_id = ?2"},
	{"SELECT id FROM depots WHERE auth.user_id() IN (id, org_id, 'u1')", "SELECT id FROM depots WHERE ?1 IN (id, org_id, 'u1')"},
}

var streamTables = []Table{
	{Schema: "public", Name: "depots", Columns: []string{"id", "org_id", "region", "open"}},
	{Schema: "public", Name: "members", Columns: []string{"id", "user_id", "org_id", "role"}},
	{Schema: "public", Name: "packages", Columns: []string{"id", "depot_id", "owner_id", "watchers"}},
}

// drawCell draws a value for a column, null now and then.
func drawCell(t *rapid.T, column string) millrace.Value {
	if rapid.IntRange(0, 11).Draw(t, "null") == 0 {
		return millrace.Null
	}
	pick := func(list ...string) millrace.Value { return millrace.Text(rapid.SampledFrom(list).Draw(t, column)) }
	switch column {
	case "org_id":
		return pick("o1", "o2", "O1")
	case "region", "role":
		return pick("n", "s", "admin")
	case "open":
		return millrace.Integer(int64(rapid.IntRange(0, 1).Draw(t, column)))
	case "depot_id":
		return pick("d0", "d1", "d2")
	case "watchers":
		return pick(`[]`, `["u1"]`, `["u1","u2","u1"]`, `["u3",null,1]`)
	}
	return pick("u1", "u2", "u3")
}

// TestStreamsAgainstSQLite: what a user has through buckets and lookups is
// what the query selects in a database (I6).
func TestStreamsAgainstSQLite(t *testing.T) {
	db := openSQLite(t)
	createStreamTables(t, db)
	compiled := map[bool][]*Rules{}
	for _, exact := range []bool{false, true} {
		for _, q := range streamQueries {
			src, err := json.Marshal(map[string]any{
				"config":  map[string]any{"edition": 3, "unstable_sqlite_expression_engine": exact},
				"streams": map[string]any{"s": map[string]any{"auto_subscribe": true, "query": q.stream}},
			})
			if err != nil {
				t.Fatal(err)
			}
			compiled[exact] = append(compiled[exact], mustCompile(t, string(src)))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		rows := fillTables(t, db)
		user := rapid.SampledFrom([]string{"u1", "u1", "u2", "nobody"}).Draw(t, "user")
		org := rapid.SampledFrom([]string{"o1", "o2"}).Draw(t, "org")
		ids := rapid.SampledFrom([]string{`["d1","u1"]`, `[]`, `["d0","d2","u2",null]`}).Draw(t, "ids")
		claims := fmt.Sprintf(`{"sub":%q,"org":%q,"ids":%s}`, user, org, ids)
		for i, q := range streamQueries {
			for exact, rules := range compiled {
				query := q.sql
				if exact {
					// There the opposite of a comparison with null is null too.
					query = strings.ReplaceAll(query, "open IS NOT 1", "NOT (open = 1)")
				}
				got := streamRows(t, rules[i], rows, claims)
				want := selectIDs(t, db, query, user, org, ids)
				if strings.Join(got, " ") != strings.Join(want, " ") {
					t.Fatalf("%s (exact %v)\nclaims %s\nhas %v, SQLite selects %v", q.stream, exact, claims, got, want)
				}
			}
		}
	})
}

// createStreamTables makes the tables that streamTables describes.
func createStreamTables(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, table := range streamTables {
		if _, err := db.Exec("CREATE TABLE " + table.Name + " (" + strings.Join(table.Columns, ", ") + ")"); err != nil {
			t.Fatal(err)
		}
	}
}

// streamRows are the ids of the rows a user has.
func streamRows(t *rapid.T, rules *Rules, rows map[string][][]millrace.Value, claims string) []string {
	var ids []string
	for _, r := range rowsGiven(t, rules, streamTables, rows, Request{Claims: []byte(claims), IncludeDefaults: true}) {
		ids = append(ids, r.RowID)
	}
	return unique(ids)
}

func selectIDs(t *rapid.T, db *sql.DB, query, user, org, ids string) []string {
	// Parameters a query does not have are not passed.
	args := []any{user, org, ids}
	for len(args) > 0 && !strings.Contains(query, fmt.Sprint("?", len(args))) {
		args = args[:len(args)-1]
	}
	result, err := db.Query(query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() {
		if err := result.Close(); err != nil {
			t.Error(err)
		}
	}()
	var list []string
	for result.Next() {
		var id string
		if err := result.Scan(&id); err != nil {
			t.Fatal(err)
		}
		list = append(list, id)
	}
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	sort.Strings(list)
	return unique(list)
}
