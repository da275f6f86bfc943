package relay

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/millrace/millrace/protocol"
)

// headWait is how long the response head waits for the first view, so that an
// error can still be told by status.
const headWait = 2 * time.Second

// serveStream is POST /sync/stream: one request, then lines until the token
// expires, the client goes or the server stops.
func (r *Relay) serveStream(w http.ResponseWriter, req *http.Request) {
	span := r.beginTrace("relay.connect", req)
	refuse := func(err error) {
		span.End(err)
		writeError(w, r.asEnding(err))
	}
	token, err := r.authorize(req.WithContext(span.In(req.Context())))
	if err != nil {
		refuse(err)
		return
	}
	body, err := r.body(w, req, r.limits.RequestBytes)
	if err != nil {
		refuse(err)
		return
	}
	request, err := protocol.DecodeRequest(body)
	if err != nil {
		refuse(err)
		return
	}
	as := streamEncoding(req.Header.Values("Accept"))
	s := r.newSession(token, request, as, "http", agentOf(req))
	ctx, leave, err := r.enter(req.Context(), s)
	if err != nil {
		refuse(err)
		return
	}
	s.traceConnect(span, len(s.core.initial))
	defer leave()
	s.join()
	wait := time.NewTimer(headWait)
	defer wait.Stop()
	select {
	case <-s.wake:
	case <-wait.C:
	case <-ctx.Done():
	}
	if err := s.ended(); err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", mediaType(as))
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, Accept-Encoding")
	h.Set("X-Accel-Buffering", "no") // nginx would hold lines back
	t := &httpStream{w: w, control: http.NewResponseController(w), as: as, timeout: r.limits.WriteTimeout, ctx: ctx}
	t.coding = newCoding(contentCoding(req.Header.Values("Accept-Encoding")), deadlineWriter{t})
	// Nothing more is read: a server's read timeout would end the stream.
	if err := t.control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	if name := t.coding.name(); name != "" {
		h.Set("Content-Encoding", name)
	}
	if err := t.begin(); err != nil {
		return
	}
	_ = s.run(ctx, t) // the session tells why it ended
	t.end()
}

// httpStream sends lines as the body of a response, flushing after each send.
type httpStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	as      protocol.Encoding
	coding  coding
	timeout time.Duration
	ctx     context.Context // of the session
}

// begin sends the head: the client is connected when it arrives.
func (t *httpStream) begin() error {
	t.w.WriteHeader(http.StatusOK)
	if err := t.coding.begin(); err != nil {
		return err
	}
	return t.control.Flush()
}

func (t *httpStream) room() int { return roomForAll }

func (t *httpStream) interrupt() { t.control.SetWriteDeadline(time.Unix(1, 0)) }

func (t *httpStream) send(ctx context.Context, o *output) error {
	for _, c := range o.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.coding.write(c); err != nil {
			return err
		}
	}
	return t.control.Flush()
}

func (t *httpStream) keepalive(_ context.Context, seconds int32) error {
	if err := t.coding.write(chunk{text: t.as.AppendLine(nil, protocol.TokenExpiresIn(seconds))}); err != nil {
		return err
	}
	return t.control.Flush()
}

func (t *httpStream) tokenEnds(ctx context.Context, seconds int32) error {
	return t.keepalive(ctx, seconds)
}

// end closes the body properly, if the client is still there.
func (t *httpStream) end() {
	if err := t.coding.end(); err == nil {
		t.control.Flush() // an error means that the client has gone
	}
}

// deadlineWriter writes in pieces, each of which must get through in time: a
// slow client is served as long as it makes progress.
type deadlineWriter struct{ t *httpStream }

const writePiece = 16 << 10

func (d deadlineWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		if err := d.t.control.SetWriteDeadline(time.Now().Add(d.t.timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return n, err
		}
		// Who cancels interrupts what is written from here on.
		if err := d.t.ctx.Err(); err != nil {
			return n, err
		}
		m, err := d.t.w.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}
