package decoder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// The model: writers, VACUUM and commits held back by a standby that is not
// there, while a table is copied in small chunks; at the end the copy is
// compared with the table. More seeds: MILLRACE_MODEL_SEEDS=100.

const (
	modelRows    = 4000
	modelWriters = 9
)

const modelRules = `
bucket_definitions:
  all:
    data:
      - SELECT id, v, big, pad FROM t
`

const modelQuery = `select 'all[]', id::text, '{"id":'||id||',"v":'||v||',"big":'||coalesce(to_json(big)::text,'null')||',"pad":'||coalesce(to_json(pad)::text,'null')||'}' from t`

type modelCase struct {
	name    string
	crash   bool   // end the term at random steps of the sidecar
	event   string // SQL in the middle of the copy
	deploy  bool   // copy for a new definition on a running stream
	maxKeys int
	big     bool // some transactions change a third of the table
	late    bool // the event is found in the catalog, after the stream may have told of it
	without rule // left out: the copy must be wrong
}

func TestRA10_RA11_RA12_RA13_Model(t *testing.T) {
	seeds := 1
	if s := os.Getenv("MILLRACE_MODEL_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	for _, c := range []modelCase{
		{name: "first start"},
		{name: "crashes", crash: true},
		{name: "new definition", deploy: true},
		{name: "new definition and crashes", deploy: true, crash: true},
		{name: "truncate", event: "truncate t; insert into t select g, 7, 'after', 'x' from generate_series(1, 4000, 3) g on conflict do nothing"},
		{name: "vacuum full", event: "vacuum full t"},
		{name: "cluster and crashes", event: "cluster t using t_pkey", crash: true},
		{name: "alter type", event: "alter table t alter v type bigint"},
		{name: "alter type and crashes", event: "alter table t alter v type bigint", crash: true},
		{name: "out of the publication and back", event: "alter publication millrace drop table t; update t set v = v + 1 where id % 3 = 0; alter publication millrace add table t", crash: true, late: true},
		{name: "bounded map", maxKeys: 200, big: true},
		{name: "without the drop rule", without: dropRule},
	} {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", c.name, seed), func(t *testing.T) { playModel(t, c, uint64(seed)) })
		}
	}
}

func playModel(t *testing.T, c modelCase, seed uint64) {
	server := pgtest.Shared(t) // no test of this package runs in parallel
	f := newFixture(t, server, modelRules,
		"set synchronous_commit = local",
		"create table t(id int primary key, v int, big text, pad text)",
		"alter table t alter big set storage external",
		fmt.Sprintf(`insert into t select g, 0, case when g%%4=0 then repeat(md5(g::text),80) when g%%4=1 then null else 'small' end, repeat('p',100+(g%%5)*20)
			from generate_series(1,%d) g order by random()`, modelRows))
	if c.late {
		f.config.look = 200 * time.Millisecond
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	f.config.pages, f.config.fixedPages = 4, true
	f.config.without = c.without
	if c.maxKeys > 0 {
		f.config.maxKeys = c.maxKeys
	}
	var mu sync.Mutex
	chance := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	var chunks atomic.Int64
	f.config.wrap = func(r chunkReader) chunkReader { return &slowReader{r, &chunks, chance} }
	w := startWriters(t, f.uri, seed, c.big)
	defer w.stop()

	term := &supervised{fixture: f, crash: c.crash, chance: chance}
	if c.deploy {
		term.start(c.crash)
		f.active(1)
		term.stop()
		f.config.Rules = strings.Replace(modelRules, "all:", "both:", 1) + "  all:\n    data:\n      - SELECT id, v, big, pad FROM t\n"
		chunks.Store(0)
		term.start(c.crash)
	} else {
		term.start(c.crash)
	}
	defer term.stop()
	if c.event != "" {
		pgtest.Eventually(t, patience, func() error {
			if n := chunks.Load(); n < 6 {
				return fmt.Errorf("%d chunks are read", n)
			}
			return nil
		})
		f.execAgain(c.event)
	}
	sets := 1
	if c.deploy {
		sets = 2
	}
	f.active(millrace.RuleSetID(sets))
	w.stop()
	term.stop()
	term.start(false)
	f.term = term.last()
	f.settled()
	if c.without != 0 {
		if err := f.compare("bucket:all", modelQuery); err == nil {
			t.Fatal("the copy is right without the rule: the model shows nothing")
		}
		return
	}
	if c.late {
		f.follows("bucket:all", modelQuery)
	}
	f.contentEquals("bucket:all", modelQuery)
	if c.deploy {
		f.contentEquals("bucket:both", strings.Replace(modelQuery, "all[]", "both[]", 1))
	}
	if errs := f.sidecar.Errors(); len(errs) > 0 {
		t.Fatalf("%d rows have errors: %v", len(errs), errs)
	}
	t.Logf("%d transactions, %d chunks, %d crashes, copies %+v", w.committed.Load(), chunks.Load(), term.crashes.Load(), f.sidecar.Copies())
}

// execAgain executes SQL, again if it is in a deadlock with the writers.
func (f *fixture) execAgain(sql string) {
	f.t.Helper()
	pgtest.Eventually(f.t, patience, func() error {
		_, err := f.db.Exec(context.Background(), sql)
		var failed *pgconn.PgError
		if err != nil && !(errors.As(err, &failed) && failed.Code == "40P01") {
			f.t.Fatalf("%s: %v", sql, err)
		}
		return err
	})
}

// active waits until the rule set is in force.
func (f *fixture) active(id millrace.RuleSetID) {
	f.t.Helper()
	pgtest.Eventually(f.t, 2*patience, func() error {
		if set, ok := f.sidecar.Active(); !ok || set.ID != id {
			return fmt.Errorf("rule set %d is in force (%v); copies %+v; report %+v", set.ID, ok, f.sidecar.Copies(), f.sidecar.ReportOf(1))
		}
		return nil
	})
}

// slowReader gives chunks back late, so that the stream overtakes them.
type slowReader struct {
	chunkReader
	chunks *atomic.Int64
	chance func(int) int
}

func (r *slowReader) ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error) {
	c, err := r.chunkReader.ReadChunk(ctx, req, row)
	r.chunks.Add(1)
	wait(ctx, time.Duration(r.chance(40))*time.Millisecond)
	return c, err
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// supervised runs terms one after the other, as a process manager would.
type supervised struct {
	*fixture
	crash   bool
	chance  func(int) int
	crashes atomic.Int64

	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	term   *term
}

var errCrash = errors.New("crash for the test")

func (s *supervised) start(crash bool) {
	s.sidecar.Fault = nil
	if crash {
		s.sidecar.Fault = func(sinktest.Step) error {
			if s.chance(25) == 0 {
				s.crashes.Add(1)
				return errCrash
			}
			return nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	first := startTerm(s.config, s.sidecar)
	s.mu.Lock()
	s.term = first
	s.mu.Unlock()
	go func() {
		defer close(s.done)
		for t := first; ; {
			var err error
			select {
			case <-ctx.Done():
				_ = t.stop()
				return
			case err = <-t.done:
				t.done <- err
			}
			if !errors.Is(err, errCrash) {
				s.t.Errorf("a term ended: %v", err)
				return
			}
			t = startTerm(s.config, s.sidecar)
			s.mu.Lock()
			s.term = t
			s.mu.Unlock()
		}
	}()
}

func (s *supervised) last() *term {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term
}

func (s *supervised) stop() {
	s.cancel()
	<-s.done
}

// writers change the table until stopped.
type writers struct {
	seed      uint64
	big       bool
	grown     atomic.Int64
	committed atomic.Int64
	once      sync.Once
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

func startWriters(t *testing.T, uri string, seed uint64, big bool) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{seed: seed, big: big, cancel: cancel}
	w.grown.Store(modelRows * 10)
	connect := func(settings string) *pgx.Conn {
		c, err := pgx.Connect(context.Background(), uri)
		if err == nil {
			_, err = c.Exec(context.Background(), settings)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i := range modelWriters {
		c := connect("set statement_timeout = '20s'")
		w.wg.Go(func() {
			defer c.Close(context.Background()) //nolint:errcheck // nothing depends on it
			w.write(ctx, c, i)
		})
	}
	vacuum := connect("set synchronous_commit = local")
	w.wg.Go(func() {
		defer vacuum.Close(context.Background()) //nolint:errcheck // nothing depends on it
		for ctx.Err() == nil {
			_, _ = vacuum.Exec(context.Background(), "vacuum t")
			wait(ctx, 40*time.Millisecond)
		}
	})
	hold := connect("set synchronous_commit = local")
	w.wg.Go(func() {
		defer hold.Close(context.Background()) //nolint:errcheck // nothing depends on it
		r := rand.New(rand.NewPCG(seed, 2))
		set := func(sql string) {
			_, _ = hold.Exec(context.Background(), sql)
			_, _ = hold.Exec(context.Background(), "select pg_reload_conf()")
		}
		for ctx.Err() == nil {
			set("alter system set synchronous_standby_names = 'nobody'")
			wait(ctx, time.Duration(50+r.IntN(200))*time.Millisecond)
			set("alter system reset synchronous_standby_names")
			wait(ctx, time.Duration(20+r.IntN(60))*time.Millisecond)
		}
		set("alter system reset synchronous_standby_names")
	})
	return w
}

func (w *writers) stop() {
	w.once.Do(func() {
		w.cancel()
		w.wg.Wait()
	})
}

func (w *writers) write(ctx context.Context, c *pgx.Conn, number int) {
	r := rand.New(rand.NewPCG(w.seed, uint64(100+number)))
	do := func(sql string) error {
		_, err := c.Exec(context.Background(), sql)
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		if w.big && r.IntN(40) == 0 {
			low := r.IntN(modelRows)
			_ = do(fmt.Sprintf("update t set v = v + 1 where id between %d and %d", low, low+modelRows/3))
			continue
		}
		if do("begin") != nil {
			_ = do("rollback")
			continue
		}
		var err error
		for range 1 + r.IntN(3) {
			if err = do(w.statement(r, number)); err != nil {
				break
			}
			if r.IntN(25) == 0 {
				wait(ctx, time.Duration(50+r.IntN(300))*time.Millisecond)
			}
		}
		switch n := r.IntN(12); {
		case err != nil || n == 0:
			_ = do("rollback")
		case n == 1:
			gid := fmt.Sprintf("'%d_%d_%d'", w.seed, number, i)
			if do("prepare transaction "+gid) == nil {
				if r.IntN(3) == 0 {
					wait(ctx, time.Duration(r.IntN(150))*time.Millisecond)
				}
				_ = do("commit prepared " + gid)
			}
		default:
			_ = do("commit")
		}
		w.committed.Add(1)
	}
}

// statement is a random change: deletes, inserts, key moves and swaps, long
// values, savepoints, rows that move to another page, growth.
func (w *writers) statement(r *rand.Rand, number int) string {
	id, other := r.IntN(modelRows)+1, r.IntN(modelRows)+1
	big := func() string {
		switch r.IntN(3) {
		case 0:
			return "null"
		case 1:
			return fmt.Sprintf("'s%d'", r.IntN(1e6))
		}
		return fmt.Sprintf("repeat('%08d', 320)", r.IntN(1e8))
	}
	switch r.IntN(13) {
	case 0, 1:
		return fmt.Sprintf("delete from t where id = %d", id)
	case 2, 3:
		return fmt.Sprintf("insert into t values (%d, %d, %s, repeat('i', %d)) on conflict do nothing", id, r.IntN(1e9), big(), 50+r.IntN(200))
	case 4:
		return fmt.Sprintf("update t set id = %d where id = %d and not exists (select from t where id = %d)", other, id, other)
	case 5:
		if other == id {
			other = id%modelRows + 1
		}
		free := -(number*1000000 + r.IntN(1000000)) - 1
		return fmt.Sprintf("update t set id = %[3]d where id = %[1]d; update t set id = %[1]d where id = %[2]d; update t set id = %[2]d where id = %[3]d", id, other, free)
	case 6:
		return fmt.Sprintf("update t set big = %s where id = %d", big(), id)
	case 7:
		return fmt.Sprintf("savepoint a; update t set v = %d where id = %d; savepoint b; update t set pad = repeat('q', %d) where id = %d; %s",
			r.IntN(1e9), id, r.IntN(300), other, []string{"rollback to b", "rollback to a", "release a"}[r.IntN(3)])
	case 8:
		return fmt.Sprintf("update t set v = %d, pad = repeat('z', %d) where id = %d", r.IntN(1e9), r.IntN(300), id)
	case 9:
		from := w.grown.Add(10)
		return fmt.Sprintf("insert into t select g, %d, case when g%%3=0 then repeat('G', 2500) end, repeat('g', 150) from generate_series(%d, %d) g", r.IntN(1e9), from, from+9)
	}
	return fmt.Sprintf("update t set v = %d where id = %d", r.IntN(1e9), id)
}
