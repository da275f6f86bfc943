package relay_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/internal/tracetest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// spans waits for n ended spans of a name.
func spans(t *testing.T, r *tracetest.Recorder, name string, n int) []*tracetest.Span {
	t.Helper()
	pgtest.Eventually(t, time.Minute, func() error {
		if list := r.Ended(name); len(list) < n {
			return fmt.Errorf("%d spans %s have ended, want %d", len(list), name, n)
		}
		return nil
	})
	return r.Ended(name)
}

// Connecting is one trace up to the first complete checkpoint, whatever the
// transport; what is published then is another, up to the last client.
func TestTracesOfConnectingAndPublishing(t *testing.T) {
	var r tracetest.Recorder
	side := relaytest.NewSidecar()
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	srv := relaytest.Serve(t, side, relaytest.Options{Tracer: &r})
	header := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Tracestate": {"a=b"}, "User-Agent": {"sdk/7"}}
	stream := relaytest.DialWith(t, srv.URL, srv.Token("alice"), relaytest.Request("c1"), nil, header)
	stream.Until(cp.OpID)
	rsocket := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c2"), nil)
	rsocket.Until(cp.OpID)
	ws := connectSocket(t, srv)
	ws.send(openFrame(srv.Token("alice"), 1<<20))
	ws.listen()
	ws.Until(cp.OpID)

	transports := map[string]bool{}
	for _, s := range spans(t, &r, "relay.connect", 3) {
		kind := s.Attrs["transport"].String()
		transports[kind] = true
		if s.Err != nil || s.Attrs["session"].Int64() == 0 || s.Attrs["bytes"].Int64() == 0 || s.Attrs["buckets"].Int64() == 0 || s.Attrs["op_id"].Int64() != int64(cp.OpID) {
			t.Errorf("%s: %v, error %v", kind, s.Attrs, s.Err)
		}
		for _, part := range []string{"relay.token", "relay.resolve", "relay.page"} {
			if n := len(r.Below(s, part)); n != 1 {
				t.Errorf("%s: %d spans %s", kind, n, part)
			}
		}
		if page := r.Below(s, "relay.page"); len(page) == 1 && page[0].Attrs["ops"].Int64() != 1 {
			t.Errorf("%s: a page of one op has %v", kind, page[0].Attrs)
		}
		if kind == "http" && (s.Remote != millrace.RemoteSpan{Parent: header.Get("Traceparent"), State: "a=b"} || s.Attrs["user_agent.original"].String() != "sdk/7") {
			t.Errorf("the client's trace is not continued: %+v, %v", s.Remote, s.Attrs)
		}
		for key, v := range s.Attrs {
			if strings.Contains(v.String(), "alice") {
				t.Errorf("a trace names the user: %s = %s", key, v)
			}
		}
	}
	if len(transports) != 3 {
		t.Errorf("traced were %v", transports)
	}
	if b := spans(t, &r, "relay.resolve_batch", 1)[0]; b.Attrs["sessions"].Int64() < 1 {
		t.Errorf("a batch of %v", b.Attrs)
	}

	next := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "2", `{"n":2}`) })
	stream.Until(next.OpID)
	rsocket.Until(next.OpID)
	ws.Until(next.OpID)
	published := spans(t, &r, "relay.publish", 1)[0]
	if a := published.Attrs; a["op_id"].Int64() != int64(next.OpID) || a["sessions"].Int64() != 3 || a["buckets"].Int64() != 1 {
		t.Errorf("published %v", a)
	}
	if n := len(r.Below(published, "relay.deliver")); n != 1 {
		t.Errorf("%d spans relay.deliver", n)
	}
}

// A write checkpoint is a trace of its own, or a part of the client's.
func TestTraceOfAWriteCheckpoint(t *testing.T) {
	var r tracetest.Recorder
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Tracer: &r})
	resp, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id=d", "Bearer "+srv.Token("alice"), "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", resp.StatusCode, body)
	}
	s := spans(t, &r, "relay.write_checkpoint", 1)[0]
	if len(r.Below(s, "relay.token")) != 1 || len(r.Below(s, "relay.store_request")) != 1 || s.Err != nil || s.Attrs["http.response.status_code"].Int64() != 200 {
		t.Errorf("%v, error %v", s.Attrs, s.Err)
	}
	do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id=d", "Bearer nonsense", "")
	// The client's mistake is no failure of the server; of the token it is.
	s = spans(t, &r, "relay.write_checkpoint", 2)[1]
	if token := r.Below(s, "relay.token"); s.Err != nil || s.Attrs["http.response.status_code"].Int64() != 401 || len(token) != 1 || token[0].Err == nil {
		t.Errorf("a refused token: %v, error %v", s.Attrs, s.Err)
	}
}

// Every span ends, and once, whatever becomes of what it records: clients that
// are refused, that go in the middle, that read nothing while more is published
// than their mailbox holds, and a relay that stops.
func TestEverySpanEnds(t *testing.T) {
	var r tracetest.Recorder
	side := relaytest.NewSidecar()
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	srv := relaytest.Serve(t, side, relaytest.Options{Tracer: &r, Limits: relay.Limits{WriteTimeout: time.Second}})
	do(t, "POST", srv.URL+protocol.PathStream, "Bearer nonsense", "{}")
	do(t, "POST", srv.URL+protocol.PathStream, "Bearer "+srv.Token("alice"), "no JSON")
	refused := connectSocket(t, srv)
	refused.send(openFrame("nonsense", 1))
	refused.listen()
	refused.closed()
	stuck := connectSocket(t, srv) // no credit: it can be sent nothing
	stuck.send(openFrame(srv.Token("alice"), 0))
	follows := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	follows.Until(cp.OpID)
	for i := range 200 {
		cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"n":2}`) })
		follows.Until(cp.OpID)
	}
	gone := dial(t, srv, srv.Token("alice"), relaytest.Request("c2"), nil)
	gone.Close()
	srv.Stop()
	r.CheckEnds(t)
	failed := 0
	var coded interface{ ErrorCode() string }
	for _, s := range r.Ended("relay.connect") {
		if s.Err != nil {
			failed++
			var known *protocol.Error
			if !errors.As(s.Err, &coded) && !errors.As(s.Err, &known) && !strings.Contains(s.Err.Error(), "[PSYNC_") {
				t.Errorf("a client was refused for an error without a code: %v", s.Err)
			}
		}
	}
	if failed < 4 { // the two bad requests, the bad frame, and the one without credit
		t.Errorf("%d connections failed", failed)
	}
}
