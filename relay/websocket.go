package relay

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/auth"
)

// silenceMax is how long a client may show no sign of life.
const silenceMax = 50 * time.Second

// serveWebSocket is GET /sync/ws.
func (r *Relay) serveWebSocket(w http.ResponseWriter, req *http.Request) {
	r.upgrade(w, req, &websocket.AcceptOptions{Subprotocols: []string{protocol.Subprotocol}}, func(ctx context.Context, l *link) {
		(&wsConn{link: l}).serve(ctx)
	})
}

// wsConn is one connection of the native transport.
type wsConn struct {
	*link
	session *session
	subject string
	claims  [sha256.Size]byte // of those that buckets may depend on
	version int64             // of the subscription list
	gzip    bool

	credits  atomic.Int64
	requests requestQueue
}

// serve opens the session, and leaves it to two that need little memory: the
// session's worker, and a goroutine that reads, whose stack never grew.
func (c *wsConn) serve(ctx context.Context) {
	s, ctx, leave, err := c.open(ctx)
	c.relay.opening.Add(-1)
	if err != nil {
		c.trace.End(err)
		c.tell(c.relay.asEnding(err))
		c.done()
		return
	}
	c.trace = millrace.Span{} // the session's
	s.join()
	ended := make(chan struct{})
	s.start(ctx, c, func(err error) {
		defer close(ended)
		if e := (ending{}); errors.As(err, &e) && e.close != 0 {
			c.tell(e)
		} else {
			c.conn.CloseNow()
		}
	})
	go func() {
		s.finish(c.relay.asEnding(c.read(ctx)))
		<-ended
		leave()
		c.group.Wait()
		c.done()
	}()
}

// tell ends the connection and says why, within the limits of a close frame.
func (c *wsConn) tell(e ending) {
	const most = 123 // of a close frame
	code := string(e.code) + " "
	c.close(websocket.StatusCode(e.close), code+e.reason(most-len(code)))
}

// open reads the first frame and makes the session.
func (c *wsConn) open(ctx context.Context) (*session, context.Context, func(), error) {
	if c.conn.Subprotocol() != protocol.Subprotocol {
		return nil, nil, nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "the subprotocol must be " + protocol.Subprotocol}
	}
	var f protocol.Frame
	err := c.inTime(func() (err error) {
		f, err = c.readFrame(ctx)
		return err
	}, ending{code: protocol.CodeInvalid, close: protocol.CloseNoOpen, text: "no open frame within 10 s"},
		func(err error) { c.tell(c.relay.asEnding(err)) })
	if err != nil {
		return nil, nil, nil, err
	}
	open, ok := f.(*protocol.Open)
	if !ok {
		return nil, nil, nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "the first frame must be open"}
	}
	wait, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	token, err := c.relay.verifyToken(c.trace.In(wait), open.Token)
	if err != nil {
		return nil, nil, nil, err
	}
	s := c.relay.newSession(token, &open.Request, protocol.JSON, "ws", c.agent)
	s.request.streamsVersion = open.StreamsVersion
	c.session, c.subject, c.claims, c.version, c.gzip = s, token.Subject, lastingClaims(token), open.StreamsVersion, open.AcceptGzip
	c.credits.Store(open.CreditBytes)
	inner, leave, err := c.relay.enter(ctx, s)
	if err != nil {
		return nil, nil, nil, err
	}
	s.traceConnect(c.trace, len(s.core.initial))
	return s, inner, leave, nil
}

// readFrame reads one message, bounded.
func (c *wsConn) readFrame(ctx context.Context) (protocol.Frame, error) {
	kind, b, err := c.message(ctx, c.relay.limits.FrameBytes)
	switch {
	case err != nil:
		return nil, err
	case kind != websocket.MessageText:
		return nil, ending{code: protocol.CodeInvalid, close: protocol.CloseMalformed, text: "a binary message; frames are text"}
	}
	return protocol.DecodeFrame(b)
}

// read serves the client's frames until the connection ends.
func (c *wsConn) read(ctx context.Context) error {
	// The end of the connection ends a read: to watch the context too would cost
	// memory.
	reading := context.WithoutCancel(ctx)
	for {
		f, err := c.readFrame(reading)
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
	if claims := lastingClaims(token); claims != c.claims {
		c.claims = claims
		s.change(func(r *resolveRequest) { r.rules.Claims = token.Claims })
	}
	s.signal()
	return nil
}

// lastingClaims is a digest of the claims that do not differ from token to token
// anyway.
func lastingClaims(t *auth.Token) [sha256.Size]byte {
	var claims map[string]json.RawMessage
	if json.Unmarshal(t.Claims, &claims) != nil {
		return sha256.Sum256(t.Claims) // not reached: verified tokens are JSON objects
	}
	maps.DeleteFunc(claims, func(name string, _ json.RawMessage) bool {
		return name == "exp" || name == "iat" || name == "nbf" || name == "jti"
	})
	text, err := json.Marshal(claims) // in the order of names
	if err != nil {
		return sha256.Sum256(t.Claims)
	}
	return sha256.Sum256(text)
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
		span := millrace.BeginTrace(c.relay.cfg.Tracer, "relay.write_checkpoint")
		held, err := c.relay.requestWrite(span.In(ctx), c.session.user, c.requests.head())
		span.End(err)
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

func (c *wsConn) room() int {
	if c.credits.Load() > 0 {
		return roomForAll
	}
	return 0
}

// gzipAbove is the length from which a chunk is worth a frame of its own.
const gzipAbove = 1 << 10

// send writes the lines in as few frames as it can: one, unless compressed ones
// come between.
func (c *wsConn) send(ctx context.Context, o *output) error {
	text := newMessage()
	defer text.free()
	flush := func() error {
		if text.size() == 0 {
			return nil
		}
		defer text.clear()
		text.Truncate(text.Len() - 1) // the last line's end
		return c.charge(ctx, websocket.MessageText, text)
	}
	for _, ch := range o.chunks {
		if !c.gzip || len(ch.text) < gzipAbove {
			text.Write(ch.text)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		text.Write(gzipChunk(ch))
		if err := c.charge(ctx, websocket.MessageBinary, text); err != nil {
			return err
		}
		text.clear()
	}
	return flush()
}

func gzipChunk(ch chunk) []byte {
	if ch.shared != nil {
		return ch.shared.gzipped.get(ch.text, gzipMember)
	}
	return gzipMember(ch.text)
}

// charge writes a frame and takes it off the credit.
func (c *wsConn) charge(ctx context.Context, kind websocket.MessageType, m *message) error {
	c.credits.Add(-int64(m.size()))
	return c.link.send(ctx, kind, m)
}

func (c *wsConn) writeText(ctx context.Context, line []byte) error {
	return c.write(ctx, websocket.MessageText, line)
}

func (c *wsConn) tokenEnds(ctx context.Context, seconds int32) error {
	return c.writeText(ctx, protocol.TokenExpiresIn(seconds).AppendLine(nil))
}

// keepalive tells how long the token is valid, pings, and ends the session of a
// client that shows no sign of life.
func (c *wsConn) keepalive(ctx context.Context, seconds int32) error {
	if c.silence() > silenceMax {
		return errGone
	}
	if err := c.writeText(ctx, protocol.TokenExpiresIn(seconds).AppendLine(nil)); err != nil {
		return err
	}
	c.ping(ctx)
	return nil
}
