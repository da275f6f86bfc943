package relay_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/relay/relaytest"
)

// lineWriter hands over what a log writes, line by line.
type lineWriter chan []byte

func (w lineWriter) Write(b []byte) (int, error) {
	w <- append([]byte(nil), b...)
	return len(b), nil
}

// TestSessionsAreLogged: a line when a client comes, one when it goes, with the
// same session, and why it ended.
func TestSessionsAreLogged(t *testing.T) {
	lines := make(lineWriter, 100)
	side := relaytest.NewSidecar()
	side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "t", "1", `{"n":1}`)
	})
	log := slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	srv := relaytest.Serve(t, side, relaytest.Options{Log: log})
	type entry struct {
		Msg, User, Client, Transport, SDK, Why, Code string
		Session, Ops, Bytes                          int64
	}
	next := func(msg string) (e entry) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			select {
			case b := <-lines:
				e = entry{}
				if err := json.Unmarshal(b, &e); err != nil {
					t.Fatalf("%s: %v", b, err)
				}
				if e.Msg == msg {
					return e
				}
			case <-ctx.Done():
				t.Fatalf("no line %q", msg)
			}
		}
	}
	check := func(c *relaytest.Client, transport, why string, end func()) {
		t.Helper()
		c.Until(side.Head().OpID)
		came := next("a client connected")
		end()
		left := next("a client left")
		if came.Session != left.Session || left.Session == 0 || left.User != "alice" || left.Client != "c1" || left.Transport != transport {
			t.Errorf("%s: came %+v, left %+v", transport, came, left)
		}
		if left.Why != why || left.Ops < 1 || left.Bytes < 10 {
			t.Errorf("%s: left %+v, want %q", transport, left, why)
		}
	}
	c := relaytest.Dial(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), nil)
	check(c, "http", "the client has gone", c.Close)
	c = relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), nil)
	check(c, "rsocket", "the client has gone", c.Close)
	if resp, _ := do(t, "POST", srv.URL+"/sync/stream", "Bearer x", "{}"); resp.StatusCode != 401 {
		t.Fatal(resp.Status)
	}
	if e := next("a token was refused"); e.Code != "PSYNC_S2101" || e.Why == "" {
		t.Errorf("refused: %+v", e)
	}
	native := connectSocket(t, srv)
	native.send(openFrame(srv.Token("alice"), 1<<20))
	native.listen()
	check(native.Client, "ws", "[PSYNC_S2003] the server is restarting", srv.Stop)
}
