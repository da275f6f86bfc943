package decoder

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// RA-12, P27: the key of a row that is not copied yet moves while its long value
// is not told and not kept. The row is read again by its key, of whatever type.
func TestRA12_MovedKeys(t *testing.T) {
	for _, c := range []struct {
		name, columns, key string // key makes the nth key
	}{
		{"int2", "k int2 primary key", "$1::int2"},
		{"int4", "k int4 primary key", "$1::int4"},
		{"int8", "k int8 primary key", "$1::int8 + 5000000000"},
		{"numeric", "k numeric primary key", "$1::numeric / 8"},
		{"text", "k text primary key", `'a "quoted" \ key, ' || $1`},
		{"varchar", "k varchar(40) primary key", "'é' || $1"},
		{"uuid", "k uuid primary key", "md5($1::text)::uuid"},
		{"timestamptz", "k timestamptz primary key", "'2024-03-31 00:30+01'::timestamptz + $1 * interval '61 seconds'"},
		{"two columns", "k int, k2 text, primary key (k, k2)", "$1::int, 'x' || $1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTrace(t, 0)
			tr.config.Rules = rulesFor("all", "SELECT n AS id, v, big FROM t")
			key := func(n string) string { return strings.ReplaceAll(c.key, "$1", "("+n+")") }
			tr.exec("drop table t")
			tr.exec("create table t(" + c.columns + ", n text, v int, big text) with (autovacuum_enabled = off)")
			tr.exec("alter table t alter big set storage external")
			tr.exec("insert into t select " + key("g") + ", g::text, 0, case when g = 400 then repeat(md5(g::text), 625) else repeat('p', 150) end from generate_series(1, 400) g")
			arrived, open := tr.block("before", 4)
			tr.start()
			arrived()
			set := "k = " + key("0")
			if c.name == "two columns" {
				set = "(k, k2) = (" + key("0") + ")"
			}
			tr.exec("update t set " + set + ", v = 1 where n = '400'")
			tr.exec("update t set v = 2 where n in ('399', '1')")
			tr.applied()
			open()
			tr.settled()
			tr.contentEquals("bucket:all", `select 'all[]', n, '{"id":'||to_json(n)||',"v":'||v||',"big":'||to_json(big)||'}' from t`)
			if errs := tr.sidecar.Errors(); len(errs) > 0 {
				t.Fatalf("rows have errors: %v", errs)
			}
		})
	}
}

// tableGate holds back the chunks of one table.
type tableGate struct {
	chunkReader
	table string
	open  <-chan struct{}
}

func (g *tableGate) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	if req.Name.Name == g.table {
		select {
		case <-g.open:
		case <-ctx.Done():
			return catalog.Chunk{}, ctx.Err()
		}
	}
	return g.chunkReader.ReadChunk(ctx, req, row)
}

// RA-14, P5: a transaction that does not wait for its WAL writes to two tables,
// one copied already, the other not. It is seen by the copy of the other before
// the stream can have it, and no checkpoint may show one half.
func TestRA14_AsynchronousCommitBetweenCopies(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_writer_delay": "10s"}})
	f := newFixture(t, server, rulesFor("all", "SELECT * FROM a", "SELECT * FROM b"),
		"create table a(id text primary key)", "create table b(id text primary key)",
		"insert into a values ('old a')", "insert into b values ('old b')")
	gate := make(chan struct{})
	f.config.wrap = func(r chunkReader) chunkReader { return &tableGate{r, "b", gate} }
	var halves atomic.Int64
	f.sidecar.Fault = func(step sinktest.Step) error {
		if set, ok := f.sidecar.Active(); ok && step == sinktest.AfterCommit {
			rows := map[string]bool{}
			for _, d := range set.Definitions {
				for id := range f.sidecar.Content(d.ID) {
					rows[id.RowID] = true
				}
			}
			if rows["new a"] != rows["new b"] {
				halves.Add(1)
			}
		}
		return nil
	}
	f.start()
	pgtest.Eventually(t, patience, func() error {
		done := 0
		for _, c := range f.sidecar.Copies() {
			if c.State == millrace.CopyDone {
				done++
			}
		}
		if done != 1 {
			return fmt.Errorf("%d copies are done: %+v", done, f.sidecar.Copies())
		}
		return nil
	})
	f.exec("set synchronous_commit = off")
	f.exec("with x as (insert into a values ('new a')) insert into b values ('new b')")
	close(gate)
	pgtest.Eventually(t, patience, func() error { // not settled, which would write WAL
		if _, ok := f.sidecar.Active(); !ok {
			return fmt.Errorf("copies %+v", f.sidecar.Copies())
		}
		return nil
	})
	f.settled()
	f.contentEquals("bucket:all", "select 'all[]', id, '{\"id\":'||to_json(id)||'}' from (select id from a union all select id from b) u")
	if n := halves.Load(); n > 0 {
		t.Errorf("%d checkpoints show a half of the transaction", n)
	}
}

// cutter ends all of our connections to the source's database but the stream, as
// a server or a proxy would, after every few chunks.
type cutter struct {
	mu     sync.Mutex
	db     *pgx.Conn
	spared uint32
	rows   int
	chunks int
	cuts   int
}

const chunksBetweenCuts = 12

func (c *cutter) around(r chunkReader) chunkReader { return &cutReader{r, c} }

type cutReader struct {
	chunkReader
	c *cutter
}

func (r *cutReader) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunks++; c.chunks%chunksBetweenCuts == 0 {
		c.cuts++
		if _, err := c.db.Exec(ctx, `select pg_terminate_backend(pid, 10000) from pg_stat_activity
			where datname = current_database() and backend_type = 'client backend' and pid not in (pg_backend_pid(), $1)`, c.spared); err != nil {
			return catalog.Chunk{}, err
		}
	}
	return r.chunkReader.ReadChunk(ctx, req, func(t *pgoutput.Tuple) error {
		c.rows++
		return row(t)
	})
}

// RA-20: a server that ends the connections of a copy again and again does not
// keep it from being finished: each chunk that was merged counts.
func TestRA20_ConnectionsOfACopyAreCut(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text)",
		"insert into t select g, 0, repeat('p', 150) from generate_series(1, 3200) g")
	ctx := context.Background()
	db, err := pgx.Connect(ctx, f.uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(ctx) })
	c := &cutter{db: db, spared: f.db.PgConn().PID()}
	f.config.pages, f.config.fixedPages, f.config.SnapshotWorkers = 2, true, 1
	f.config.wrap = c.around
	f.start()
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts < 2 {
		t.Fatalf("%d chunks and %d cuts show nothing", c.chunks, c.cuts)
	}
	if c.rows > 3200*13/10 {
		t.Errorf("%d rows were read of 3200", c.rows)
	}
}

// RA-26: equal rows of a table with identity FULL and no key are one row to
// clients. That is said, with what would tell them apart.
func TestRA26_EqualRowsUnderFull(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), rulesFor("all", "SELECT name AS id, v FROM t"),
		"create table t(name text, v int)", "alter table t replica identity full",
		"insert into t values ('twice', 1), ('twice', 1), ('once', 1)")
	f.start()
	f.settled()
	f.contentEquals("bucket:all", `select distinct 'all[]', name, '{"id":'||to_json(name)||',"v":'||v||'}' from t`)
	pgtest.Eventually(t, patience, func() error {
		all := strings.Join(f.sidecar.ReportOf(f.sidecar.Source("main").ID).Findings, "\n")
		if !strings.Contains(all, "MR1017") || !strings.Contains(all, "public.t") {
			return fmt.Errorf("findings %q", all)
		}
		return nil
	})
	f.exec("delete from t where ctid = (select min(ctid) from t where name = 'twice')")
	f.exec("update t set v = 2 where name = 'twice'") // which brings it back, as the documents say
	f.settled()
	f.contentEquals("bucket:all", `select 'all[]', name, '{"id":'||to_json(name)||',"v":'||v||'}' from t`)
}
