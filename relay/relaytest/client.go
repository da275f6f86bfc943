package relaytest

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/bson"
)

// Client folds the lines of a stream and checks them: order, nothing twice,
// nothing of buckets that are not listed, checksums at every completion. Breaches
// are errors of the test. One goroutine uses it.
type Client struct {
	tb     testing.TB
	cancel context.CancelFunc

	// Lines feeds the client; when it is closed, Err says why.
	Lines chan protocol.Line
	Err   error

	// Buckets is what the client holds, by wire name.
	Buckets map[string]*millrace.Reduced
	// Target, Streams, At and Write are of the newest checkpoint told.
	Target  map[string]protocol.Bucket
	Streams []protocol.Stream
	At      millrace.OpID
	Write   int64
	// Completed is the checkpoint completed last.
	Completed millrace.OpID
}

// NewClient is a client that holds nothing and is fed through Lines.
func NewClient(tb testing.TB) *Client {
	return &Client{tb: tb, cancel: func() {}, Lines: make(chan protocol.Line, 4), Buckets: map[string]*millrace.Reduced{}}
}

// Request is what a current client asks with.
func Request(clientID string, subs ...protocol.Subscription) *protocol.Request {
	return &protocol.Request{RawData: true, IncludeChecksum: true, ClientID: clientID,
		Streams: protocol.StreamSelection{IncludeDefaults: true, Subscriptions: subs}}
}

// Post sends a body to the stream endpoint of a server.
func Post(ctx context.Context, url, token string, body []byte, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+protocol.PathStream, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if token != "" {
		req.Header.Set("Authorization", "Token "+token)
	}
	return http.DefaultClient.Do(req)
}

// Dial opens a stream over HTTP, going on from what before holds, if it is not
// nil. It ends with the test, or with Close.
func Dial(tb testing.TB, url, token string, r *protocol.Request, before *Client) *Client {
	tb.Helper()
	return DialWith(tb, url, token, r, before, nil)
}

// resume is a new client that holds what before held; the request says so.
func resume(tb testing.TB, r *protocol.Request, before *Client) *Client {
	c := NewClient(tb)
	if before != nil {
		c.Buckets = before.Buckets
		for name, b := range c.Buckets {
			r.Buckets = append(r.Buckets, protocol.BucketPosition{Name: name, After: b.Last})
		}
	}
	return c
}

// DialWith is Dial with headers, such as Accept and Accept-Encoding.
func DialWith(tb testing.TB, url, token string, r *protocol.Request, before *Client, header http.Header) *Client {
	tb.Helper()
	c := resume(tb, r, before)
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	tb.Cleanup(cancel)
	resp, err := Post(ctx, url, token, r.AppendJSON(nil), header)
	if err != nil {
		tb.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body) // for the message
		tb.Fatalf("status %d: %s", resp.StatusCode, b)
	}
	go c.feed(ctx, resp)
	return c
}

// feed reads the lines of a response, whatever they are written in.
func (c *Client) feed(ctx context.Context, resp *http.Response) {
	defer close(c.Lines)
	defer resp.Body.Close()
	body, err := decoded(resp)
	if err != nil {
		c.Err = err
		return
	}
	defer body.Close()
	next := jsonLines(body)
	if resp.Header.Get("Content-Type") == protocol.MediaTypeBSONStream {
		next = bsonLines(body)
	}
	for {
		l, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			c.Err = err
			return
		}
		select {
		case c.Lines <- l:
		case <-ctx.Done():
			return
		}
	}
}

// decoded undoes the Content-Encoding.
func decoded(resp *http.Response) (io.ReadCloser, error) {
	switch name := resp.Header.Get("Content-Encoding"); name {
	case "":
		return io.NopCloser(resp.Body), nil
	case "gzip":
		return gzip.NewReader(resp.Body)
	case "zstd":
		d, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return nil, fmt.Errorf("content encoding %q", name)
	}
}

func jsonLines(r io.Reader) func() (protocol.Line, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<20)
	return func() (protocol.Line, error) {
		if !sc.Scan() {
			return nil, cmp.Or(sc.Err(), io.EOF)
		}
		l, err := protocol.DecodeLine(sc.Bytes())
		if err != nil {
			err = fmt.Errorf("%w in %.200s", err, sc.Bytes())
		}
		return l, err
	}
}

func bsonLines(r io.Reader) func() (protocol.Line, error) {
	return func() (protocol.Line, error) {
		doc := make([]byte, 4)
		if _, err := io.ReadFull(r, doc); err != nil {
			return nil, err
		}
		n, ok := bson.Length(doc)
		if !ok || n > 64<<20 {
			return nil, fmt.Errorf("a document begins with %x", doc)
		}
		doc = append(doc, make([]byte, n-4)...)
		if _, err := io.ReadFull(r, doc[4:]); err != nil {
			return nil, err
		}
		l, err := protocol.DecodeLineBSON(doc)
		if err != nil {
			err = fmt.Errorf("%w in %.200q", err, doc)
		}
		return l, err
	}
}

// Close ends the stream.
func (c *Client) Close() { c.cancel() }

// OnClose says what Close does for a client that is fed by the caller.
func (c *Client) OnClose(end func()) { c.cancel = end }

// ErrEnded is the error of a stream that ended in order.
var ErrEnded = errors.New("the stream ended")

// patience is how long a line may take.
const patience = time.Minute

// Next gives the next line, folded.
func (c *Client) Next() (protocol.Line, error) {
	select {
	case l, ok := <-c.Lines:
		if !ok {
			if c.Err != nil {
				return nil, c.Err
			}
			return nil, ErrEnded
		}
		c.Fold(l)
		return l, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("no line for %s", patience)
	}
}

// Until folds lines up to a completion at or after a checkpoint, and gives them.
func (c *Client) Until(at millrace.OpID) (lines []protocol.Line) {
	c.tb.Helper()
	for {
		l, err := c.Next()
		if err != nil {
			c.tb.Fatalf("waiting for checkpoint %d: %v; got %s", at, err, Describe(lines))
		}
		lines = append(lines, l)
		if done, ok := l.(protocol.CheckpointComplete); ok && done.LastOpID >= at {
			return lines
		}
	}
}

// Reach is Until for a checkpoint that may have been completed before.
func (c *Client) Reach(at millrace.OpID) (lines []protocol.Line) {
	c.tb.Helper()
	if c.Completed >= at {
		return nil
	}
	return c.Until(at)
}

// Fold takes one line.
func (c *Client) Fold(l protocol.Line) {
	c.tb.Helper()
	switch l := l.(type) {
	case *protocol.Checkpoint:
		c.At, c.Write, c.Streams = l.LastOpID, l.WriteCheckpoint, l.Streams
		c.Target = map[string]protocol.Bucket{}
		for _, b := range l.Buckets {
			c.Target[b.Name] = b
		}
		for name := range c.Buckets {
			if _, ok := c.Target[name]; !ok {
				delete(c.Buckets, name)
			}
		}
	case *protocol.CheckpointDiff:
		if c.Target == nil {
			c.tb.Error("a diff before any checkpoint")
			c.Target = map[string]protocol.Bucket{}
		}
		c.At, c.Write = l.LastOpID, l.WriteCheckpoint
		for _, b := range l.UpdatedBuckets {
			c.Target[b.Name] = b
		}
		for _, name := range l.RemovedBuckets {
			delete(c.Target, name)
			delete(c.Buckets, name)
		}
	case *protocol.Data:
		c.foldData(l)
	case protocol.PartialCheckpointComplete:
		c.verify(l.LastOpID, l.Priority)
	case protocol.CheckpointComplete:
		c.verify(l.LastOpID, protocol.MaxPriority)
		c.Completed = l.LastOpID
		for name := range c.Target {
			if c.Buckets[name] == nil {
				c.Buckets[name] = &millrace.Reduced{}
			}
			c.Buckets[name].Last = c.At
		}
	}
}

func (c *Client) foldData(l *protocol.Data) {
	c.tb.Helper()
	if _, ok := c.Target[l.Bucket]; !ok {
		c.tb.Errorf("data of %s, which is not in the checkpoint", l.Bucket)
	}
	r := c.Buckets[l.Bucket]
	if r == nil {
		r = &millrace.Reduced{}
		c.Buckets[l.Bucket] = r
	}
	for _, op := range l.Ops {
		if op.ID <= r.Last || op.ID > c.At {
			c.tb.Errorf("%s: op %d after %d at checkpoint %d", l.Bucket, op.ID, r.Last, c.At)
		}
		r.Reduce(op)
	}
}

func (c *Client) verify(at millrace.OpID, priority int) {
	c.tb.Helper()
	if at != c.At {
		c.tb.Errorf("completion of %d at checkpoint %d", at, c.At)
	}
	for name, b := range c.Target {
		var sum millrace.Checksum
		if r := c.Buckets[name]; r != nil {
			sum = r.Checksum
		}
		if b.Priority <= priority && sum != b.Checksum {
			c.tb.Errorf("%s at %d: sum %d, want %d", name, at, sum, b.Checksum)
		}
	}
}

// Rows gives a bucket of the fixed rules as row id -> data.
func (c *Client) Rows(definition, key string) map[string]string {
	out := map[string]string{}
	if r := c.Buckets[Wire(definition, key)]; r != nil {
		for id, op := range r.Rows {
			out[id.RowID] = op.Data
		}
	}
	return out
}

// Table gives the rows of a type over all buckets as row id -> data, as a client
// shows them: of several the one with the greatest op id.
func (c *Client) Table(name string) map[string]string {
	out := map[string]string{}
	newest := map[string]millrace.OpID{}
	for _, r := range c.Buckets {
		for id, op := range r.Rows {
			if id.Type == name && op.ID > newest[id.RowID] {
				newest[id.RowID], out[id.RowID] = op.ID, op.Data
			}
		}
	}
	return out
}

// Describe writes lines for a message.
func Describe(lines []protocol.Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.Write(l.AppendLine(nil))
		b.WriteByte('\n')
	}
	return b.String()
}
