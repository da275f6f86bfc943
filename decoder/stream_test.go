package decoder

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

const wideRules = `
bucket_definitions:
  all:
    data:
      - SELECT id, v, big FROM t
`

const wideQuery = `select 'all[]', id::text, '{"id":'||id||',"v":'||coalesce(v::text,'null')||',"big":'||coalesce(to_json(big)::text,'null')||'}' from t`

// wideTable has 100 rows, half of them with values out of line.
func wideTable(identity string) []string {
	return []string{
		"create table t(id int primary key, v int, big text)",
		"alter table t alter big set storage external",
		"create unique index other on t(id)",
		"alter table t replica identity " + identity,
		"insert into t select g, 0, case when g%2=0 then repeat(md5(g::text), 100) end from generate_series(1,100) g",
	}
}

// P47, P45: values that an update leaves out, under every identity.
func TestRA22_RA23_UnchangedLongValues(t *testing.T) {
	for _, identity := range []string{"default", "using index other", "full"} {
		t.Run(identity, func(t *testing.T) {
			f := newFixture(t, pgtest.Shared(t), wideRules, wideTable(identity)...)
			f.start()
			f.settled()
			f.contentEquals("bucket:all", wideQuery)
			for _, sql := range []string{
				"update t set v = 1",
				"update t set v = 2 where id = 4; update t set v = 3 where id = 4",
				"update t set id = id + 1000 where id < 20", // moves with the value untold
				"update t set v = v + 1 where id > 1000",    // and again, under the new key
				"begin; update t set id = -1 where id = 30; update t set id = 30 where id = 32; update t set id = 32 where id = -1; commit", // swap
				"update t set big = repeat('x', 3000) where id = 21; update t set v = 9 where id = 21",
				"begin; update t set big = repeat('y', 3000) where id = 23; savepoint a; update t set v = 5 where id = 23; rollback to a; update t set v = 6 where id = 23; commit",
				"update t set big = 'short' where id = 40; update t set v = 7 where id = 40",
				"update t set big = null where id = 42; update t set v = 8 where id = 42",
				"begin; update t set v = 10 where id = 44; delete from t where id = 44; insert into t values (44, 1, repeat('z', 4000)); update t set v = 2 where id = 44; commit",
				"insert into t values (200, 0, repeat('n', 5000)); update t set v = 1 where id = 200; update t set id = 201 where id = 200; update t set v = 3 where id = 201",
			} {
				f.exec(sql)
			}
			f.settled()
			f.contentEquals("bucket:all", wideQuery)
			if n := len(f.sidecar.Errors()); n > 0 {
				t.Fatalf("%d rows have errors: %v", n, f.sidecar.Errors())
			}
			if full := identity == "full"; full != (f.sidecar.WideRows() == 0) {
				t.Fatalf("%d rows have kept values", f.sidecar.WideRows())
			}
		})
	}
}

// A row that shrank while its long value stayed out of line does not show that
// to a copy.
func TestLongValueOfAShrunkRow(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text, pad text)",
		"alter table t alter big set storage external, alter pad set storage plain",
		"insert into t values (1, 0, repeat('b', 1200), repeat('p', 1200)), (2, 0, 'x', 'y')",
		"update t set pad = ''")
	f.start()
	f.settled()
	f.exec("update t set v = 1")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-27, RA-28
func TestRA28_TruncateAndSavepoints(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.start()
	f.settled()
	f.exec("begin; insert into t values (500, 1, 'before'); truncate t; insert into t values (501, 1, repeat('after', 1000)); commit")
	f.exec("update t set v = 2")
	f.exec("begin; insert into t values (1, 1, 'a'); savepoint a; insert into t values (2, 1, 'b'); savepoint b; insert into t values (3, 1, 'c'); release b; rollback to a; insert into t values (4, 1, 'd'); commit")
	f.exec("begin; insert into t values (9, 1, 'never'); rollback")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	f.exec("truncate t")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if n := f.sidecar.WideRows(); n != 0 {
		t.Fatalf("%d rows have kept values after the truncate", n)
	}
}

// RA-31: transactions become visible whole, in commit order.
func TestRA31_TransactionsAreWhole(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text)",
		"insert into t select g, 0, '' from generate_series(1,50) g")
	f.start()
	f.settled()
	id := f.definition("bucket:all")
	var mixed atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			committed := f.sidecar.Committed()
			values := map[string]bool{}
			for _, data := range f.sidecar.Content(id) {
				values[data[strings.Index(data, `"v"`):]] = true
			}
			if len(values) > 1 {
				mixed.Add(1)
			}
			select {
			case <-stop:
				return
			case <-committed:
			}
		}
	}()
	for i := range 200 {
		f.exec("update t set v = $1", i)
	}
	f.settled()
	close(stop)
	<-done
	if n := mixed.Load(); n > 0 {
		t.Fatalf("%d checkpoints show a part of a transaction", n)
	}
	f.contentEquals("bucket:all", wideQuery)
}

// RA-29: a transaction far above the memory bound.
func TestRA29_LargeTransaction(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.config.BatchMaxBytes = 1 << 20
	f.start()
	f.settled()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	base := heap()
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				peak.Store(max(peak.Load(), heap()))
			}
		}
	}()
	f.exec("begin; insert into t select g, 0, 'row '||g from generate_series(1000, 201000) g; update t set v = 1 where id % 1000 = 0; update t set v = 1 where id <= 100; commit")
	f.settled()
	close(stop)
	<-done
	f.contentEquals("bucket:all", wideQuery)
	// The sidecar in memory keeps all rows: what it holds is not the decoder's.
	t.Logf("heap grew by %d MiB at most, sidecar in memory included", (peak.Load()-base)>>20)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// I4: nothing is confirmed beyond what is durable, and what is durable is
// confirmed before long.
func TestConfirmationFollowsDurability(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.start()
	f.settled()
	for i := range 20 {
		f.exec("update t set v = $1", i)
		var confirmed string
		if err := f.db.QueryRow(context.Background(), "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1", f.config.Sources[0].Slot).Scan(&confirmed); err != nil {
			t.Fatal(err)
		}
		durable := f.sidecar.Source("main").Durable
		if lsn := mustLSN(t, confirmed); lsn > durable {
			t.Fatalf("confirmed %v, durable %v", lsn, durable)
		}
	}
	f.settled()
	head := f.sidecar.Source("main").Durable
	pgtest.Eventually(t, patience, func() error {
		var confirmed string
		if err := f.db.QueryRow(context.Background(), "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1", f.config.Sources[0].Slot).Scan(&confirmed); err != nil {
			return err
		}
		if lsn := mustLSN(t, confirmed); lsn < head {
			return fmt.Errorf("confirmed %v, durable %v", lsn, head)
		}
		return nil
	})
}
