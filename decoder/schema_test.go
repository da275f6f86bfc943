package decoder

import (
	"fmt"
	"strings"
	"testing"

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

// Changes of a table that would make rows wrong stop the source with a code,
// and nothing of the transaction is seen.
func TestSchemaChangesThatStop(t *testing.T) {
	for _, c := range []struct{ name, code, sql string }{
		{"rename", codeRenamed, "alter table t rename to u; insert into u values (900, 1, 'x')"},
		{"move to another schema", codeRenamed, "create schema s; alter table t set schema s; insert into s.t values (900, 1, 'x')"},
		{"identity full", codeIdentity, "alter table t replica identity full; insert into t values (900, 1, 'x')"},
		{"identity index", codeIdentity, "alter table t replica identity using index other; insert into t values (900, 1, 'x')"},
		{"key column renamed", codeIdentity, "alter table t rename id to key; insert into t values (900, 1, 'x')"},
		{"key column's type", codeIdentity, "alter table t alter id type bigint; insert into t values (900, 1, 'x')"},
		{"column's type", codeRetyped, "alter table t alter v type text using v||'!'; insert into t values (900, 1, 'x')"},
		{"in one transaction", codeRetyped, "begin; insert into t values (899, 1, 'x'); alter table t alter v type text using v||'!'; insert into t values (900, 1, 'x'); commit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
			f.start()
			f.settled()
			f.exec(c.sql)
			f.reports(c.code)
			for id := range f.sidecar.Content(f.definition("bucket:all")) {
				if id.RowID == "900" || id.RowID == "899" {
					t.Fatalf("row %s is synced", id.RowID)
				}
			}
			_ = f.term.stop()
			f.start()
			f.reports(c.code)
		})
	}
}

func TestTableMadeAgain(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.start()
	f.settled()
	_ = f.term.stop()
	f.exec("drop table t; create table t(id int primary key, v int, big text)")
	f.start()
	f.reports(codeReplaced)
}

// Columns that come, go and change their name are taken as they are.
func TestColumnsChange(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), strings.Replace(wideRules, "id, v, big", "*", 1), wideTable("default")...)
	f.start()
	f.settled()
	f.exec("alter table t add extra text default 'e'; update t set v = 1")
	f.settled()
	query := `select 'all[]', id::text, '{"id":'||id||',"v":'||v||',"big":'||coalesce(to_json(big)::text,'null')||',"extra":"e"}' from t`
	f.contentEquals("bucket:all", query)
	f.exec("alter table t drop extra; alter table t rename v to w; update t set w = 2")
	f.settled()
	query = `select 'all[]', id::text, '{"id":'||id||',"w":'||w||',"big":'||coalesce(to_json(big)::text,'null')||'}' from t`
	f.contentEquals("bucket:all", query)
	_ = f.term.stop()
	f.start()
	f.exec("update t set w = 3")
	f.settled()
	f.contentEquals("bucket:all", query)
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
func TestTableAppears(t *testing.T) {
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
func TestTableGoesWhileCopied(t *testing.T) {
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
	rules := wideRules + "  more:\n    data:\n      - SELECT id, v FROM keyless\n"
	f := newFixture(t, pgtest.Shared(t), rules, append(wideTable("default"), "create table keyless(id int, v int)", "insert into keyless values (1, 1)")...)
	f.start()
	f.settled()
	f.exec("insert into keyless values (2, 2); update t set v = 1")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	f.reports("MR1017")
}
