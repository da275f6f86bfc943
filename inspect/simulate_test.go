package inspect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/syncrules"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// database is a source with some tables.
type database struct {
	t    *testing.T
	uri  string
	conn *pgx.Conn
}

func newDatabase(t *testing.T, sql string) *database {
	t.Helper()
	d := &database{t: t, uri: pgtest.Shared(t).Database(t)}
	var err error
	if d.conn, err = pgx.Connect(t.Context(), d.uri); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	d.exec(sql)
	return d
}

func (d *database) exec(sql string) {
	d.t.Helper()
	if _, err := d.conn.PgConn().Exec(d.t.Context(), sql).ReadAll(); err != nil {
		d.t.Fatalf("%.200s: %v", sql, err)
	}
}

func (d *database) count(sql string) (n int64) {
	d.t.Helper()
	if err := d.conn.QueryRow(d.t.Context(), sql).Scan(&n); err != nil {
		d.t.Fatalf("%.200s: %v", sql, err)
	}
	return n
}

func (d *database) config(rules, claims string) SimulationConfig {
	d.t.Helper()
	compiled, diagnostics := syncrules.Compile("sync.yaml", []byte(rules))
	if compiled == nil {
		d.t.Fatal(diagnostics)
	}
	server, err := catalog.Connect(d.t.Context(), catalog.Config{URI: d.uri})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(server.Close)
	return SimulationConfig{
		Rules:   compiled,
		Request: syncrules.Request{Claims: []byte(claims), IncludeDefaults: true},
		Sources: []Source{{Name: "main", Tags: []string{"main", "default"}, Catalog: server}},
	}
}

func simulate(t *testing.T, c SimulationConfig) *Simulation {
	t.Helper()
	s, err := Simulate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Simulation) table(name string) SimulatedTable {
	for _, t := range s.Tables {
		if t.Table == name {
			return t
		}
	}
	return SimulatedTable{}
}

func (s *Simulation) mustHaveProblem(t *testing.T, want string) SimulationProblem {
	t.Helper()
	for _, p := range s.Problems {
		if strings.Contains(p.Object+": "+p.Message, want) {
			return p
		}
	}
	t.Errorf("no problem says %q: %+v", want, s.Problems)
	return SimulationProblem{}
}

// Everybody of the demo gets what the source says they own or share, and the
// lookups name the rows that grant it.
func TestSimulateDemo(t *testing.T) {
	d := newDatabase(t, demo.Schema+demo.Seed)
	check := func(user string) *Simulation {
		t.Helper()
		s := simulate(t, d.config(demo.Rules, `{"sub":"`+user+`"}`))
		mine := fmt.Sprintf("(SELECT id FROM lists WHERE owner_id = '%s' UNION SELECT list_id FROM list_members WHERE user_id = '%[1]s')", user)
		lists := d.count("SELECT count(*) FROM lists WHERE id IN " + mine)
		for table, sql := range map[string]string{
			"lists":        "SELECT count(*) FROM lists WHERE id IN " + mine,
			"todos":        "SELECT count(*) FROM todos WHERE list_id IN " + mine,
			"list_members": "SELECT count(*) FROM list_members WHERE list_id IN " + mine,
		} {
			if got, want := s.table(table).Rows, d.count(sql); got != want || want == 0 {
				t.Errorf("%s has %d rows of %s, want %d", user, got, table, want)
			}
			if got := s.table(table); got.Copies != 0 || got.Bytes == 0 || !slices.Equal(got.Sources, []string{"public." + table}) {
				t.Errorf("%s: %+v", user, got)
			}
		}
		if s.User != user || int64(len(s.Buckets)) != lists || len(s.Definitions) != 1 || s.Definitions[0].Priority != 3 || len(s.Problems) != 0 {
			t.Errorf("%s: %d buckets, want %d; %+v %+v", user, len(s.Buckets), lists, s.Definitions, s.Problems)
		}
		owned := d.count(fmt.Sprintf("SELECT count(*) FROM lists WHERE owner_id = '%s'", user))
		joined := d.count(fmt.Sprintf("SELECT count(*) FROM list_members WHERE user_id = '%s'", user))
		for _, l := range s.Lookups {
			want := owned
			if slices.Contains(l.Tables, "public.list_members") {
				want = joined
			}
			if l.Key != `["`+user+`"]` || int64(l.Results) != want || int64(len(l.Rows)) != want || int64(len(l.Outputs)) != want {
				t.Errorf("%s: lookup %+v, want %d results", user, l, want)
			}
		}
		return s
	}
	check("alice")
	before := len(check("bob").Buckets)
	// Alice shares one more list with bob.
	d.exec("INSERT INTO list_members SELECT id, 'bob' FROM lists WHERE owner_id = 'dave' ORDER BY id LIMIT 1 ON CONFLICT DO NOTHING")
	if after := len(check("bob").Buckets); after != before+1 {
		t.Errorf("bob has %d buckets after the sharing, %d before", after, before)
	}
	nobody := simulate(t, d.config(demo.Rules, `{"sub":"nobody"}`))
	if len(nobody.Buckets)+len(nobody.Tables)+len(nobody.Problems) != 0 || len(nobody.Lookups) != 2 || nobody.Lookups[0].Results != 0 {
		t.Errorf("nobody gets %+v", nobody)
	}
	if len(nobody.Refusals) != 2 || nobody.Refusals[0].Source != "my_lists" || nobody.Refusals[0].Why != `no row of table public.lists has owner_id = "nobody"` {
		t.Errorf("nobody is refused with %+v", nobody.Refusals)
	}
}

// Lookups and rows are of one state of the source, though it changes between
// the readings, and nothing is written.
func TestSimulateIsOneSnapshot(t *testing.T) {
	d := newDatabase(t, demo.Schema+demo.Seed)
	c := d.config(demo.Rules, `{"sub":"alice"}`)
	want := simulate(t, c)
	changed := false
	c.Progress = func(p SimulationProgress) {
		if !changed && p.For == "rows" {
			changed = true
			d.exec("DELETE FROM todos; UPDATE lists SET owner_id = 'bob'; DELETE FROM list_members")
		}
	}
	got := simulate(t, c)
	if !changed || got.table("todos").Rows != want.table("todos").Rows || got.table("lists").Rows != want.table("lists").Rows || len(got.Buckets) != len(want.Buckets) {
		t.Errorf("changed %v: got %+v, want %+v", changed, got.Tables, want.Tables)
	}
}

// A server in recovery, such as a streaming replica, does as a source.
func TestSimulateOnStandby(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	uri := server.Database(t)
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), demo.Schema+demo.Seed+"CHECKPOINT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	signal := filepath.Join(server.DataDir(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	defer func() { // the database is dropped after the test
		server.Stop(t)
		if err := os.Remove(signal); err != nil {
			t.Error(err)
		}
		server.Start(t)
	}()
	d := &database{t: t, uri: uri}
	if d.conn, err = pgx.Connect(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	defer d.conn.Close(context.Background())
	if n := d.count("SELECT pg_is_in_recovery()::int"); n != 1 {
		t.Fatal("the server is not in recovery")
	}
	if s := simulate(t, d.config(demo.Rules, `{"sub":"alice"}`)); len(s.Buckets) != 12 || len(s.Problems) != 0 {
		t.Errorf("%d buckets, %+v", len(s.Buckets), s.Problems)
	}
}

func TestSimulateRequests(t *testing.T) {
	d := newDatabase(t, `
		CREATE TABLE items (id int PRIMARY KEY, region text, n int);
		INSERT INTO items SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g FROM generate_series(1, 10) g;
		CREATE TABLE parts (id int, at date NOT NULL, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
		CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
		CREATE TABLE parts_new PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
		INSERT INTO parts SELECT g, date '2025-12-25' + g, 'x' FROM generate_series(1, 10) g`)
	const rules = `
config: {edition: 3}
streams:
  region:
    auto_subscribe: true
    priority: 1
    accept_potentially_dangerous_queries: true
    query: SELECT * FROM items WHERE region = connection.parameter('region')
  one:
    accept_potentially_dangerous_queries: true
    query: SELECT * FROM items WHERE id = subscription.parameter('id')
  all_parts:
    query: SELECT id || '/' || at AS id, v FROM parts
`
	c := d.config(rules, `{"sub":"u"}`)
	if s := simulate(t, c); len(s.Buckets) != 0 {
		t.Errorf("without parameters: %+v", s.Buckets)
	}
	c.Request.Parameters = []byte(`{"region":"eu"}`)
	s := simulate(t, c)
	if s.table("items").Rows != 5 || len(s.Buckets) != 1 || !s.Buckets[0].Default || s.Buckets[0].Priority != 1 {
		t.Errorf("region: %+v %+v", s.Tables, s.Buckets)
	}
	// Item 4 comes twice, in the bucket of its region and its own; partitions
	// are one table.
	c.Request.Subscriptions = []syncrules.Subscription{{Stream: "one", Parameters: []byte(`{"id":4}`)}, {Stream: "one", Parameters: []byte(`{"id":5}`)}, {Stream: "all_parts", Parameters: []byte("{}")}}
	s = simulate(t, c)
	if items := s.table("items"); items.Rows != 6 || items.Copies != 1 || s.table("parts").Rows != 10 || len(s.table("parts").Sources) != 2 || len(s.Problems) != 0 {
		t.Errorf("subscriptions: %+v %+v", s.Tables, s.Problems)
	}
	for _, b := range s.Buckets {
		if b.Source == "one" && (b.Default || len(b.Subscriptions) != 1 || b.Rows != 1) {
			t.Errorf("bucket %+v", b)
		}
	}
}

func TestSimulateProblems(t *testing.T) {
	d := newDatabase(t, `
		CREATE UNLOGGED TABLE unlogged (id int);
		CREATE TABLE docs (id text PRIMARY KEY, owner text, body text);
		INSERT INTO docs VALUES ('1', 'u', '{"a":1}'), ('2', 'u', 'no json'), ('3', 'u', 'neither');
		CREATE TABLE other (key int PRIMARY KEY, name text);
		INSERT INTO other VALUES (1, 'x'), (2, 'x'), (3, NULL), (4, 'y')`)
	const rules = `
config: {edition: 3}
streams:
  a: {auto_subscribe: true, query: "SELECT id FROM unlogged"}
  b: {auto_subscribe: true, query: "SELECT id, body ->> 'a' AS a FROM docs WHERE owner = auth.user_id()"}
  c: {auto_subscribe: true, query: "SELECT name AS id, key FROM other"}
  d: {auto_subscribe: true, query: "SELECT * FROM missing"}
  e: {auto_subscribe: true, query: "SELECT * FROM docs WHERE id IN (SELECT value FROM json_each(auth.parameter('ids')))"}
`
	c := d.config(rules, `{"sub":"u","ids":"[1"}`)
	c.MaxBuckets = 2
	s := simulate(t, c)
	s.mustHaveProblem(t, "public.unlogged: MR1019")
	s.mustHaveProblem(t, "public.missing: the source has no such table (line 7 of the rules)")
	if p := s.mustHaveProblem(t, "public.docs in b|0"); p.Rows != 2 || p.Row != "2" {
		t.Errorf("%+v", p)
	}
	if p := s.mustHaveProblem(t, "the id is null or empty"); p.Rows != 1 || p.Row != "3" {
		t.Errorf("%+v", p)
	}
	if p := s.mustHaveProblem(t, "table other: rows of different source rows have the same id"); p.Rows != 1 || p.Row != "2" {
		t.Errorf("%+v", p)
	}
	s.mustHaveProblem(t, "e: ")
	s.mustHaveProblem(t, "user u: PSYNC_S2305: 4 buckets, the limit is 2: the user would be refused; most come from a (1)")
	if s.table("docs").Rows != 1 || s.table("other").Rows != 3 {
		t.Errorf("%+v", s.Tables)
	}
}

func TestSimulateErrors(t *testing.T) {
	d := newDatabase(t, "CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items SELECT generate_series(1, 100000)")
	c := d.config("config: {edition: 3}\nstreams:\n  a: {auto_subscribe: true, query: SELECT * FROM items}\n", `{"sub":"u"}`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.Progress = func(p SimulationProgress) {
		if p.Rows > 0 {
			cancel()
		}
	}
	if s, err := Simulate(ctx, c); err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v %v", s, err)
	}
	c.Progress = nil
	many := d.config("config: {edition: 3}\nstreams:\n  a: {auto_subscribe: true, query: 'SELECT i.* FROM items AS i WHERE i.id IN (SELECT j.id FROM items AS j WHERE auth.user_id() IS NOT NULL)'}\n", `{"sub":"u"}`)
	many.maxLookupResults = 1000
	if s, err := Simulate(t.Context(), many); err == nil || !strings.Contains(err.Error(), "lookups give more than 1000 different results, the last of a/") {
		t.Errorf("too many results: %v %v", s, err)
	}
	c.Request.Claims = []byte("[]")
	if _, err := Simulate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "claims") {
		t.Errorf("claims that are no object: %v", err)
	}
	if n := d.count("SELECT count(*) FROM items"); n != 100000 {
		t.Errorf("%d items are left", n)
	}
}

// Tables are streamed: 100 MB of rows go by in a few.
func TestSimulateMemory(t *testing.T) {
	d := newDatabase(t, `CREATE TABLE items (id int PRIMARY KEY, owner text, body text);
		INSERT INTO items SELECT g, 'somebody', repeat('x', 1000) FROM generate_series(1, 100000) g`)
	c := d.config("config: {edition: 3}\nstreams:\n  a: {auto_subscribe: true, query: \"SELECT * FROM items WHERE owner = auth.user_id() OR owner = 'somebody' AND auth.parameter('all')\"}\n", `{"sub":"u","all":true}`)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak, calls := m.HeapAlloc, uint64(0), 0
	c.Progress = func(SimulationProgress) {
		if calls++; calls%10 == 0 {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
	s := simulate(t, c)
	if s.table("items").Rows != 100_000 || s.table("items").Bytes < 100_000_000 {
		t.Errorf("%+v", s.Tables)
	}
	const limit = 32 << 20
	if calls < 90 || peak > before+limit {
		t.Errorf("the heap grew from %d to %d bytes, in %d reports", before, peak, calls)
	}
}

// The name of a row's source is known to a simulation as it is to the decoder.
func TestSimulateSourceName(t *testing.T) {
	d := newDatabase(t, "create table t(id text primary key); insert into t values ('1'), ('2')")
	s := simulate(t, d.config(`
bucket_definitions:
  mine:
    data:
      - SELECT _source_name || '.' || id AS id FROM t WHERE _source_name = 'main'
  other:
    data:
      - SELECT id FROM t AS never WHERE _source_name = 'elsewhere'
`, `{"sub":"u"}`))
	if got := s.table("t").Rows; got != 2 {
		t.Errorf("%d rows, want 2", got)
	}
	if got := s.table("never").Rows; got != 0 {
		t.Errorf("%d rows of another source", got)
	}
}
