package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/internal/pgtest"
)

func request(tab *catalog.Table, pages uint32) *catalog.ChunkRequest {
	req := &catalog.ChunkRequest{Table: tab.OID, Name: tab.TableName, Filter: tab.Filter, ToPage: pages}
	for _, c := range tab.Columns {
		req.Columns = append(req.Columns, c.Name)
	}
	for _, k := range tab.Key {
		req.KeyColumns = append(req.KeyColumns, tab.Columns[k].Name)
		req.KeyTypes = append(req.KeyTypes, tab.Columns[k].TypeName)
	}
	return req
}

func read(t testing.TB, r *catalog.Reader, req *catalog.ChunkRequest) ([]string, catalog.Chunk) {
	t.Helper()
	var out []string
	chunk, err := r.ReadChunk(t.Context(), req, func(row *pgoutput.Tuple) error {
		out = append(out, join(row))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if chunk.Rows != len(out) {
		t.Errorf("%d rows told, %d given", chunk.Rows, len(out))
	}
	return out, chunk
}

func join(row *pgoutput.Tuple) string {
	var values []string
	for i := range row.Len() {
		if row.Kind(i) == pgoutput.Null {
			values = append(values, "NULL")
		} else {
			values = append(values, string(row.Bytes(i)))
		}
	}
	return strings.Join(values, "|")
}

func readAll(t testing.TB, s *catalog.Source, tab *catalog.Table) []string {
	t.Helper()
	plan, err := s.Plan(t.Context(), tab.OID)
	if err != nil {
		t.Fatal(err)
	}
	r := s.Reader()
	defer r.Close()
	rows, chunk := read(t, r, request(tab, plan.Pages))
	if chunk.Filenode != plan.Filenode || chunk.Pages < plan.Pages {
		t.Errorf("planned %+v, read %+v", plan, chunk)
	}
	return rows
}

func TestReadChunks(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY, v text)",
		"INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 5000) i", "ANALYZE t", "CREATE PUBLICATION p FOR TABLE t")
	s := d.source()
	tab := table(t, d.tables(s, all), "t")
	plan, err := s.Plan(t.Context(), tab.OID)
	if err != nil || plan.Rows != 5000 || plan.Pages < 100 || plan.Filenode != tab.Filenode {
		t.Fatalf("%+v %v", plan, err)
	}
	r := s.Reader()
	defer r.Close()
	seen := map[string]bool{}
	req := request(tab, 0)
	for from := uint32(0); from < plan.Pages; from += 50 {
		req.FromPage, req.ToPage = from, from+50
		rows, chunk := read(t, r, req)
		if chunk.Head == 0 || chunk.Snapshot.Xmax == 0 || chunk.Bytes == 0 {
			t.Errorf("%+v", chunk)
		}
		for _, row := range rows {
			if seen[row] {
				t.Fatalf("%.10s twice", row)
			}
			seen[row] = true
		}
	}
	if len(seen) != 5000 {
		t.Errorf("%d rows", len(seen))
	}
	// The snapshot tells what is in it.
	d.exec("INSERT INTO t VALUES (6000, 'late')")
	xid := d.text("SELECT xmin::text FROM t WHERE id = 6000")
	req.Keys = [][]string{{"6000"}, {"1"}, {"-5"}}
	rows, chunk := read(t, r, req)
	if len(rows) != 2 {
		t.Errorf("%q", rows)
	}
	var x uint64
	if _, err := fmt.Sscan(xid, &x); err != nil || !chunk.Snapshot.Visible(x) {
		t.Errorf("%s is not visible in %v", xid, chunk.Snapshot)
	}
	req.Keys = [][]string{}
	if rows, _ := read(t, r, req); len(rows) != 0 {
		t.Errorf("no keys: %q", rows)
	}
	// A row that is refused ends the chunk.
	stop := errors.New("stop")
	req.Keys = [][]string{{"1"}}
	if _, err := r.ReadChunk(t.Context(), req, func(*pgoutput.Tuple) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if rows, _ := read(t, r, req); len(rows) != 1 {
		t.Errorf("after an error: %q", rows)
	}
}

// Key lists with awkward keys and types, composite keys in attribute order
// (RA-19), escapes of COPY.
func TestReadByKeyAndEscapes(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TYPE mood AS ENUM ('calm', 'o''k');
		CREATE TABLE t (b mood, a text, at timestamptz, v text, PRIMARY KEY (a, b, at));
		CREATE PUBLICATION p FOR TABLE t`)
	odd := []string{"plain", `back\slash`, "quote'", "tab\tnew\nline", `\N`, "\\.", "ünïcode", "", "\r\b\f\v"}
	for _, a := range odd {
		if _, err := d.conn.Exec(t.Context(), "INSERT INTO t VALUES ('o''k', $1, '2024-01-02 03:04:05.5+00', $1), ('calm', $1, 'infinity', NULL)", a); err != nil {
			t.Fatal(err)
		}
	}
	s := d.source()
	tab := table(t, d.tables(s, all), "t")
	req := request(tab, 0)
	if got := strings.Join(req.KeyColumns, ","); got != "b,a,at" {
		t.Fatalf("key %s", got)
	}
	for _, a := range odd {
		req.Keys = append(req.Keys, []string{"o'k", a, "2024-01-02 03:04:05.5+00"})
	}
	r := s.Reader()
	defer r.Close()
	got, _ := read(t, r, req)
	want := map[string]bool{}
	for _, a := range odd {
		want["o'k|"+a+"|2024-01-02 03:04:05.5+00|"+a] = true
	}
	if len(got) != len(want) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	for _, row := range got {
		if !want[row] {
			t.Errorf("got %q", row)
		}
	}
	if all := readAll(t, s, tab); len(all) != 2*len(odd) {
		t.Errorf("%d rows by page", len(all))
	}
}

// RA-16, RA-18: children of a parent are not its rows; column list and row
// filter hold for copies.
func TestChunkReadsWhatTheStreamSends(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TABLE parent (id int PRIMARY KEY, a text, b text);
		CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
		INSERT INTO parent VALUES (1, 'a', 'secret'), (20, 'b', 'secret');
		INSERT INTO child VALUES (30, 'c', 'secret')`)
	s := d.source()
	if id, err := s.Identify(t.Context()); err != nil || id.Version < 150000 {
		t.Skipf("column lists come with 15 (%v)", err)
	}
	d.exec("CREATE PUBLICATION p FOR TABLE ONLY parent (id, a) WHERE (id > 10), ONLY child")
	tables := d.tables(s, all)
	if got := readAll(t, s, table(t, tables, "parent")); len(got) != 1 || got[0] != "20|b" {
		t.Errorf("parent: %q", got)
	}
	if got := readAll(t, s, table(t, tables, "child")); len(got) != 1 || got[0] != "30|c|secret" {
		t.Errorf("child: %q", got)
	}
}

func TestChunkOfATableThatChanged(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR ALL TABLES")
	s := d.source()
	tab := table(t, d.tables(s, all), "t")
	r := s.Reader()
	defer r.Close()
	req := request(tab, 10)
	_, before := read(t, r, req)
	d.exec("VACUUM FULL t")
	if _, after := read(t, r, req); after.Filenode == before.Filenode {
		t.Error("the rewrite was not seen")
	}
	ignore := func(*pgoutput.Tuple) error { return nil }
	d.exec("ALTER TABLE t RENAME TO u", "CREATE TABLE t (id int PRIMARY KEY)")
	if _, err := r.ReadChunk(t.Context(), req, ignore); !errors.Is(err, catalog.ErrTableChanged) {
		t.Errorf("swapped: %v", err)
	}
	d.exec("DROP TABLE t")
	if _, err := r.ReadChunk(t.Context(), req, ignore); !errors.Is(err, catalog.ErrTableChanged) {
		t.Errorf("dropped: %v", err)
	}
	if _, err := s.Plan(t.Context(), 4_000_000_000); !errors.Is(err, catalog.ErrTableChanged) {
		t.Errorf("plan: %v", err)
	}
}

// A locked table is waited for, and the snapshot is taken after the lock.
func TestChunkWaitsForTheLock(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION p FOR ALL TABLES")
	s := d.source()
	tab := table(t, d.tables(s, all), "t")
	r := s.Reader()
	defer r.Close()
	d.exec("BEGIN", "ALTER TABLE t ADD v int")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.ReadChunk(ctx, request(tab, 10), func(*pgoutput.Tuple) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	d.exec("INSERT INTO t VALUES (2, 2)")
	unlocked := make(chan error, 1)
	time.AfterFunc(catalog.LockTimeout+300*time.Millisecond, func() {
		_, err := d.conn.Exec(context.Background(), "COMMIT")
		unlocked <- err
	})
	rows, _ := read(t, r, request(tab, 10))
	if err := <-unlocked; err != nil || len(rows) != 2 {
		t.Errorf("%q %v", rows, err)
	}
}

func TestHeadEmitAndSnapshot(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int)")
	s := d.source()
	before, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, err := s.Emit(t.Context(), true, "millrace", "nonce")
	if err != nil || at <= before {
		t.Errorf("emitted at %v, head was %v: %v", at, before, err)
	}
	snap, err := s.CurrentSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.exec("BEGIN", "INSERT INTO t VALUES (1)")
	var xid uint64
	if err := d.conn.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text::int8").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	if snap.Visible(xid) {
		t.Error("the future is visible")
	}
	during, err := s.CurrentSnapshot(t.Context())
	if err != nil || during.Visible(xid) {
		t.Errorf("%v %v", during, err)
	}
	d.exec("COMMIT")
	after, err := s.CurrentSnapshot(t.Context())
	if err != nil || !after.Visible(xid) || catalog.Widen(uint32(xid), after.Xmax) != xid {
		t.Errorf("%v %v", after, err)
	}
}
