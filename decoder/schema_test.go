package decoder

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// reports waits until the source's report shows a code.
func (f *fixture) reports(code string) {
	f.t.Helper()
	pgtest.Eventually(f.t, patience, func() error {
		if err := f.term.failed(); err != nil {
			f.t.Fatalf("the term ended: %v", err)
		}
		r := f.sidecar.ReportOf(1)
		if r.ErrorCode != code {
			return fmt.Errorf("the report shows %s %q, want %s", r.ErrorCode, r.Error, code)
		}
		if strings.Contains(r.Error, f.uri) || !strings.Contains(r.Error, "main") {
			f.t.Fatalf("error %q", r.Error)
		}
		return nil
	})
}

// follows waits until a definition's content is what a query on the source
// gives, and nothing is copied any more.
func (f *fixture) follows(key, query string) {
	f.t.Helper()
	pgtest.Eventually(f.t, 2*patience, func() error {
		if err := f.term.failed(); err != nil {
			f.t.Fatalf("the term ended: %v", err)
		}
		for _, c := range f.sidecar.Copies() {
			if c.State != millrace.CopyDone {
				return fmt.Errorf("copy %+v; report %+v", c, f.sidecar.ReportOf(1))
			}
		}
		if err := f.compare(key, query); err != nil {
			return fmt.Errorf("%w; report %+v", err, f.sidecar.ReportOf(1))
		}
		return nil
	})
}

// Changes of a table after which its rows are read again: each at once with a
// following row, which tells of it in the stream, and with none, when only the
// catalog does.
func TestRA38_TableIsCopiedAgain(t *testing.T) {
	for _, c := range []struct{ name, sql, query string }{
		{"identity full", "alter table t replica identity full", ""},
		{"identity index", "alter table t replica identity using index other", ""},
		{"key of two columns", "alter table t add k int default 0; alter table t drop constraint t_pkey, add primary key (id, k)", ""},
		{"key column's type", "alter table t alter id type bigint", ""},
		{"column's type", "alter table t alter v type text using v||'!'", strings.Replace(wideQuery, "coalesce(v::text,'null')", "coalesce(to_json(v)::text,'null')", 1)},
		{"in one transaction", "begin; insert into t values (899, 1, 'x'); alter table t alter v type text using v||'!'; insert into t values (898, 1, 'x'); commit", strings.Replace(wideQuery, "coalesce(v::text,'null')", "coalesce(to_json(v)::text,'null')", 1)},
		{"made again", "drop table t; create table t(id int primary key, v int, big text); insert into t select g, 2, repeat(md5(g::text), 100) from generate_series(50, 70) g", ""},
		{"swapped", "create table n(id int primary key, v int, big text); insert into n select g, 3, repeat('n', 3000) from generate_series(40, 120) g; begin; alter table t rename to o; alter table n rename to t; commit", ""},
		{"column dropped and added", "alter table t drop v; alter table t add v int default 5", ""},
		{"volatile default", "alter table t drop v; alter table t add v int default (random()*10)::int", ""},
	} {
		for _, row := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/row=%t", c.name, row), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, pgtest.Shared(t), wideRules, append(wideTable("default"), "create publication millrace for all tables")...)
				f.config.look = 300 * time.Millisecond
				f.start()
				f.settled()
				f.exec(c.sql)
				if row {
					f.exec("insert into t(id, big) values (900, repeat('r', 4000))")
				}
				query := c.query
				if query == "" {
					query = wideQuery
				}
				f.follows("bucket:all", query)
				f.exec("update t set big = 'b' where id = 52; delete from t where id = 53")
				f.settled()
				f.follows("bucket:all", query)
				_ = f.term.stop()
				f.start()
				f.exec("delete from t where id = 54")
				f.settled()
				f.follows("bucket:all", query)
				if n := len(f.sidecar.SchemaChanges()); n == 0 {
					t.Fatal("no schema change was noted")
				}
			})
		}
	}
}

// The table is changed while the decoder is down.
func TestRA38_TableMadeAgain(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.start()
	f.settled()
	_ = f.term.stop()
	f.exec("update t set v = 77; drop table t; create table t(id int primary key, v int, big text); insert into t values (1, 1, 'again')")
	f.start()
	f.follows("bucket:all", wideQuery)
}

// A dropped table, and one that the rules do not read by its new name.
func TestRA38_TableIsDropped(t *testing.T) {
	for _, sql := range []string{"drop table t", "alter table t rename to u", "create schema s; alter table t set schema s"} {
		for _, policy := range []string{"remove", "keep"} {
			t.Run(sql+"/"+policy, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
				f.config.look = 300 * time.Millisecond
				f.config.OnDrop = policy
				f.start()
				f.settled()
				f.exec(sql)
				want := 0
				if policy == "keep" {
					want = 100
				}
				pgtest.Eventually(t, patience, func() error {
					if n := len(f.sidecar.SchemaChanges()); n == 0 {
						return fmt.Errorf("no schema change was noted")
					}
					if n := len(f.sidecar.Content(f.definition("bucket:all"))); n != want {
						return fmt.Errorf("%d rows, want %d", n, want)
					}
					return nil
				})
				// It comes back.
				f.exec("create table if not exists t(id int primary key, v int, big text); insert into t values (7, 7, 'seven')")
				f.follows("bucket:all", wideQuery)
			})
		}
	}
}

// Columns that come, go and change their name are taken as they are.
func TestRA38_ColumnsChange(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), strings.Replace(wideRules, "id, v, big", "*", 1), wideTable("default")...)
	f.start()
	f.settled()
	f.exec("alter table t add extra text default 'e'; update t set v = 1")
	f.settled()
	query := `select 'all[]', id::text, '{"id":'||id||',"v":'||v||',"big":'||coalesce(to_json(big)::text,'null')||',"extra":"e"}' from t`
	f.follows("bucket:all", query)
	f.exec("alter table t drop extra; alter table t rename v to w; update t set w = 2")
	f.settled()
	query = `select 'all[]', id::text, '{"id":'||id||',"w":'||w||',"big":'||coalesce(to_json(big)::text,'null')||'}' from t`
	f.follows("bucket:all", query)
	_ = f.term.stop()
	f.start()
	f.exec("update t set w = 3")
	f.settled()
	f.follows("bucket:all", query)
}

// P39: a relation told again with the same content changes nothing.
func TestRelationToldAgain(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.start()
	f.settled()
	f.exec("create index on t(v)")
	f.exec("vacuum full t")
	f.exec("alter table t alter v set default 3; update t set v = 4")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// A table that the rules name and that is made while the stream runs.
func TestRA38_TableAppears(t *testing.T) {
	rules := wideRules + "  more:\n    data:\n      - SELECT id, v FROM later\n"
	f := newFixture(t, pgtest.Shared(t), rules, append(wideTable("default"), "create publication millrace for all tables")...)
	f.start()
	f.settled()
	f.exec("create table unrelated(id int primary key); insert into unrelated values (1)")
	f.exec("create table later(id int primary key, v int); insert into later select g, 0 from generate_series(1,50) g")
	f.exec("update later set v = 1 where id = 7; update t set v = 3 where id = 7")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	query := `select 'more[]', id::text, '{"id":'||id||',"v":'||v||'}' from later`
	pgtest.Eventually(t, patience, func() error { return f.compare("bucket:more", query) })
	f.exec("delete from later where id < 10")
	f.settled()
	f.contentEquals("bucket:more", query)
}

// A table that goes while it is copied for the first time counts as empty.
func TestRA15_TableGoesWhileCopied(t *testing.T) {
	rules := wideRules + "  more:\n    data:\n      - SELECT id, v FROM later\n"
	f := newFixture(t, pgtest.Shared(t), rules, append(wideTable("default"),
		"create table later(id int primary key, v int)", "insert into later values (1, 1)")...)
	blocked := &trace{fixture: f, gates: map[string]chan struct{}{}, passed: map[string]chan struct{}{}}
	f.config.SnapshotWorkers = 1
	f.config.wrap = func(r chunkReader) chunkReader { return &gate{r, blocked.pass} }
	arrived, open := blocked.block("before", 0)
	f.start()
	arrived()
	f.exec("drop table later")
	open()
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if c := f.sidecar.Content(f.definition("bucket:more")); len(c) != 0 {
		t.Fatalf("%d rows of the dropped table", len(c))
	}
}

// Tables that cannot be synced are shown; the others go on.
func TestUnusableTables(t *testing.T) {
	rules := wideRules + "  more:\n    data:\n      - SELECT id, v FROM unlogged\n"
	f := newFixture(t, pgtest.Shared(t), rules, append(wideTable("default"), "create unlogged table unlogged(id int primary key, v int)", "insert into unlogged values (1, 1)")...)
	f.config.look = 300 * time.Millisecond
	f.start()
	f.settled()
	f.exec("insert into unlogged values (2, 2); update t set v = 1")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	f.reports("MR1019")
	f.exec("alter table unlogged set logged")
	f.follows("bucket:more", rows("more", "unlogged"))
}
