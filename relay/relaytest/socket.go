package relaytest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/protocol"
)

// DialSocket is Dial over the native transport, with credit without end and
// compressed frames accepted.
func DialSocket(tb testing.TB, url, token string, r *protocol.Request, before *Client) *Client {
	tb.Helper()
	c := resume(tb, r, before)
	conn, _, err := websocket.Dial(tb.Context(), "ws"+strings.TrimPrefix(url, "http")+protocol.PathWebSocket, &websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		tb.Fatal(err)
	}
	conn.SetReadLimit(-1)
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = func() { cancel(); conn.CloseNow() }
	tb.Cleanup(c.cancel)
	open := &protocol.Open{Request: *r, Token: token, CreditBytes: 1 << 40, AcceptGzip: true}
	if err := conn.Write(ctx, websocket.MessageText, open.AppendFrame(nil)); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(c.Lines)
		c.Err = c.feedSocket(ctx, conn)
	}()
	return c
}

func (c *Client) feedSocket(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, frame, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if kind == websocket.MessageBinary {
			if frame, err = unzip(frame); err != nil {
				return err
			}
		}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(frame, []byte{'\n'}), []byte{'\n'}) {
			l, err := protocol.DecodeLine(line)
			if err != nil {
				return fmt.Errorf("%w in %.200q", err, line)
			}
			select {
			case c.Lines <- l:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func unzip(member []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(member))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
