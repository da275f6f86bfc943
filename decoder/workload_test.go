package decoder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// A random workload: all forms of DML, DDL from the table of schema changes,
// truncates, key moves and swaps, long values, several replica identities and
// partitions, while the decoder is killed at random, against a sidecar in memory
// that is strict. When it is quiet, every bucket is what the rules' queries give
// on the source (I6). More seeds: MILLRACE_WORKLOAD_SEEDS=100. TestSoak plays
// it on shards and the real sidecar, with faults of every kind.

const workloadRules = `
bucket_definitions:
  a:
    data:
      - SELECT id, v, big FROM a
  b:
    data:
      - SELECT k || '.' || n AS id, v FROM b
  c:
    data:
      - SELECT id, v, big FROM c
  d:
    data:
      - SELECT code AS id, v, big FROM d
  e:
    data:
      - SELECT id, v FROM e
`

var workloadTables = []string{
	"create table a(id int primary key, v int, big text)",
	"alter table a alter big set storage external",
	"create table b(n text, k text, v int, primary key (k, n))",
	"create table c(id int primary key, v int, big text)",
	"alter table c replica identity full",
	"create table d(id int primary key, code text not null unique, v int, big text)",
	"alter table d replica identity using index d_code_key",
	"create table e(id int, v int, part int, primary key (id, part)) partition by list (part)",
	"create table e1 partition of e for values in (1)",
	"create table e2 partition of e for values in (2)",
	"insert into a select g, 0, case when g%3=0 then repeat(md5(g::text), 90) end from generate_series(1, 300) g",
	"insert into b select (g%7)::text, g::text, 0 from generate_series(1, 200) g",
	"insert into c select g, 0, case when g%3=0 then repeat(md5(g::text), 90) end from generate_series(1, 200) g",
	"insert into d select g, 'c'||g, 0, case when g%3=0 then repeat(md5(g::text), 90) end from generate_series(1, 200) g",
	"insert into e select g, 0, 1+g%2 from generate_series(1, 200) g",
	"create publication millrace for all tables",
}

var workloadQueries = map[string]string{
	"a": workloadQuery("a", "id"), "c": workloadQuery("c", "id"), "d": workloadQuery("d", "code"),
	"b": `select 'b[]', k||'.'||n, '{"id":'||to_json(k||'.'||n)||',"v":'||coalesce(v::text, 'null')||'}' from b`,
	"e": `select 'e[]', id::text, '{"id":'||id||',"v":'||v||'}' from e`,
}

func workloadQuery(table, id string) string {
	return fmt.Sprintf(`select '%[1]s[]', %[2]s::text, '{"id":'||to_json(%[2]s)||',"v":'||coalesce(v::text,'null')||',"big":'||coalesce(to_json(big)::text,'null')||'}' from %[1]s`, table, id)
}

// workload makes statements.
type workload struct {
	rng  *rand.Rand
	next int
}

func (w *workload) n(n int) int { return w.rng.IntN(n) }

// dml is a statement that changes rows of one table.
func (w *workload) dml() string {
	w.next++
	id, to := w.n(300)+1, w.n(300)+1
	switch w.n(22) {
	case 0, 1:
		return fmt.Sprintf("insert into a select g, %d, case when g%%2=0 then repeat(md5(g::text), 90) end from generate_series(%d, %d) g on conflict (id) do update set v = excluded.v", w.next, id, id+w.n(20))
	case 2, 3:
		return fmt.Sprintf("update a set v = %d where id %% 7 = %d", w.next, w.n(7))
	case 4:
		return fmt.Sprintf("update a set id = %d where id = %d and not exists (select from a where id = %[1]d)", to, id)
	case 5: // swap
		return fmt.Sprintf("update a set id = -1 where id = %[1]d; update a set id = %[1]d where id = %[2]d; update a set id = %[2]d where id = -1", id, to)
	case 6:
		return fmt.Sprintf("update a set big = repeat('x%d', 800) where id = %d", w.next, id)
	case 7:
		return fmt.Sprintf("delete from a where id between %d and %d", id, id+w.n(8))
	case 8:
		return fmt.Sprintf("savepoint s; update a set v = -%[1]d; rollback to s; update a set v = %[1]d where id = %[2]d", w.next, id)
	case 9:
		return fmt.Sprintf("insert into b values ('%d', '%d', %d) on conflict (k, n) do update set v = excluded.v", w.n(7), id, w.next)
	case 10:
		return fmt.Sprintf("update b set n = n || 'x' where k = '%d' and length(n) < 5", id)
	case 11:
		return fmt.Sprintf("delete from b where k = '%d'", id)
	case 12, 13:
		return fmt.Sprintf("update c set v = %d where id %% 5 = %d", w.next, w.n(5))
	case 14:
		return fmt.Sprintf("update c set id = id + 1000 where id = %d and id < 1000 and not exists (select from c where id = 1000 + %[1]d)", id)
	case 15:
		return fmt.Sprintf("insert into d values (%d, 'n%[1]d', 0, repeat('d', 3000)); update d set v = %[2]d where id %% 3 = 0", 1000+w.next, w.next)
	case 16:
		return fmt.Sprintf("update d set code = code || 'y', v = %d where id = %d and length(code) < 9", w.next, id)
	case 17:
		return fmt.Sprintf("delete from d where id = %d", id)
	case 18, 19:
		return fmt.Sprintf("insert into e values (%d, %d, 1 + %[1]d %% 2) on conflict (id, part) do update set v = excluded.v", id, w.next)
	case 20: // moves between partitions
		return fmt.Sprintf("update e set part = 3 - part, v = %d where id = %d", w.next, id)
	}
	return []string{"truncate b", "truncate c; insert into c values (1, 1, repeat('t', 4000))", "truncate e2", "truncate a, d", "truncate e"}[w.n(5)]
}

// ddl is a change of the tables, as statements of one transaction.
func (w *workload) ddl() string {
	w.next++
	return []string{
		"alter table a alter v type bigint",
		"alter table a alter v type int",
		fmt.Sprintf("alter table a add x%d text", w.next),
		"alter table a replica identity full",
		"alter table a replica identity default",
		fmt.Sprintf("alter table a rename to a%[1]d; create table a(id int primary key, v int, big text); insert into a select id, v, big from a%[1]d where id %% 2 = 0; insert into a values (5000 + %[1]d, 1, repeat('n', 3000))", w.next),
		"drop table a; create table a(id int primary key, v int, big text); insert into a select g, 9, repeat('m', 2500) from generate_series(1, 100) g",
		fmt.Sprintf("insert into a values (7000 + %d, 3, 'before'); alter table a alter big type text using big || '!'", w.next),
		"alter table a drop v; alter table a add v int default 4",
		"alter table b drop constraint b_pkey, add constraint b_pkey primary key (k, n)",
		"alter table b rename v to w; alter table b add v int default 8; alter table b drop w",
		"alter table c replica identity default",
		"alter table c replica identity full",
		"alter table d replica identity full",
		"alter table d replica identity using index d_code_key",
		"alter table e detach partition e2; alter table e attach partition e2 for values in (2)",
		"alter table e drop column v; alter table e add v int default 6",
	}[w.n(17)]
}

func TestRandomWorkload(t *testing.T) {
	seeds := envNumber(t, "MILLRACE_WORKLOAD_SEEDS", 2)
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { playWorkload(t, seed) }) {
			return
		}
	}
}

func playWorkload(t *testing.T, seed uint64) {
	f := newFixture(t, pgtest.Shared(t), workloadRules, workloadTables...)
	f.config.look = 200 * time.Millisecond
	f.config.recopies = 1 << 20 // DDL is drawn again and again
	f.config.pages, f.config.fixedPages = 4, true
	f.config.BatchMaxBytes = 64 << 10
	w := &workload{rng: rand.New(rand.NewPCG(seed, 7))}
	crashes := rand.New(rand.NewPCG(seed, 8))
	var mu sync.Mutex
	s := &supervised{fixture: f, crash: true, chance: func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return crashes.IntN(n)
	}}
	s.start(true)
	defer func() { s.stop() }()
	ctx := context.Background()
	var told []string
	refused := 0
	for range 250 {
		var statements []string
		for range 1 + w.n(3) {
			if w.n(12) == 0 {
				statements = append(statements, w.ddl())
			} else {
				statements = append(statements, w.dml())
			}
		}
		sql := strings.Join(statements, "; ")
		if w.n(30) == 0 {
			sql = []string{"vacuum full a", "cluster c using c_pkey", "create index on d(v)"}[w.n(3)]
		}
		err := transaction(ctx, f.db, sql, w.n(10) == 0)
		told = append(told, fmt.Sprintf("%s -- %v", sql, err))
		if err != nil {
			refused++
		}
		if w.n(4) == 0 {
			wait(ctx, time.Duration(w.n(150))*time.Millisecond)
		}
	}
	s.stop()
	s.start(false)
	f.term = s.last()
	f.settled()
	for key, query := range workloadQueries {
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("statements:\n%s", strings.Join(told, "\n"))
				}
			}()
			f.follows("bucket:"+key, query)
		}()
	}
	if errs := f.sidecar.Errors(); len(errs) > 0 {
		t.Fatalf("%d rows have errors: %v", len(errs), errs)
	}
	t.Logf("%d of %d transactions refused or rolled back, %d crashes, %d schema changes, %d copies", refused, len(told), s.crashes.Load(), len(f.sidecar.SchemaChanges()), len(f.sidecar.Copies()))
}

// transaction runs statements in one transaction; a statement that cannot be
// run, such as one against a key that is taken, rolls it back.
func transaction(ctx context.Context, db *pgx.Conn, sql string, rollback bool) error {
	if strings.HasPrefix(sql, "vacuum") || strings.HasPrefix(sql, "cluster") {
		_, err := db.Exec(ctx, sql)
		return err
	}
	errRolledBack := errors.New("rolled back")
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
		if rollback {
			return errRolledBack
		}
		return nil
	})
}
