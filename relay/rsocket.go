package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/bson"
	"github.com/millrace/millrace/protocol/rsocket"
	"github.com/millrace/millrace/relay/auth"
)

// Limits of an RSocket connection.
const (
	setupBytes  = 1 << 20 // a message before its token was verified
	lifetimeMin = 50 * time.Second
	lifetimeMax = 3 * time.Minute
	// compressAbove is the length from which a message is worth compressing.
	compressAbove = 1 << 10
)

// serveRSocket is an upgrade of GET /sync/stream: RSocket with BSON lines.
func (r *Relay) serveRSocket(w http.ResponseWriter, req *http.Request) {
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
		noRoute(w, req)
		return
	}
	o := &websocket.AcceptOptions{CompressionMode: websocket.CompressionNoContextTakeover, CompressionThreshold: compressAbove}
	r.upgrade(w, req, o, func(ctx context.Context, l *link) {
		c := &rsConn{link: l, refill: make(chan struct{}, 1), gone: make(chan struct{})}
		c.requests.Limit = int(r.limits.RequestBytes)
		c.serve(ctx)
	})
}

// rsConn is one RSocket connection: a setup, then one stream of lines.
type rsConn struct {
	*link
	requests rsocket.Assembler
	lifetime time.Duration
	bson     struct{ metadata, data bool } // their MIME types; else JSON
	token    *auth.Token

	stream  uint32 // of the request
	session *session
	credits atomic.Int64  // payloads that may be sent
	refill  chan struct{} // capacity 1: credit came
	gone    chan struct{} // closed when nothing more is read
	told    bool          // that the token has expired; run loop only
}

// refusal is an ERROR frame that ends the connection.
type refusal struct {
	stream uint32
	code   rsocket.Code
	why    ending
}

func (e refusal) Error() string { return e.why.Error() }

func invalid(code rsocket.Code, format string, args ...any) error {
	return refusal{code: code, why: ending{code: protocol.CodeInvalid, text: fmt.Sprintf(format, args...)}}
}

// serve opens the session, and leaves it to two that need little memory: the
// session's worker, and a goroutine that reads, whose stack never grew.
func (c *rsConn) serve(ctx context.Context) {
	s, ctx, leave, err := c.open(ctx)
	c.relay.opening.Add(-1)
	if err != nil {
		c.trace.End(err)
		c.end(ctx, err)
		c.done()
		return
	}
	c.trace = millrace.Span{} // the session's
	s.join()
	ended := make(chan struct{})
	s.start(ctx, c, func(err error) {
		defer close(ended)
		if e := (ending{}); !errors.As(err, &e) {
			err = errGone // nothing can be told
		}
		c.end(ctx, err)
	})
	go func() {
		s.finish(c.asEnding(c.read(ctx)))
		close(c.gone)
		<-ended
		leave()
		c.group.Wait()
		c.done()
	}()
}

// asEnding keeps what a refusal says beside the reason.
func (c *rsConn) asEnding(err error) ending {
	var r refusal
	if errors.As(err, &r) {
		e := r.why
		e.refusal = &r
		return e
	}
	return c.relay.asEnding(err)
}

// end tells the client why nothing more comes, as far as it can be told, and
// closes the connection.
func (c *rsConn) end(ctx context.Context, err error) {
	var e ending
	if errors.As(err, &e) && e.refusal != nil {
		err = *e.refusal
	}
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{stream: c.stream, code: rsocket.ApplicationError, why: c.relay.asEnding(err)}
	}
	switch {
	case r.why == errGone:
		c.conn.CloseNow()
		return
	case c.told && r.why.code == protocol.CodeTokenExpired:
		c.frame(ctx, &rsocket.Payload{Stream: c.stream, Complete: true})
	default:
		c.frame(ctx, &rsocket.Error{Stream: r.stream, Code: r.code, Text: "[" + string(r.why.code) + "] " + r.why.reason(1<<10)})
	}
	status := websocket.StatusNormalClosure
	switch {
	case r.why.close == protocol.CloseTooLarge:
		status = websocket.StatusMessageTooBig
	case r.code == rsocket.ConnectionError || r.code == rsocket.InvalidSetup:
		status = websocket.StatusProtocolError
	}
	c.close(status, string(r.why.code))
}

// frame sends a frame that needs no credit.
func (c *rsConn) frame(ctx context.Context, f rsocket.Frame) error {
	return c.write(ctx, websocket.MessageBinary, f.Append(nil))
}

// next reads one frame and answers keepalives; fragments are put together.
func (c *rsConn) next(ctx context.Context, limit int64) (rsocket.Frame, error) {
	for {
		kind, b, err := c.message(ctx, limit)
		var e ending
		switch {
		case errors.As(err, &e) && e.close == protocol.CloseTooLarge:
			return nil, refusal{code: rsocket.ConnectionError, why: e}
		case err != nil:
			return nil, err
		case kind != websocket.MessageBinary:
			return nil, invalid(rsocket.ConnectionError, "a text message; RSocket frames are binary")
		}
		f, err := rsocket.Decode(b)
		if err != nil {
			return nil, invalid(rsocket.ConnectionError, "%v", err)
		}
		if alive, ok := f.(*rsocket.Keepalive); ok {
			if alive.Respond {
				if err := c.frame(ctx, &rsocket.Keepalive{Position: alive.Position, Data: alive.Data}); err != nil {
					return nil, errGone
				}
			}
			continue
		}
		f, err = c.requests.Add(f)
		var tooLarge *rsocket.TooLargeError
		switch {
		case errors.As(err, &tooLarge):
			return nil, refusal{code: rsocket.ConnectionError, why: ending{code: protocol.CodeInvalid, close: protocol.CloseTooLarge, text: err.Error() + " (relay.max_request_bytes)"}}
		case err != nil:
			return nil, invalid(rsocket.ConnectionError, "%v", err)
		case f != nil:
			return f, nil
		}
	}
}

// open reads the setup and the request, and makes the session.
func (c *rsConn) open(ctx context.Context) (*session, context.Context, func(), error) {
	f, err := c.opening(ctx, setupBytes, "SETUP")
	if err != nil {
		return nil, ctx, nil, err
	}
	if err := c.setup(ctx, f); err != nil {
		return nil, ctx, nil, err
	}
	for {
		if f, err = c.opening(ctx, c.relay.limits.FrameBytes, "request"); err != nil {
			return nil, ctx, nil, err
		}
		if q, ok := f.(*rsocket.RequestStream); ok {
			s, err := c.request(q)
			if err != nil {
				return nil, ctx, nil, err
			}
			inner, leave, err := c.relay.enter(ctx, s)
			if err != nil {
				return nil, ctx, nil, err
			}
			s.traceConnect(c.trace, len(s.core.initial))
			c.session = s
			c.requests.Limit = setupBytes // what comes now is refused anyway
			return s, inner, leave, nil
		}
		if err := c.stray(ctx, f); err != nil {
			return nil, ctx, nil, err
		}
	}
}

// opening reads a frame that must come soon.
func (c *rsConn) opening(ctx context.Context, limit int64, what string) (f rsocket.Frame, err error) {
	err = c.inTime(func() (err error) {
		f, err = c.next(ctx, limit)
		return err
	}, invalid(rsocket.ConnectionClose, "no %s within %s", what, openWait), func(err error) { c.end(ctx, err) })
	return f, err
}

// setup takes the first frame: what the payloads are, and the token.
func (c *rsConn) setup(ctx context.Context, f rsocket.Frame) error {
	s, ok := f.(*rsocket.Setup)
	if other, is := f.(*rsocket.Other); is && other.Type == rsocket.TypeResume {
		return invalid(rsocket.RejectedResume, "connections are not resumed; begin with SETUP")
	}
	switch {
	case !ok:
		return invalid(rsocket.InvalidSetup, "the first frame must be SETUP")
	case s.Major != 1:
		return invalid(rsocket.UnsupportedSetup, "RSocket %d.%d; this server speaks 1.0", s.Major, s.Minor)
	case s.Lease:
		return invalid(rsocket.UnsupportedSetup, "leases are not supported")
	}
	c.lifetime = min(max(s.Lifetime, lifetimeMin), lifetimeMax)
	for _, part := range []struct {
		name, mime string
		bson       *bool
	}{{"metadata", s.MetadataMIME, &c.bson.metadata}, {"data", s.DataMIME, &c.bson.data}} {
		switch strings.ToLower(part.mime) {
		case "application/json":
		case "application/bson":
			*part.bson = true
		default:
			return refusal{code: rsocket.RejectedSetup, why: ending{code: protocol.CodeMediaType,
				text: fmt.Sprintf("the %s MIME type is %q; use application/json or application/bson", part.name, part.mime)}}
		}
	}
	text, err := asJSON(s.Metadata, c.bson.metadata)
	var about protocol.RSocketSetup
	if err == nil && len(s.Metadata) > 0 {
		about, err = protocol.DecodeRSocketSetup(text)
	}
	if err != nil {
		return refusal{code: rsocket.RejectedSetup, why: ending{code: protocol.CodeUnauthorized, text: "the metadata of SETUP: " + err.Error()}}
	}
	if about.UserAgent != "" {
		c.agent = agentText(about.UserAgent)
	}
	if about.Token == "" {
		err = &auth.Error{Code: protocol.CodeNoToken, Description: "no token in the metadata of SETUP"}
	} else {
		wait, cancel := context.WithTimeout(ctx, openWait)
		defer cancel()
		c.token, err = c.relay.verify(c.trace.In(wait), about.Token)
	}
	if err != nil {
		return refusal{code: rsocket.RejectedSetup, why: c.relay.asEnding(err)}
	}
	return nil
}

// request makes the session that a request asks for.
func (c *rsConn) request(q *rsocket.RequestStream) (*session, error) {
	if q.Stream%2 == 0 {
		return nil, invalid(rsocket.ConnectionError, "a request on stream %d; those of clients are odd", q.Stream)
	}
	c.stream = q.Stream
	text, err := asJSON(q.Metadata, c.bson.metadata)
	path := ""
	if err == nil && len(q.Metadata) > 0 {
		path, err = protocol.DecodeRSocketRoute(text)
	}
	switch {
	case err != nil:
		return nil, ending{code: protocol.CodeInvalid, text: "the metadata of the request: " + err.Error()}
	case path != protocol.PathStream:
		return nil, ending{code: protocol.CodeNoRoute, text: fmt.Sprintf("there is no %.100q; streams are at %s", path, protocol.PathStream)}
	}
	var request *protocol.Request
	if c.bson.data {
		request, err = protocol.DecodeRequestBSON(q.Data)
	} else {
		request, err = protocol.DecodeRequest(q.Data)
	}
	if err != nil {
		return nil, err
	}
	c.credits.Store(int64(q.N))
	return c.relay.newSession(c.token, request, protocol.BSON, "rsocket", c.agent), nil
}

func asJSON(b []byte, isBSON bool) ([]byte, error) {
	if !isBSON || len(b) == 0 {
		return b, nil
	}
	return bson.ToJSON(b, setupBytes)
}

// stray deals with a frame that belongs to no running stream.
func (c *rsConn) stray(ctx context.Context, f rsocket.Frame) error {
	switch f := f.(type) {
	case *rsocket.Setup:
		return invalid(rsocket.ConnectionError, "a second SETUP")
	case *rsocket.RequestStream:
		err := c.frame(ctx, &rsocket.Error{Stream: f.Stream, Code: rsocket.Rejected, Text: "[" + string(protocol.CodeConnections) + "] a connection serves one stream"})
		if err != nil {
			return errGone
		}
	case *rsocket.Error:
		if f.Stream == 0 {
			return errGone
		}
	case *rsocket.Other:
		if f.Ignore || f.Type == rsocket.TypeMetadataPush || f.Type == rsocket.TypeLease {
			return nil
		}
		if f.Stream == 0 {
			return invalid(rsocket.ConnectionError, "frames of type 0x%02x are not served", uint8(f.Type))
		}
		err := c.frame(ctx, &rsocket.Error{Stream: f.Stream, Code: rsocket.Rejected, Text: "[" + string(protocol.CodeInvalid) + "] only streams are served"})
		if err != nil {
			return errGone
		}
	}
	return nil // of a stream that has ended: late, and harmless
}

// read serves the client's frames until it goes or cancels.
func (c *rsConn) read(ctx context.Context) error {
	for {
		f, err := c.next(ctx, c.relay.limits.FrameBytes)
		if err != nil {
			return err
		}
		switch g := f.(type) {
		case *rsocket.RequestN:
			if g.Stream == c.stream {
				c.addCredit(int64(g.N))
			}
			continue
		case *rsocket.Cancel:
			if g.Stream == c.stream {
				return errGone
			}
		case *rsocket.Error:
			if g.Stream == c.stream {
				return errGone
			}
		}
		if err := c.stray(ctx, f); err != nil {
			return err
		}
	}
}

func (c *rsConn) addCredit(n int64) {
	if c.credits.Add(n) > creditMax {
		c.credits.Store(creditMax)
	}
	select {
	case c.refill <- struct{}{}:
	default:
	}
	c.session.signal()
}

func (c *rsConn) room() int { return int(max(c.credits.Load(), 0)) }

// takeCredit waits until one payload may be sent, at most until the token ends.
// A client that gives none for long, in the middle of what it is being sent, is
// let go: what it gets is held in memory.
func (c *rsConn) takeCredit(ctx context.Context) error {
	if c.credits.Load() <= 0 {
		stalled := time.NewTimer(c.relay.limits.WriteTimeout)
		defer stalled.Stop()
		expired := time.NewTimer(time.Until(c.session.expiry()))
		defer expired.Stop()
		for c.credits.Load() <= 0 {
			select {
			case <-c.refill:
			case <-c.gone:
				if err := c.session.ended(); err != nil {
					return err
				}
				return errGone
			case <-expired.C:
				return errExpired
			case <-stalled.C:
				return ending{code: protocol.CodeRestarting, text: fmt.Sprintf("the client asked for nothing more for %s; it may connect again", c.relay.limits.WriteTimeout)}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	c.credits.Add(-1)
	return nil
}

// send writes a payload for each line.
func (c *rsConn) send(ctx context.Context, o *output) error {
	for _, ch := range o.chunks {
		for rest := ch.text; len(rest) > 0; {
			n, ok := bson.Length(rest)
			if !ok || n > len(rest) {
				return fmt.Errorf("a line of %d bytes says it has %d", len(rest), n)
			}
			if err := c.takeCredit(ctx); err != nil {
				return err
			}
			if err := c.payload(ctx, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

func (c *rsConn) payload(ctx context.Context, line []byte) error {
	m := newMessage()
	defer m.free()
	m.Write((&rsocket.Payload{Stream: c.stream, Next: true}).Append(m.AvailableBuffer()))
	m.Write(line)
	if m.size() >= compressAbove {
		return c.sendCompressed(ctx, websocket.MessageBinary, m)
	}
	return c.link.send(ctx, websocket.MessageBinary, m)
}

// keepalive ends the session of a client that shows no sign of life; RSocket has
// keepalives of its own, so no line is sent.
func (c *rsConn) keepalive(ctx context.Context, _ int32) error {
	if c.silence() > c.lifetime {
		return errGone
	}
	c.ping(ctx)
	return nil
}

// tokenEnds tells the client unless it takes no line at present; then it learns
// it from the error that ends the stream.
func (c *rsConn) tokenEnds(ctx context.Context, seconds int32) error {
	if c.credits.Load() <= 0 {
		return nil
	}
	c.credits.Add(-1)
	c.told = seconds == 0
	return c.payload(ctx, protocol.TokenExpiresIn(seconds).AppendBSON(nil))
}
