package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/relay/relaytest"
)

// relayOn serves clients in another process's place: with the role relay, from a
// replica.
func (s *system) relayOn(t *testing.T, replica string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := *s.cfg
	cfg.Sidecar.ReadURI = config.URI(replica)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, &cfg, l, roleRelay, nil, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	url = "http://" + l.Addr().String()
	pgtest.Eventually(t, time.Minute, func() error {
		resp, err := http.Get(url + "/probes/readiness")
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
	return url
}

// A relay on a streaming replica of the sidecar serves as one on the primary: a
// client may move between them at any moment, also to a replica that lags; write
// checkpoints go to the primary and come back by the replica.
func TestSA31_RelayOnReplica(t *testing.T) {
	primary := pgtest.New(t, pgtest.Options{})
	s := newSystem(t)
	s.cfg.Sidecar.URI = config.URI(primary.Database(t))
	if err := migrations.Up(t.Context(), string(s.cfg.Sidecar.URI)); err != nil {
		t.Fatal(err)
	}
	standby := primary.Standby(t, nil)
	// The database has the same name on both.
	u, err := pgx.ParseConfig(string(s.cfg.Sidecar.URI))
	if err != nil {
		t.Fatal(err)
	}
	replica := standby.URI(u.Database)
	s.start(t)
	url := s.relayOn(t, replica)
	alice := relaytest.Dial(t, url, relaytest.Token("alice", time.Hour), relaytest.Request("alice-device"), nil)
	s.catchUp(t, "alice", alice)
	s.exec(t, `UPDATE todos SET title = 'seen by the replica' WHERE id = $1`, explainedTodo)
	s.catchUp(t, "alice", alice)

	// The write checkpoint is asked for at the relay of the replica.
	there := *s
	there.url = url
	id := there.writeCheckpoint(t, "alice")
	for alice.Write != id {
		if _, err := alice.Next(); err != nil {
			t.Fatal(err)
		}
	}

	// The replica stands still; a client that the primary's relay has taken
	// further moves to it.
	admin, err := pgx.Connect(t.Context(), replica)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	replay := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	replay(`SELECT pg_wal_replay_pause()`)
	pgtest.Eventually(t, time.Minute, func() error {
		var state string
		if err := admin.QueryRow(t.Context(), `SELECT pg_get_wal_replay_pause_state()`).Scan(&state); err != nil {
			return err
		}
		if state != "paused" {
			return errors.New(state)
		}
		return nil
	})
	alice.Close()
	alice = relaytest.Dial(t, s.url, relaytest.Token("alice", time.Hour), relaytest.Request("alice-device"), alice)
	s.exec(t, `UPDATE todos SET title = 'not on the replica yet' WHERE id = $1`, explainedTodo)
	s.catchUp(t, "alice", alice)
	at := alice.At
	// A device that begins there meanwhile gets an older state, and all of it: the
	// client compares every sum with the ops it was sent.
	fresh := relaytest.Dial(t, url, relaytest.Token("alice", time.Hour), relaytest.Request("alice-fresh"), nil)
	fresh.Until(1)
	if got := titlesOf(t, fresh)[explainedTodo]; got != "seen by the replica" || fresh.At >= at || len(titlesOf(t, fresh)) != len(titlesOf(t, alice)) {
		t.Errorf("the relay of the replica gives %q at %d; the primary is at %d", got, fresh.At, at)
	}
	alice.Close()
	alice = relaytest.Dial(t, url, relaytest.Token("alice", time.Hour), relaytest.Request("alice-device"), alice)
	replay(`SELECT pg_wal_replay_resume()`)
	s.exec(t, `UPDATE todos SET title = 'and on' WHERE id = $1`, explainedTodo)
	s.catchUp(t, "alice", alice)
	s.catchUp(t, "alice", fresh)
	if alice.At <= at {
		t.Errorf("checkpoint %d after %d", alice.At, at)
	}
	if got := titlesOf(t, alice)[explainedTodo]; got != "and on" {
		t.Errorf("alice has %q", got)
	}
}
