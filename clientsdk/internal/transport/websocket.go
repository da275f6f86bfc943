package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/gzip"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// wsStream is a native WebSocket.
type wsStream struct {
	conn   *websocket.Conn
	silent time.Duration
	frame  []byte // what is left of the present frame, decompressed
	size   int64  // its size as sent
	used   int64  // bytes consumed that no credit was given for yet
	unzip  *gzip.Reader
}

// OpenWebSocket opens a native stream. The server's verdict on the request comes
// with the first line.
func (c *Client) OpenWebSocket(ctx context.Context, token string, req *Request) (Stream, error) {
	u, err := c.url(protocol.PathWebSocket)
	if err != nil {
		return nil, err
	}
	dial, cancel := context.WithTimeout(ctx, min(dialTimeout, c.Silence))
	defer cancel()
	conn, res, err := websocket.Dial(dial, "ws"+strings.TrimPrefix(u, "http"), &websocket.DialOptions{
		HTTPClient:      c.HTTP,
		HTTPHeader:      http.Header{"User-Agent": {c.UserAgent}, "X-User-Agent": {c.UserAgent}},
		Subprotocols:    []string{protocol.Subprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		e := &Error{Reason: machine.EndLost, Err: fmt.Errorf("open the sync WebSocket: %w", err)}
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			e.Reason, e.Unavailable = statusReason(res.StatusCode, ""), true
		}
		return nil, e
	}
	s := &wsStream{conn: conn, silent: c.Silence}
	if conn.Subprotocol() != protocol.Subprotocol {
		s.Close()
		return nil, &Error{Reason: machine.EndProtocol, Unavailable: true,
			Err: fmt.Errorf("open the sync WebSocket: the server does not speak %s", protocol.Subprotocol)}
	}
	conn.SetReadLimit(MaxFrameBytes)
	open := &protocol.Open{Request: req.Request, Token: token, AcceptGzip: true, CreditBytes: creditBytes, StreamsVersion: req.StreamsVersion}
	if err := s.Send(ctx, open); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// InBand implements Stream.
func (s *wsStream) InBand() bool { return true }

// Send implements Stream.
func (s *wsStream) Send(ctx context.Context, f protocol.Frame) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := s.conn.Write(ctx, websocket.MessageText, f.AppendFrame(nil)); err != nil {
		return ended(err)
	}
	return nil
}

// Next implements Stream. A frame's credit is given back once its last line has
// been taken.
func (s *wsStream) Next(ctx context.Context) (protocol.Line, error) {
	for {
		line, rest, _ := bytes.Cut(s.frame, []byte{'\n'})
		if s.frame = rest; len(bytes.TrimSpace(line)) > 0 {
			l, err := protocol.DecodeLine(line)
			if err != nil {
				return nil, failed(machine.EndProtocol, "a line of the sync stream: %w", err)
			}
			return l, nil
		}
		if len(s.frame) > 0 {
			continue
		}
		if err := s.credit(ctx); err != nil {
			return nil, err
		}
		if err := s.read(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *wsStream) credit(ctx context.Context) error {
	s.used += s.size
	s.size = 0
	if s.used < creditBytes/2 {
		return nil
	}
	f := protocol.CreditFrame{Bytes: s.used}
	s.used = 0
	return s.Send(ctx, f)
}

func (s *wsStream) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.silent)
	defer cancel()
	kind, b, err := s.conn.Read(ctx)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return failed(machine.EndLost, "the server was silent for %v", s.silent)
		}
		return ended(err)
	}
	s.size = int64(len(b))
	if kind == websocket.MessageText {
		s.frame = b
		return nil
	}
	s.frame, err = s.inflate(b)
	return err
}

func (s *wsStream) inflate(b []byte) ([]byte, error) {
	if s.unzip == nil {
		s.unzip = new(gzip.Reader)
	}
	if err := s.unzip.Reset(bytes.NewReader(b)); err != nil {
		return nil, failed(machine.EndProtocol, "a compressed frame: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(s.unzip, MaxFrameBytes+1))
	switch {
	case err != nil:
		return nil, failed(machine.EndProtocol, "a compressed frame: %w", err)
	case len(out) > MaxFrameBytes:
		return nil, failed(machine.EndProtocol, "a compressed frame holds more than %d bytes", MaxFrameBytes)
	}
	return out, nil
}

// Close implements Stream. The server learns it from the closed connection: a
// closing handshake would wait for a peer that may be gone.
func (s *wsStream) Close() { s.conn.CloseNow() } //nolint:errcheck // nothing is left to be done

// ended turns the end of a connection into its reason.
func ended(err error) error {
	var c websocket.CloseError
	if !errors.As(err, &c) {
		return failed(machine.EndLost, "the sync WebSocket broke: %w", err)
	}
	reason := machine.EndLost
	switch c.Code {
	case protocol.CloseUnauthorized, protocol.CloseSubject:
		reason = machine.EndUnauthorized
	case protocol.CloseRestarting, protocol.CloseRules:
		reason = machine.EndRestarting
	case protocol.CloseOverloaded, protocol.CloseConnections:
		reason = machine.EndOverloaded
	case protocol.CloseMalformed, protocol.CloseNoOpen, protocol.CloseTooLarge:
		reason = machine.EndProtocol
	}
	return failed(reason, "the server closed the sync WebSocket (%d): %s", c.Code, c.Reason)
}
