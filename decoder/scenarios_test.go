package decoder

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// The acceptance scenarios about copying, streaming and schema changes; see
// docs/reference/replication-scenarios.md.

// scenario starts a decoder over tables, looking at the catalog often.
func scenario(t *testing.T, rules string, statements ...string) *fixture {
	t.Helper()
	f := newFixture(t, pgtest.Shared(t), rules, statements...)
	f.config.look = 300 * time.Millisecond
	f.start()
	f.settled()
	return f
}

// rows is a query for the content of a bucket of all rows of a table with an
// integer or text id and a value v.
func rows(bucket, table string) string {
	return fmt.Sprintf(`select '%s[]', id::text, '{"id":'||to_json(id)||',"v":'||coalesce(to_json(v)::text,'null')||'}' from %s`, bucket, table)
}

func rulesFor(bucket string, queries ...string) string {
	s := "bucket_definitions:\n  " + bucket + ":\n    data:\n"
	for _, q := range queries {
		s += "      - " + q + "\n"
	}
	return s
}

// The decoder's own columns in a filter and a list: exactly these are read.
func TestRA18_ColumnListAndFilter(t *testing.T) {
	var lists bool
	probe := newFixture(t, pgtest.Shared(t), wideRules)
	if err := probe.db.QueryRow(t.Context(), "select current_setting('server_version_num')::int >= 150000").Scan(&lists); err != nil {
		t.Fatal(err)
	}
	if !lists {
		t.Skip("publications have column lists and row filters from PostgreSQL 15 on")
	}
	f := scenario(t, rulesFor("all", "SELECT * FROM t"),
		"create table t(id int primary key, v int, secret text)",
		"insert into t select g, g, 'secret' from generate_series(1, 30) g",
		"create publication millrace for table t (id, v) where (id > 10)")
	query := rows("all", "t") + " where id > 10"
	f.follows("bucket:all", query)
	f.exec("update t set v = 100, secret = 'other'; insert into t values (0, 5, 'x'), (50, 50, 'x'); delete from t where id = 20; update t set id = 12000 where id = 12")
	f.settled()
	f.follows("bucket:all", query)
	f.exec("alter publication millrace set table t (id, v) where (id > 20)")
	f.follows("bucket:all", rows("all", "t")+" where id > 20")
}

// P25: the key is in attribute order, whatever the order of the index.
func TestRA19_CompositeKeyOrder(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT a || '.' || b AS id, c AS v FROM t"),
		"create table t(b text, a text, c int, primary key (a, b))",
		"insert into t select g::text, (g%3)::text, 0 from generate_series(1, 40) g")
	query := `select 'all[]', a||'.'||b, '{"id":'||to_json(a||'.'||b)||',"v":'||c||'}' from t`
	f.follows("bucket:all", query)
	f.exec("update t set a = 'x' where b = '7'; update t set c = 3 where a = '1'; update t set b = 'y' where a = 'x'; delete from t where b = '9'")
	f.settled()
	f.follows("bucket:all", query)
}

// P24: an inheritance parent and its child, each under its own table.
func TestRA16_Inheritance(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT id, v FROM p", "SELECT id, v FROM p_child"),
		"create table p(id int primary key, v int)",
		"create table p_child(primary key (id)) inherits (p)",
		"insert into p select g, 0 from generate_series(1, 10) g",
		"insert into p_child select g, 1 from generate_series(11, 20) g")
	query := rows("all", "only p") + " union all " + rows("all", "p_child")
	f.follows("bucket:all", query)
	f.exec("update p set v = v + 5; delete from p where id in (3, 13)")
	f.settled()
	f.follows("bucket:all", query)
}

// P47: an unchanged long value under each identity, then a key change, then a
// delete.
func TestRA22_UnchangedLongValue(t *testing.T) {
	for _, identity := range []string{"default", "using index other", "full"} {
		t.Run(identity, func(t *testing.T) {
			f := scenario(t, wideRules, wideTable(identity)...)
			for _, sql := range []string{
				"update t set v = 1 where id = 4", "update t set id = 4000 where id = 4", "update t set v = 2 where id = 4000",
				"begin; update t set v = 9 where id = 6; delete from t where id = 6; commit", "delete from t where id = 4000",
			} {
				f.exec(sql)
				f.settled()
				f.contentEquals("bucket:all", wideQuery)
			}
		})
	}
}

// P45: a key change where the client's row id is the key, and where it is not.
func TestRA24_KeyChange(t *testing.T) {
	f := scenario(t, rulesFor("own", "SELECT id, v FROM t")+"  other:\n    data:\n      - SELECT name AS id, v FROM t\n",
		"create table t(id int primary key, name text, v int)",
		"insert into t select g, 'n'||g, 0 from generate_series(1, 20) g")
	other := `select 'other[]', name, '{"id":'||to_json(name)||',"v":'||v||'}' from t`
	for _, sql := range []string{
		"update t set id = id + 100 where id <= 5", "update t set v = 1 where id > 100", "update t set name = 'm'||id where id = 7",
		"begin; update t set id = -1 where id = 8; update t set id = 8 where id = 9; update t set id = 9 where id = -1; commit", "delete from t where id = 101",
	} {
		f.exec(sql)
		f.settled()
		f.contentEquals("bucket:own", rows("own", "t"))
		f.contentEquals("bucket:other", other)
	}
}

// P45: both rows of a swap in one statement survive.
func TestRA25_SwapUnderFull(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT id, v FROM t"),
		"create table t(id int, v text, constraint k primary key (id))",
		"alter table t replica identity full",
		"insert into t values (1, 'one'), (2, 'two'), (3, 'three')")
	f.exec("begin; update t set id = -id; update t set id = 4 + id; commit") // 1 and 3 swap, 2 stays
	f.settled()
	f.contentEquals("bucket:all", rows("all", "t"))
}

// TRUNCATE of one table, of several with CASCADE, and followed by an INSERT in
// its transaction: one checkpoint each.
func TestRA27_Truncate(t *testing.T) {
	f := scenario(t, rulesFor("p", "SELECT id, v FROM p")+"  c:\n    data:\n      - SELECT id, v FROM c\n",
		"create table p(id int primary key, v int)", "create table c(id int primary key, v int, p int references p)",
		"insert into p select g, 0 from generate_series(1, 50) g", "insert into c select g, 0, g from generate_series(1, 50) g")
	for _, sql := range []string{
		"truncate c", "insert into c select g, 1, g from generate_series(1, 9) g", "begin; truncate p cascade; insert into p values (1, 7); insert into c values (2, 7, 1); commit",
		"begin; truncate p, c; insert into p values (3, 3); truncate p cascade; insert into p values (4, 4); commit",
	} {
		f.exec(sql)
		f.settled()
		f.contentEquals("bucket:p", rows("p", "p"))
		f.contentEquals("bucket:c", rows("c", "c"))
	}
}

// P15: types of the user, a label added and a type renamed while streaming.
func TestRA36_UserTypes(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT id, m AS v FROM t"),
		"create type mood as enum ('sad', 'ok')", "create domain short as text check (length(value) < 9)",
		"create table t(id int primary key, m mood, ms mood[], d short, r int4range)",
		"insert into t values (1, 'sad', '{sad,ok}', 'a', '[1,3)')")
	query := `select 'all[]', id::text, '{"id":'||id||',"v":'||to_json(m)||'}' from t`
	f.follows("bucket:all", query)
	f.exec("alter type mood add value 'new'")
	f.exec("insert into t values (2, 'new', '{new}', 'b', 'empty')")
	f.exec("alter type mood rename to feeling; insert into t values (3, 'ok', '{}', 'c', null); update t set m = 'new' where id = 1")
	f.settled()
	f.follows("bucket:all", query)
}

// The stream tells rows from before ALTER … USING with their old value; the
// table's content counts.
func TestRA39_AlterTypeAfterInsert(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT id, v FROM t"),
		"create table t(id int primary key, v int)", "insert into t select g, g from generate_series(1, 20) g")
	f.exec("begin; insert into t values (100, 20); update t set v = 21 where id = 3; alter table t alter v type text using v || '!'; insert into t values (101, 'new'); commit")
	f.follows("bucket:all", rows("all", "t"))
}

// Renames within a pattern: into it, out of it, and a cycle in one transaction.
func TestRA40_Renames(t *testing.T) {
	f := scenario(t, rulesFor("all", `SELECT id, v FROM "t%"`),
		"create table t1(id int primary key, v text)", "create table t2(id int primary key, v text)", "create table x(id int primary key, v text)",
		"insert into t1 select g, 'one' from generate_series(1, 10) g", "insert into t2 select g, 'two' from generate_series(11, 20) g",
		"insert into x select g, 'x' from generate_series(21, 30) g", "create publication millrace for all tables")
	for _, c := range []struct{ sql, tables string }{
		{"alter table x rename to t3; insert into t3 values (31, 'in')", "t1 t2 t3"},
		{"alter table t1 rename to y", "t2 t3"},
		{"begin; alter table t2 rename to tmp; alter table t3 rename to t2; alter table tmp rename to t3; commit; insert into t2 values (40, 'after')", "t2 t3"},
		{"alter table y rename to t9", "t2 t3 t9"},
	} {
		f.exec(c.sql)
		var parts []string
		for _, table := range strings.Fields(c.tables) {
			parts = append(parts, rows("all", table))
		}
		f.follows("bucket:all", strings.Join(parts, " union all "))
	}
}

// P69: the same table in many schemas, one of which comes and one goes.
func TestRA41_Tenants(t *testing.T) {
	const tenants = 30
	var statements []string
	for i := range tenants {
		statements = append(statements, fmt.Sprintf("create schema s%d; create table s%[1]d.t(id int primary key, v int); insert into s%[1]d.t values (%[1]d, %[1]d)", i))
	}
	rules := "config:\n  edition: 3\nstreams:\n  all:\n    auto_subscribe: true\n    query: SELECT id, v FROM \"s%\".t\n"
	f := scenario(t, rules, append(statements, "create publication millrace for all tables")...)
	query := func(tenants ...int) string {
		var parts []string
		for _, i := range tenants {
			parts = append(parts, rows("all|0", fmt.Sprintf("s%d.t", i)))
		}
		return strings.Join(parts, " union all ")
	}
	all := make([]int, tenants)
	for i := range all {
		all[i] = i
	}
	f.follows("bucket:all", query(all...))
	f.exec("create schema s100; create table s100.t(id int primary key, v int); insert into s100.t values (100, 1); drop schema s3 cascade")
	f.follows("bucket:all", query(append(append(all[:3:3], all[4:]...), 100)...))
}

// P78: a row moves between partitions; the parent, then one leaf is truncated;
// a partition with rows is attached, another detached.
func TestRA42_Partitions(t *testing.T) {
	f := scenario(t, rulesFor("all", "SELECT id, v FROM e"),
		"create table e(id int, v int, part int, primary key (id, part)) partition by list (part)",
		"create table e1 partition of e for values in (1)", "create table e2 partition of e for values in (2)",
		"insert into e select g, 0, 1+g%2 from generate_series(1, 40) g", "create publication millrace for all tables")
	for _, sql := range []string{
		"update e set part = 3 - part, v = 1 where id < 10", "truncate e2", "insert into e select g, 5, 2 from generate_series(100, 110) g",
		"create table e3(id int not null, v int, part int not null, primary key (id, part)); insert into e3 select g, 3, 3 from generate_series(200, 220) g; alter table e attach partition e3 for values in (3)",
		"update e set v = 9 where part = 3", "alter table e detach partition e1", "truncate e", "insert into e values (1, 1, 2)",
	} {
		f.exec(sql)
		f.follows("bucket:all", rows("all", "e"))
	}
	f.exec("alter publication millrace set (publish_via_partition_root = true)")
	f.reports("MR1012")
}
