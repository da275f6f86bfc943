package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/protocol"
)

// wire is a native WebSocket client made by hand: ten thousand of them must
// take little memory and processor time beside the server they measure. It
// reads text frames, and answers pings while it reads.
type wire struct {
	conn net.Conn
	r    *bufio.Reader
	ops  int
	size int64
	buf  []byte

	mark, coming int64     // the newest completed, and the newest seen
	at           time.Time // of the completion
}

var (
	dataPrefix  = []byte(`{"data":`)
	complete    = []byte(`{"checkpoint_complete":`)
	opSeparator = []byte(`"op_id":`)
)

// wireBuffer is enough for the lines of one small change.
const wireBuffer = 1 << 10

// wire opens a session; it has asked for everything and read nothing.
func (s *server) wire(ctx context.Context, user, id string) (_ *wire, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return nil, fmt.Errorf("connect a client: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect a client: %w", err), conn.Close())
		}
	}()
	w := &wire{conn: conn, r: bufio.NewReaderSize(conn, wireBuffer)}
	if _, err := conn.Write(upgrade(protocol.PathWebSocket, protocol.Subprotocol)); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	open, err := s.open(user, id)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(clientFrame(textFrame, open))
	return w, err
}

// upgrade asks for a WebSocket.
func upgrade(path, subprotocol string) []byte {
	key := base64.StdEncoding.EncodeToString([]byte("sixteen bytes it"))
	b := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", path, key)
	if subprotocol != "" {
		b = fmt.Appendf(b, "Sec-WebSocket-Protocol: %s\r\n", subprotocol)
	}
	return append(b, "\r\n"...)
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

// frame reads one frame; its bytes are valid until the next.
func (w *wire) frame() (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(w.r, b[:]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(w.r, b[:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n > 64<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if uint64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf = w.buf[:n]
	if _, err = io.ReadFull(w.r, w.buf); err != nil {
		return 0, nil, err
	}
	if opcode = head[0] & 0x0f; opcode == pingFrame {
		pong := []byte{0x80 | pongFrame, 0x80 | byte(n), 0, 0, 0, 0} // masked with zeros
		_, err = w.conn.Write(append(pong, w.buf...))
	}
	return opcode, w.buf, err
}

const (
	textFrame  = 1
	closeFrame = 8
	pingFrame  = 9
	pongFrame  = 10
)

// until reads up to a completion that comes after want in the data; nil wants
// nothing but a completion. It gives the time of it.
func (w *wire) until(deadline time.Time, want []byte) (time.Time, error) {
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return time.Time{}, err
	}
	seen := want == nil
	for {
		kind, text, err := w.frame()
		switch {
		case err != nil:
			return time.Time{}, fmt.Errorf("read as a client: %w", err)
		case kind == closeFrame:
			return time.Time{}, fmt.Errorf("the server ended the session: %q", text)
		case kind != textFrame:
			continue
		}
		w.size += int64(len(text))
		for line := range bytes.Lines(text) {
			switch {
			case bytes.HasPrefix(line, dataPrefix):
				w.ops += bytes.Count(line, opSeparator)
				seen = seen || bytes.Contains(line, want)
			case seen && bytes.HasPrefix(line, complete):
				return time.Now(), nil
			}
		}
	}
}

// untilMark reads up to the completion that brings a mark or a later one, unless
// that has come already, and gives its time.
func (w *wire) untilMark(deadline time.Time, mark int64) (time.Time, error) {
	for w.mark < mark {
		if err := w.conn.SetReadDeadline(deadline); err != nil {
			return time.Time{}, err
		}
		kind, text, err := w.frame()
		if err != nil {
			return time.Time{}, fmt.Errorf("read as a client: %w", err)
		}
		if kind != textFrame {
			continue
		}
		for line := range bytes.Lines(text) {
			switch {
			case bytes.HasPrefix(line, dataPrefix):
				if i := bytes.LastIndex(line, markPrefix); i >= 0 {
					digits, _, _ := bytes.Cut(line[i+len(markPrefix):], []byte("}"))
					if w.coming, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
						return time.Time{}, fmt.Errorf("a mark in %q: %w", line, err)
					}
				}
			case bytes.HasPrefix(line, complete):
				w.mark, w.at = w.coming, time.Now()
			}
		}
	}
	return w.at, nil
}

var markPrefix = []byte(`\"n\":`)

func (w *wire) close() { _ = w.conn.Close() }
