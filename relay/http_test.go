package relay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

func do(tb testing.TB, method, url, token, body string) (*http.Response, string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp, string(b)
}

// TestRefusals: the right status, code and words, and CORS on every answer.
func TestRefusals(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar(), relaytest.Options{Limits: relay.Limits{RequestBytes: 2000}})
	good := "Token " + srv.Token("alice")
	expired := "Bearer " + relaytest.Sign(map[string]any{"sub": "a", "aud": relaytest.Audience, "iat": 1000, "exp": 2000})
	foreign := "Bearer " + relaytest.Sign(map[string]any{"sub": "a", "aud": "theirs", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60})
	stream, write, ask := srv.URL+protocol.PathStream, srv.URL+protocol.PathWriteCheckpoint, srv.URL+protocol.PathCheckpointRequest
	for _, c := range []struct {
		name, method, url, token, body string
		status                         int
		code                           protocol.Code
		words                          string
	}{
		{"no token", "POST", stream, "", "{}", 401, "PSYNC_S2106", "Authorization"},
		{"lower-case scheme", "POST", stream, "bearer x", "{}", 401, "PSYNC_S2101", "Bearer <token>"},
		{"bad token", "POST", stream, "Bearer x", "{}", 401, "PSYNC_S2101", "not a JWT"},
		{"expired", "POST", stream, expired, "{}", 401, "PSYNC_S2103", "expired"},
		{"foreign audience", "GET", write, foreign, "", 401, "PSYNC_S2105", "theirs"},
		{"no token for a checkpoint", "POST", ask, "", "{}", 401, "PSYNC_S2106", ""},
		{"not JSON", "POST", stream, good, "{", 400, "PSYNC_S2001", "a key is expected"},
		{"bad position", "POST", stream, good, `{"buckets":[{"name":"a","after":"-1"}]}`, 400, "PSYNC_S2001", "buckets[0].after"},
		{"too large", "POST", stream, good, `{"client_id":"` + strings.Repeat("x", 3000) + `"}`, 413, "PSYNC_S2001", "2000 bytes"},
		{"too large without token", "POST", stream, "", strings.Repeat("x", 3000), 401, "PSYNC_S2106", ""},
		{"client id", "GET", write + "?client_id=" + strings.Repeat("x", 300), good, "", 400, "PSYNC_S2001", "256 bytes"},
		{"checkpoint 0", "POST", ask, good, `{"client_id":"c","checkpoint_request_id":"0"}`, 400, "PSYNC_S2001", "positive"},
		{"checkpoint of the sentinel", "POST", ask, good, `{"client_id":"c","checkpoint_request_id":"9223372036854775807"}`, 400, "PSYNC_S2001", "greater than"},
		{"unknown route", "GET", srv.URL + "/nothing", good, "", 404, "PSYNC_S2002", "/nothing"},
		{"wrong method", "GET", stream, good, "", 404, "PSYNC_S2002", "GET /sync/stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := do(t, c.method, c.url, c.token, c.body)
			e, err := protocol.DecodeErrorBody([]byte(body))
			if err != nil {
				t.Fatalf("body %q: %v", body, err)
			}
			if resp.StatusCode != c.status || e.Status != c.status || e.Code != c.code || !strings.Contains(e.Description, c.words) {
				t.Errorf("status %d, body %s; want %d %s %q", resp.StatusCode, body, c.status, c.code, c.words)
			}
			if resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Error("no CORS header")
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	resp, _ := do(t, "OPTIONS", srv.URL+protocol.PathStream, "", "")
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("status %d", resp.StatusCode)
	}
	for name, want := range map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "POST",
		"Access-Control-Allow-Headers": "X-User-Agent", "Access-Control-Max-Age": "3600"} {
		if !strings.Contains(resp.Header.Get(name), want) {
			t.Errorf("%s: %q", name, resp.Header.Get(name))
		}
	}
}

func TestStreamHead(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp := post(t, ctx, srv, srv.Token("alice"), relaytest.Request("c").AppendJSON(nil), http.Header{"Accept-Encoding": {"identity"}})
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "application/x-ndjson" || resp.Header.Get("X-Accel-Buffering") != "no" || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("head %v", resp.Header)
	}
}

// TestGzip: every line can be read at once, small and large ones, and the
// stream as a whole is one valid gzip member.
func TestGzip(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	resp := post(t, t.Context(), srv, srv.Token("alice"), relaytest.Request("c").AppendJSON(nil), http.Header{"Accept-Encoding": {"br, gzip;q=0.5"}})
	defer resp.Body.Close()
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("head %v", resp.Header)
	}
	counted := &countingReader{r: resp.Body}
	z, err := gzip.NewReader(counted)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	buf := make([]byte, 64<<10)
	readUntil := func(mark string) {
		t.Helper()
		for !strings.Contains(all.String(), mark) {
			n, err := z.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				t.Fatalf("reading up to %s: %v", mark, err)
			}
		}
	}
	readUntil(`{"checkpoint_complete"`)
	small := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"a":1}`) })
	readUntil(fmt.Sprintf(`{"checkpoint_complete":{"last_op_id":"%d"}}`, small.OpID))
	before := counted.n
	large := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "t", "2", `{"a":"`+strings.Repeat("hello ", 100_000)+`"}`)
	})
	readUntil(fmt.Sprintf(`{"checkpoint_complete":{"last_op_id":"%d"}}`, large.OpID))
	if n := counted.n - before; n > 100_000 {
		t.Errorf("600 kB took %d bytes", n)
	}
	srv.Stop()
	if _, err := io.Copy(&all, z); err != nil {
		t.Errorf("the end of the stream: %v", err)
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// One user's connections have a limit of their own.
func TestUserLimit(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar(), relaytest.Options{Limits: relay.Limits{PerUser: 1}})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c"), nil)
	c.Until(0)
	resp, body := do(t, "POST", srv.URL+protocol.PathStream, "Token "+srv.Token("alice"), "{}")
	if resp.StatusCode != 429 || !strings.Contains(body, "max_connections_per_user") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	other := dial(t, srv, srv.Token("bob"), relaytest.Request("c"), nil)
	other.Until(0)
	c.Close()
	pgtest.Eventually(t, time.Minute, func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp, err := relaytest.Post(ctx, srv.URL, srv.Token("alice"), []byte("{}"), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d after the first has left", resp.StatusCode)
		}
		return nil
	})
}

// An address that asks too often is told so before anything else is looked at.
func TestAddressLimit(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar(), relaytest.Options{Limits: relay.Limits{PerAddress: 1}})
	for i := range 30 {
		resp, body := do(t, "POST", srv.URL+protocol.PathStream, "", "{}")
		if resp.StatusCode == 429 {
			if i < 10 || !strings.Contains(body, "connects_per_address") || resp.Header.Get("Retry-After") == "" {
				t.Errorf("request %d: %s", i, body)
			}
			return
		}
	}
	t.Error("30 requests at once are not too many")
}

func TestConnectionLimit(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar(), relaytest.Options{Limits: relay.Limits{Connections: 1}})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c"), nil)
	c.Until(0)
	resp, body := do(t, "POST", srv.URL+protocol.PathStream, "Token "+srv.Token("bob"), "{}")
	if resp.StatusCode != 429 || !strings.Contains(body, "PSYNC_S2304") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	c.Close()
	pgtest.Eventually(t, 5*time.Second, func() error {
		resp, err := http.Post(srv.URL+"/sync/stream", "application/json", nil)
		if err != nil {
			return err
		}
		resp.Body.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		again := post(t, ctx, srv, srv.Token("bob"), relaytest.Request("b").AppendJSON(nil), nil)
		defer again.Body.Close()
		if again.StatusCode != 200 {
			return fmt.Errorf("status %d after the first client left", again.StatusCode)
		}
		return nil
	})
}

func TestSA15_BucketLimitNamesTheDefinition(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{BucketsPerUser: 10}})
	side.Commit(func(tx *relaytest.Tx) {
		for i := range 20 {
			tx.Grant("alice", fmt.Sprint("l", i))
		}
	})
	resp, body := do(t, "POST", srv.URL+protocol.PathStream, "Token "+srv.Token("alice"), "{}")
	if resp.StatusCode != 500 || !strings.Contains(body, "PSYNC_S2305") || !strings.Contains(body, "23 buckets") || !strings.Contains(body, "list (20)") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
}

func TestWriteCheckpoints(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(0)
	side.Hold()
	_, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id=c1", "Bearer "+srv.Token("alice"), "")
	id, err := protocol.DecodeWriteCheckpoint([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
	c.Until(cp.OpID)
	if c.Write != 0 {
		t.Errorf("told %d before it was contained", c.Write)
	}
	side.Release()
	lines := c.Until(cp.OpID)
	if c.Write != id || len(lines) != 2 {
		t.Errorf("told %d, want %d:\n%s", c.Write, id, relaytest.Describe(lines))
	}
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "2", `{}`) })
	c.Until(cp.OpID)
	if c.Write != id {
		t.Errorf("the next line says %d instead of %d again", c.Write, id)
	}

	// A device of its own, with numbers of its own.
	_, body = do(t, "POST", srv.URL+protocol.PathCheckpointRequest, "Bearer "+srv.Token("alice"), `{"client_id":"c2","checkpoint_request_id":18}`)
	if body != `{"data":{"checkpoint_request_id":"18"}}`+"\n" {
		t.Errorf("answer %s", body)
	}
	_, body = do(t, "POST", srv.URL+protocol.PathCheckpointRequest, "Bearer "+srv.Token("alice"), `{"client_id":"c2","checkpoint_request_id":"17"}`)
	if body != `{"data":{"checkpoint_request_id":"18"}}`+"\n" {
		t.Errorf("answer %s", body)
	}
	c2 := dial(t, srv, srv.Token("alice"), relaytest.Request("c2"), nil)
	c2.Until(cp.OpID)
	if c2.Write != 18 {
		t.Errorf("a joining device is told %d", c2.Write)
	}
}

func TestUnreachableSidecar(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(0)
	side.Break(errors.New("connection refused"))
	resp, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint, "Bearer "+srv.Token("alice"), "")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "PSYNC_S2003") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
	pgtest.Eventually(t, 5*time.Second, func() error {
		if err := srv.Relay.Ready(); !errors.Is(err, relay.ErrUnavailable) {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	side.Break(nil)
	c.Until(cp.OpID) // the stream went on
	pgtest.Eventually(t, 5*time.Second, srv.Relay.Ready)
}

func TestShutdownEndsStreams(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(0)
	srv.Stop()
	if _, err := c.Next(); !errors.Is(err, relaytest.ErrEnded) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestResumeSendsNothingTwice(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 3000 {
			tx.Put("mine", "alice", "t", fmt.Sprint(i), `{}`)
		}
	})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	for n := 0; n == 0; {
		l, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := l.(*protocol.Data); ok {
			n = len(d.Ops)
		}
	}
	c.Close()
	c = dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), c)
	lines := c.Until(cp.OpID)
	ops := 0
	for _, l := range lines {
		if d, ok := l.(*protocol.Data); ok {
			ops += len(d.Ops)
		}
	}
	if ops == 0 || ops > 2000 || len(c.Rows("mine", "alice")) != 3000 {
		t.Errorf("%d ops after resuming, %d rows", ops, len(c.Rows("mine", "alice")))
	}
	c.Close()
	c = dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), c)
	if lines := c.Until(cp.OpID); len(lines) != 2 {
		t.Errorf("a client that has everything got\n%s", relaytest.Describe(lines))
	}
}

// TestClientAhead: a client whose history is another one starts anew; others
// notice nothing.
func TestClientAhead(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	c := relaytest.NewClient(t)
	c.Buckets[relaytest.Wire("mine", "alice")] = &millrace.Reduced{Last: 1 << 40, Checksum: 5}
	c = dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), c)
	c.Until(cp.OpID)
	if got := c.Rows("mine", "alice")["1"]; got != `{"n":1}` {
		t.Errorf("row %q", got)
	}
}

func TestPriorities(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		tx.Grant("alice", "l1")
		tx.Put("global", "", "t", "g", `{}`)
		tx.Put("list", "l1", "t", "l", `{}`)
		tx.Put("urgent", "", "t", "u", `{}`)
	})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	var order []string
	for _, l := range c.Until(cp.OpID)[1:] {
		switch l := l.(type) {
		case *protocol.Data:
			order = append(order, l.Bucket)
		case protocol.PartialCheckpointComplete:
			order = append(order, fmt.Sprint("partial ", l.Priority))
		case protocol.CheckpointComplete:
			order = append(order, "complete")
		}
	}
	want := []string{relaytest.Wire("urgent", ""), "partial 0", relaytest.Wire("list", "l1"), "partial 1", relaytest.Wire("global", ""), "complete"}
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("order %v, want %v", order, want)
	}
	// Priority 0 alone passes the client's gate only by a partial completion.
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("urgent", "", "t", "u", `{"n":2}`) })
	lines := c.Until(cp.OpID)
	if p, ok := lines[2].(protocol.PartialCheckpointComplete); !ok || p.Priority != 0 || len(lines) != 4 {
		t.Errorf("got\n%s", relaytest.Describe(lines))
	}
}

func TestOldClientsGetNestedData(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	resp := post(t, t.Context(), srv, srv.Token("alice"), []byte(`{"buckets":[]}`), nil)
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var line struct {
			Data *struct {
				Data []struct {
					Data struct{ N int }
				}
			}
		}
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.Data == nil {
			continue
		}
		if line.Data.Data[0].Data.N != 1 {
			t.Errorf("line %+v", line)
		}
		return
	}
}

// TestSA21_CompactionDuringCatchUp: SA-21. A page read after compaction went beyond
// the checkpoint being sent must not complete it.
func TestSA21_CompactionDuringCatchUp(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	for range 3 {
		side.Commit(func(tx *relaytest.Tx) {
			for i := range 1500 {
				tx.Put("mine", "alice", "t", fmt.Sprint(i), fmt.Sprintf(`{"n":%d}`, i))
			}
		})
	}
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	last := side.Commit(func(tx *relaytest.Tx) {
		for i := range 1500 {
			tx.Remove("mine", "alice", "t", fmt.Sprint(i))
		}
		tx.Put("mine", "alice", "t", "z", `{}`)
	})
	side.Compact("mine", "alice")
	c.Until(last.OpID)
	if got := c.Rows("mine", "alice"); len(got) != 1 || got["z"] != `{}` {
		t.Errorf("%d rows", len(got))
	}
}

func TestActivationResolvesAgain(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(cp.OpID)
	side.Activate("none")
	lines := c.Until(side.Head().OpID)
	if _, ok := lines[0].(*protocol.Checkpoint); !ok || len(lines) != 2 || len(c.Target) != 0 || len(c.Buckets) != 0 {
		t.Errorf("got\n%s", relaytest.Describe(lines))
	}
	side.Activate("")
	c.Until(side.Head().OpID)
	if len(c.Rows("mine", "alice")) != 1 {
		t.Error("the rows did not come back")
	}
}

func TestSA41_Subscriptions(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("project", "p1", "t", "1", `{}`) })
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1",
		protocol.Subscription{Stream: "project", Parameters: []byte(`{"id":"p1"}`), Priority: 1},
		protocol.Subscription{Stream: "project", Priority: protocol.DefaultPriority},
		protocol.Subscription{Stream: "unknown", Priority: protocol.DefaultPriority}), nil)
	c.Until(cp.OpID)
	b := c.Target[relaytest.Wire("project", "p1")]
	if b.Priority != 1 || len(b.Subscriptions) != 1 || b.Subscriptions[0] != (protocol.Reason{Index: 0}) {
		t.Errorf("bucket %+v", b)
	}
	if len(c.Streams) != 2 || c.Streams[1].Name != "project" || len(c.Streams[1].Errors) != 1 || c.Streams[1].Errors[0].Subscription != 1 {
		t.Errorf("streams %+v", c.Streams)
	}
}

// TestLargeCheckpointGoesByPages: a node above the limit carries no bytes.
func TestLargeCheckpointGoesByPages(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{NodeBytes: 10_000}})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(0)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 2500 {
			tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"n":1}`)
		}
	})
	data := 0
	for _, l := range c.Until(cp.OpID) {
		if _, ok := l.(*protocol.Data); ok {
			data++
		}
	}
	if data != 3 || len(c.Rows("mine", "alice")) != 2500 {
		t.Errorf("%d data lines, %d rows", data, len(c.Rows("mine", "alice")))
	}
}

// TestSA36_RestoredSidecar: history that was told and is gone. The relay ends its
// streams; a client that comes back starts anew where it is ahead.
func TestSA36_RestoredSidecar(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	backup := side.Backup()
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":2}`) })
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(cp.OpID)
	side.Restore(backup)
	for {
		if _, err := c.Next(); errors.Is(err, relaytest.ErrEnded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c = dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), c)
	c.Until(side.Head().OpID)
	if got := c.Rows("mine", "alice")["1"]; got != `{"n":1}` {
		t.Errorf("row %q", got)
	}
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":3}`) })
	c.Until(cp.OpID)
	if got := c.Rows("mine", "alice")["1"]; got != `{"n":3}` {
		t.Errorf("row %q", got)
	}
}

// TestOutageDuringCatchUp: the stream waits, and goes on from what was sent.
func TestOutageDuringCatchUp(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range 20_000 {
			tx.Put("mine", "alice", "t", fmt.Sprint(i), `{"text":"some text that fills the buffers of the connection"}`)
		}
	})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	side.Break(errors.New("connection refused"))
	pgtest.Eventually(t, 5*time.Second, func() error {
		if srv.Relay.Ready() == nil {
			side.Commit(func(*relaytest.Tx) {}) // so that it notices
			return errors.New("the relay has not noticed")
		}
		return nil
	})
	side.Break(nil)
	c.Until(cp.OpID)
	if n := len(c.Rows("mine", "alice")); n != 20_000 {
		t.Errorf("%d rows", n)
	}
}
