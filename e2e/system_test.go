package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
)

// rules names the files of a rule set in testdata: NAME.yaml, the oracle's
// NAME.sql and NAME.lookups.sql.
type rules struct {
	name string
	// marks is the logical name of the bucket that holds the table marks.
	marks string
	// accounts is the logical name of the bucket of the table accounts.
	accounts string
}

var (
	bucketRules = rules{name: "buckets", marks: "marks[]", accounts: "accounts[]"}
	streamRules = rules{name: "streams", marks: "marks|0[]", accounts: "accounts|0[]"}
)

// options of a system; the zero value is the bucket rules on the shared source
// server, a sidecar server of its own, and no proxies.
type options struct {
	rules rules
	// ownSource starts a source server for this test alone, with settings.
	ownSource      bool
	sourceSettings map[string]string
	sourceProxy    bool
	sidecarProxy   bool
}

// system is a source and a sidecar with the load's tables and a configuration.
// Processes are started by the test.
type system struct {
	t     testing.TB
	rules rules

	source, sidecar       *pgtest.Server
	sourceURI, sidecarURI string // direct
	sourceNet, sidecarNet *faultnet.Proxy
	config                string // path of millrace.yaml
	slot, publication     string

	before footprint // the source's catalog before the first start
	marked int64
	folded folds
	procs  []*process
}

var slots atomic.Int64

func newSystem(t testing.TB, o options) *system {
	t.Helper()
	if o.rules == (rules{}) {
		o.rules = bucketRules
	}
	n := slots.Add(1)
	s := &system{t: t, rules: o.rules, slot: fmt.Sprintf("millrace_e2e_%d", n), publication: fmt.Sprintf("millrace_e2e_%d", n)}
	if o.ownSource || o.sourceSettings != nil {
		s.source = pgtest.New(t, pgtest.Options{Settings: o.sourceSettings})
	} else {
		s.source = pgtest.Shared(t)
	}
	s.sidecar = pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica", "shared_buffers": "128MB"}})
	s.sourceURI, s.sidecarURI = s.source.Database(t), s.sidecar.Database(t)
	sourceURI, sidecarURI := s.sourceURI, s.sidecarURI
	if o.sourceProxy {
		s.sourceNet, sourceURI = proxied(t, sourceURI)
	}
	if o.sidecarProxy {
		s.sidecarNet, sidecarURI = proxied(t, sidecarURI)
	}
	s.onSource(readFile(t, "testdata/load.sql"))
	s.config = s.writeConfig(sourceURI, sidecarURI, filepath.Join("testdata", o.rules.name+".yaml"))
	s.before = readFootprint(t, s.sourceURI)
	s.migrate()
	return s
}

// writeConfig writes a millrace.yaml and returns its path.
func (s *system) writeConfig(sourceURI, sidecarURI, rulesFile string) string {
	s.t.Helper()
	path, err := filepath.Abs(rulesFile)
	if err != nil {
		s.t.Fatal(err)
	}
	text := fmt.Sprintf(`sources:
  - name: main
    uri: %q
    slot: %s
    publication: %s
sidecar:
  uri: %q
rules: %q
`, sourceURI, s.slot, s.publication, sidecarURI, path)
	file := filepath.Join(s.t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// migrate brings the sidecar's schema up.
func (s *system) migrate() {
	s.t.Helper()
	if out, errOut, code := run(s.t, "migrate", "up", "-c", s.config); code != 0 {
		s.t.Fatalf("millrace migrate up ends with %d:\n%s%s", code, out, errOut)
	}
}

// start starts a decoder.
func (s *system) start() *process {
	s.t.Helper()
	return s.startWith(s.config)
}

func (s *system) startWith(config string) *process {
	s.t.Helper()
	p := start(s.t, "decoder"+strconv.Itoa(len(s.procs)+1), "serve", "-c", config, "--role", "decoder")
	s.procs = append(s.procs, p)
	return p
}

// anyRunning tells whether a process is there that could make progress.
func (s *system) anyRunning() bool {
	return slices.ContainsFunc(s.procs, (*process).running)
}

// onSource runs SQL on the source as one simple query.
func (s *system) onSource(sql string) {
	s.t.Helper()
	execSQL(s.t, s.sourceURI, sql)
}

// mark writes a row on the source whose arrival on the sidecar shows that
// everything committed before has arrived.
func (s *system) mark() int64 {
	s.t.Helper()
	s.marked++
	s.onSource(fmt.Sprintf("INSERT INTO marks VALUES ('mark', %d) ON CONFLICT (id) DO UPDATE SET n = excluded.n", s.marked))
	return s.marked
}

// caughtUp waits until everything the source has committed is in a checkpoint.
func (s *system) caughtUp(timeout time.Duration) {
	s.t.Helper()
	want := fmt.Sprintf(`{"id":"mark","n":%d}`, s.mark())
	start := time.Now()
	arrived := false
	defer func() {
		if !arrived {
			s.explain()
		}
	}()
	pgtest.Eventually(s.t, timeout, func() error {
		if !s.anyRunning() {
			s.t.Fatal("no decoder is running")
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, s.sidecarURI)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		got, err := sidecar{conn}.rowData(ctx, s.rules.marks, "marks", "mark")
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the mark on the sidecar is %q, want %q", got, want)
		}
		return nil
	})
	arrived = true
	s.t.Logf("caught up after %v", time.Since(start).Round(time.Millisecond))
}

// explain logs what a person would look at if the sidecar does not follow, and
// asks the processes for their goroutines.
func (s *system) explain() {
	s.t.Helper()
	const sessions = `SELECT coalesce(jsonb_pretty(jsonb_agg(to_jsonb(a) - 'datname' - 'datid' - 'usesysid' - 'client_addr')), '')
		FROM (SELECT pid, application_name, state, wait_event_type, wait_event, query, now() - xact_start AS open, backend_xmin, pg_blocking_pids(pid) AS blocked_by
			FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()) a`
	for _, q := range []struct{ what, uri, sql string }{
		{"status", s.sidecarURI, `SELECT jsonb_pretty(to_jsonb(s)) FROM millrace.status s`},
		{"replication", s.sidecarURI, `SELECT jsonb_pretty(jsonb_agg(r)) FROM millrace.replication r`},
		{"sessions on the sidecar", s.sidecarURI, sessions},
		{"sessions on the source", s.sourceURI, sessions},
		{"slots", s.sourceURI, `SELECT coalesce(jsonb_pretty(jsonb_agg(s)), '') FROM pg_replication_slots s`},
	} {
		text, err := tryQuery[string](q.uri, q.sql)
		s.t.Logf("%s: %s %v", q.what, text, err)
	}
	for _, p := range s.procs {
		if p.running() {
			p.signal(s.t, syscall.SIGCONT)
			p.signal(s.t, syscall.SIGQUIT)
			<-p.done
		}
	}
}

// proxied puts a proxy in front of the server a URI names.
func proxied(t testing.TB, uri string) (*faultnet.Proxy, string) {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	p, err := faultnet.Listen(net.JoinHostPort(u.Hostname(), u.Port()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	u.Host = p.Addr()
	return p, u.String()
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := readText(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// execSQL runs SQL as one simple query.
func execSQL(t testing.TB, uri, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	conn, err := connectAs(ctx, uri, "e2e")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("%.300s: %v", sql, err)
	}
}

// query returns the first column of the only row.
func query[T any](t testing.TB, uri, sql string, args ...any) T {
	t.Helper()
	v, err := tryQuery[T](uri, sql, args...)
	if err != nil {
		t.Fatalf("%.300s: %v", strings.TrimSpace(sql), err)
	}
	return v
}

func tryQuery[T any](uri, sql string, args ...any) (v T, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := connectAs(ctx, uri, "e2e")
	if err != nil {
		return v, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, sql, args...).Scan(&v)
	return v, err
}

func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}
