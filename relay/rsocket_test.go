package relay_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/bson"
	"github.com/millrace/millrace/protocol/rsocket"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

func TestRSocketFollowsChanges(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 2500 {
			tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"text":"the same again and \"again\""}`)
		}
	})
	c := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(cp.OpID)
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "x", `{"n":1}`) })
	lines := c.Until(cp.OpID)
	if _, ok := lines[0].(*protocol.CheckpointDiff); !ok || len(lines) != 3 {
		t.Errorf("after a change\n%s", relaytest.Describe(lines))
	}
	if got := c.Rows("mine", "alice"); len(got) != 2501 || got["x"] != `{"n":1}` {
		t.Errorf("%d rows, %q", len(got), got["x"])
	}
	c.Close()
	c = relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), c)
	if lines := c.Until(cp.OpID); len(lines) != 2 {
		t.Errorf("a client that has everything got\n%s", relaytest.Describe(lines))
	}
	// A restart is told with a code that keeps credentials.
	srv.Stop()
	_, err := c.Next()
	var e *relaytest.RSocketError
	if !errors.As(err, &e) || e.Frame.Stream != 1 || e.Frame.Code != rsocket.ApplicationError || !strings.HasPrefix(e.Frame.Text, "[PSYNC_S2003] ") {
		t.Errorf("after the stop: %v", err)
	}
}

// TestRSocketCredit: never more lines than were asked for; keepalives are
// answered all the same.
func TestRSocketCredit(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 30 {
			tx.Grant("alice", fmt.Sprint("l", i))
			tx.Put("list", fmt.Sprint("l", i), "t", fmt.Sprint(i), `{}`)
		}
	})
	s := relaytest.OpenRSocket(t, srv.URL)
	s.Send(relaytest.SetupFrame(srv.Token("alice")), relaytest.RequestFrame(relaytest.Request("c1"), 1))
	c := relaytest.NewClient(t)
	credit, beats := 1, uint64(0)
	for done := false; !done; {
		f, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *rsocket.Payload:
			if credit--; credit < 0 || !f.Next || f.Complete {
				t.Fatalf("payload %+v with credit %d", f, credit)
			}
			l, err := protocol.DecodeLineBSON(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			c.Fold(l)
			if l, ok := l.(protocol.CheckpointComplete); ok {
				done = l.LastOpID == cp.OpID
			}
			// What comes after a keepalive's answer was sent with new credit.
			if credit == 0 {
				beats++
				s.Send(&rsocket.Keepalive{Respond: true, Position: beats, Data: []byte("beat")})
			}
		case *rsocket.Keepalive:
			if f.Respond || f.Position != beats || string(f.Data) != "beat" || credit != 0 {
				t.Fatalf("keepalive %+v, want position %d", f, beats)
			}
			credit = 1 + int(beats%3)
			s.Send(&rsocket.RequestN{Stream: 1, N: uint32(credit)})
		default:
			t.Fatalf("frame %+v", f)
		}
	}
	if beats < 10 {
		t.Errorf("%d keepalives were answered", beats)
	}
	for i := range 30 {
		if len(c.Rows("list", fmt.Sprint("l", i))) != 1 {
			t.Errorf("list %d is not there", i)
		}
	}
}

// withBSON declares application/bson for both MIME types.
func withBSON(token string) *rsocket.Setup {
	f := relaytest.SetupFrame(token)
	f.MetadataMIME, f.DataMIME = "application/bson", "Application/BSON"
	b, at := bson.Begin(nil)
	f.Metadata = bson.End(bson.AppendString(b, "token", "Bearer "+token), at)
	return f
}

// TestRSocketBSONRequest: other SDKs speak BSON in both directions, and may send
// requests in fragments.
func TestRSocketBSONRequest(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("project", "p1", "t", "1", `{}`) })
	s := relaytest.OpenRSocket(t, srv.URL)
	metadata, at := bson.Begin(nil)
	metadata = bson.End(bson.AppendString(metadata, "path", "/sync/stream"), at)
	data, at := bson.Begin(nil)
	data = bson.AppendString(data, "client_id", "c1")
	data, streams := bson.BeginDocument(data, "streams")
	data = bson.AppendBool(data, "include_defaults", false)
	data, subs := bson.BeginArray(data, "subscriptions")
	data, sub := bson.BeginItem(data, 0)
	data = bson.AppendString(data, "stream", "project")
	data, params := bson.BeginDocument(data, "parameters")
	data = bson.End(bson.AppendString(data, "id", "p1"), params)
	data = bson.End(bson.End(bson.End(bson.End(data, sub), subs), streams), at)
	s.Send(withBSON(srv.Token("alice")), &rsocket.RequestStream{Stream: 1, N: 100, Metadata: metadata[:4], Follows: true},
		&rsocket.Payload{Stream: 1, Metadata: metadata[4:], Data: data[:10], Follows: true})
	for i := 10; i < len(data); i += 7 {
		end := min(i+7, len(data))
		s.Send(&rsocket.Payload{Stream: 1, Data: data[i:end], Follows: end < len(data), Next: true})
	}
	c := relaytest.NewClient(t)
	for c.Buckets[relaytest.Wire("project", "p1")] == nil || c.Buckets[relaytest.Wire("project", "p1")].Last != cp.OpID {
		f, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		p, ok := f.(*rsocket.Payload)
		if !ok {
			t.Fatalf("frame %+v", f)
		}
		l, err := protocol.DecodeLineBSON(p.Data)
		if err != nil {
			t.Fatal(err)
		}
		c.Fold(l)
	}
	if len(c.Rows("project", "p1")) != 1 || len(c.Target) != 1 {
		t.Errorf("buckets %v", c.Target)
	}
}

// TestRSocketRefusals: the frame, its code and the code in its text, which
// clients act on; then the connection ends.
func TestRSocketRefusals(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{FrameBytes: 10_000, RequestBytes: 8_000}})
	good := srv.Token("alice")
	expired := relaytest.Sign(map[string]any{"sub": "a", "aud": relaytest.Audience, "iat": 1000, "exp": 2000})
	foreign := relaytest.Sign(map[string]any{"sub": "a", "aud": "theirs", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60})
	long := relaytest.Sign(map[string]any{"sub": "a", "aud": relaytest.Audience, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 100_000})
	request := func() *rsocket.RequestStream { return relaytest.RequestFrame(relaytest.Request("c1"), 10) }
	setup := func(change func(*rsocket.Setup)) *rsocket.Setup {
		f := relaytest.SetupFrame(good)
		change(f)
		return f
	}
	asking := func(change func(*rsocket.RequestStream)) []rsocket.Frame {
		f := request()
		change(f)
		return []rsocket.Frame{relaytest.SetupFrame(good), f}
	}
	for _, c := range []struct {
		name   string
		frames []rsocket.Frame
		stream uint32
		code   rsocket.Code
		text   string
	}{
		{"bad token", []rsocket.Frame{relaytest.SetupFrame("x"), request()}, 0, rsocket.RejectedSetup, "[PSYNC_S2101] "},
		{"expired token", []rsocket.Frame{relaytest.SetupFrame(expired), request()}, 0, rsocket.RejectedSetup, "[PSYNC_S2103] "},
		{"token lives too long", []rsocket.Frame{relaytest.SetupFrame(long), request()}, 0, rsocket.RejectedSetup, "[PSYNC_S2104] "},
		{"foreign audience", []rsocket.Frame{relaytest.SetupFrame(foreign), request()}, 0, rsocket.RejectedSetup, "[PSYNC_S2105] "},
		{"no token", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Metadata = []byte("{}") }), request()}, 0, rsocket.RejectedSetup, "[PSYNC_S2106] "},
		{"no metadata", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Metadata = nil })}, 0, rsocket.RejectedSetup, "[PSYNC_S2106] "},
		{"metadata is not JSON", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Metadata = []byte("hello") })}, 0, rsocket.RejectedSetup, "[PSYNC_S2101] "},
		{"metadata is not BSON", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.MetadataMIME = "application/bson" })}, 0, rsocket.RejectedSetup, "[PSYNC_S2101] "},
		{"a token without scheme", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Metadata = []byte(`{"token":"` + good + `"}`) })}, 0, rsocket.RejectedSetup, "[PSYNC_S2101] "},
		{"MIME type", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.DataMIME = "text/plain" })}, 0, rsocket.RejectedSetup, "[PSYNC_S2004] "},
		{"version", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Major = 2 })}, 0, rsocket.UnsupportedSetup, "RSocket 2.0"},
		{"lease", []rsocket.Frame{setup(func(f *rsocket.Setup) { f.Lease = true })}, 0, rsocket.UnsupportedSetup, "leases"},
		{"resume", []rsocket.Frame{&rsocket.Other{Type: rsocket.TypeResume}}, 0, rsocket.RejectedResume, "SETUP"},
		{"request first", []rsocket.Frame{request()}, 0, rsocket.InvalidSetup, "must be SETUP"},
		{"second setup", []rsocket.Frame{relaytest.SetupFrame(good), relaytest.SetupFrame(good)}, 0, rsocket.ConnectionError, "second SETUP"},
		{"second setup in a stream", []rsocket.Frame{relaytest.SetupFrame(good), relaytest.RequestFrame(relaytest.Request("c"), 1), relaytest.SetupFrame(good)}, 0, rsocket.ConnectionError, "second SETUP"},
		{"unknown path", asking(func(f *rsocket.RequestStream) { f.Metadata = []byte(`{"path":"/other"}`) }), 1, rsocket.ApplicationError, "[PSYNC_S2002] "},
		{"no path", asking(func(f *rsocket.RequestStream) { f.Metadata = nil }), 1, rsocket.ApplicationError, "[PSYNC_S2002] "},
		{"route is not JSON", asking(func(f *rsocket.RequestStream) { f.Metadata = []byte("x") }), 1, rsocket.ApplicationError, "[PSYNC_S2001] "},
		{"request is not JSON", asking(func(f *rsocket.RequestStream) { f.Data = []byte("{") }), 1, rsocket.ApplicationError, "[PSYNC_S2001] "},
		{"bad position", asking(func(f *rsocket.RequestStream) { f.Data = []byte(`{"buckets":[{"name":"a","after":1}]}`) }), 1, rsocket.ApplicationError, "buckets[0].after"},
		{"even stream", asking(func(f *rsocket.RequestStream) { f.Stream = 2 }), 0, rsocket.ConnectionError, "stream 2"},
		{"no credit", asking(func(f *rsocket.RequestStream) { f.N = 0 }), 0, rsocket.ConnectionError, "0 payloads"},
		{"frame too large", asking(func(f *rsocket.RequestStream) { f.Data = bytes.Repeat([]byte(" "), 20_000) }), 0, rsocket.ConnectionError, "10000 bytes"},
		{"request too large", asking(func(f *rsocket.RequestStream) { f.Data = bytes.Repeat([]byte(" "), 9_000) }), 0, rsocket.ConnectionError, "8000 bytes"},
		{"request too large by fragments", append(asking(func(f *rsocket.RequestStream) { f.Data, f.Follows = bytes.Repeat([]byte(" "), 5_000), true }),
			&rsocket.Payload{Stream: 1, Data: bytes.Repeat([]byte(" "), 5_000), Follows: true}), 0, rsocket.ConnectionError, "8000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := relaytest.OpenRSocket(t, srv.URL)
			s.Send(c.frames...)
			for {
				f, err := s.Read()
				if err != nil {
					t.Fatal(err)
				}
				if _, line := f.(*rsocket.Payload); line && c.name == "second setup in a stream" {
					continue
				}
				e, ok := f.(*rsocket.Error)
				if !ok || e.Stream != c.stream || e.Code != c.code || !strings.Contains(e.Text, c.text) || !strings.HasPrefix(e.Text, "[PSYNC_S") {
					t.Fatalf("frame %+v, want an error 0x%x on stream %d with %q", f, uint32(c.code), c.stream, c.text)
				}
				break
			}
			if f, err := s.Read(); err == nil {
				t.Errorf("after the error came %+v", f)
			}
		})
	}
}

// TestRSocketMalformed: what is no frame at all ends the connection.
func TestRSocketMalformed(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	for _, c := range []struct {
		name string
		send func(*relaytest.RSocket)
	}{
		{"empty", func(s *relaytest.RSocket) { s.SendBytes(nil) }},
		{"noise", func(s *relaytest.RSocket) { s.SendBytes([]byte("GET / HTTP/1.1\r\n\r\n")) }},
		{"text", func(s *relaytest.RSocket) { s.Conn.Write(t.Context(), websocket.MessageText, []byte("{}")) }},
		{"noise in a stream", func(s *relaytest.RSocket) {
			s.Send(relaytest.SetupFrame(srv.Token("alice")), relaytest.RequestFrame(relaytest.Request("c"), 1))
			s.SendBytes([]byte{0, 0, 0, 1, 0x20, 0, 0})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := relaytest.OpenRSocket(t, srv.URL)
			c.send(s)
			for {
				f, err := s.Read()
				if err != nil {
					t.Fatal(err)
				}
				if e, ok := f.(*rsocket.Error); ok {
					if e.Stream != 0 || (e.Code != rsocket.ConnectionError && e.Code != rsocket.InvalidSetup) || !strings.HasPrefix(e.Text, "[PSYNC_S2001] ") {
						t.Errorf("frame %+v", e)
					}
					break
				}
			}
			_, err := s.Read()
			if code := websocket.CloseStatus(err); code != websocket.StatusProtocolError {
				t.Errorf("closed with %v (%v)", code, err)
			}
		})
	}
}

// TestRSocketOtherFrames: one stream for each connection; interactions that are
// not served are refused, and frames that may be ignored are.
func TestRSocketOtherFrames(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	s := relaytest.OpenRSocket(t, srv.URL)
	second := relaytest.RequestFrame(relaytest.Request("c2"), 10)
	second.Stream = 3
	s.Send(relaytest.SetupFrame(srv.Token("alice")), &rsocket.Other{Type: 0x3f, Ignore: true}, &rsocket.Other{Type: rsocket.TypeMetadataPush},
		relaytest.RequestFrame(relaytest.Request("c1"), 100), second, &rsocket.Other{Stream: 5, Type: 0x04}, &rsocket.RequestN{Stream: 7, N: 1}, &rsocket.Payload{Stream: 9})
	refused := map[uint32]string{}
	complete := false
	for len(refused) < 2 || !complete {
		f, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *rsocket.Error:
			if f.Code != rsocket.Rejected {
				t.Errorf("frame %+v", f)
			}
			refused[f.Stream] = f.Text
		case *rsocket.Payload:
			l, err := protocol.DecodeLineBSON(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			_, done := l.(protocol.CheckpointComplete)
			complete = complete || done
		}
	}
	if !strings.HasPrefix(refused[3], "[PSYNC_S2304]") || !strings.HasPrefix(refused[5], "[PSYNC_S2001]") {
		t.Errorf("refused %v", refused)
	}
	// The client is done: the connection ends without a word.
	s.Send(&rsocket.Cancel{Stream: 1})
	if f, err := s.Read(); err == nil {
		t.Errorf("after the cancel came %+v", f)
	}
	pgtest.Eventually(t, time.Minute, func() error {
		c := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c3"), nil)
		defer c.Close()
		c.Until(0)
		return nil
	})
}

// TestRSocketTokenEnd: told by a line and the end of the stream; a client that
// takes no line gets the code instead.
func TestRSocketTokenEnd(t *testing.T) {
	for _, credit := range []uint32{100, 2} {
		t.Run(fmt.Sprint("credit ", credit), func(t *testing.T) {
			t.Parallel()
			srv := relaytest.Serve(t, relaytest.NewSidecar())
			s := relaytest.OpenRSocket(t, srv.URL)
			s.Send(relaytest.SetupFrame(relaytest.Token("alice", 2*time.Second)), relaytest.RequestFrame(relaytest.Request("c1"), credit))
			told := false
			for {
				f, err := s.Read()
				if err != nil {
					t.Fatal(err)
				}
				switch f := f.(type) {
				case *rsocket.Payload:
					if f.Complete {
						if !told || credit < 100 {
							t.Errorf("completed, told %v", told)
						}
						return
					}
					l, err := protocol.DecodeLineBSON(f.Data)
					if err != nil {
						t.Fatal(err)
					}
					if n, ok := l.(protocol.TokenExpiresIn); ok {
						told = n == 0
					}
				case *rsocket.Error:
					if credit == 100 || f.Code != rsocket.ApplicationError || !strings.HasPrefix(f.Text, "[PSYNC_S2103] ") {
						t.Errorf("frame %+v", f)
					}
					return
				}
			}
		})
	}
}

func TestRSocketConnectionLimit(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar(), relaytest.Options{Limits: relay.Limits{Connections: 1}})
	c := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c"), nil)
	c.Until(0)
	other := relaytest.DialRSocket(t, srv.URL, srv.Token("bob"), relaytest.Request("c"), nil)
	_, err := other.Next()
	var e *relaytest.RSocketError
	if !errors.As(err, &e) || e.Frame.Stream != 1 || !strings.HasPrefix(e.Frame.Text, "[PSYNC_S2304] ") {
		t.Errorf("error %v", err)
	}
}

func TestRSocketReport(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{ReportEvery: 10 * time.Millisecond}})
	c := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(0)
	pgtest.Eventually(t, time.Minute, func() error {
		reports := side.Reports()
		if n := len(reports); n > 0 && len(reports[n-1].Sessions) == 1 {
			r := reports[n-1].Sessions[0]
			if r.User == "alice/c1" && r.Transport == "rsocket" && r.Agent == "relaytest" && r.Bytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("reports %+v", reports)
	})
}
