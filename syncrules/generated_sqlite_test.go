package syncrules

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// ruleDrawer draws rules together with the SQL that selects, for one user, the
// rows they give: {u}, {o} and {ids} stand for the user's id, the claim org and
// the claim ids.
type ruleDrawer struct {
	t     *rapid.T
	exact bool // rules run in the SQLite-exact engine
}

func (d ruleDrawer) n(low, high int) int { return rapid.IntRange(low, high).Draw(d.t, "n") }

func (d ruleDrawer) pick(list ...pair) pair { return rapid.SampledFrom(list).Draw(d.t, "pick") }

// filter draws a condition on the row of a table alone.
func (d ruleDrawer) filter(table string) pair {
	atoms := map[string][]string{
		"depots":   {"open = 1", "region = 'n'", "region LIKE 'S'", "org_id IN ('o1', 'o2')", "region IS NOT NULL", "upper(org_id) = 'O1'", "open BETWEEN 0 AND 0"},
		"members":  {"role = 'admin'", "role IN ('n', 's')", "org_id IS NULL", "length(user_id) = 2", "org_id || role = 'o1n'"},
		"packages": {"owner_id = 'u1'", "depot_id IS NOT NULL", "json_array_length(watchers) > 1", "depot_id > 'd0'", "watchers ->> 0 = 'u1'"},
	}[table]
	x := both(rapid.SampledFrom(atoms).Draw(d.t, "filter"))
	switch d.n(0, 5) {
	case 0:
		if d.exact {
			return form("NOT (%s)", x)
		}
		return pair{"NOT (" + x.rules + ")", "(" + x.sqlite + ") IS NOT 1"} // a null is false before NOT
	case 1:
		return form("(%s OR %s)", x, both(rapid.SampledFrom(atoms).Draw(d.t, "other")))
	}
	return x
}

// condition draws a condition on a table's rows for a user.
func (d ruleDrawer) condition(table string, depth int) pair {
	if depth > 0 && d.n(0, 2) > 0 {
		op := rapid.SampledFrom([]string{"(%s AND %s)", "(%s OR %s)"}).Draw(d.t, "op")
		return form(op, d.condition(table, depth-1), d.condition(table, depth-1))
	}
	if d.n(0, 3) == 0 {
		return d.filter(table)
	}
	sub := func(column, from string) pair {
		where := pair{}
		if c := d.condition(from, depth-1); d.n(0, 4) > 0 {
			where = form(" WHERE %s", c)
		}
		return form("(SELECT "+column+" FROM "+from+"%s)", where)
	}
	if depth < 0 {
		sub = func(column, from string) pair { return both("(SELECT " + column + " FROM " + from + ")") }
	}
	request := []pair{{"auth.parameter('org') = 'o1'", "{o} = 'o1'"}, {"auth.parameter('ids') ->> 0 = 'd1'", "{ids} ->> 0 = 'd1'"}}
	switch table {
	case "depots":
		return d.pick(append(request,
			pair{"org_id = auth.parameter('org')", "org_id = {o}"},
			pair{"id IN auth.parameter('ids')", "id IN (SELECT value FROM json_each({ids}))"},
			form("org_id IN %s", sub("org_id", "members")),
			form("id IN %s", sub("depot_id", "packages")),
			form("region IN %s", sub("role", "members")),
		)...)
	case "members":
		return d.pick(append(request,
			pair{"user_id = auth.user_id()", "user_id = {u}"},
			pair{"user_id = auth.user_id() AND org_id = auth.parameter('org')", "user_id = {u} AND org_id = {o}"},
			pair{"auth.user_id() IN (user_id, role)", "{u} IN (user_id, role)"},
		)...)
	}
	return d.pick(append(request,
		pair{"owner_id = auth.user_id()", "owner_id = {u}"},
		pair{"auth.user_id() IN watchers", "{u} IN (SELECT value FROM json_each(watchers))"},
		pair{"watchers && auth.parameter('ids')", "EXISTS (SELECT 1 FROM json_each(watchers) a JOIN json_each({ids}) b ON a.value = b.value)"},
		form("depot_id IN %s", sub("id", "depots")),
		form("owner_id IN %s", sub("user_id", "members")),
		pair{"owner_id = auth.user_id() AND owner_id IN auth.parameter('ids')", "owner_id = {u} AND owner_id IN (SELECT value FROM json_each({ids}))"},
	)...)
}

// stream draws a stream of one query.
func (d ruleDrawer) stream() (rules map[string]any, sqlText string) {
	table := rapid.SampledFrom([]string{"depots", "packages"}).Draw(d.t, "table")
	where := d.condition(table, d.n(0, 2))
	config := map[string]any{"edition": 3, "unstable_sqlite_expression_engine": d.exact}
	query := "SELECT id FROM " + table + " WHERE " + where.rules
	return map[string]any{"config": config, "streams": map[string]any{"s": map[string]any{"auto_subscribe": true, "query": query}}},
		"SELECT id FROM " + table + " WHERE " + where.sqlite
}

// bucketDefinition draws a definition with one or two parameter queries over
// the parameters p and q.
func (d ruleDrawer) bucketDefinition() (rules map[string]any, sqlText string) {
	var queries []string
	var selects []string
	for range d.n(1, 2) {
		q := d.parameters()
		queries, selects = append(queries, q.rules), append(selects, q.sqlite)
	}
	data := d.pick(
		pair{"owner_id = bucket.p AND depot_id = bucket.q", "owner_id = x.p AND depot_id = x.q"},
		pair{"bucket.p IN watchers AND bucket.q = depot_id", "x.p IN (SELECT value FROM json_each(watchers)) AND x.q = depot_id"},
		pair{"(owner_id = bucket.p OR depot_id = bucket.p) AND bucket.q = id", "(owner_id = x.p OR depot_id = x.p) AND x.q = id"},
		pair{"(owner_id = bucket.p AND depot_id = bucket.q) OR (owner_id = bucket.q AND depot_id = bucket.p)", "(owner_id = x.p AND depot_id = x.q) OR (owner_id = x.q AND depot_id = x.p)"},
		pair{"owner_id = bucket.p AND owner_id = bucket.q", "owner_id = x.p AND owner_id = x.q"},
		pair{"owner_id = bucket.p AND depot_id = bucket.p AND id = bucket.q", "owner_id = x.p AND depot_id = x.p AND id = x.q"},
	)
	filter := pair{}
	if d.n(0, 2) == 0 {
		filter = form(" AND %s", d.filter("packages"))
	}
	data = form("(%s)%s", data, filter)
	return map[string]any{"bucket_definitions": map[string]any{"b": map[string]any{
			"accept_potentially_dangerous_queries": true, "parameters": queries, "data": []string{"SELECT id FROM packages WHERE " + data.rules},
		}}},
		"SELECT id FROM packages WHERE EXISTS (SELECT 1 FROM (" + strings.Join(selects, " UNION ALL ") + ") x WHERE " + data.sqlite + ")"
}

// parameters draws a parameter query for p and q, in either order.
func (d ruleDrawer) parameters() pair {
	q := d.pick(
		pair{"SELECT request.user_id() AS p, request.jwt() ->> 'org' AS q", "SELECT {u} AS p, {o} AS q"},
		pair{"SELECT 'd1' AS q, request.user_id() AS p WHERE request.jwt() ->> 'org' = 'o1'", "SELECT {u} AS p, 'd1' AS q WHERE {o} = 'o1'"},
		pair{"SELECT id AS q, request.user_id() AS p FROM depots WHERE org_id = request.jwt() ->> 'org'", "SELECT {u} AS p, id AS q FROM depots WHERE org_id = {o}"},
		pair{"SELECT user_id AS p, org_id AS q FROM members WHERE user_id = request.user_id()", "SELECT user_id AS p, org_id AS q FROM members WHERE user_id = {u}"},
		pair{"SELECT depot_id AS q, owner_id AS p FROM packages WHERE request.user_id() IN watchers", "SELECT owner_id AS p, depot_id AS q FROM packages WHERE {u} IN (SELECT value FROM json_each(watchers))"},
		pair{"SELECT owner_id AS p, id AS q FROM packages WHERE depot_id IN (request.jwt() -> 'ids')", "SELECT owner_id AS p, id AS q FROM packages WHERE depot_id IN (SELECT value FROM json_each({ids}))"},
		pair{"SELECT value AS q, request.user_id() AS p FROM json_each(request.jwt() -> 'ids')", "SELECT {u} AS p, value AS q FROM json_each({ids})"},
		pair{"SELECT depot_id AS q, owner_id AS p FROM packages WHERE owner_id = request.user_id() OR depot_id = request.user_id()", "SELECT owner_id AS p, depot_id AS q FROM packages WHERE owner_id = {u} OR depot_id = {u}"},
	)
	if strings.Contains(q.rules, "FROM packages WHERE d") && d.n(0, 1) == 0 {
		q = form("%s AND %s", q, d.filter("packages"))
	}
	return q
}

// TestGeneratedRulesAgainstSQLite: for generated rules and data, a row is in a
// bucket that the resolver gives a user if and only if the rules' queries,
// asked of a database, select it for that user (I6).
func TestGeneratedRulesAgainstSQLite(t *testing.T) {
	db := openSQLite(t)
	createStreamTables(t, db)
	compared, selected := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rows := fillTables(t, db)
		for range 6 {
			d := ruleDrawer{t: t, exact: rapid.Bool().Draw(t, "exact")}
			draw := d.stream
			if rapid.IntRange(0, 2).Draw(t, "dialect") == 0 {
				d.exact = false
				draw = d.bucketDefinition
			}
			file, query := draw()
			src, err := json.MarshalIndent(file, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			rules, diags := Compile("f", src)
			if rules == nil {
				if strings.Contains(diags.Error(), "alternatives") {
					continue
				}
				t.Fatalf("%s\n%s", src, diags.Error())
			}
			checkExplanations(t, rules, rows)
			for _, user := range []string{"u1", "u2", "nobody"} {
				org := rapid.SampledFrom([]string{"o1", "o2"}).Draw(t, "org")
				ids := rapid.SampledFrom([]string{`["d1","u1"]`, `[]`, `["d0","d2","u2",null]`}).Draw(t, "ids")
				got := streamRows(t, rules, rows, fmt.Sprintf(`{"sub":%q,"org":%q,"ids":%s}`, user, org, ids))
				bound := strings.NewReplacer("{u}", "'"+user+"'", "{o}", "'"+org+"'", "{ids}", "'"+ids+"'").Replace(query)
				want := selectIDs(t, db, bound, user, org, ids)
				if strings.Join(got, " ") != strings.Join(want, " ") {
					t.Fatalf("%s\nhas %v for %s\n%s\nselects %v", src, got, user, bound, want)
				}
				compared++
				selected += len(want)
			}
		}
	})
	if selected < compared/10 {
		t.Errorf("only %d rows selected in %d comparisons", selected, compared)
	}
}

// fillTables draws the rows of all tables and writes them to the database too.
func fillTables(t *rapid.T, db *sql.DB) map[string][][]millrace.Value {
	rows := map[string][][]millrace.Value{}
	for _, table := range streamTables {
		if _, err := db.Exec("DELETE FROM " + table.Name); err != nil {
			t.Fatal(err)
		}
		for n := range rapid.IntRange(0, 9).Draw(t, table.Name) {
			row := []millrace.Value{millrace.Text(fmt.Sprintf("%c%d", table.Name[0], n))}
			args := []any{row[0].Str()}
			for _, c := range table.Columns[1:] {
				v := drawCell(t, c)
				row = append(row, v)
				args = append(args, driverValue(v))
			}
			rows[table.Name] = append(rows[table.Name], row)
			if _, err := db.Exec("INSERT INTO "+table.Name+" VALUES (?, ?, ?, ?)", args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return rows
}

// checkExplanations: a row is explained to be in a definition if and only if
// evaluation puts it there, which is if and only if some alternative matches,
// and one that does not match names what was false.
func checkExplanations(t *rapid.T, rules *Rules, rows map[string][][]millrace.Value) {
	for _, table := range streamTables {
		for _, row := range rows[table.Name] {
			in := map[int]bool{}
			if plan := rules.Bind(table); plan != nil {
				var out Output
				plan.Evaluator().Eval(row, &out)
				for _, r := range out.Rows {
					in[r.Definition] = true
				}
				for _, l := range out.Lookups {
					in[l.Definition] = true
				}
			}
			explained := map[int]bool{}
			for _, x := range rules.ExplainRow(table, row) {
				matches := false
				for _, br := range x.Branches {
					matches = matches || br.Matches
					reason := false
					for _, c := range br.Conditions {
						reason = reason || !c.Holds
					}
					for _, k := range br.Keys {
						reason = reason || k.Value.Kind() == millrace.KindText && strings.HasPrefix(k.Value.Str(), "[")
					}
					if !br.Matches && !reason {
						t.Fatalf("row %v of %s: no reason in %+v", row, table.Name, br)
					}
				}
				if x.In() != matches {
					t.Fatalf("row %v of %s: in %v, matches %v: %+v", row, table.Name, x.Names, matches, x)
				}
				explained[x.Definition] = explained[x.Definition] || x.In()
			}
			for def := range rules.Definitions() {
				if in[def] != explained[def] {
					t.Fatalf("row %v of %s: definition %d in %v, explained %v", row, table.Name, def, in[def], explained[def])
				}
			}
		}
	}
}
