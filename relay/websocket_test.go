package relay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// socket is a client of the native transport. Lines are folded as over HTTP.
type socket struct {
	*relaytest.Client
	tb     *testing.T
	conn   *websocket.Conn
	frames atomic.Int64
	bytes  atomic.Int64
}

func connectSocket(t *testing.T, srv *relaytest.Server) *socket {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(srv.URL, "http", "ws", 1)+protocol.PathWebSocket,
		&websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	t.Cleanup(func() { conn.CloseNow() })
	return &socket{conn: conn, tb: t, Client: relaytest.NewClient(t)}
}

func (s *socket) send(f protocol.Frame) {
	s.tb.Helper()
	if err := s.conn.Write(s.tb.Context(), websocket.MessageText, f.AppendFrame(nil)); err != nil {
		s.tb.Fatal(err)
	}
}

func openFrame(token string, credit int64) *protocol.Open {
	return &protocol.Open{Request: *relaytest.Request("c1"), Token: token, CreditBytes: credit}
}

// listen reads frames into lines until the connection ends.
func (s *socket) listen() {
	ctx := s.tb.Context()
	go func() {
		defer close(s.Lines)
		for {
			kind, b, err := s.conn.Read(ctx)
			if err != nil {
				s.Err = err
				return
			}
			s.frames.Add(1)
			s.bytes.Add(int64(len(b)))
			if kind == websocket.MessageBinary {
				z, err := gzip.NewReader(bytes.NewReader(b))
				if err != nil {
					s.Err = err
					return
				}
				if b, s.Err = io.ReadAll(z); s.Err != nil {
					return
				}
			}
			for _, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
				l, err := protocol.DecodeLine(line)
				if err != nil {
					s.Err = fmt.Errorf("%w in %q", err, line)
					return
				}
				select {
				case s.Lines <- l:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
}

// closed reads to the end and gives the close code and reason.
func (s *socket) closed() (int, string) {
	s.tb.Helper()
	for {
		if _, err := s.Next(); err != nil {
			var c websocket.CloseError
			if !errors.As(err, &c) {
				s.tb.Fatalf("the connection ended with %v", err)
			}
			return int(c.Code), c.Reason
		}
	}
}

func TestSocketFollowsChanges(t *testing.T) {
	for _, gz := range []bool{false, true} {
		t.Run(fmt.Sprint("gzip ", gz), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			cp := side.Commit(func(tx *relaytest.Tx) {
				for i := range 2000 {
					tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"text":"the same again and again"}`)
				}
			})
			s := connectSocket(t, srv)
			open := openFrame(srv.Token("alice"), 1<<30)
			open.AcceptGzip = gz
			s.send(open)
			s.listen()
			s.Until(cp.OpID)
			if n := s.bytes.Load(); gz && n > 150_000 || !gz && n < 150_000 {
				t.Errorf("%d bytes", n)
			}
			frames := s.frames.Load()
			cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "x", `{}`) })
			s.Until(cp.OpID)
			if n := s.frames.Load() - frames; n != 1 {
				t.Errorf("%d frames for a small checkpoint", n)
			}
			s.send(protocol.AckFrame{OpID: cp.OpID})
			s.send(protocol.CheckpointRequestFrame{})
			for {
				l, err := s.Next()
				if err != nil {
					t.Fatal(err)
				}
				if r, ok := l.(protocol.CheckpointRequestReply); ok {
					for s.Write != r.ID {
						if _, err := s.Next(); err != nil {
							t.Fatal(err)
						}
					}
					break
				}
				if d, ok := l.(*protocol.CheckpointDiff); ok && d.WriteCheckpoint != 0 {
					break // told before the reply: as good
				}
			}
		})
	}
}

func TestSocketCredit(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 5000 {
			tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"text":"the same again and again"}`)
		}
	})
	s := connectSocket(t, srv)
	s.send(openFrame(srv.Token("alice"), 1))
	s.listen()
	// Every frame is paid back exactly: so one comes at a time.
	var paid, frames int64
	for ops := 0; ops < 5000; {
		l, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := l.(*protocol.Data); ok {
			ops += len(d.Ops)
		}
		if n := s.frames.Load(); n == frames {
			continue // a line of the same frame
		} else if n > frames+1 {
			t.Fatalf("%d frames without credit", n-frames)
		} else {
			frames = n
		}
		b := s.bytes.Load()
		s.send(protocol.CreditFrame{Bytes: b - paid})
		paid = b
	}
	s.Until(cp.OpID)
}

func TestSocketStreamsAndToken(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("project", "p1", "t", "1", `{}`) })
	s := connectSocket(t, srv)
	open := openFrame(srv.Token("alice"), 1<<30)
	open.StreamsVersion = 1
	s.send(open)
	s.listen()
	if first := s.Until(cp.OpID)[0].(*protocol.Checkpoint); first.StreamsVersion != 1 {
		t.Errorf("first checkpoint %+v", first)
	}
	s.send(&protocol.StreamsFrame{Version: 2, StreamSelection: protocol.StreamSelection{
		Subscriptions: []protocol.Subscription{{Stream: "project", Parameters: []byte(`{"id":"p1"}`), Priority: protocol.DefaultPriority}}}})
	lines := s.Until(cp.OpID)
	if first, ok := lines[0].(*protocol.Checkpoint); !ok || first.StreamsVersion != 2 || len(s.Target) != 1 || len(s.Rows("project", "p1")) != 1 {
		t.Errorf("after the new list\n%s", relaytest.Describe(lines))
	}

	// A token that does not verify is told and changes nothing.
	s.send(&protocol.TokenFrame{Token: "a.b.c"})
	if l, err := s.Next(); err != nil || l.(*protocol.StreamError).Code != "PSYNC_S2101" || l.(*protocol.StreamError).Fatal {
		t.Fatalf("line %+v, %v", l, err)
	}
	// New claims: resolved again, here with the same result, so nothing is said.
	s.send(&protocol.TokenFrame{Token: relaytest.Sign(map[string]any{"sub": "alice", "role": "x", "aud": relaytest.Audience, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 600})})
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("project", "p1", "t", "2", `{}`) })
	s.Until(cp.OpID)
	s.send(&protocol.TokenFrame{Token: srv.Token("bob")})
	if code, reason := s.closed(); code != protocol.CloseSubject || !strings.Contains(reason, "PSYNC_S2101") {
		t.Errorf("closed with %d %q", code, reason)
	}
}

func TestSocketRefusals(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{FrameBytes: 10_000}})
	raw := func(text string) func(*socket) {
		return func(s *socket) { s.conn.Write(t.Context(), websocket.MessageText, []byte(text)) }
	}
	for _, c := range []struct {
		name   string
		do     func(*socket)
		code   int
		reason string
	}{
		{"not JSON", raw("hello"), protocol.CloseMalformed, "PSYNC_S2001"},
		{"ack first", raw(`{"ack":{"op_id":"1"}}`), protocol.CloseMalformed, "must be open"},
		{"bad token", func(s *socket) { s.send(openFrame("x", 1)) }, protocol.CloseUnauthorized, "PSYNC_S2101"},
		{"empty token", func(s *socket) { s.send(openFrame("", 1)) }, protocol.CloseUnauthorized, "PSYNC_S2106"},
		{"expired token", func(s *socket) {
			s.send(openFrame(relaytest.Sign(map[string]any{"sub": "a", "aud": relaytest.Audience, "iat": 1000, "exp": 2000}), 1))
		}, protocol.CloseUnauthorized, "PSYNC_S2103"},
		{"too large", raw(`{"open":{"token":"` + strings.Repeat("x", 20_000) + `"}}`), protocol.CloseTooLarge, "10000 bytes"},
		{"binary", func(s *socket) { s.conn.Write(t.Context(), websocket.MessageBinary, []byte("{}")) }, protocol.CloseMalformed, "binary"},
		{"second open", func(s *socket) {
			s.send(openFrame(srv.Token("alice"), 1<<20))
			s.send(openFrame(srv.Token("alice"), 1<<20))
		}, protocol.CloseMalformed, "second open"},
		{"old streams version", func(s *socket) {
			s.send(openFrame(srv.Token("alice"), 1<<20))
			s.send(&protocol.StreamsFrame{Version: 5})
			s.send(&protocol.StreamsFrame{Version: 5})
		}, protocol.CloseMalformed, "after 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := connectSocket(t, srv)
			c.do(s)
			s.listen()
			if code, reason := s.closed(); code != c.code || !strings.Contains(reason, c.reason) {
				t.Errorf("closed with %d %q, want %d %q", code, reason, c.code, c.reason)
			}
		})
	}
}

func TestSocketShutdown(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	s := connectSocket(t, srv)
	s.send(openFrame(srv.Token("alice"), 1<<20))
	s.listen()
	s.Until(0)
	srv.Stop()
	if code, _ := s.closed(); code != protocol.CloseRestarting {
		t.Errorf("closed with %d", code)
	}
}

func TestSocketReport(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{ReportEvery: 10 * time.Millisecond}})
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
	s := connectSocket(t, srv)
	s.send(openFrame(srv.Token("alice"), 1<<20))
	s.listen()
	s.Until(cp.OpID)
	s.send(protocol.AckFrame{OpID: cp.OpID})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		reports := side.Reports()
		if n := len(reports); n > 0 && len(reports[n-1].Sessions) == 1 {
			r := reports[n-1].Sessions[0]
			if r.User == "alice/c1" && r.Transport == "ws" && r.Buckets == 3 && r.Sent == cp.OpID && r.Acknowledged == cp.OpID && r.Bytes > 0 {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("last report %+v", side.Reports()[len(side.Reports())-1])
		case <-time.After(10 * time.Millisecond):
		}
	}
}
