package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/protocol"
)

// client reads a native WebSocket without folding what it gets, so that what is
// measured is the server's work more than its own.
type client struct {
	conn *websocket.Conn
	ops  int   // received
	size int64 // bytes of messages received
}

var (
	dataPrefix  = []byte(`{"data":`)
	complete    = []byte(`{"checkpoint_complete":`)
	opSeparator = []byte(`"op_id":`)
)

// dial opens a client's session; it has asked for everything and read nothing.
func (s *server) dial(ctx context.Context, user, id string) (*client, error) {
	conn, _, err := websocket.Dial(ctx, strings.Replace(s.url, "http", "ws", 1)+protocol.PathWebSocket,
		&websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		return nil, fmt.Errorf("connect a client: %w", err)
	}
	conn.SetReadLimit(-1)
	open, err := s.open(user, id)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, open)
	}
	if err != nil {
		_ = conn.CloseNow()
		return nil, fmt.Errorf("connect a client: %w", err)
	}
	return &client{conn: conn}, nil
}

// open is the first frame of a session.
func (s *server) open(user, id string) ([]byte, error) {
	token, err := s.key.Sign(user, nil, time.Hour, time.Now())
	if err != nil {
		return nil, err
	}
	open := &protocol.Open{Token: token, CreditBytes: 1 << 40}
	open.RawData, open.IncludeChecksum, open.ClientID, open.Streams.IncludeDefaults = true, true, id, true
	return open.AppendFrame(nil), nil
}

// next reads messages up to a completion and gives the data lines before it.
func (c *client) next(ctx context.Context) (data []byte, err error) {
	for {
		_, b, err := c.conn.Read(ctx)
		if err != nil {
			return nil, fmt.Errorf("read as a client: %w", err)
		}
		c.size += int64(len(b))
		done := false
		for line := range bytes.Lines(b) {
			switch {
			case bytes.HasPrefix(line, dataPrefix):
				c.ops += bytes.Count(line, opSeparator)
				data = line
			case bytes.HasPrefix(line, complete):
				done = true
			}
		}
		if done {
			return data, nil
		}
	}
}

// until reads up to the completion that brings a mark, and gives its time.
func (c *client) until(ctx context.Context, mark int64) (time.Time, error) {
	want := []byte(fmt.Sprintf(`\"n\":%d}`, mark))
	for {
		data, err := c.next(ctx)
		if err != nil || bytes.Contains(data, want) {
			return time.Now(), err
		}
	}
}

func (c *client) close() { _ = c.conn.CloseNow() }
