package relaytest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/rsocket"
)

// RSocket is a connection of a client that writes its frames itself. One
// goroutine uses it.
type RSocket struct {
	Conn *websocket.Conn
	tb   testing.TB
}

// OpenRSocket connects; nothing is sent yet.
func OpenRSocket(tb testing.TB, url string) *RSocket {
	tb.Helper()
	conn, _, err := websocket.Dial(tb.Context(), "ws"+strings.TrimPrefix(url, "http")+protocol.PathStream, &websocket.DialOptions{CompressionMode: websocket.CompressionNoContextTakeover})
	if err != nil {
		tb.Fatal(err)
	}
	conn.SetReadLimit(64 << 20)
	tb.Cleanup(func() { conn.CloseNow() })
	return &RSocket{Conn: conn, tb: tb}
}

// SetupFrame is the setup of a current JavaScript client.
func SetupFrame(token string) *rsocket.Setup {
	metadata := millrace.AppendTextJSON([]byte(`{"token":`), "Token "+token)
	return &rsocket.Setup{Major: 1, Keepalive: 20 * time.Second, Lifetime: 90 * time.Second, MetadataMIME: "application/json", DataMIME: "application/json",
		Metadata: append(metadata, `,"user_agent":"relaytest"}`...)}
}

// RequestFrame asks for the stream of a request, with credit for n lines.
func RequestFrame(r *protocol.Request, n uint32) *rsocket.RequestStream {
	return &rsocket.RequestStream{Stream: 1, N: n, Metadata: []byte(`{"path":"/sync/stream"}`), Data: r.AppendJSON(nil)}
}

// Send writes frames.
func (r *RSocket) Send(list ...rsocket.Frame) {
	r.tb.Helper()
	for _, f := range list {
		r.SendBytes(f.Append(nil))
	}
}

// SendBytes writes one binary message.
func (r *RSocket) SendBytes(b []byte) {
	r.tb.Helper()
	if err := r.Conn.Write(r.tb.Context(), websocket.MessageBinary, b); err != nil {
		r.tb.Logf("write a frame: %v", err) // the server may have closed it for a reason it tells
	}
}

// Read gives the next frame.
func (r *RSocket) Read() (rsocket.Frame, error) {
	ctx, cancel := context.WithTimeout(r.tb.Context(), patience)
	defer cancel()
	return readFrame(ctx, r.Conn)
}

func readFrame(ctx context.Context, conn *websocket.Conn) (rsocket.Frame, error) {
	_, b, err := conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	return rsocket.Decode(b)
}

// RSocketError is an ERROR frame.
type RSocketError struct{ Frame rsocket.Error }

func (e *RSocketError) Error() string {
	return fmt.Sprintf("error 0x%x on stream %d: %s", uint32(e.Frame.Code), e.Frame.Stream, e.Frame.Text)
}

// DialRSocket is Dial over RSocket. The client allows one more line for each it
// gets, as current SDKs do.
func DialRSocket(tb testing.TB, url, token string, r *protocol.Request, before *Client) *Client {
	tb.Helper()
	c := resume(tb, r, before)
	s := OpenRSocket(tb, url)
	s.Send(SetupFrame(token), RequestFrame(r, 10))
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = func() { cancel(); s.Conn.CloseNow() }
	tb.Cleanup(c.cancel)
	go c.feedRSocket(ctx, s.Conn)
	return c
}

func (c *Client) feedRSocket(ctx context.Context, conn *websocket.Conn) {
	defer close(c.Lines)
	more := (&rsocket.RequestN{Stream: 1, N: 1}).Append(nil)
	for {
		f, err := readFrame(ctx, conn)
		if err != nil {
			c.Err = err
			return
		}
		switch f := f.(type) {
		case *rsocket.Error:
			c.Err = &RSocketError{*f}
			conn.CloseNow() // as current clients do
			return
		case *rsocket.Payload:
			if f.Complete {
				return
			}
			l, err := protocol.DecodeLineBSON(f.Data)
			if err != nil {
				c.Err = err
				return
			}
			select {
			case c.Lines <- l:
			case <-ctx.Done():
				return
			}
			if err := conn.Write(ctx, websocket.MessageBinary, more); err != nil {
				c.Err = err
				return
			}
		}
	}
}
