package e2e

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// reader is somebody who syncs: what the rules see of them, and the same as
// literals of SQL.
type reader struct {
	sub    string
	claims map[string]any
	region string // connection parameter
	sql    *strings.Replacer
}

// newReader makes a user. The placeholders stand in the oracle's SQL where the
// rules ask the request.
func newReader(sub, org string, orgs []string, level int, admin bool, region string) reader {
	list := make([]string, len(orgs))
	for i, o := range orgs {
		list[i] = literal(o)
	}
	claims := map[string]any{"orgs": orgs, "level": level, "admin": admin}
	orgSQL := "NULL::text"
	if org != "" {
		claims["org"], orgSQL = org, literal(org)
	}
	return reader{sub: sub, claims: claims, region: region, sql: strings.NewReplacer(
		":sub", literal(sub), ":orgs", "ARRAY["+strings.Join(list, ", ")+"]::text[]", ":org", orgSQL,
		":level", strconv.Itoa(level), ":admin", strconv.FormatBool(admin), ":region", literal(region))}
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// ruleCase is one generated definition and what it should give, asked of the
// source in plain SQL: rows (id, JSON object) for one reader.
type ruleCase struct {
	name  string // of the definition and of its output table
	rules string // the definition, as YAML below its section
	sql   string // with the reader's placeholders
	// more is the SQL of a second output table, called name_more; empty if
	// there is none.
	more string
	// subscribed: clients ask for the stream, with each of subscriptions.
	subscribed bool
}

// subscriptions are what every client subscribes with, and the placeholders
// that stand for their values in the oracle's SQL.
var subscriptions = []struct {
	parameters string
	sql        *strings.Replacer
}{
	{`{"kind":"a","orgs":["o1","o2"]}`, strings.NewReplacer(":skind", "'a'", ":sorgs", "ARRAY['o1', 'o2']")},
	{`{"kind":"b","orgs":[]}`, strings.NewReplacer(":skind", "'b'", ":sorgs", "ARRAY[]::text[]")},
}

// ofSubscriptions is the condition that any of the subscriptions holds.
func ofSubscriptions(sql string) string {
	var list []string
	for _, s := range subscriptions {
		list = append(list, "("+s.sql.Replace(sql)+")")
	}
	return "(" + strings.Join(list, " OR ") + ")"
}

// ruleGenerator makes rules with the SQL that means the same. It knows the dialects
// from their documentation alone and shares nothing with the compiler.
type ruleGenerator struct {
	r       *rand.Rand
	streams bool // else bucket definitions
}

// both is a piece of rules and the SQL that means the same.
type both struct{ rules, sql string }

func pick[T any](g *ruleGenerator, list ...T) T { return list[g.r.IntN(len(list))] }

func (g *ruleGenerator) chance(percent int) bool { return g.r.IntN(100) < percent }

// rowFilter is a condition on a row of docs, true or not (null counts as not).
func (g *ruleGenerator) rowFilter(depth int) both {
	if depth > 0 && g.chance(40) {
		a, b := g.rowFilter(depth-1), g.rowFilter(depth-1)
		switch g.r.IntN(3) {
		case 0:
			return both{"(" + a.rules + " AND " + b.rules + ")", "((" + a.sql + ") IS TRUE AND (" + b.sql + ") IS TRUE)"}
		case 1:
			return both{"(" + a.rules + " OR " + b.rules + ")", "((" + a.sql + ") IS TRUE OR (" + b.sql + ") IS TRUE)"}
		}
		return both{"NOT (" + a.rules + ")", "(" + a.sql + ") IS NOT TRUE"}
	}
	kind := literal(pick(g, "a", "b", "c"))
	n := g.r.IntN(10)
	differs := "kind <> " + kind
	if g.streams {
		differs = "kind IS DISTINCT FROM " + kind // null differs there
	}
	same := func(s string) both { return both{s, s} }
	list := []both{
		same("kind = " + kind),
		{"kind != " + kind, differs},
		same(fmt.Sprintf("n > %d", n)),
		same(fmt.Sprintf("n <= %d", n)),
		same(fmt.Sprintf("n + 1 = %d", n)),
		same(fmt.Sprintf("%d < n", n)),
		same("n % 3 = 0"),
		same("n IS NULL"),
		same("body IS NOT NULL"),
		{"shared", "shared"},
		{"shared = TRUE", "shared"},
		same("score >= 0.5"),
		{"length(body) > 3", "char_length(body) > 3"},
		{"upper(kind) = 'A'", "upper(kind) = 'A'"},
		{"substring(body, 2, 2) = 'lo'", "substr(body, 2, 2) = 'lo'"},
		{"instr(body, 'l') > 1", "strpos(body, 'l') > 1"},
		{"meta ->> 'k' = 'x'", "meta ->> 'k' = 'x'"},
		{"meta ->> 'z' IS NULL", "meta ->> 'z' IS NULL"},
		{"json_array_length(readers) > 1", "jsonb_array_length(readers) > 1"},
		{"ifnull(kind, 'b') = 'b'", "coalesce(kind, 'b') = 'b'"},
		{"CAST(n AS text) = '4'", "n::text = '4'"},
		{"kind || '-' || body = 'a-hello'", "kind || '-' || body = 'a-hello'"},
		same(fmt.Sprintf("kind IN (%s, 'z')", kind)),
		same(fmt.Sprintf("n BETWEEN %d AND %d", n-3, n)),
		same("CASE WHEN n > 5 THEN 'hi' ELSE 'lo' END = 'hi'"),
	}
	return pick(g, list...)
}

// match is a condition that ties a row of docs, called t, to the request.
func (g *ruleGenerator) match(cte bool) both {
	active := pick(g, both{"", ""}, both{" AND m.active", " AND m.active"}, both{" AND m.role = 'editor'", " AND m.role = 'editor'"},
		both{" AND m.role != 'viewer'", " AND m.role IS DISTINCT FROM 'viewer'"})
	mine := "SELECT m.org_id FROM memberships AS m WHERE m.user_id = "
	list := []both{
		{"t.owner = auth.user_id()", "t.owner = :sub"},
		{"auth.parameter('org') = t.org_id", "t.org_id = :org"},
		{"t.org_id IN auth.parameter('orgs')", "t.org_id = ANY(:orgs)"},
		{"auth.user_id() IN t.readers", "t.readers ? :sub"},
		{"t.readers && auth.parameter('orgs')", "t.readers ?| :orgs"},
		{"t.n = auth.parameter('level')", "t.n = :level"},
		{"t.kind = connection.parameter('region')", "t.kind = :region"},
		{"t.org_id IN (" + mine + "auth.user_id()" + active.rules + ")", "t.org_id IN (" + mine + ":sub" + active.sql + ")"},
		{"t.id IN (SELECT c.doc_id FROM comments AS c WHERE c.author = auth.user_id())", "t.id IN (SELECT c.doc_id FROM comments AS c WHERE c.author = :sub)"},
		{"t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.kind = 'club' AND o.id IN (" + mine + "auth.user_id()" + active.rules + "))",
			"t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.kind = 'club' AND o.id IN (" + mine + ":sub" + active.sql + "))"},
		{"t.owner IN (SELECT p.id FROM people AS p JOIN memberships AS m ON m.org_id = p.org WHERE m.user_id = auth.user_id()" + active.rules + ")",
			"t.owner IN (SELECT p.id FROM people AS p JOIN memberships AS m ON m.org_id = p.org WHERE m.user_id = :sub" + active.sql + ")"},
	}
	list = append(list,
		both{"t.org_id IN (SELECT x.value FROM json_each(auth.parameter('orgs')) AS x)", "t.org_id = ANY(:orgs)"},
		both{"auth.user_id() IN (SELECT x.value FROM json_each(t.readers) AS x)", "t.readers ? :sub"})
	if cte {
		list = append(list, both{"t.org_id IN mine", "t.org_id IN (" + mine + ":sub AND m.active)"})
	}
	return pick(g, list...)
}

// requestFilter is a condition on the request, or on it and other tables.
func (g *ruleGenerator) requestFilter() both {
	return pick(g,
		both{"auth.parameter('admin')", ":admin"},
		both{"auth.parameter('level') > 2", ":level > 2"},
		both{"auth.user_id() IN (SELECT m.user_id FROM memberships AS m WHERE m.role = 'editor')", ":sub IN (SELECT m.user_id FROM memberships AS m WHERE m.role = 'editor')"},
		both{"'club' IN (SELECT o.kind FROM orgs AS o WHERE o.id = auth.parameter('org'))", "'club' IN (SELECT o.kind FROM orgs AS o WHERE o.id = :org)"},
	)
}

// condition is the WHERE of a stream.
func (g *ruleGenerator) condition(depth int, cte bool) both {
	if depth == 0 {
		m := g.match(cte)
		if g.chance(50) {
			f := g.rowFilter(1)
			m = both{m.rules + " AND " + qualified(f.rules), m.sql + " AND (" + qualified(f.sql) + ") IS TRUE"}
		}
		if g.chance(20) {
			f := g.requestFilter()
			m = both{m.rules + " AND " + f.rules, m.sql + " AND " + f.sql}
		}
		return both{"(" + m.rules + ")", "(" + m.sql + ")"}
	}
	a, b := g.condition(depth-1, cte), g.condition(depth-1, cte)
	word := pick(g, " OR ", " OR ", " AND ")
	return both{"(" + a.rules + word + b.rules + ")", "(" + a.sql + word + b.sql + ")"}
}

var docColumns = []string{"body", "kind", "meta", "n", "readers", "score", "shared"}

// qualified puts t. before the columns of docs in a row filter.
func qualified(s string) string {
	for _, c := range docColumns {
		var b strings.Builder
		quoted := false
		for i := 0; i < len(s); i++ {
			if s[i] == '\'' {
				quoted = !quoted
			}
			word := !quoted && strings.HasPrefix(s[i:], c) && (i == 0 || !isWord(s[i-1]) && s[i-1] != '.') && (i+len(c) == len(s) || !isWord(s[i+len(c)]))
			if word {
				b.WriteString("t.")
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	return s
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// allColumns is the object that SELECT * of docs gives.
const allColumns = `jsonb_build_object('id', t.id, 'org_id', t.org_id, 'owner', t.owner, 'kind', t.kind, 'n', t.n, 'score', t.score, 'body', t.body,
	'shared', t.shared::int, 'readers', t.readers::text, 'meta', t.meta::text, 'tags', CASE WHEN t.tags IS NULL THEN NULL ELSE to_json(t.tags)::text END,
	'made', to_char(t.made AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))`

// selectList gives what is selected of docs, and the object it gives.
func (g *ruleGenerator) selectList() both {
	if g.chance(30) {
		return both{"t.*", allColumns}
	}
	items := []string{"t.id"}
	object := []string{"'id', t.id"}
	more := []both{
		{"t.body", "'body', t.body"},
		{"t.n", "'n', t.n"},
		{"t.shared", "'shared', t.shared::int"},
		{"t.made", `'made', to_char(t.made AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`},
		{"t.readers", "'readers', t.readers::text"},
		{"upper(t.kind) AS upper", "'upper', upper(t.kind)"},
		{"t.n * 2 + 1 AS computed", "'computed', t.n * 2 + 1"},
		{"t.body || '!' AS loud", "'loud', t.body || '!'"},
		{"length(t.body) AS len", "'len', char_length(t.body)"},
		{"t.meta ->> 'k' AS k", "'k', t.meta ->> 'k'"},
		{"hex(t.body) AS hex", "'hex', upper(coalesce(encode(convert_to(t.body, 'UTF8'), 'hex'), ''))"},
		{"ifnull(t.kind, 'none') AS some", "'some', coalesce(t.kind, 'none')"},
		{"CAST(t.n AS text) AS digits", "'digits', t.n::text"},
		{"typeof(t.score) AS type", "'type', CASE WHEN t.score IS NULL THEN 'null' ELSE 'real' END"},
		{"t.n > 4 AS large", "'large', (t.n > 4)::int"},
	}
	for _, m := range more {
		if g.chance(35) {
			items, object = append(items, m.rules), append(object, m.sql)
		}
	}
	return both{strings.Join(items, ", "), "jsonb_build_object(" + strings.Join(object, ", ") + ")"}
}

// unqualified is for bucket definitions, whose columns go without a table.
func unqualified(s string) string { return strings.ReplaceAll(s, "t.", "") }

// make makes one case.
func (g *ruleGenerator) make(name string) ruleCase {
	if g.streams {
		return g.stream(name)
	}
	return g.bucketDefinition(name)
}

func (g *ruleGenerator) stream(name string) ruleCase {
	if g.chance(8) {
		return g.shards(name, "  "+name+":\n    auto_subscribe: true\n    query: %q\n", "owner = auth.user_id()")
	}
	cte, subscribed := g.chance(30), g.chance(25)
	list, where := g.selectList(), g.condition(pick(g, 0, 0, 1, 1, 2), cte)
	if subscribed {
		s := pick(g, both{"t.kind = subscription.parameter('kind')", "t.kind = :skind"},
			both{"t.org_id IN subscription.parameter('orgs')", "t.org_id = ANY(:sorgs)"},
			both{"t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.id IN subscription.parameter('orgs') AND o.kind = 'club')",
				"t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.id = ANY(:sorgs) AND o.kind = 'club')"})
		where = both{s.rules + " AND " + where.rules, s.sql + " AND " + where.sql}
		if g.chance(40) {
			where = s
		}
	}
	from := "docs AS " + strconv.Quote(name) // the name of the output table
	if g.chance(15) {                        // a join in place of a subquery
		from += ", memberships AS j"
		where = both{"j.org_id = t.org_id AND j.user_id = auth.user_id() AND " + where.rules,
			"EXISTS (SELECT FROM memberships AS j WHERE j.org_id = t.org_id AND j.user_id = :sub) AND " + where.sql}
	}
	query := "SELECT " + strings.ReplaceAll(list.rules, "t.", name+".") + " FROM " + from + " WHERE " + strings.ReplaceAll(where.rules, "t.", name+".")
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    auto_subscribe: %v\n    accept_potentially_dangerous_queries: true\n", name, !subscribed)
	if strings.Contains(query, " IN mine") {
		b.WriteString("    with:\n      mine: SELECT m.org_id FROM memberships AS m WHERE m.user_id = auth.user_id() AND m.active\n")
	}
	c := ruleCase{name: name, subscribed: subscribed, sql: "SELECT t.id::text, " + list.sql + " FROM docs AS t WHERE " + where.sql}
	fmt.Fprintf(&b, "    priority: %d\n", g.r.IntN(4))
	if g.chance(25) { // another table in the same stream, perhaps in the same buckets
		more := pick(g, both{"author = auth.user_id()", "t.author = :sub"},
			both{"doc_id IN (SELECT d.id FROM docs AS d WHERE d.owner = auth.user_id())", "t.doc_id IN (SELECT d.id FROM docs AS d WHERE d.owner = :sub)"})
		fmt.Fprintf(&b, "    queries:\n      - %q\n      - %q\n", query, "SELECT * FROM comments AS "+strconv.Quote(name+"_more")+" WHERE "+more.rules)
		c.more = "SELECT t.id::text, jsonb_build_object('id', t.id, 'doc_id', t.doc_id, 'author', t.author) FROM comments AS t WHERE " + more.sql
	} else {
		fmt.Fprintf(&b, "    query: %q\n", query)
	}
	if subscribed {
		c.sql = "SELECT t.id::text, " + list.sql + " FROM docs AS t WHERE " + ofSubscriptions(where.sql)
	}
	c.rules = b.String()
	return c
}

// shards reads all tables whose names begin alike into one.
func (g *ruleGenerator) shards(name, definition, owner string) ruleCase {
	f := pick(g, both{"", ""}, both{" AND n > 4", " AND t.n > 4"}, both{" AND kind IS NULL", " AND t.kind IS NULL"})
	query := "SELECT id, kind, n FROM \"shard_%\" AS " + strconv.Quote(name) + " WHERE " + owner + f.rules
	return ruleCase{name: name, rules: fmt.Sprintf(definition, query), sql: "SELECT t.id, jsonb_build_object('id', t.id, 'kind', t.kind, 'n', t.n)" +
		" FROM (SELECT * FROM shard_a UNION ALL SELECT * FROM shard_b) AS t WHERE t.owner = :sub" + f.sql}
}

// bucketDefinition makes a definition of one of several shapes.
func (g *ruleGenerator) bucketDefinition(name string) ruleCase {
	if g.chance(8) {
		return g.shards(name, "  "+name+":\n    parameters: SELECT request.user_id() AS u\n    data: [%q]\n", "owner = bucket.u")
	}
	active := pick(g, both{"", ""}, both{" AND active", " AND m.active"}, both{" AND role = 'editor'", " AND m.role = 'editor'"},
		both{" AND role != 'viewer'", " AND m.role <> 'viewer'"}, both{" AND request.jwt() ->> 'admin'", " AND :admin"})
	shape := pick(g, []struct{ parameters, data, sql string }{
		{"SELECT request.user_id() AS u", "owner = bucket.u", "t.owner = :sub"},
		{"SELECT request.user_id() AS u", "bucket.u IN readers", "t.readers ? :sub"},
		{"SELECT request.user_id() AS u", "(owner = bucket.u OR bucket.u IN readers)", "(t.owner = :sub OR t.readers ? :sub)"},
		{"SELECT request.jwt() ->> 'org' AS o WHERE request.jwt() ->> 'level' > 1", "org_id = bucket.o", "t.org_id = :org AND :level > 1"},
		{"SELECT value AS o FROM json_each(request.jwt() ->> 'orgs')", "org_id = bucket.o", "t.org_id = ANY(:orgs)"},
		{"SELECT request.parameters() ->> 'region' AS r, request.user_id() AS u", "kind = bucket.r AND owner = bucket.u", "t.kind = :region AND t.owner = :sub"},
		{"SELECT org_id AS o FROM memberships WHERE user_id = request.user_id()" + active.rules, "org_id = bucket.o",
			"t.org_id IN (SELECT m.org_id FROM memberships AS m WHERE m.user_id = :sub" + active.sql + ")"},
		{"SELECT org_id AS o, user_id AS u FROM memberships WHERE request.user_id() = user_id" + active.rules, "org_id = bucket.o AND owner = bucket.u",
			"EXISTS (SELECT FROM memberships AS m WHERE m.org_id = t.org_id AND m.user_id = t.owner AND m.user_id = :sub" + active.sql + ")"},
		{"SELECT id AS o FROM orgs WHERE id IN request.jwt() ->> 'orgs' AND kind = 'club'", "org_id = bucket.o",
			"t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.id = ANY(:orgs) AND o.kind = 'club')"},
		{"SELECT org_id AS o FROM memberships WHERE user_id = request.user_id()" + active.rules + "; SELECT request.jwt() ->> 'org' AS o", "org_id = bucket.o",
			"(t.org_id IN (SELECT m.org_id FROM memberships AS m WHERE m.user_id = :sub" + active.sql + ") OR t.org_id = :org)"},
		{"SELECT id AS o FROM orgs WHERE request.user_id() IN admins", "org_id = bucket.o", "t.org_id IN (SELECT o.id FROM orgs AS o WHERE o.admins ? :sub)"},
	}...)
	list, where := g.selectList(), both{shape.data, shape.sql}
	if g.chance(70) {
		f := g.rowFilter(2)
		where = both{where.rules + " AND " + f.rules, where.sql + " AND (" + qualified(f.sql) + ") IS TRUE"}
	}
	items := unqualified(list.rules)
	query := "SELECT " + items + " FROM docs AS " + name + " WHERE " + where.rules
	parameters := strconv.Quote(shape.parameters)
	if strings.Contains(shape.parameters, "; ") { // several queries
		parameters = "[" + strings.ReplaceAll(parameters, "; ", `", "`) + "]"
	}
	rules := fmt.Sprintf("  %s:\n    priority: %d\n    accept_potentially_dangerous_queries: true\n    parameters: %s\n    data:\n      - %q\n",
		name, g.r.IntN(4), parameters, query)
	return ruleCase{name: name, rules: rules, sql: "SELECT t.id::text, " + list.sql + " FROM docs AS t WHERE " + where.sql}
}

// rulesFile puts cases into one file, with a stream of marks for everybody.
func (g *ruleGenerator) rulesFile(cases []ruleCase) string {
	var b strings.Builder
	if g.streams {
		b.WriteString("config:\n  edition: 3\nstreams:\n  marks:\n    auto_subscribe: true\n    accept_potentially_dangerous_queries: true\n    query: SELECT * FROM marks\n")
	} else {
		b.WriteString("config:\n  edition: 2\nbucket_definitions:\n  marks:\n    accept_potentially_dangerous_queries: true\n    data: [SELECT * FROM marks]\n")
	}
	for _, c := range cases {
		b.WriteString(c.rules)
	}
	return b.String()
}

// generatedSchema are the tables that generated rules read.
const generatedSchema = `
CREATE TABLE marks (id text PRIMARY KEY, n int);
CREATE TABLE people (id text PRIMARY KEY, org text);
CREATE TABLE orgs (id text PRIMARY KEY, kind text, admins jsonb);
CREATE TABLE memberships (id int PRIMARY KEY, user_id text, org_id text, role text, active boolean);
CREATE TABLE docs (id int PRIMARY KEY, org_id text, owner text, kind text, n int, score float8, body text, shared boolean,
	readers jsonb, meta jsonb, tags text[], made timestamptz);
CREATE TABLE comments (id int PRIMARY KEY, doc_id int, author text);
CREATE TABLE shard_a (id text PRIMARY KEY, owner text, kind text, n int); CREATE TABLE shard_b (LIKE shard_a INCLUDING ALL);`

func (g *ruleGenerator) user() string { return fmt.Sprintf("u%d", 1+g.r.IntN(5)) }
func (g *ruleGenerator) org() string  { return fmt.Sprintf("o%d", 1+g.r.IntN(5)) }

// orNull is a literal, now and then null.
func (g *ruleGenerator) orNull(s string) string {
	if g.chance(12) {
		return "NULL"
	}
	return s
}

// columns of a new version of a row, as SQL assignments or values.
func (g *ruleGenerator) doc() map[string]string {
	readers := pick(g, `[]`, `["u1"]`, `["u2", "u3"]`, `["u1", "u4", "o1"]`, `["o2", "u5"]`)
	return map[string]string{
		"org_id": g.orNull(literal(g.org())), "owner": g.orNull(literal(g.user())), "kind": g.orNull(literal(pick(g, "a", "b", "c"))),
		"n": g.orNull(strconv.Itoa(g.r.IntN(12) - 1)), "score": g.orNull(pick(g, "0", "0.5", "1.25", "-3")),
		"body": g.orNull(literal(pick(g, "hello", "", "lolo", "it's \"q\"", "héllo €", "x\ny\t\\"))), "shared": g.orNull(pick(g, "true", "false")),
		"readers": g.orNull(literal(readers)), "meta": g.orNull(literal(pick(g, `{"k": "x"}`, `{"k": "y", "z": 1}`, `{}`, `{"k": null}`))),
		"tags": g.orNull(pick(g, "'{}'", "'{a,b}'", `'{"q\"",NULL}'`)), "made": g.orNull(literal(pick(g, "2024-02-29 12:00:00.5+02", "1999-12-31 23:59:59+00"))),
	}
}

func (g *ruleGenerator) insertDoc(id int) string {
	columns, values := []string{"id"}, []string{strconv.Itoa(id)}
	d := g.doc()
	for _, c := range []string{"org_id", "owner", "kind", "n", "score", "body", "shared", "readers", "meta", "tags", "made"} {
		columns, values = append(columns, c), append(values, d[c])
	}
	return "INSERT INTO docs (" + strings.Join(columns, ", ") + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT DO NOTHING;\n"
}

func (g *ruleGenerator) insertMembership(id int) string {
	return fmt.Sprintf("INSERT INTO memberships VALUES (%d, %s, %s, %s, %s) ON CONFLICT DO NOTHING;\n", id, g.orNull(literal(g.user())), g.orNull(literal(g.org())),
		g.orNull(literal(pick(g, "editor", "viewer"))), g.orNull(pick(g, "true", "false")))
}

// fill gives SQL that fills the tables.
func (g *ruleGenerator) fill() string {
	var b strings.Builder
	for i := 1; i <= 5; i++ {
		fmt.Fprintf(&b, "INSERT INTO people VALUES ('u%d', %s);\n", i, g.orNull(literal(g.org())))
		fmt.Fprintf(&b, "INSERT INTO orgs VALUES ('o%d', %s, %s);\n", i, g.orNull(literal(pick(g, "club", "firm"))), g.orNull("'"+pick(g, `[]`, `["u1"]`, `["u1", "u2"]`, `["u3"]`)+"'"))
	}
	for i := range 20 {
		shard := pick(g, "a", "b")
		fmt.Fprintf(&b, "INSERT INTO shard_%s VALUES ('%s%d', %s, %s, %d);\n", shard, shard, i, g.orNull(literal(g.user())), g.orNull("'a'"), g.r.IntN(9))
	}
	for i := range 14 {
		b.WriteString(g.insertMembership(i))
	}
	for i := range 60 {
		b.WriteString(g.insertDoc(i))
		fmt.Fprintf(&b, "INSERT INTO comments VALUES (%d, %d, %s);\n", i, g.r.IntN(70), g.orNull(literal(g.user())))
	}
	return b.String()
}

// change gives SQL that changes rows of every table, in one transaction.
func (g *ruleGenerator) change() string {
	var b strings.Builder
	for range 25 {
		switch g.r.IntN(13) {
		case 12:
			fmt.Fprintf(&b, "UPDATE shard_%s SET owner = %s, n = %d WHERE n = %d;\n", pick(g, "a", "b"), g.orNull(literal(g.user())), g.r.IntN(9), g.r.IntN(9))
		case 0:
			fmt.Fprintf(&b, "DELETE FROM docs WHERE id = %d;\n", g.r.IntN(80))
		case 1, 2:
			b.WriteString(g.insertDoc(g.r.IntN(80)))
		case 3:
			fmt.Fprintf(&b, "DELETE FROM memberships WHERE id = %d;\n", g.r.IntN(20))
		case 4:
			b.WriteString(g.insertMembership(g.r.IntN(20)))
		case 5:
			fmt.Fprintf(&b, "UPDATE memberships SET active = NOT active, role = %s WHERE id = %d;\n", g.orNull(literal(pick(g, "editor", "viewer"))), g.r.IntN(20))
		case 6:
			fmt.Fprintf(&b, "UPDATE orgs SET kind = %s, admins = %s WHERE id = '%s';\n", g.orNull(literal(pick(g, "club", "firm"))), g.orNull("'"+pick(g, `[]`, `["u1"]`, `["u2"]`)+"'"), g.org())
		case 7:
			fmt.Fprintf(&b, "UPDATE people SET org = %s WHERE id = '%s';\n", g.orNull(literal(g.org())), g.user())
		case 8:
			fmt.Fprintf(&b, "UPDATE comments SET author = %s, doc_id = %d WHERE id = %d;\n", g.orNull(literal(g.user())), g.r.IntN(70), g.r.IntN(60))
		case 9:
			fmt.Fprintf(&b, "UPDATE docs SET id = (SELECT max(id) + 1 FROM docs) WHERE id = %d;\n", g.r.IntN(60))
		default:
			d := g.doc()
			column := pick(g, "org_id", "owner", "kind", "n", "score", "body", "shared", "readers", "meta", "tags", "made")
			fmt.Fprintf(&b, "UPDATE docs SET %s = %s WHERE id %% 7 = %d;\n", column, d[column], g.r.IntN(7))
		}
	}
	return b.String()
}
