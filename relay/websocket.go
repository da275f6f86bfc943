package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/auth"
)

// Timing of the native transport.
const (
	openWait   = 10 * time.Second
	silenceMax = 50 * time.Second
	closeWait  = 5 * time.Second
)

// serveWebSocket is GET /sync/ws. The HTTP handler returns once the connection
// is upgraded; its buffers go with it.
func (r *Relay) serveWebSocket(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	refused := r.draining
	if !refused {
		r.group.Add(1)
	}
	r.mu.Unlock()
	if refused {
		writeError(w, ending{code: protocol.CodeRestarting, status: http.StatusServiceUnavailable, text: "the server is restarting"})
		return
	}
	if n := r.opening.Add(1); int(n) > r.limits.Connections {
		r.opening.Add(-1)
		r.group.Done()
		r.meters.refused.WithLabelValues("connections").Inc()
		writeError(w, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests, text: "too many connections (relay.max_connections)"})
		return
	}
	c := &wsConn{relay: r, agent: agentOf(req)}
	c.touch()
	conn, err := websocket.Accept(leanWriter{w}, req, &websocket.AcceptOptions{
		Subprotocols:       []string{protocol.Subprotocol},
		InsecureSkipVerify: len(r.cfg.Origins) == 0, // only tokens authorise
		OriginPatterns:     r.cfg.Origins,
		OnPongReceived:     func(context.Context, []byte) { c.touch() },
		OnPingReceived:     func(context.Context, []byte) bool { c.touch(); return true },
	})
	if err != nil {
		r.opening.Add(-1)
		r.group.Done()
		r.log.Debug("upgrading to a WebSocket", "error", err)
		return
	}
	conn.SetReadLimit(-1) // messages are bounded in read
	c.conn = conn
	ctx := context.WithoutCancel(req.Context())
	go func() {
		defer r.group.Done()
		c.serve(ctx)
	}()
}

// leanWriter makes the connection that is taken over keep small buffers.
type leanWriter struct{ http.ResponseWriter }

func (w leanWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker.
func (w leanWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return conn, rw, err
	}
	// What the client sent already stays buffered.
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return conn, rw, err
	}
	early = bytes.Clone(early)
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), conn), max(512, len(early)))
	if _, err := r.Peek(len(early)); err != nil {
		return conn, rw, err
	}
	return conn, bufio.NewReadWriter(r, bufio.NewWriterSize(conn, 1024)), nil
}

// wsConn is one connection of the native transport.
type wsConn struct {
	relay   *Relay
	conn    *websocket.Conn
	agent   string
	session *session
	subject string
	claims  map[string]any // those that buckets may depend on
	version int64          // of the subscription list
	gzip    bool

	credits  atomic.Int64
	seen     atomic.Int64 // unix nanoseconds of the client's last sign of life
	pinging  atomic.Bool
	requests requestQueue
	group    sync.WaitGroup
}

func (c *wsConn) touch() { c.seen.Store(time.Now().UnixNano()) }

// serve runs the connection from its open frame to its end.
func (c *wsConn) serve(ctx context.Context) {
	s, ctx, leave, err := c.open(ctx)
	c.relay.opening.Add(-1)
	if err != nil {
		c.close(c.relay.asEnding(err))
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	c.group.Go(func() {
		if err := c.read(ctx); err != nil {
			s.finish(c.relay.asEnding(err))
		}
	})
	s.join()
	err = s.run(ctx, c)
	var e ending
	if errors.As(err, &e) && e.close != 0 {
		c.close(e)
	} else {
		c.conn.CloseNow()
	}
	cancel()
	c.group.Wait()
}

// close tells the client why, within the limits of a close frame.
func (c *wsConn) close(e ending) {
	reason := string(e.code) + " " + e.text
	c.conn.Close(websocket.StatusCode(e.close), reason[:min(len(reason), 120)]) // the client may have gone
}

// errGone ends a session whose client went.
var errGone = ending{code: protocol.CodeInvalid, text: "the client has gone"}

// open reads the first frame and makes the session.
func (c *wsConn) open(ctx context.Context) (*session, context.Context, func(), error) {
	if c.conn.Subprotocol() != protocol.Subprotocol {
		return nil, nil, nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "the subprotocol must be " + protocol.Subprotocol}
	}
	wait, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	f, err := c.readFrame(wait)
	if err != nil {
		if wait.Err() != nil {
			err = ending{code: protocol.CodeInvalid, close: protocol.CloseNoOpen, text: "no open frame within 10 s"}
		}
		return nil, nil, nil, err
	}
	open, ok := f.(*protocol.Open)
	if !ok {
		return nil, nil, nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "the first frame must be open"}
	}
	token, err := c.relay.cfg.Verifier.Verify(wait, open.Token)
	if err != nil {
		return nil, nil, nil, err
	}
	s := c.relay.newSession(token, &open.Request, "ws", c.agent)
	s.request.streamsVersion = open.StreamsVersion
	c.session, c.subject, c.claims, c.version, c.gzip = s, token.Subject, lastingClaims(token), open.StreamsVersion, open.AcceptGzip
	c.credits.Store(open.CreditBytes)
	inner, leave, err := c.relay.enter(ctx, s)
	if err != nil {
		return nil, nil, nil, err
	}
	return s, inner, leave, nil
}

// readFrame reads one message, bounded.
func (c *wsConn) readFrame(ctx context.Context) (protocol.Frame, error) {
	kind, r, err := c.conn.Reader(ctx)
	if err != nil {
		return nil, errGone
	}
	limit := c.relay.limits.FrameBytes
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, errGone
	case int64(len(b)) > limit:
		return nil, ending{code: protocol.CodeInvalid, close: protocol.CloseTooLarge, text: fmt.Sprintf("a message is larger than %d bytes", limit)}
	case kind != websocket.MessageText:
		return nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "a binary message; frames are text"}
	}
	c.touch()
	return protocol.DecodeFrame(b)
}

// read serves the client's frames until the connection ends.
func (c *wsConn) read(ctx context.Context) error {
	for {
		f, err := c.readFrame(ctx)
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case protocol.CreditFrame:
			c.addCredit(f.Bytes)
		case protocol.AckFrame:
			c.session.acknowledged.Store(int64(f.OpID))
		case *protocol.TokenFrame:
			if err := c.replaceToken(ctx, f.Token); err != nil {
				return err
			}
		case *protocol.StreamsFrame:
			if f.Version <= c.version {
				return ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: fmt.Sprintf("streams version %d after %d", f.Version, c.version)}
			}
			c.version = f.Version
			c.session.change(func(r *resolveRequest) {
				r.rules.Streams = f.StreamSelection
				r.streamsVersion = f.Version
			})
		case protocol.CheckpointRequestFrame:
			first, ok := c.requests.add(f.ID)
			if !ok {
				return ending{code: protocol.CodeTooMany, close: protocol.CloseOverloaded, text: "too many checkpoint requests at a time"}
			}
			if first {
				c.group.Go(func() { c.answerRequests(ctx) })
			}
		case *protocol.Open:
			return ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "a second open frame"}
		}
	}
}

// creditMax keeps sums of credit in range.
const creditMax = 1 << 40

func (c *wsConn) addCredit(n int64) {
	if c.credits.Add(min(n, creditMax)) > creditMax {
		c.credits.Store(creditMax)
	}
	c.session.signal()
}

// replaceToken takes new credentials; invalid ones leave the old in force.
func (c *wsConn) replaceToken(ctx context.Context, text string) error {
	token, err := c.relay.cfg.Verifier.Verify(ctx, text)
	var denied *auth.Error
	switch {
	case errors.As(err, &denied):
		c.relay.meters.denied.WithLabelValues(string(denied.Code)).Inc()
		return c.writeText(ctx, (&protocol.StreamError{Code: string(denied.Code), Description: denied.Description}).AppendLine(nil))
	case err != nil:
		return err
	case token.Subject != c.subject:
		return ending{code: protocol.CodeUnauthorized, close: protocol.CloseSubject, text: "the new token is of another subject (sub)"}
	}
	s := c.session
	s.mu.Lock()
	s.expires = token.Expires
	s.mu.Unlock()
	if claims := lastingClaims(token); !reflect.DeepEqual(claims, c.claims) {
		c.claims = claims
		s.change(func(r *resolveRequest) { r.rules.Claims = token.Claims })
	}
	s.signal()
	return nil
}

// lastingClaims are the claims that do not differ from token to token anyway.
func lastingClaims(t *auth.Token) map[string]any {
	var claims map[string]any
	d := json.NewDecoder(bytes.NewReader(t.Claims))
	d.UseNumber()
	if d.Decode(&claims) != nil {
		return nil // verified tokens are JSON objects
	}
	maps.DeleteFunc(claims, func(name string, _ any) bool {
		return name == "exp" || name == "iat" || name == "nbf" || name == "jti"
	})
	return claims
}

// requestQueue holds write checkpoints asked for and not answered.
type requestQueue struct {
	mu  sync.Mutex
	ids []int64
}

const requestsMax = 16

// add queues a request; first tells that nobody is at work on the queue.
func (q *requestQueue) add(id int64) (first, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ids) == requestsMax {
		return false, false
	}
	q.ids = append(q.ids, id)
	return len(q.ids) == 1, true
}

// head is the request to answer.
func (q *requestQueue) head() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ids[0]
}

// done removes the head and tells whether there are more.
func (q *requestQueue) done() (more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ids = q.ids[1:]
	if len(q.ids) == 0 {
		q.ids = nil
	}
	return len(q.ids) > 0
}

// answerRequests answers what is queued, one after the other.
func (c *wsConn) answerRequests(ctx context.Context) {
	for more := true; more; more = c.requests.done() {
		wait, cancel := context.WithTimeout(ctx, writeWait)
		held, err := c.relay.writes.request(wait, c.session.user, c.requests.head())
		cancel()
		if ctx.Err() != nil {
			return
		}
		var line []byte
		if err != nil {
			e := c.relay.asEnding(err)
			line = (&protocol.StreamError{Code: string(e.code), Description: e.text}).AppendLine(nil)
		} else {
			line = protocol.CheckpointRequestReply{ID: held}.AppendLine(nil)
		}
		if c.writeText(ctx, line) != nil {
			return // the session's own writes fail too
		}
	}
}

func (c *wsConn) ready() bool { return c.credits.Load() > 0 }

// gzipAbove is the length from which a chunk is worth a frame of its own.
const gzipAbove = 1 << 10

// send writes the lines in as few frames as it can: one, unless compressed ones
// come between.
func (c *wsConn) send(ctx context.Context, o *output) error {
	text := frameBuffers.Get().(*bytes.Buffer)
	defer frameBuffers.Put(text)
	text.Reset()
	flush := func() error {
		if text.Len() == 0 {
			return nil
		}
		defer text.Reset()
		return c.charge(ctx, websocket.MessageText, bytes.TrimSuffix(text.Bytes(), []byte{'\n'}))
	}
	for _, ch := range o.chunks {
		if !c.gzip || len(ch.text) < gzipAbove {
			text.Write(ch.text)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		member := gzipChunk(ch)
		if err := c.charge(ctx, websocket.MessageBinary, member); err != nil {
			return err
		}
	}
	return flush()
}

func gzipChunk(ch chunk) []byte {
	if ch.shared != nil {
		return ch.shared.gzip()
	}
	return gzipMember(ch.text)
}

var frameBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// charge writes a frame and takes it off the credit.
func (c *wsConn) charge(ctx context.Context, kind websocket.MessageType, b []byte) error {
	c.credits.Add(-int64(len(b)))
	return c.writeFrame(ctx, kind, b)
}

func (c *wsConn) writeText(ctx context.Context, line []byte) error {
	return c.writeFrame(ctx, websocket.MessageText, line)
}

func (c *wsConn) writeFrame(ctx context.Context, kind websocket.MessageType, b []byte) error {
	timeout := c.relay.limits.WriteTimeout * time.Duration(1+len(b)/(256<<10))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.conn.Write(ctx, kind, b)
}

// keepalive tells how long the token is valid, pings, and ends the session of a
// client that shows no sign of life.
func (c *wsConn) keepalive(ctx context.Context, seconds int32) error {
	if time.Since(time.Unix(0, c.seen.Load())) > silenceMax {
		return errGone
	}
	if err := c.writeText(ctx, protocol.TokenExpiresIn(seconds).AppendLine(nil)); err != nil {
		return err
	}
	if c.pinging.CompareAndSwap(false, true) {
		c.group.Go(func() {
			defer c.pinging.Store(false)
			ctx, cancel := context.WithTimeout(ctx, silenceMax)
			defer cancel()
			c.conn.Ping(ctx) // its answer is seen as a sign of life
		})
	}
	return nil
}
