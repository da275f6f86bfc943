package doctor

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
)

func open(t *testing.T, uri string) func(sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func(sql string) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// has finds a finding by level and words of it.
func has(list []Finding, level Level, words ...string) bool {
	for _, f := range list {
		text, all := fmt.Sprint(f.About, " ", f.Code, " ", f.Object, " ", f.Message, " → ", f.Cure), f.Level == level
		for _, w := range words {
			all = all && strings.Contains(text, w)
		}
		if all {
			return true
		}
	}
	return false
}

func all(string, string) bool { return true }

func as(t *testing.T, uri, role string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "x")
	return u.String()
}

// A server that is set up badly in every way that can be arranged, and its cures.
func TestSourceFindings(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	uri := server.Database(t)
	exec := open(t, uri)
	exec("create table orders(id int primary key, v int)")
	exec("create table secret(id int primary key); alter table secret enable row level security")
	exec("create table keyless(v int)")
	exec("create publication millrace for table orders, secret with (publish = 'insert')")
	exec("create role reader login password 'x'")
	exec("grant select on secret to reader")
	exec("select pg_create_logical_replication_slot('millrace_gone', 'pgoutput')")
	exec("alter system set wal_sender_timeout = 0")
	exec("select pg_reload_conf()")
	tx, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Close(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "begin; insert into orders values (1, 1)"); err != nil {
		t.Fatal(err)
	}
	source := Source{Name: "main", URI: as(t, uri, "reader"), Slot: "millrace_main", Publication: "millrace", Uses: all, Named: []catalog.TableName{{Schema: "public", Name: "nowhere"}}}
	pgtest.Eventually(t, time.Minute, func() error {
		found := examineSource(t.Context(), &source)
		for _, want := range []struct {
			level Level
			words []string
		}{
			{Fatal, []string{"MR1005", "reader", "ALTER ROLE", "REPLICATION"}},
			{Fatal, []string{"MR1011", "SET (publish = 'insert, update, delete, truncate')"}},
			{Fatal, []string{"MR1015", "public.orders", "GRANT SELECT"}},
			{Fatal, []string{"MR1016", "public.secret", "BYPASSRLS"}},
			{Warn, []string{"MR1013", "public.nowhere"}},
			{Warn, []string{"MR1032", "pg_drop_replication_slot('millrace_gone')"}},
			{Warn, []string{"max_slot_wal_keep_size", "ALTER SYSTEM SET max_slot_wal_keep_size"}},
			{Warn, []string{"wal_sender_timeout", "ALTER SYSTEM SET wal_sender_timeout"}},
		} {
			if !has(found, want.level, want.words...) {
				return fmt.Errorf("no %s finding with %q among %+v", want.level, want.words, found)
			}
		}
		if Worst(found) != Fatal {
			return fmt.Errorf("the worst is %s", Worst(found))
		}
		return nil
	})
}

func TestUnreachable(t *testing.T) {
	found, err := Examine(t.Context(), Config{
		Sources: []Source{{Name: "main", URI: "postgres://u:s3cret@127.0.0.1:1/x"}}, Sidecar: "postgres://u:s3cret@127.0.0.1:1/y",
		KeySets: []string{"http://u:s3cret@127.0.0.1:1/keys?k=s3cret"}, Relay: "http://127.0.0.1:1", Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if Worst(found) != Unreachable || len(found) != 4 {
		t.Errorf("findings %+v", found)
	}
	if text := fmt.Sprint(found); strings.Contains(text, "s3cret") {
		t.Errorf("a secret is shown: %s", text)
	}
}

func TestSidecarFindings(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	uri := server.Database(t)
	source := Source{Name: "main", URI: server.Database(t)}
	exec := open(t, uri)
	look := func() []Finding {
		return examineSidecar(t.Context(), &Config{Sidecar: uri, Sources: []Source{source}})
	}
	if found := look(); !has(found, Fatal, "schema millrace", "migrate up") {
		t.Errorf("before migrating: %+v", found)
	}
	if err := migrations.Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if found := look(); !has(found, Warn, "MR1050", "source main") || !has(found, Warn, "none has ever worked") {
		t.Errorf("after migrating: %+v", found)
	}
	exec("alter system set autovacuum = off")
	exec("alter system set fsync = off")
	exec("select pg_reload_conf()")
	pgtest.Eventually(t, time.Minute, func() error {
		found := look()
		if !has(found, Fatal, "autovacuum", "ALTER SYSTEM SET autovacuum = on") || !has(found, Fatal, "fsync") {
			return fmt.Errorf("findings %+v", found)
		}
		return nil
	})
	same := &Config{Sidecar: uri, Sources: []Source{{Name: "main", URI: uri}}}
	if found := examineSidecar(t.Context(), same); !has(found, Fatal, "MR1050") {
		t.Errorf("sidecar and source are one database: %+v", found)
	}
}

// Providers are known by roles and functions that only they have, and get cures of
// their own. They are played by a server with such roles.
func TestProviders(t *testing.T) {
	for _, p := range []struct {
		sign string
		is   provider
		cure string
	}{
		{"create role rds_superuser", rds, "rds.logical_replication = 1"},
		{"create role rdsadmin; create function aurora_version() returns text language sql as 'select 1::text'", aurora, "cluster's parameter group"},
		{"create role cloudsqlsuperuser", cloudSQL, "cloudsql.logical_decoding=on"},
		{"create role supabase_admin", supabase, "Supabase"},
		{"create role neon_superuser", neon, "project's settings"},
		{"create role azure_pg_admin", azure, "server parameter wal_level"},
	} {
		t.Run(string(p.is), func(t *testing.T) {
			server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
			uri := server.Database(t)
			open(t, uri)(p.sign)
			conn, err := connect(t.Context(), uri)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.Background()) }()
			if who, err := detect(t.Context(), conn); err != nil || who != p.is {
				t.Fatalf("it is taken for %q (%v)", who, err)
			}
			found := examineSource(t.Context(), &Source{Name: "main", URI: uri, Slot: "millrace_main", Publication: "millrace"})
			if !has(found, Fatal, "MR1003", p.cure) {
				t.Errorf("findings %+v", found)
			}
		})
	}
}

func TestKeySets(t *testing.T) {
	answer := func(status int, header map[string]string, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for name, c := range map[string]struct {
		address string
		level   Level
		words   string
	}{
		"good":     {answer(200, nil, `{"keys":[{"kty":"RSA"}]}`), Warn, "without encryption"},
		"empty":    {answer(200, nil, `{"keys":[]}`), Fatal, "no keys"},
		"html":     {answer(200, nil, `<html>`), Fatal, "JSON key set"},
		"missing":  {answer(404, nil, ``), Fatal, "404"},
		"redirect": {answer(302, map[string]string{"Location": "https://user:pw@elsewhere/x"}, ``), Fatal, "redirects to https://elsewhere/x"},
		"clock":    {answer(200, map[string]string{"Date": time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}, `{"keys":[{}]}`), Warn, "clock"},
	} {
		if found := examineKeySet(t.Context(), c.address); !has(found, c.level, c.words) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// A relay behind a proxy that passes lines on, one that collects them, and one
// that knows no upgrades.
func TestRelay(t *testing.T) {
	relay := func(buffered, upgrades bool) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/sync/ws":
				if !upgrades {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				w.WriteHeader(http.StatusUnauthorized)
			case "/sync/stream":
				_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the client left
				if r.Header.Get("Authorization") != "Bearer good" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				if !buffered {
					_, _ = w.Write([]byte("{}\n"))
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	if found := examineRelay(t.Context(), relay(false, true), "good"); Worst(found) != OK {
		t.Errorf("a good way: %+v", found)
	}
	if found := examineRelay(t.Context(), relay(true, true), "good"); !has(found, Fatal, "buffering", "proxy_buffering off") {
		t.Errorf("a proxy that buffers: %+v", found)
	}
	if found := examineRelay(t.Context(), relay(false, false), "good"); !has(found, Fatal, "/sync/ws", "proxy_set_header Upgrade") {
		t.Errorf("a proxy without upgrades: %+v", found)
	}
	if found := examineRelay(t.Context(), relay(false, true), "bad"); !has(found, Warn, "token") {
		t.Errorf("a bad token: %+v", found)
	}
}
