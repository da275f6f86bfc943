// Package pgtest gives tests real PostgreSQL servers: one shared server for
// each test process with a database for each test, or a server of one's own
// that can be stopped and killed. Only tests import it.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgserver"
)

const callTimeout = 60 * time.Second

// Options are for a server of one's own. The zero value is the shared
// server's configuration.
type Options struct {
	// Settings win over the defaults below.
	Settings map[string]string
	// BinDir is the folder of the binaries; empty finds them as `millrace
	// dev` does.
	BinDir string
}

// defaults suit logical replication, and durability is of no interest: a
// killed server loses nothing, only a power cut would.
var defaults = map[string]string{
	"wal_level":                 "logical",
	"max_replication_slots":     "50",
	"max_wal_senders":           "50",
	"max_prepared_transactions": "50",
	"max_connections":           "200",
	"shared_buffers":            "64MB",
	"fsync":                     "off",
	"full_page_writes":          "off",
	"jit":                       "off",
}

// Server is a PostgreSQL server for tests.
type Server struct {
	dir    string
	cfg    pgserver.Config
	server *pgserver.Server
	shared bool
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
	ended  bool
}

// Run runs a package's tests and stops the shared server afterwards:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
func Run(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	shared.ended = true
	if shared.server != nil {
		if err := shared.server.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			if code == 0 {
				code = 1
			}
		}
	}
	return code
}

// Shared returns the server of this test process, starting it at the first
// call. It stays until Run returns, so the package needs a TestMain.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.ended {
		tb.Fatal("pgtest.Shared: the shared server was stopped already")
	}
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = start(Options{})
		if shared.server != nil {
			shared.server.shared = true
		}
	}
	if shared.err != nil {
		tb.Fatal("pgtest.Shared:", shared.err)
	}
	return shared.server
}

// New starts a server for one test; it is removed when the test ends.
func New(tb testing.TB, opts Options) *Server {
	tb.Helper()
	s, err := start(opts)
	if err != nil {
		tb.Fatal("pgtest.New:", err)
	}
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Error("pgtest:", err)
		}
	})
	return s
}

func start(opts Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	bin, err := pgserver.Find(ctx, opts.BinDir)
	if err != nil {
		return nil, fmt.Errorf("%w: `make test` installs it", err)
	}
	removeLeftovers()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	// Another user's server has to get to its folder.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	settings := make(map[string]string)
	for _, m := range []map[string]string{defaults, opts.Settings} {
		for k, v := range m {
			settings[k] = v
		}
	}
	s := &Server{dir: dir, cfg: pgserver.Config{
		Binaries:      bin,
		Dir:           filepath.Join(dir, "pg"),
		Settings:      settings,
		EndWithParent: true,
	}}
	if s.server, err = pgserver.Start(ctx, s.cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// URI is the connection string of the superuser for a database.
func (s *Server) URI(database string) string {
	return s.server.URI(database) + "?sslmode=disable"
}

// DataDir is the server's data directory.
func (s *Server) DataDir() string { return s.server.DataDir() }

// PID is the postmaster's process id.
func (s *Server) PID() int { return s.server.PID() }

// Stop stops the server fast, keeping its data.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.notShared(tb, "Stop")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := s.server.Stop(ctx); err != nil {
		tb.Fatal(err)
	}
}

// StopOrKill is Stop for a server that may have a reason not to stop in time, such as
// a replication client that takes nothing. It tells whether the server was killed.
func (s *Server) StopOrKill(tb testing.TB) (killed bool) {
	tb.Helper()
	s.notShared(tb, "StopOrKill")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := s.server.Stop(ctx)
	if err != nil && !errors.Is(err, pgserver.ErrKilled) {
		tb.Fatal(err)
	}
	return err != nil
}

// Kill kills the postmaster (kill -9).
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.notShared(tb, "Kill")
	if err := s.server.Kill(); err != nil {
		tb.Fatal(err)
	}
}

// Start starts the server again after Stop or Kill, with its data and on the
// same port.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.notShared(tb, "Start")
	port := s.server.Port()
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	server, err := pgserver.Start(ctx, s.cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s.server = server
	if server.Port() != port {
		tb.Fatalf("port %d was taken while the server was down", port)
	}
}

func (s *Server) notShared(tb testing.TB, what string) {
	tb.Helper()
	if s.shared {
		tb.Fatalf("pgtest: %s on the shared server would disturb other tests; use New", what)
	}
}

func (s *Server) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return errors.Join(s.server.Stop(ctx), os.RemoveAll(s.dir))
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// Database makes an empty database and returns its URI. At the end of the test
// it is dropped, with its slots, connections and prepared transactions.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := notInNames.ReplaceAllString(strings.ToLower(tb.Name()), "_")
	name = "t_" + name[:min(len(name), 40)] + "_" + strings.ToLower(rand.Text()[:8])
	if err := s.exec("postgres", "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		tb.Fatal("pgtest: create database:", err)
	}
	tb.Cleanup(func() {
		if err := s.drop(name); err != nil {
			tb.Errorf("pgtest: drop database %s: %v", name, err)
		}
	})
	return s.URI(name)
}

func (s *Server) exec(database, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URI(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// drop removes a database and what would keep it from being dropped. A server
// that is down has nothing to drop.
func (s *Server) drop(name string) error {
	if s.server.Wait(expired()) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URI("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var gids []string
	if err := conn.QueryRow(ctx, "SELECT coalesce(array_agg(gid), '{}') FROM pg_prepared_xacts WHERE database = $1", name).Scan(&gids); err != nil {
		return err
	}
	for _, gid := range gids {
		if err := s.exec(name, "ROLLBACK PREPARED '"+strings.ReplaceAll(gid, "'", "''")+"'"); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+pgx.Identifier{name}.Sanitize()+" ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	for {
		var left int
		if err := conn.QueryRow(ctx, `
			WITH killed AS (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1)
			SELECT count(*) FROM killed`, name).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", name); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return err
}

// expired is a context that has ended: for asking without waiting.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// WithParam adds a parameter to a connection URI, for example
// ("application_name", "x").
func WithParam(tb testing.TB, uri, key, value string) string {
	tb.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		tb.Fatal("pgtest: the URI does not parse")
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// Eventually calls f until it returns nil, and fails the test with its last
// error if that takes longer than timeout.
func Eventually(tb testing.TB, timeout time.Duration, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(timeout)
	wait := 5 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %v", timeout, err)
		}
		time.Sleep(wait)
		wait = min(wait*3/2, 100*time.Millisecond)
	}
}

const dirPrefix = "millrace-pgtest-"

// removeLeftovers removes folders of test processes that were killed; their
// servers ended with them.
func removeLeftovers() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		pidText, _, ok := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(pidText)
		if !ok || err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if fi, err := os.Stat(dir); err != nil || time.Since(fi.ModTime()) < time.Hour {
			continue // perhaps of another machine that shares this folder
		}
		_ = os.RemoveAll(dir) // best effort: perhaps another user's
	}
}
