package store

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
)

func TestMain(m *testing.M) {
	if uri := os.Getenv(leaderProcess); uri != "" {
		leadForever(uri)
		return
	}
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("25") // each compares whole tables; -rapid.checks gives more
	}
	code := pgtest.Run(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// newSidecar makes a migrated database.
func newSidecar(tb testing.TB) string {
	tb.Helper()
	uri := pgtest.Shared(tb).Database(tb)
	if err := migrations.Up(tb.Context(), uri); err != nil {
		tb.Fatal(err)
	}
	return uri
}

func openStore(tb testing.TB, uri string, opts Options) *Store {
	tb.Helper()
	if opts.Logger == nil {
		opts.Logger = quiet
	}
	s, err := Open(tb.Context(), uri, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// lead begins a term that ends with the test.
func lead(tb testing.TB, s *Store) *Writer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	w, err := s.Lead(ctx, "test")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = w.Close(context.Background()) })
	return w
}

func connect(tb testing.TB, uri string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), uri)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	tb.Helper()
	var v T
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

// world is a sidecar with a source, two tables and an active rule set of two
// bucket definitions and a lookup definition.
type world struct {
	uri    string
	store  *Store
	w      *Writer
	conn   *pgx.Conn // for looking
	source millrace.Source
	tables [2]millrace.SourceTable
	set    *millrace.RuleSet
	scopes [2]*millrace.Scope
	lsn    millrace.LSN

	shadows [2]*millrace.Scope // like scopes, once they are cast

	oneBucket *millrace.Scope // of benchmarks
}

var testDefinitions = []millrace.Definition{
	{Kind: millrace.BucketDefinition, Key: "bucket:by_owner", Name: "by_owner", Hash: "aa"},
	{Kind: millrace.BucketDefinition, Key: "bucket:by_list", Name: "by_list", Hash: "bb"},
	{Kind: millrace.LookupDefinition, Key: "lookup:by_list/1", Name: "by_list", Hash: "cc"},
}

func newWorld(tb testing.TB, opts Options) *world {
	tb.Helper()
	x := &world{uri: newSidecar(tb)}
	x.store = openStore(tb, x.uri, opts)
	x.w = lead(tb, x.store)
	x.conn = connect(tb, x.uri)
	x.register(tb)
	return x
}

func (x *world) register(tb testing.TB) {
	tb.Helper()
	ctx := tb.Context()
	x.source = millrace.Source{Name: "main", SystemID: "1", Timeline: 1, Database: "app", Slot: "millrace_main", Publication: "millrace"}
	must(tb, x.w.SaveSource(ctx, &x.source))
	for i, name := range []string{"lists", "todos"} {
		x.tables[i] = millrace.SourceTable{Source: x.source.ID, OID: uint32(100 + i), Schema: "public", Name: name,
			Identity: millrace.IdentityDefault, KeyColumns: []string{"id"}, Columns: []millrace.SourceColumn{{Name: "id", TypeOID: 25, Type: "text"}}}
		must(tb, x.w.SaveTable(ctx, &x.tables[i]))
	}
	set, err := x.w.Deploy(ctx, "rules", testDefinitions)
	must(tb, err)
	x.set = set
	x.commit(tb, &millrace.Flush{Activate: set.ID})
	for i := range x.scopes {
		x.scopes[i] = &millrace.Scope{Table: x.tables[i].ID,
			Buckets: []millrace.DefinitionID{set.Definitions[0].ID, set.Definitions[1].ID},
			Lookups: []millrace.DefinitionID{set.Definitions[2].ID}}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (x *world) commit(tb testing.TB, f *millrace.Flush) millrace.Checkpoint {
	tb.Helper()
	if f == nil {
		x.lsn += 100
		f = &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: x.lsn}}, Published: time.Now()}
	}
	c, err := x.w.Commit(tb.Context(), f)
	must(tb, err)
	return c
}

func (x *world) apply(tb testing.TB, changes ...millrace.Change) {
	tb.Helper()
	must(tb, x.w.Apply(tb.Context(), changes))
}

// out is an output of definition 0 or 1.
func (x *world) out(definition int, bucket, typ, id, data string) millrace.Output {
	return millrace.Output{Definition: x.set.Definitions[definition].ID, Bucket: bucket, Type: typ, RowID: id, Data: data}
}

func (x *world) look(key, outputs string) millrace.Lookup {
	return millrace.Lookup{Definition: x.set.Definitions[2].ID, Key: key, Outputs: outputs}
}

func (x *world) upsert(table int, key string, outs ...millrace.Output) millrace.Change {
	return millrace.Change{Scope: x.scopes[table], Kind: millrace.ChangeUpsert, Key: key, Outputs: outs}
}

func (x *world) delete(table int, key string) millrace.Change {
	return millrace.Change{Scope: x.scopes[table], Kind: millrace.ChangeDelete, Key: key}
}

// lines gives the rows of a query as text, one string a row.
func lines(tb testing.TB, conn *pgx.Conn, sql string, args ...any) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), "SELECT r::text FROM ("+sql+") r", args...)
	must(tb, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(tb, err)
	return got
}
