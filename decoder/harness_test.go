package decoder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// term runs Run in the background.
type term struct {
	cancel context.CancelFunc
	done   chan error
}

func startTerm(c Config, s Sidecar) *term {
	ctx, cancel := context.WithCancel(context.Background())
	t := &term{cancel: cancel, done: make(chan error, 1)}
	go func() { t.done <- Run(ctx, c, s) }()
	return t
}

// stop ends the term abruptly and gives its error.
func (t *term) stop() error {
	t.cancel()
	err := <-t.done
	t.done <- err
	return err
}

// failed gives the error of a term that ended by itself.
func (t *term) failed() error {
	select {
	case err := <-t.done:
		t.done <- err
		return err
	default:
		return nil
	}
}

func testLog(t testing.TB) *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("MILLRACE_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil)).With("test", t.Name())
}

// bench is a source, a sidecar in memory and a connection to play with.
type fixture struct {
	t       testing.TB
	uri     string
	db      *pgx.Conn
	sidecar *sinktest.Sidecar
	config  Config
	term    *term
}

func newFixture(t testing.TB, server *pgtest.Server, rules string, statements ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, uri: server.Database(t), sidecar: sinktest.New()}
	ctx := context.Background()
	db, err := pgx.Connect(ctx, f.uri)
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
	t.Cleanup(func() {
		if f.term != nil {
			_ = f.term.stop()
		}
		if misled := f.sidecar.Misled(); len(misled) > 0 && f.config.without == 0 {
			t.Errorf("%d changes were wrongly called new: %v", len(misled), misled[0])
		}
		_ = db.Close(ctx)
	})
	for _, s := range statements {
		f.exec(s)
	}
	f.config = Config{
		Sources: []SourceConfig{{Name: "main", URI: f.uri, Slot: fmt.Sprintf("slot_%d", time.Now().UnixNano())}},
		Rules:   rules,
		Logger:  testLog(t),

		SpoolDir: t.TempDir(), positions: 20 * time.Millisecond,
	}
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(context.Background(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) start() {
	f.term = startTerm(f.config, f.sidecar)
}

// reconnect is for a server that was started again.
func (f *fixture) reconnect() {
	f.t.Helper()
	db, err := pgx.Connect(context.Background(), f.uri)
	if err != nil {
		f.t.Fatal(err)
	}
	f.db = db
	f.t.Cleanup(func() { _ = db.Close(context.Background()) })
}

// head is the source's insert position.
func (f *fixture) head() millrace.LSN {
	f.t.Helper()
	var text string
	if err := f.db.QueryRow(context.Background(), "select pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
		f.t.Fatal(err)
	}
	lsn, err := millrace.ParseLSN(text)
	if err != nil {
		f.t.Fatal(err)
	}
	return lsn
}

const patience = 30 * time.Second

// settled waits until a rule set is in force and the sidecar contains
// everything committed before the call.
func (f *fixture) settled() {
	f.t.Helper()
	head := f.head()
	f.exec("select pg_logical_emit_message(true, 'test', '')")
	pgtest.Eventually(f.t, patience, func() error {
		if err := f.term.failed(); err != nil {
			f.t.Fatalf("the term ended: %v", err)
		}
		if _, ok := f.sidecar.Active(); !ok {
			return fmt.Errorf("no rule set is in force; copies %+v", f.sidecar.Copies())
		}
		source := f.sidecar.Source("main")
		if source.Durable < head {
			return fmt.Errorf("durable at %v, head %v; report %+v", source.Durable, head, f.sidecar.ReportOf(source.ID))
		}
		return nil
	})
}

// definition is the id of a definition of the rule set in force.
func (f *fixture) definition(key string) millrace.DefinitionID {
	f.t.Helper()
	set, ok := f.sidecar.Active()
	if !ok {
		f.t.Fatal("no rule set is in force")
	}
	for _, d := range set.Definitions {
		if strings.HasPrefix(d.Key, key) {
			return d.ID
		}
	}
	f.t.Fatalf("no definition %q among %+v", key, set.Definitions)
	return 0
}

// contentEquals compares a definition's rows with a query on the source that
// gives bucket, row id and data.
func (f *fixture) contentEquals(key, query string) {
	f.t.Helper()
	if err := f.compare(key, query); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) compare(key, query string) error {
	rows, err := f.db.Query(context.Background(), query)
	if err != nil {
		return err
	}
	want := map[string]string{}
	for rows.Next() {
		var bucket, id, data string
		if err := rows.Scan(&bucket, &id, &data); err != nil {
			return err
		}
		want[bucket+" "+id] = data
	}
	if rows.Err() != nil {
		return rows.Err()
	}
	var errs []error
	got := map[string]string{}
	for id, data := range f.sidecar.Content(f.definition(key)) {
		at := id.Bucket + " " + id.RowID
		if _, double := got[at]; double {
			errs = append(errs, fmt.Errorf("%s is there twice", at))
		}
		got[at] = data
		if w, ok := want[at]; !ok {
			errs = append(errs, fmt.Errorf("extra: %s", at))
		} else if w != data {
			errs = append(errs, fmt.Errorf("stale: %s is %.100s, want %.100s", at, data, w))
		}
	}
	for at := range want {
		if _, ok := got[at]; !ok {
			errs = append(errs, fmt.Errorf("missing: %s", at))
		}
	}
	if len(errs) > 0 {
		n := len(errs)
		return fmt.Errorf("%d of %d rows are wrong: %w", n, len(want), errors.Join(errs[:min(n, 5)]...))
	}
	return nil
}

func mustLSN(t testing.TB, text string) millrace.LSN {
	t.Helper()
	lsn, err := millrace.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
