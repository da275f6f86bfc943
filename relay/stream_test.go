package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// client reads a stream over HTTP and folds its lines.
type client struct {
	tb      testing.TB
	cancel  context.CancelFunc
	lines   chan protocol.Line
	err     error // of the stream, once lines is closed
	buckets map[string]*millrace.Reduced
	target  map[string]protocol.Bucket
	streams []protocol.Stream
	at      millrace.OpID
	write   int64
}

func post(tb testing.TB, ctx context.Context, srv *relaytest.Server, token string, body []byte, header http.Header) *http.Response {
	tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+protocol.PathStream, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if token != "" {
		req.Header.Set("Authorization", "Token "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	return resp
}

func dial(tb testing.TB, srv *relaytest.Server, token string, r *protocol.Request, before *client) *client {
	tb.Helper()
	c := &client{tb: tb, lines: make(chan protocol.Line, 100), buckets: map[string]*millrace.Reduced{}}
	if before != nil {
		c.buckets = before.buckets
		for name, b := range c.buckets {
			r.Buckets = append(r.Buckets, protocol.BucketPosition{Name: name, After: b.Last})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	tb.Cleanup(cancel)
	resp := post(tb, ctx, srv, token, r.AppendJSON(nil), nil)
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		tb.Fatalf("status %d: %s", resp.StatusCode, b)
	}
	go func() {
		defer close(c.lines)
		defer resp.Body.Close()
		sc := bufio.NewScanner(resp.Body)
		sc.Buffer(nil, 64<<20)
		for sc.Scan() {
			l, err := protocol.DecodeLine(sc.Bytes())
			if err != nil {
				c.err = fmt.Errorf("%w in %s", err, sc.Bytes())
				return
			}
			select {
			case c.lines <- l:
			case <-ctx.Done():
				return
			}
		}
		c.err = sc.Err()
	}()
	return c
}

func request(clientID string, subs ...protocol.Subscription) *protocol.Request {
	return &protocol.Request{RawData: true, IncludeChecksum: true, ClientID: clientID, Streams: protocol.StreamSelection{IncludeDefaults: true, Subscriptions: subs}}
}

var errEnded = errors.New("the stream ended")

// next gives the next line, applied.
func (c *client) next() (protocol.Line, error) {
	select {
	case l, ok := <-c.lines:
		if !ok {
			if c.err != nil {
				return nil, c.err
			}
			return nil, errEnded
		}
		c.apply(l)
		return l, nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("no line for 10 s")
	}
}

func (c *client) apply(l protocol.Line) {
	c.tb.Helper()
	switch l := l.(type) {
	case *protocol.Checkpoint:
		c.at, c.write, c.streams = l.LastOpID, l.WriteCheckpoint, l.Streams
		c.target = map[string]protocol.Bucket{}
		for _, b := range l.Buckets {
			c.target[b.Name] = b
		}
		for name := range c.buckets {
			if _, ok := c.target[name]; !ok {
				delete(c.buckets, name)
			}
		}
	case *protocol.CheckpointDiff:
		c.at, c.write = l.LastOpID, l.WriteCheckpoint
		for _, b := range l.UpdatedBuckets {
			c.target[b.Name] = b
		}
		for _, name := range l.RemovedBuckets {
			delete(c.target, name)
			delete(c.buckets, name)
		}
	case *protocol.Data:
		if _, ok := c.target[l.Bucket]; !ok {
			c.tb.Errorf("data of %s, which is not in the checkpoint", l.Bucket)
		}
		r := c.buckets[l.Bucket]
		if r == nil {
			r = &millrace.Reduced{}
			c.buckets[l.Bucket] = r
		}
		for _, op := range l.Ops {
			if op.ID <= r.Last || op.ID > c.at {
				c.tb.Errorf("%s: op %d after %d at checkpoint %d", l.Bucket, op.ID, r.Last, c.at)
			}
			r.Reduce(op)
		}
	case protocol.PartialCheckpointComplete:
		c.verify(l.LastOpID, l.Priority)
	case protocol.CheckpointComplete:
		c.verify(l.LastOpID, 3)
		for name := range c.target {
			if c.buckets[name] == nil {
				c.buckets[name] = &millrace.Reduced{}
			}
			c.buckets[name].Last = c.at
		}
	}
}

func (c *client) verify(at millrace.OpID, priority int) {
	c.tb.Helper()
	if at != c.at {
		c.tb.Errorf("completion of %d at checkpoint %d", at, c.at)
	}
	for name, b := range c.target {
		var sum millrace.Checksum
		if r := c.buckets[name]; r != nil {
			sum = r.Checksum
		}
		if b.Priority <= priority && sum != b.Checksum {
			c.tb.Errorf("%s at %d: sum %d, want %d", name, at, sum, b.Checksum)
		}
	}
}

// until reads lines up to a completion at or after a checkpoint and gives them.
func (c *client) until(at millrace.OpID) (lines []protocol.Line) {
	c.tb.Helper()
	for {
		l, err := c.next()
		if err != nil {
			c.tb.Fatalf("waiting for checkpoint %d: %v; got %s", at, err, describe(lines))
		}
		lines = append(lines, l)
		if done, ok := l.(protocol.CheckpointComplete); ok && done.LastOpID >= at {
			return lines
		}
	}
}

func describe(lines []protocol.Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.Write(l.AppendLine(nil))
		b.WriteByte('\n')
	}
	return b.String()
}

func (c *client) rows(definition, key string) map[string]string {
	out := map[string]string{}
	if r := c.buckets[relaytest.Wire(definition, key)]; r != nil {
		for id, op := range r.Rows {
			out[id.RowID] = op.Data
		}
	}
	return out
}

func TestStreamFollowsChanges(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	first := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "todos", "t1", `{"id":"t1","n":1}`)
		tx.Put("global", "", "news", "n1", `{"id":"n1"}`)
	})
	c := dial(t, srv, srv.Token("alice"), request("c1"), nil)
	c.until(first.OpID)
	if got := c.rows("mine", "alice")["t1"]; got != `{"id":"t1","n":1}` {
		t.Fatalf("row %q", got)
	}
	other := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "bob", "todos", "t9", `{}`) })
	last := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "todos", "t1", `{"id":"t1","n":2}`)
		tx.Remove("global", "", "news", "n1")
	})
	lines := c.until(last.OpID)
	if _, ok := lines[0].(*protocol.CheckpointDiff); !ok || len(lines) != 4 {
		t.Errorf("want diff, two data lines and a completion, got\n%s", describe(lines))
	}
	if got := c.rows("mine", "alice")["t1"]; got != `{"id":"t1","n":2}` {
		t.Errorf("row %q after %d and %d", got, other.OpID, last.OpID)
	}
	if got := c.rows("global", ""); len(got) != 0 {
		t.Errorf("rows %v", got)
	}
}

func TestGrantAndRevoke(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Commit(func(tx *relaytest.Tx) { tx.Put("list", "l1", "todos", "t1", `{"id":"t1"}`) })
	c := dial(t, srv, srv.Token("bob"), request(""), nil)
	c.until(0)
	if _, listed := c.target[relaytest.Wire("list", "l1")]; listed {
		t.Fatal("bob has a list he was not granted")
	}
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Grant("bob", "l1") })
	c.until(cp.OpID)
	if got := c.rows("list", "l1")["t1"]; got != `{"id":"t1"}` {
		t.Fatalf("row %q after the grant", got)
	}
	cp = side.Commit(func(tx *relaytest.Tx) {
		tx.Revoke("bob", "l1")
		tx.Put("list", "l1", "todos", "t2", `{"id":"t2"}`)
	})
	lines := c.until(cp.OpID)
	if len(lines) != 2 || len(c.buckets) != 3 {
		t.Fatalf("after the revocation\n%s", describe(lines))
	}
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Grant("bob", "l1") })
	c.until(cp.OpID)
	if got := c.rows("list", "l1"); len(got) != 2 {
		t.Fatalf("rows %v after the second grant", got)
	}
}
