package relay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// openWait is how long a connection may take to say what it wants.
const openWait = 10 * time.Second

// link is one WebSocket, with what every transport over one needs.
type link struct {
	relay   *Relay
	conn    *websocket.Conn
	raw     net.Conn // under conn
	agent   string
	trace   millrace.Span // of connecting, until there is a session
	writing sync.Mutex    // of messages; control frames are conn's affair
	closing atomic.Bool   // a close frame was sent, or a message only in part
	seen    atomic.Int64  // unix nanoseconds of the client's last sign of life
	pinging atomic.Bool
	group   sync.WaitGroup // goroutines of the connection
	done    func()         // to be called when the connection is served
}

// upgrade makes a WebSocket of a request and has it served. The HTTP handler
// returns once the connection is upgraded; its buffers go with it. serve must
// give up its place in relay.opening, and call done when everything has ended.
func (r *Relay) upgrade(w http.ResponseWriter, req *http.Request, o *websocket.AcceptOptions, serve func(context.Context, *link)) {
	r.mu.Lock()
	refused := r.draining
	if !refused {
		r.group.Add(1)
	}
	r.mu.Unlock()
	if refused {
		writeError(w, errRestarting)
		return
	}
	if n := r.opening.Add(1); int(n) > r.limits.Connections {
		r.opening.Add(-1)
		r.group.Done()
		r.meters.refused.WithLabelValues("connections").Inc()
		writeError(w, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests, text: "too many connections (relay.max_connections)"})
		return
	}
	l := &link{relay: r, agent: agentOf(req), trace: r.beginTrace("relay.connect", req)}
	l.touch()
	o.InsecureSkipVerify = len(r.cfg.Origins) == 0 // only tokens authorise
	o.OriginPatterns = r.cfg.Origins
	o.OnPongReceived = func(context.Context, []byte) { l.touch() }
	o.OnPingReceived = func(context.Context, []byte) bool { l.touch(); return true }
	conn, err := websocket.Accept(leanWriter{w, l}, req, o)
	if err != nil {
		r.opening.Add(-1)
		r.group.Done()
		l.trace.End(err)
		r.log.Debug("upgrading to a WebSocket", "error", err)
		return
	}
	conn.SetReadLimit(-1) // messages are bounded in message
	l.conn = conn
	ctx := context.WithoutCancel(req.Context())
	l.done = r.group.Done
	go serve(ctx, l)
}

// leanWriter makes the connection that is taken over keep small buffers, and
// gives it to the link.
type leanWriter struct {
	http.ResponseWriter
	link *link
}

func (w leanWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Sizes of buffers. What is written by way of the buffer is control frames, and
// the head of compressed ones.
const (
	readBuffer  = 512
	writeBuffer = 128
)

// Hijack implements http.Hijacker.
func (w leanWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return conn, rw, err
	}
	w.link.raw = conn
	// What the client sent already stays buffered.
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return conn, rw, err
	}
	early = bytes.Clone(early)
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), conn), max(readBuffer, len(early)))
	if _, err := r.Peek(len(early)); err != nil {
		return conn, rw, err
	}
	shared := libraryConn{conn, &w.link.writing}
	return shared, bufio.NewReadWriter(r, bufio.NewWriterSize(shared, writeBuffer)), nil
}

// errGone ends a session whose client went.
var errGone = ending{code: protocol.CodeInvalid, text: "the client has gone"}

func (l *link) touch() { l.seen.Store(time.Now().UnixNano()) }

// silence is how long the client has shown no sign of life.
func (l *link) silence() time.Duration { return time.Since(time.Unix(0, l.seen.Load())) }

// inTime reads with f, what the client must send soon. After openWait it calls
// end with late, and when the relay stops with that, which tells the client and
// closes the connection, so that f returns: an expired context would close it
// without a word.
func (l *link) inTime(f func() error, late error, end func(error)) error {
	read := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		timer := time.NewTimer(openWait)
		defer timer.Stop()
		select {
		case <-read:
		case <-timer.C:
			end(late)
		case <-l.relay.stopping:
			end(errRestarting)
		}
	})
	err := f()
	close(read)
	group.Wait()
	return err
}

// message reads one message of at most limit bytes.
func (l *link) message(ctx context.Context, limit int64) (websocket.MessageType, []byte, error) {
	kind, r, err := l.conn.Reader(ctx)
	if err != nil {
		return 0, nil, errGone
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return 0, nil, errGone
	case int64(len(b)) > limit:
		return 0, nil, ending{code: protocol.CodeInvalid, close: protocol.CloseTooLarge, text: fmt.Sprintf("a message is larger than %d bytes", limit)}
	}
	l.touch()
	return kind, b, nil
}

// ping asks for a sign of life, one at a time.
func (l *link) ping(ctx context.Context) {
	if l.pinging.CompareAndSwap(false, true) {
		l.group.Go(func() {
			defer l.pinging.Store(false)
			ctx, cancel := context.WithTimeout(ctx, silenceMax)
			defer cancel()
			l.conn.Ping(ctx) // its answer is seen as a sign of life
		})
	}
}
