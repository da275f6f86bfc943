package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"

	"github.com/millrace/millrace/protocol"
)

// headWait is how long the response head waits for the first view, so that an
// error can still be told by status.
const headWait = 2 * time.Second

// serveStream is POST /sync/stream: one request, then lines until the token
// expires, the client goes or the server stops.
func (r *Relay) serveStream(w http.ResponseWriter, req *http.Request) {
	token, err := r.authorize(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	body, err := r.body(w, req, r.limits.RequestBytes)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	request, err := protocol.DecodeRequest(body)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	s := r.newSession(token, request, "http", agentOf(req))
	ctx, leave, err := r.enter(req.Context(), s)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
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
	h.Set("Content-Type", protocol.MediaTypeNDJSON)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold lines back
	t := &httpStream{w: w, control: http.NewResponseController(w), timeout: r.limits.WriteTimeout}
	// Nothing more is read: a server's read timeout would end the stream.
	if err := t.control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	if acceptsGzip(req.Header.Values("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		t.gzip = &gzipStream{w: deadlineWriter{t}}
	}
	if err := t.begin(); err != nil {
		return
	}
	err = s.run(ctx, t)
	t.end()
	var e ending
	if !errors.As(err, &e) && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		r.log.Debug("a stream broke", "error", err, "user", s.user)
	}
}

// acceptsGzip reads Accept-Encoding.
func acceptsGzip(values []string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				q := strings.ReplaceAll(params, " ", "")
				return q != "q=0" && !strings.HasPrefix(q, "q=0.000")
			}
		}
	}
	return false
}

// httpStream sends lines as the body of a response, flushing after each send.
type httpStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gzip    *gzipStream // nil: identity
	timeout time.Duration
}

// begin sends the head: the client is connected when it arrives.
func (t *httpStream) begin() error {
	t.w.WriteHeader(http.StatusOK)
	if t.gzip != nil {
		if err := t.gzip.begin(); err != nil {
			return err
		}
	}
	return t.control.Flush()
}

func (t *httpStream) ready() bool { return true }

func (t *httpStream) send(ctx context.Context, o *output) error {
	for _, c := range o.chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.write(c.text); err != nil {
			return err
		}
	}
	return t.control.Flush()
}

func (t *httpStream) keepalive(_ context.Context, seconds int32) error {
	if err := t.write(append(protocol.TokenExpiresIn(seconds).AppendLine(nil), '\n')); err != nil {
		return err
	}
	return t.control.Flush()
}

func (t *httpStream) write(b []byte) error {
	if t.gzip != nil {
		return t.gzip.write(b)
	}
	_, err := deadlineWriter{t}.Write(b)
	return err
}

// end closes the body properly, if the client is still there.
func (t *httpStream) end() {
	if t.gzip != nil {
		t.gzip.end() // an error means that the client has gone
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
		m, err := d.t.w.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// gzipStream writes one long gzip member whose every write can be read at once.
// It keeps no compression state between writes, so an idle client costs nothing;
// short writes are stored as they are.
type gzipStream struct {
	w    io.Writer
	crc  uint32
	size uint32
}

// storeBelow is the length under which compressing a write by itself gains
// nothing worth the time.
const storeBelow = 256

func (g *gzipStream) begin() error {
	_, err := g.w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255})
	return err
}

func (g *gzipStream) write(b []byte) error {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, b)
	g.size += uint32(len(b))
	if len(b) >= storeBelow {
		return flate.StatelessDeflate(g.w, b, false, nil)
	}
	return g.store(b, 0, syncMarker...)
}

// syncMarker is an empty stored block. Some decompressors hand out what they
// have only when they meet one.
var syncMarker = []byte{0, 0, 0, 0xff, 0xff}

// store writes a stored block, which begins and ends at a byte.
func (g *gzipStream) store(b []byte, final byte, then ...byte) error {
	block := make([]byte, 5, 5+len(b)+len(then))
	block[0] = final
	binary.LittleEndian.PutUint16(block[1:], uint16(len(b)))
	binary.LittleEndian.PutUint16(block[3:], ^uint16(len(b)))
	_, err := g.w.Write(append(append(block, b...), then...))
	return err
}

func (g *gzipStream) end() error {
	if err := g.store(nil, 1); err != nil {
		return err
	}
	var tail [8]byte
	binary.LittleEndian.PutUint32(tail[:], g.crc)
	binary.LittleEndian.PutUint32(tail[4:], g.size)
	_, err := g.w.Write(tail[:])
	return err
}
