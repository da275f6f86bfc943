package pgtest

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

func query[T any](t *testing.T, uri, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSharedDatabaseIsDroppedWithWhatHoldsIt(t *testing.T) {
	s := Shared(t)
	var name string
	t.Run("Use It!", func(t *testing.T) {
		uri := s.Database(t)
		name = query[string](t, uri, "SELECT current_database()::text")
		if !strings.HasPrefix(name, "t_testshareddatabaseisdroppedwithwhat") {
			t.Errorf("database is named %q", name)
		}
		query[string](t, uri, "SELECT slot_name::text FROM pg_create_logical_replication_slot($1, 'pgoutput')", "pgtest_slot")
		conn, err := pgx.Connect(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		// Left open on purpose: one in a prepared transaction, one idle.
		if _, err := conn.Exec(t.Context(), "BEGIN; CREATE TABLE x(); PREPARE TRANSACTION 'pgtest''gid'"); err != nil {
			t.Fatal(err)
		}
	})
	if n := query[int](t, s.URI("postgres"), "SELECT count(*) FROM pg_database WHERE datname = $1", name); n != 0 {
		t.Errorf("database %s is still there", name)
	}
	if n := query[int](t, s.URI("postgres"), "SELECT count(*) FROM pg_replication_slots"); n != 0 {
		t.Errorf("%d slots are still there", n)
	}
}

func TestOwnServerSurvivesKillAndStop(t *testing.T) {
	s := New(t, Options{Settings: map[string]string{"application_name": "it's", "wal_level": "replica"}})
	if got := query[string](t, s.URI("postgres"), "SHOW wal_level"); got != "replica" {
		t.Errorf("wal_level = %q, want replica", got)
	}
	uri := s.Database(t)
	query[int](t, uri, "WITH x AS (SELECT 1) SELECT 1 FROM x")
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS v"); err != nil {
		t.Fatal(err)
	}
	s.Kill(t)
	if err := conn.Ping(t.Context()); err == nil {
		// The backend may outlive its postmaster for a moment, no longer.
		Eventually(t, 10*time.Second, func() error {
			if conn.Ping(t.Context()) == nil {
				return errors.New("the connection is still alive")
			}
			return nil
		})
	}
	s.Start(t)
	if got := query[int](t, uri, "SELECT v FROM kept"); got != 42 {
		t.Errorf("after kill: %d", got)
	}
	s.Stop(t)
	s.Start(t)
	if got := query[int](t, uri, "SELECT v FROM kept"); got != 42 {
		t.Errorf("after stop: %d", got)
	}
}

func TestEventuallyReturnsAtTheFirstSuccess(t *testing.T) {
	calls := 0
	Eventually(t, time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if calls != 3 {
		t.Errorf("called %d times, want 3", calls)
	}
}

func TestWithParam(t *testing.T) {
	got := WithParam(t, "postgres://u:p@h/db?sslmode=disable", "application_name", "a b")
	if want := "postgres://u:p@h/db?application_name=a+b&sslmode=disable"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
