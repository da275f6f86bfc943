package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// system is the demo's source and a sidecar, and what serve needs.
type system struct {
	cfg    *config.Config
	source *pgx.Conn
	url    string
	stop   func()
}

func newSystem(t *testing.T) *system {
	t.Helper()
	server := pgtest.Shared(t)
	source, sidecar := server.Database(t), server.Database(t)
	if err := migrations.Up(t.Context(), sidecar); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	s := &system{source: conn}
	s.exec(t, demo.Schema+demo.Seed)
	rules := filepath.Join(t.TempDir(), "sync.yaml")
	if err := os.WriteFile(rules, []byte(demo.Rules), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Sources = []config.Source{{Name: "main", URI: config.URI(source), Tags: []string{"main", "default"}, Slot: fmt.Sprintf("serve_%d", time.Now().UnixNano()), Publication: "millrace"}}
	cfg.Sidecar.URI = config.URI(sidecar)
	cfg.Rules = rules
	cfg.Auth.Keys = []config.JWK{config.JWK(relaytest.Key())}
	cfg.Auth.Audience = []string{relaytest.Audience}
	s.cfg = &cfg
	t.Cleanup(func() {
		// The database cannot be dropped while a slot refers to it.
		admin, err := pgx.Connect(context.Background(), source)
		if err != nil {
			return
		}
		defer admin.Close(context.Background())
		_, _ = admin.Exec(context.Background(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active`, cfg.Sources[0].Slot)
	})
	return s
}

func (s *system) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.source.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// start serves, and waits until clients can be.
func (s *system) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	go func() { done <- serve(ctx, s.cfg, l, roleAll, nil, log) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		s.stop = func() {}
	}
	t.Cleanup(func() { s.stop() })
	pgtest.Eventually(t, 30*time.Second, func() error {
		resp, err := http.Get(s.url + "/probes/readiness")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, err := io.ReadAll(resp.Body)
			return fmt.Errorf("status %d: %s %w", resp.StatusCode, b, err)
		}
		return nil
	})
}

func (s *system) dial(t *testing.T, user string, before *relaytest.Client) *relaytest.Client {
	t.Helper()
	return relaytest.Dial(t, s.url, relaytest.Token(user, time.Hour), relaytest.Request(user+"-device"), before)
}

// titles reads what the rules give a user, from the source.
func (s *system) titles(t *testing.T, user string) map[string]string {
	t.Helper()
	rows, err := s.source.Query(t.Context(), `
		SELECT t.id::text, t.title FROM todos t JOIN lists l ON l.id = t.list_id
		WHERE l.owner_id = $1 OR l.id IN (SELECT list_id FROM list_members WHERE user_id = $1)`, user)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var id, title string
	if _, err := pgx.ForEachRow(rows, []any{&id, &title}, func() error { out[id] = title; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func titlesOf(t *testing.T, c *relaytest.Client) map[string]string {
	t.Helper()
	out := map[string]string{}
	for id, data := range c.Table("todos") {
		var row struct{ Title string }
		if err := json.Unmarshal([]byte(data), &row); err != nil {
			t.Fatal(err)
		}
		out[id] = row.Title
	}
	return out
}

// catchUp folds lines until the client has what the source has now.
func (s *system) catchUp(t *testing.T, user string, c *relaytest.Client) {
	t.Helper()
	want := s.titles(t, user)
	for !maps.Equal(titlesOf(t, c), want) {
		if _, err := c.Next(); err != nil {
			t.Fatalf("%s has %d to-dos, wants %d: %v", user, len(titlesOf(t, c)), len(want), err)
		}
	}
}

// TestServe: rows of the source reach the clients that may have them, and no
// others, through restarts.
func TestServe(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	alice, bob := s.dial(t, "alice", nil), s.dial(t, "bob", nil)
	s.catchUp(t, "alice", alice)
	s.catchUp(t, "bob", bob)
	if len(alice.Table("todos")) == 0 || len(bob.Table("todos")) == 0 {
		t.Fatal("the demo gives them nothing")
	}

	const list, todo = "eeeeeeee-0000-4000-a000-000000000001", "eeeeeeee-0000-4000-a000-000000000002"
	s.exec(t, `INSERT INTO lists (id, name, owner_id) VALUES ($1, 'private', 'alice')`, list)
	s.exec(t, `INSERT INTO todos (id, list_id, title) VALUES ($1, $2, 'secret')`, todo, list)
	s.catchUp(t, "alice", alice)
	s.exec(t, `INSERT INTO list_members (list_id, user_id) VALUES ($1, 'bob')`, list)
	s.catchUp(t, "bob", bob)
	if bob.Table("todos")[todo] == "" {
		t.Error("sharing the list did not bring its to-do")
	}
	s.exec(t, `DELETE FROM list_members WHERE list_id = $1 AND user_id = 'bob'`, list)
	s.catchUp(t, "bob", bob)
	if bob.Table("todos")[todo] != "" {
		t.Error("the to-do stayed after the list was not shared any more")
	}

	// A write checkpoint comes back no earlier than the write.
	s.exec(t, `UPDATE todos SET title = 'mine' WHERE id = $1`, todo)
	id := s.writeCheckpoint(t, "alice")
	for alice.Write != id {
		if _, err := alice.Next(); err != nil {
			t.Fatal(err)
		}
	}
	alice.Until(alice.At)
	if got := titlesOf(t, alice)[todo]; got != "mine" {
		t.Errorf("with write checkpoint %d alice has %q", id, got)
	}

	// After a restart clients go on from what they have.
	s.stop()
	s.exec(t, `INSERT INTO todos (id, list_id, title) SELECT gen_random_uuid(), $1, 'n' || i FROM generate_series(1, 1500) i`, list)
	s.start(t)
	before := alice.At
	alice = s.dial(t, "alice", alice)
	s.catchUp(t, "alice", alice)
	if alice.At < before {
		t.Errorf("checkpoint %d after %d", alice.At, before)
	}
	alice.Until(0)

	// Without its sessions on the sidecar the relay opens others.
	s.exec(t, `DELETE FROM todos WHERE title LIKE 'n%5' AND list_id = $1`, list)
	s.cutSidecar(t)
	s.catchUp(t, "alice", alice)
	pgtest.Eventually(t, 15*time.Second, func() error {
		users := s.sessions(t)
		if !slices.Contains(users, "alice/alice-device") {
			return fmt.Errorf("millrace.sessions has %v", users)
		}
		return nil
	})
}

func (s *system) writeCheckpoint(t *testing.T, user string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+protocol.PathWriteCheckpoint+"?client_id="+user+"-device", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+relaytest.Token(user, time.Hour))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	id, err := protocol.DecodeWriteCheckpoint(b)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return id
}

func (s *system) sidecar(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), string(s.cfg.Sidecar.URI))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *system) cutSidecar(t *testing.T) {
	t.Helper()
	_, err := s.sidecar(t).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'millrace relay%'`)
	if err != nil {
		t.Fatal(err)
	}
}

func (s *system) sessions(t *testing.T) []string {
	t.Helper()
	conn := s.sidecar(t)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT user_id FROM millrace.sessions`)
	if err != nil {
		t.Fatal(err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return users
}
