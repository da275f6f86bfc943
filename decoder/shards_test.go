package decoder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// shards is a fixture whose table t is spread over several databases that share
// the tag default.
type shards struct {
	*fixture
	uris []string
	dbs  []*pgx.Conn
}

const shardRules = `
bucket_definitions:
  all:
    data:
      - SELECT id, v, _source_name AS shard FROM t
`

const shardTable = "create table t(id text primary key, v int)"

func newShards(t *testing.T, servers ...*pgtest.Server) *shards {
	t.Helper()
	s := &shards{fixture: newFixture(t, servers[0], shardRules, shardTable)}
	s.config.Sources[0].Name = "s0"
	s.config.Sources[0].Tags = []string{"default"}
	s.uris, s.dbs = []string{s.uri}, []*pgx.Conn{s.db}
	for i, server := range servers[1:] {
		uri := server.Database(t)
		db := connect(t, uri)
		if _, err := db.Exec(context.Background(), shardTable); err != nil {
			t.Fatal(err)
		}
		s.uris, s.dbs = append(s.uris, uri), append(s.dbs, db)
		s.config.Sources = append(s.config.Sources, SourceConfig{
			Name: fmt.Sprint("s", i+1), URI: uri, Tags: []string{"default"}, Slot: fmt.Sprintf("%s_%d", s.config.Sources[0].Slot, i+1),
		})
	}
	return s
}

func (s *shards) on(i int, sql string, args ...any) {
	s.t.Helper()
	if _, err := s.dbs[i].Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatalf("s%d: %s: %v", i, sql, err)
	}
}

// content is what clients have, by id: all values there are.
func (s *shards) content() map[string][]string {
	got := map[string][]string{}
	for id, data := range s.sidecar.Content(s.definition("bucket:all")) {
		got[id.RowID] = append(got[id.RowID], data)
	}
	return got
}

// converges waits until the content is the union of the shards.
func (s *shards) converges() {
	s.t.Helper()
	want := map[string][]string{}
	for i, db := range s.dbs {
		rows, err := db.Query(context.Background(), "select id, v from t")
		if err != nil {
			s.t.Fatal(err)
		}
		var id string
		var v int
		if _, err := pgx.ForEachRow(rows, []any{&id, &v}, func() error {
			want[id] = append(want[id], fmt.Sprintf(`{"id":%q,"v":%d,"shard":"s%d"}`, id, v, i))
			return nil
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	pgtest.Eventually(s.t, 2*patience, func() error {
		if _, ok := s.sidecar.Active(); !ok {
			return errors.New("no rule set is in force")
		}
		got := s.content()
		for id, w := range want {
			if g := got[id]; !sameElements(g, w) {
				return fmt.Errorf("row %s is %q, want %q", id, g, w)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d rows, want %d", len(got), len(want))
		}
		return nil
	})
}

func sameElements(a, b []string) bool {
	count := map[string]int{}
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// RA-52: a row that moves from one shard to another is there once, whichever of
// the two sources is read first.
func TestRA52_RowMovesBetweenShards(t *testing.T) {
	away := pgtest.New(t, pgtest.Options{})
	s := newShards(t, pgtest.Shared(t), away)
	s.on(0, "insert into t select 'a'||g, g from generate_series(1,20) g")
	s.on(1, "insert into t select 'b'||g, g from generate_series(1,20) g")
	s.start()
	s.converges()

	// The deletion first.
	s.on(0, "delete from t where id = 'a1'")
	s.settledBoth()
	s.on(1, "insert into t values ('a1', 100)")
	s.converges()
	// The arrival first: for a while both are there, under two identities.
	s.on(1, "insert into t values ('a2', 100)")
	pgtest.Eventually(t, patience, func() error {
		if got := s.content()["a2"]; len(got) != 2 {
			return fmt.Errorf("row a2 is %q", got)
		}
		return nil
	})
	s.on(0, "delete from t where id = 'a2'")
	s.converges()
	if got := s.content()["a2"]; len(got) != 1 || !strings.Contains(got[0], "s1") {
		t.Errorf("row a2 is %q", got)
	}
}

// settledBoth waits until everything committed on any shard is contained.
func (s *shards) settledBoth() {
	s.t.Helper()
	for i, db := range s.dbs {
		var head string
		if err := db.QueryRow(context.Background(), "select pg_current_wal_insert_lsn()::text").Scan(&head); err != nil {
			s.t.Fatal(err)
		}
		s.on(i, "select pg_logical_emit_message(true, 'test', '')")
		want := mustLSN(s.t, head)
		pgtest.Eventually(s.t, patience, func() error {
			if at := s.sidecar.Source(s.config.Sources[i].Name).Durable; at < want {
				return fmt.Errorf("s%d is durable at %v, head %v", i, at, want)
			}
			return nil
		})
	}
}

// RA-50: while one source is in a long transaction the others go on, and no
// checkpoint ever shows a part of it; a second source that is read on while the
// transaction is merged catches up.
func TestRA50_LargeTransactionBesideOthers(t *testing.T) {
	s := newShards(t, pgtest.Shared(t), pgtest.Shared(t))
	s.config.BatchMaxBytes = 64 << 10 // it is spooled, and goes to the sidecar in pieces
	s.start()
	s.converges()
	const rows = 40_000

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var watching sync.WaitGroup
	var torn error
	watching.Go(func() {
		id := s.definition("bucket:all")
		for ctx.Err() == nil {
			next := s.sidecar.Committed()
			n := 0
			for row := range s.sidecar.Content(id) {
				if strings.HasPrefix(row.RowID, "big") {
					n++
				}
			}
			if n != 0 && n != rows {
				torn = fmt.Errorf("a checkpoint shows %d of %d rows of a transaction", n, rows)
				return
			}
			select {
			case <-next:
			case <-ctx.Done():
			}
		}
	})

	tx, err := s.dbs[0].Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "insert into t select 'big'||g, g from generate_series(1, $1::int) g", rows); err != nil {
		t.Fatal(err)
	}
	s.on(1, "insert into t values ('during', 1)")
	pgtest.Eventually(t, patience, func() error {
		if len(s.content()["during"]) != 1 {
			return errors.New("the other source's row is not there")
		}
		return nil
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		s.on(1, "insert into t values ($1, 2)", fmt.Sprint("after", i))
	}
	s.converges()
	stop()
	watching.Wait()
	if torn != nil {
		t.Error(torn)
	}
	if err := s.term.failed(); err != nil {
		t.Fatalf("the term ended: %v", err)
	}
}

// Three sources, one of them killed and started again, and a decoder that fails
// at random steps in the middle of flushes: the content is the union of the
// sources in the end.
func TestShardsSurviveFaults(t *testing.T) {
	away := pgtest.New(t, pgtest.Options{})
	s := newShards(t, pgtest.Shared(t), pgtest.Shared(t), away)
	for i := range s.dbs {
		s.on(i, "insert into t select $1||g, g from generate_series(1,300) g", fmt.Sprint("s", i, "."))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	s.start()
	steps := []sinktest.Step{sinktest.AfterApply, sinktest.BeforeCommit, sinktest.AfterCommit, sinktest.BeforeApply}
	for round := range 6 {
		if round == 2 {
			_ = s.dbs[2].Close(context.Background())
			away.Kill(t)
		}
		if round == 4 {
			away.Start(t)
			s.dbs[2] = connect(t, s.uris[2])
		}
		for range 20 {
			i := random.IntN(3)
			if i == 2 && round >= 2 && round < 4 {
				i = 0
			}
			switch random.IntN(4) {
			case 0:
				s.on(i, "insert into t select $1||g, g from generate_series(1,$2::int) g", fmt.Sprint("r", round, ".", random.Uint32(), "."), 1+random.IntN(500))
			case 1:
				s.on(i, "update t set v = v + 1 where v % 7 = $1", random.IntN(7))
			case 2:
				s.on(i, "delete from t where v % 31 = $1", random.IntN(31))
			case 3: // the same id on several shards
				s.on(i, "insert into t values ($1, 1) on conflict (id) do update set v = t.v + 1", fmt.Sprint("shared", random.IntN(5)))
			}
		}
		if err := s.term.failed(); err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("the term ended: %v", err)
		}
		_ = s.term.stop()
		s.failAt(steps[random.IntN(len(steps))], 1+random.IntN(4))
		s.start()
	}
	_ = s.term.stop()
	s.sidecar.Fault = nil
	s.start()
	s.converges()
}

// A table's identity changes in the middle of a transaction of which a part is
// on its way to the sidecar: that part is dropped, and the transaction is
// taken again once the table has been looked at.
func TestTornTransactionIsTakenAgain(t *testing.T) {
	s := newShards(t, pgtest.Shared(t), pgtest.Shared(t))
	s.config.BatchMaxBytes = 64 << 10
	s.start()
	s.converges()
	ctx := context.Background()
	tx, err := s.dbs[0].Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"insert into t select 'torn'||g, g from generate_series(1, 30000) g",
		"alter table t drop constraint t_pkey",
		"alter table t add primary key (v, id)",
		"insert into t values ('last', 0)",
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	s.on(1, "insert into t values ('other', 1)")
	pgtest.Eventually(t, 2*patience, func() error {
		if err := s.term.failed(); err != nil {
			t.Fatalf("the term ended: %v", err)
		}
		if len(s.content()["other"]) != 1 {
			return errors.New("the other source's row is not there")
		}
		return nil
	})
	s.converges()
}

// Definitions whose rows come from several sources are those whose ids are
// counted.
func TestSharedDefinitions(t *testing.T) {
	rules, _, err := compileRules("rules", `
bucket_definitions:
  both:
    parameters: SELECT id AS t FROM teams WHERE owner = request.user_id()
    data:
      - SELECT id FROM t WHERE team = bucket.t
  one:
    data:
      - SELECT id FROM "s1.public".t
`)
	if err != nil {
		t.Fatal(err)
	}
	set := &ruleset{rules: rules}
	for i := range rules.Definitions() {
		set.ids = append(set.ids, millrace.DefinitionID(i+10))
	}
	got := sharedDefinitions(&feed{sets: []*ruleset{set, set}}, []*source{
		{origin: origin{tags: []string{"s0", "default"}}}, {origin: origin{tags: []string{"s1", "default"}}},
	})
	if len(got) != 1 || rules.Definitions()[got[0]-10].Key != "bucket:both" {
		t.Errorf("definitions %v of %+v", got, rules.Definitions())
	}
}

// meeting holds back the first new history until both sources are about to
// begin one.
type meeting struct {
	*sinktest.Sidecar
	s    *shards
	once sync.Once
}

func (m *meeting) RestartHistory(ctx context.Context, r millrace.HistoryRestart) error {
	m.once.Do(func() {
		for i := range m.s.dbs {
			pgtest.Eventually(m.s.t, patience, func() error {
				var looked bool
				if err := m.s.dbs[i].QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
					AND state = 'idle' AND query LIKE '%FROM pg_replication_slots%')`).Scan(&looked); err != nil {
					return err
				}
				if !looked {
					return fmt.Errorf("s%d has not looked at its slot", i)
				}
				return nil
			})
		}
	})
	return m.Sidecar.RestartHistory(ctx, r)
}

// The history of two sources is lost at the same time: what the second is about
// to store was decided by definitions that have successors since the first has
// a new history. Both are copied again before anything is in force.
func TestTwoHistoriesLostAtOnce(t *testing.T) {
	s := newShards(t, pgtest.Shared(t), pgtest.Shared(t))
	s.on(0, "insert into t select 'a'||g, g from generate_series(1,20) g")
	s.on(1, "insert into t select 'b'||g, g from generate_series(1,20) g")
	s.start()
	s.converges()
	before, _ := s.sidecar.Active()
	_ = s.term.stop()
	for i := range s.dbs {
		s.on(i, "select pg_drop_replication_slot($1)", s.config.Sources[i].Slot)
		s.on(i, "update t set v = v + 100; delete from t where v % 3 = 0")
	}
	s.term = startTerm(s.config, &meeting{Sidecar: s.sidecar, s: s})
	s.renewed(before)
	if got := len(s.content()); got < 20 {
		t.Errorf("%d rows came into force", got)
	}
	s.converges()
}
