package migrations

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func connect(tb testing.TB, uri string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), uri)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func status(tb testing.TB, uri string) State {
	tb.Helper()
	s, err := Status(tb.Context(), uri)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func count(tb testing.TB, conn *pgx.Conn, sql string) (n int) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), sql).Scan(&n); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return n
}

const objects = `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'millrace'::regnamespace AND relname !~ '^schema_migrations')
	+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'millrace'::regnamespace)
	+ (SELECT count(*) FROM pg_type WHERE typnamespace = 'millrace'::regnamespace AND typname !~ 'schema_migrations')`

func TestUpDownUp(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	if s := status(t, uri); s != (State{Latest: Latest}) {
		t.Fatalf("an empty database is at %+v", s)
	}
	for range 2 { // the second finds nothing to do
		if err := Up(t.Context(), uri); err != nil {
			t.Fatal(err)
		}
		if s := status(t, uri); s != (State{Version: Latest, Latest: Latest, Oldest: Latest}) {
			t.Fatalf("after Up: %+v", s)
		}
	}
	conn := connect(t, uri)
	if n := count(t, conn, `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d relations in public", n)
	}
	for v := Latest; v > 0; {
		if err := Down(t.Context(), uri); err != nil {
			t.Fatal(err)
		}
		s := status(t, uri)
		if s.Version >= v || s.Dirty {
			t.Fatalf("after Down from %d: %+v", v, s)
		}
		v = s.Version
	}
	if n := count(t, conn, objects); n != 0 {
		t.Errorf("%d objects are left after Down", n)
	}
	if err := Down(t.Context(), uri); err != nil {
		t.Errorf("Down at version 0: %v", err)
	}
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentUps(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := Up(t.Context(), uri); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s := status(t, uri); s.Version != Latest || s.Dirty {
		t.Errorf("%+v", s)
	}
}

func TestFailedFileLeavesNothing(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	conn := connect(t, uri)
	// What 0002 makes near its end is in the way.
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA millrace; CREATE TABLE millrace.lookups (x int)`); err != nil {
		t.Fatal(err)
	}
	err := Up(t.Context(), uri)
	if err == nil || !strings.Contains(err.Error(), `relation "lookups" already exists`) {
		t.Fatalf("Up: %v", err)
	}
	if s := status(t, uri); s.Version != 1 || s.Dirty {
		t.Errorf("after a file that failed: %+v", s)
	}
	if n := count(t, conn, `SELECT count(*) FROM pg_class WHERE oid = to_regclass('millrace.ops')`); n != 0 {
		t.Error("the failed file left a table")
	}
	if _, err := conn.Exec(t.Context(), `DROP TABLE millrace.lookups`); err != nil {
		t.Fatal(err)
	}
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
}

func TestInterruptedRunIsRepaired(t *testing.T) {
	for _, applied := range []bool{false, true} {
		uri := pgtest.Shared(t).Database(t)
		if err := Up(t.Context(), uri); err != nil {
			t.Fatal(err)
		}
		if !applied {
			if err := Down(t.Context(), uri); err != nil {
				t.Fatal(err)
			}
		}
		// Killed after the mark was set, before or after the file's commit.
		_, err := connect(t, uri).Exec(t.Context(), fmt.Sprintf(`UPDATE millrace.schema_migrations SET version = %d, dirty = true`, Latest))
		if err != nil {
			t.Fatal(err)
		}
		if err := Up(t.Context(), uri); err != nil {
			t.Fatalf("applied %t: %v", applied, err)
		}
		if s := status(t, uri); s.Version != Latest || s.Dirty {
			t.Errorf("applied %t: %+v", applied, s)
		}
	}
}

// newer makes the schema look as a later release leaves it: a migration more, which
// serves releases that know oldest.
func newer(tb testing.TB, conn *pgx.Conn, oldest int) {
	tb.Helper()
	serves := ""
	if oldest > 0 {
		serves = fmt.Sprintf(", for releases since %d", oldest)
	}
	for _, sql := range []string{
		fmt.Sprintf(`UPDATE millrace.schema_migrations SET version = %d`, Latest+1),
		fmt.Sprintf(`COMMENT ON SCHEMA millrace IS 'Millrace sidecar. At migration %d%s.'`, Latest+1, serves),
		`CREATE OR REPLACE FUNCTION millrace.op_time(op_id bigint) RETURNS timestamptz LANGUAGE sql RETURN '2001-01-01'::timestamptz`,
	} {
		if _, err := conn.Exec(tb.Context(), sql); err != nil {
			tb.Fatal(err)
		}
	}
}

const changedFunction = `SELECT count(*) FROM pg_proc WHERE proname = 'op_time' AND pronamespace = 'millrace'::regnamespace AND prosqlbody IS NOT NULL`

func TestNewerSchema(t *testing.T) {
	for _, test := range []struct {
		name   string
		oldest int
		usable bool
	}{
		{"serves this release", Latest, true},
		{"serves this release and those before", 1, true},
		{"serves later releases", Latest + 1, false},
		{"does not say", 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			uri := pgtest.Shared(t).Database(t)
			if err := Up(t.Context(), uri); err != nil {
				t.Fatal(err)
			}
			conn := connect(t, uri)
			newer(t, conn, test.oldest)
			s := status(t, uri)
			if s.Version != Latest+1 || s.Dirty || (s.Usable() == nil) != test.usable {
				t.Errorf("%+v, usable: %v", s, s.Usable())
			}
			err := Up(t.Context(), uri)
			if (err == nil) != test.usable || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("migration %d", Latest+1)) {
				t.Errorf("Up: %v", err)
			}
			if count(t, conn, changedFunction) != 1 {
				t.Error("Up put its own functions in the place of newer ones")
			}
			if err := Down(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "only the release that made it") {
				t.Errorf("Down: %v", err)
			}
			if status(t, uri) != s || count(t, conn, changedFunction) != 1 {
				t.Error("Down changed something")
			}
		})
	}
}

// TestNewerReleaseIsMigrating: while a newer release migrates, and after it was
// killed in the middle, this one knows what the schema is.
func TestNewerReleaseIsMigrating(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, uri)
	if _, err := conn.Exec(t.Context(), `UPDATE millrace.schema_migrations SET version = $1, dirty = true`, Latest+1); err != nil {
		t.Fatal(err)
	}
	if s := status(t, uri); s != (State{Version: Latest, Latest: Latest, Oldest: Latest, Dirty: true}) || s.Usable() != nil {
		t.Errorf("before its file is committed: %+v", s)
	}
	newer(t, conn, Latest)
	if s := status(t, uri); s != (State{Version: Latest + 1, Latest: Latest, Oldest: Latest, Dirty: true}) || s.Usable() != nil {
		t.Errorf("after its file is committed: %+v", s)
	}
	// This release repairs the mark, and does not mistake the schema for its own.
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if s := status(t, uri); s != (State{Version: Latest + 1, Latest: Latest, Oldest: Latest}) {
		t.Errorf("repaired: %+v", s)
	}
}

// TestUpWithoutRights runs as a role that owns its database and nothing else.
func TestUpWithoutRights(t *testing.T) {
	s := pgtest.New(t, pgtest.Options{})
	admin := connect(t, s.URI("postgres"))
	for _, sql := range []string{
		`CREATE ROLE poor LOGIN PASSWORD 'poor'`, `CREATE DATABASE poor OWNER poor`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(s.URI("poor"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("poor", "poor")
	uri := u.String()
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if n := count(t, connect(t, uri), `SELECT count(*) FROM pg_roles WHERE rolname = 'millrace_reader'`); n != 0 {
		t.Error("the role could be created after all")
	}
	if _, err := admin.Exec(t.Context(), `CREATE ROLE millrace_reader`); err != nil {
		t.Fatal(err)
	}
	if err := Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if n := count(t, connect(t, s.URI("poor")), `SELECT has_table_privilege('millrace_reader', 'millrace.ops', 'SELECT')::int`); n != 1 {
		t.Error("millrace_reader may not read ops")
	}
}

// TestFilesAreWellFormed holds the files to the rules of the package comment.
func TestFilesAreWellFormed(t *testing.T) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]int{} // numbers may be left out, an up without a down may not
	newest, oldest := 0, map[int]int{}
	form := regexp.MustCompile(`^(\d{4})_[a-z]+_[a-z_]+\.(up|down)\.sql$`)
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		m := form.FindStringSubmatch(name)
		if m == nil {
			t.Errorf("%s: not NNNN_verb_object.up.sql", name)
			continue
		}
		var n int
		if _, err := fmt.Sscan(strings.TrimLeft(m[1], "0"), &n); err != nil {
			t.Fatal(err)
		}
		newest = max(newest, n)
		ends[m[1]]++
		if m[2] == "down" {
			n--
		}
		if !strings.HasPrefix(string(text), "-- ") {
			t.Errorf("%s does not say what it does", name)
		}
		end := strings.TrimSuffix(strings.TrimSpace(string(text)), "';")
		noted, since := readMark(end)
		if noted != n || strings.HasSuffix(end, "'") {
			t.Errorf("%s does not end by noting migration %d", name, n)
		}
		if m[2] == "up" {
			oldest[n] = since
		}
		if strings.Contains(string(text), "CONCURRENTLY") {
			t.Errorf("%s: CONCURRENTLY cannot share a file", name)
		}
	}
	// What one migration ends, a later one does not bring back.
	last := 0
	for n := 1; n <= newest; n++ {
		if since, exists := oldest[n]; exists {
			if since < last || since > n {
				t.Errorf("migration %d serves releases since %d, the one before since %d", n, since, last)
			}
			last = since
		}
	}
	for number, n := range ends {
		if n != 2 {
			t.Errorf("migration %s has %d files, want an up and a down", number, n)
		}
	}
	if newest != Latest {
		t.Errorf("the newest migration is %d, Latest is %d", newest, Latest)
	}
}
