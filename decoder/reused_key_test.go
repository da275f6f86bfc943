package decoder

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// P47: a row comes to the key of another while a table is copied. Of the row
// nothing is kept, since its page is not read yet; what was kept under the key
// was the other row's, and must not be taken for its own.
func TestKeyOfARowWithKeptValues(t *testing.T) {
	for name, sql := range map[string]string{
		"deleted":      "delete from t where id = 1; update t set id = 1 where id = 399; update t set v = 9 where id = 1",
		"moved":        "update t set id = 1000 where id = 1; update t set id = 1 where id = 399; update t set v = 9 where id = 1",
		"swapped":      "update t set id = -1 where id = 1; update t set id = 1 where id = 399; update t set id = 399 where id = -1; update t set v = 9 where id in (1, 399)",
		"and moved on": "delete from t where id = 1; update t set id = 1 where id = 399; update t set id = 2000 where id = 1",
		"of many":      "delete from t where id between 1 and 9; update t set id = id - 390 where id between 391 and 399; update t set v = 9 where id < 10",
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrace(t, 0)
			tr.exec("truncate t")
			tr.exec("alter table t alter big set storage external")
			tr.exec("insert into t select g, 0, case when g < 10 or g > 390 then repeat(md5(g::text), 100) else repeat('p', 150) end from generate_series(1,400) g")
			arrived, open := tr.block("before", 4)
			tr.start()
			arrived()
			pgtest.Eventually(t, patience, func() error {
				if n := tr.sidecar.WideRows(); n < 9 {
					return fmt.Errorf("long values of %d rows are kept", n)
				}
				return nil
			})
			// New versions of rows are on pages that the copy need not read.
			tr.exec("insert into t select g, 1, '' from generate_series(3001, 4000) g")
			tr.exec("begin; " + sql + "; commit")
			tr.applied()
			open()
			tr.expect(0)
			if errs := tr.sidecar.Errors(); len(errs) > 0 {
				t.Fatalf("rows have errors: %v", errs)
			}
		})
	}
}

// P47: a transaction that the session gives up, since a table has changed, is
// evaluated again by the next one: what it made of the kept values is forgotten.
func TestKeptValuesOfACutTransaction(t *testing.T) {
	rules := wideRules + "  other:\n    data:\n      - SELECT id, v FROM u\n"
	f := newFixture(t, pgtest.Shared(t), rules, append(wideTable("default"), "create table u(id int primary key, v int)", "insert into u values (1, 1)")...)
	f.start()
	f.settled()
	f.exec("begin; update t set id = -1 where id = 30; update t set id = 30 where id = 32; update t set id = 32 where id = -1; " +
		"alter table u alter v type text; insert into u values (2, 'x'); commit")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if errs := f.sidecar.Errors(); len(errs) > 0 {
		t.Fatalf("rows have errors: %v", errs)
	}
}

// P47: what was kept of a table before it was out of the publication is void,
// though the term goes on: the row may have got another long value meanwhile.
func TestKeptValuesOfATableThatWasAway(t *testing.T) {
	tr := newTrace(t, 0)
	tr.exec("alter table t alter big set storage external")
	tr.exec("update t set big = repeat('old', 1000) where id = 7")
	tr.exec("create publication millrace for table t")
	tr.config.look = 100 * time.Millisecond
	tr.start()
	tr.settled()
	tr.exec("update t set v = 1 where id = 7") // its long value is known now
	tr.applied()
	before, openBefore := tr.block("before", 0)
	after, openAfter := tr.block("after", 0)
	tr.exec("alter publication millrace drop table t")
	tr.exec("update t set big = repeat('new', 1000) where id = 7")
	tr.exec("alter publication millrace add table t")
	before()
	tr.hold("update t set v = 2 where id = 7") // which the chunk does not see
	tr.applied()
	openBefore()
	after()
	openAfter()
	tr.release()
	tr.copied(2)
	tr.expect(0)
	if errs := tr.sidecar.Errors(); len(errs) > 0 {
		t.Fatalf("rows have errors: %v", errs)
	}
}

// P47: a long value that no rules read may stay unknown. Its column's new name
// is not among what was kept.
func TestKeptValuesAndARenamedColumn(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text, other text)",
		"alter table t alter big set storage external, alter other set storage external",
		"insert into t select g, 0, repeat('old', 1000), repeat('o', 3000) from generate_series(1, 4) g")
	f.start()
	f.settled()
	f.exec("alter table t rename other to another") // nothing is read again
	f.exec("update t set v = 1 where id = 1")
	f.exec("update t set big = repeat('new', 1000) where id = 2; update t set v = 2 where id = 2")
	f.exec("update t set id = 5 where id = 3; update t set another = 'x' where id = 5; update t set v = 3 where id = 5")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if errs := f.sidecar.Errors(); len(errs) > 0 {
		t.Fatalf("rows have errors: %v", errs)
	}
}
