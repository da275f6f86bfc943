package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/internal/tracetest"
	"github.com/millrace/millrace/relay/relaytest"
)

// One process with a collector: what it does arrives there as traces, from the
// copy to the last client, and the client's own trace goes on in them. Nothing
// of rows, users or tokens is in any.
func TestServeSendsTraces(t *testing.T) {
	collector := tracetest.NewCollector(t)
	s := newSystem(t)
	s.cfg.Telemetry.OTLPEndpoint, s.cfg.Telemetry.TraceSample = collector.URL, 1
	s.start(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	token := relaytest.Token("alice", time.Hour)
	alice := relaytest.DialWith(t, s.url, token, relaytest.Request("alice-device"), nil, http.Header{"Traceparent": {"00-" + trace + "-" + parent + "-01"}})
	s.catchUp(t, "alice", alice)
	const todo = "eeeeeeee-0000-4000-a000-000000000002"
	s.exec(t, `INSERT INTO todos (id, list_id, title) SELECT $1, id, 'a private title' FROM lists WHERE owner_id = 'alice' LIMIT 1`, todo)
	s.writeCheckpoint(t, "alice")
	s.catchUp(t, "alice", alice)
	alice.Until(0)
	s.stop() // sends what waits

	byID := map[string]tracetest.Received{}
	for _, r := range collector.Spans("") {
		byID[r.ID] = r
		if text := fmt.Sprint(r); strings.Contains(text, "alice") || strings.Contains(text, "private") || strings.Contains(text, token) || strings.Contains(text, todo) {
			t.Errorf("a trace holds what is the customer's: %s", text)
		}
	}
	var connect tracetest.Received
	for _, r := range collector.Spans("relay.connect") {
		connect = r
	}
	if connect.Trace != trace || connect.Parent != parent {
		t.Errorf("the client's trace is not continued: %+v", connect)
	}
	for name, under := range map[string]string{
		"relay.token": "relay.connect", "relay.resolve": "relay.connect", "relay.page": "relay.connect",
		"relay.deliver": "relay.publish", "relay.store_request": "relay.write_checkpoint",
		"decoder.copy": "decoder.build", "decoder.chunk": "decoder.copy",
		"decoder.gather": "decoder.flush", "store.apply": "decoder.flush", "store.commit": "decoder.flush",
		"store.copy_rows": "store.commit", "store.finish": "store.commit",
	} {
		found := false
		for _, r := range collector.Spans(name) {
			found = found || byID[r.Parent].Name == under && byID[r.Parent].Trace == r.Trace
		}
		if !found {
			t.Errorf("no span %s below a %s among %d", name, under, len(collector.Spans(name)))
		}
	}
	if len(collector.Spans("decoder.deploy")) != 1 {
		t.Errorf("%d spans decoder.deploy", len(collector.Spans("decoder.deploy")))
	}
}

// A collector that is away changes nothing but for a line in the log.
func TestServeWithoutItsCollector(t *testing.T) {
	s := newSystem(t)
	s.cfg.Telemetry.OTLPEndpoint, s.cfg.Telemetry.TraceSample = "http://127.0.0.1:1", 1
	s.start(t)
	alice := s.dial(t, "alice", nil)
	s.catchUp(t, "alice", alice)
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	pgtest.Eventually(t, time.Minute, func() error {
		select {
		case <-stopped:
			return nil
		default:
			return fmt.Errorf("it has not stopped")
		}
	})
}
