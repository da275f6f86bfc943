package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Messages are written past the WebSocket library: servers do not mask, so that
// a frame is a head and the message, and with the library a message costs a
// context, a timer and three locks. What it still writes, control frames and
// compressed messages, it writes by calls that cannot come in the middle of one
// of ours: a connection's writes are whole.

// message is a buffer for one message, with room for the head of its frame.
type message struct{ bytes.Buffer }

// headMax is the longest head of a frame that is not masked.
const headMax = 10

var messages = sync.Pool{New: func() any { return new(message) }}

// newMessage gives an empty message, to be given back with free.
func newMessage() *message {
	m := messages.Get().(*message)
	m.clear()
	return m
}

func (m *message) clear() {
	m.Reset()
	var head [headMax]byte
	m.Write(head[:])
}

// free keeps the buffer for the next message, unless a rare large one has made it
// one that is not worth keeping.
func (m *message) free() {
	if m.Cap() <= 4*pageBytes {
		messages.Put(m)
	}
}

// size is the length of the message.
func (m *message) size() int { return m.Len() - headMax }

// frame gives the message as one frame. It may be called once.
func (m *message) frame(kind websocket.MessageType) []byte {
	b, n := m.Bytes(), m.size()
	at := headMax - 2
	switch {
	case n < 126:
		b[at+1] = byte(n)
	case n < 1<<16:
		at -= 2
		b[at+1] = 126
		binary.BigEndian.PutUint16(b[at+2:], uint16(n))
	default:
		at -= 8
		b[at+1] = 127
		binary.BigEndian.PutUint64(b[at+2:], uint64(n))
	}
	b[at] = 0x80 | byte(kind) // the opcodes of text and binary are the library's kinds
	return b[at:]
}

// write sends one message. The time it may take grows with its size; when it is
// over, the connection is. Safe for concurrent use.
func (l *link) write(ctx context.Context, kind websocket.MessageType, b []byte) error {
	m := newMessage()
	defer m.free()
	m.Write(b)
	return l.send(ctx, kind, m)
}

// send is write for a message that is already in a buffer.
func (l *link) send(ctx context.Context, kind websocket.MessageType, m *message) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closing.Load() {
		return errGone
	}
	if _, err := l.begin(ctx, m.size()); err != nil {
		return err
	}
	_, err := l.raw.Write(m.frame(kind))
	if err != nil {
		l.closing.Store(true)
		l.raw.Close() // a frame may be there in part; reading ends with it
	}
	return err
}

// sendCompressed is send for what the library compresses if the client can read
// it.
func (l *link) sendCompressed(ctx context.Context, kind websocket.MessageType, m *message) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	timeout, err := l.begin(ctx, m.size())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return l.conn.Write(ctx, kind, m.Bytes()[headMax:])
}

// begin sets the time for a message of n bytes.
func (l *link) begin(ctx context.Context, n int) (time.Duration, error) {
	timeout := l.relay.limits.WriteTimeout * time.Duration(1+n/(256<<10))
	if err := l.raw.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	// Who cancels interrupts what is written from here on.
	return timeout, ctx.Err()
}

// interrupt ends a write that is under way, and the connection with it.
func (l *link) interrupt() { l.raw.SetWriteDeadline(time.Unix(1, 0)) }

// close tells the client that nothing more comes, and why.
func (l *link) close(code websocket.StatusCode, reason string) {
	l.closing.Store(true)
	l.conn.Close(code, reason) // the client may have gone
}

// libraryConn is the connection that the library writes to. It gives a control
// frame time of its own, unless a message is being written: then it has to get
// through in the time of that, or a client that takes nothing could prolong it.
type libraryConn struct {
	net.Conn
	writing *sync.Mutex
}

// controlWait is how long the library itself gives a control frame.
const controlWait = 5 * time.Second

func (c libraryConn) Write(b []byte) (int, error) {
	if c.writing.TryLock() {
		defer c.writing.Unlock()
		if err := c.SetWriteDeadline(time.Now().Add(controlWait)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}
