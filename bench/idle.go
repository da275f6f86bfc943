package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/rsocket"
)

// idleMemory is by how much the process grows for each idle connection.
type idleMemory struct {
	transport       string
	connections     int
	atOnce, settled int64
}

// idleSettled is how long connections are idle for the second figure: by then the
// garbage of connecting has gone.
const idleSettled = 30 * time.Second

// idleTransports are ways to connect; each gives what the client sends first.
var idleTransports = []struct {
	name  string
	first func(s *server, user, id string) ([]byte, error)
}{
	{"native WebSocket", func(s *server, user, id string) ([]byte, error) {
		open, err := s.open(user, id)
		return append(upgrade(protocol.PathWebSocket, protocol.Subprotocol), clientFrame(1, open)...), err
	}},
	{"RSocket", func(s *server, user, id string) ([]byte, error) {
		token, err := s.key.Sign(user, nil, time.Hour, time.Now())
		setup := &rsocket.Setup{Major: 1, Keepalive: 20 * time.Second, Lifetime: 90 * time.Second, MetadataMIME: "application/json", DataMIME: "application/json",
			Metadata: fmt.Appendf(nil, `{"token":"Token %s"}`, token)}
		request := &rsocket.RequestStream{Stream: 1, N: rsocket.MaxN, Metadata: fmt.Appendf(nil, `{"path":%q}`, protocol.PathStream), Data: idleRequest(id).AppendJSON(nil)}
		b := append(upgrade(protocol.PathStream, ""), clientFrame(2, setup.Append(nil))...)
		return append(b, clientFrame(2, request.Append(nil))...), err
	}},
	{"HTTP, NDJSON", func(s *server, user, id string) ([]byte, error) {
		token, err := s.key.Sign(user, nil, time.Hour, time.Now())
		body := idleRequest(id).AppendJSON(nil)
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/x-ndjson\r\nContent-Length: %d\r\n\r\n%s",
			protocol.PathStream, token, len(body), body), err
	}},
}

func idleRequest(id string) *protocol.Request {
	return &protocol.Request{RawData: true, IncludeChecksum: true, ClientID: id, Streams: protocol.StreamSelection{IncludeDefaults: true}}
}

// idleByTransport measures each transport with a process of its own; the one
// that is given stays idle.
func (b *bed) idleByTransport(ctx context.Context, _ *server, f *relayFigures) error {
	for _, t := range idleTransports {
		err := b.serving(ctx, func(s *server) error {
			m, err := idleGrowth(ctx, s, t.first, b.settings.idle)
			m.transport = t.name
			f.memory = append(f.memory, m)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

func idleGrowth(ctx context.Context, s *server, first func(*server, string, string) ([]byte, error), n int) (idleMemory, error) {
	m := idleMemory{connections: n}
	conns := make([]net.Conn, idleBefore+n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	connect := func(from, to int) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(dialing)
		for i := from; i < to; i++ {
			g.Go(func() (err error) {
				conns[i], err = s.idle(ctx, first, fmt.Sprint("idle", i))
				return err
			})
		}
		return g.Wait()
	}
	if err := connect(0, idleBefore); err != nil {
		return m, err
	}
	pid := s.cmd.Process.Pid
	base := residentMemory(pid)
	if err := connect(idleBefore, idleBefore+n); err != nil {
		return m, err
	}
	m.atOnce = (residentMemory(pid) - base) / int64(n)
	wait := time.NewTimer(idleSettled)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return m, ctx.Err()
	case <-wait.C:
	}
	m.settled = (residentMemory(pid) - base) / int64(n)
	return m, nil
}

// idle connects and reads up to the first completion, whatever it is written in.
func (s *server) idle(ctx context.Context, first func(*server, string, string) ([]byte, error), id string) (_ net.Conn, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	hello, err := first(s, reader, id)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(relayPatience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(hello); err != nil {
		return nil, err
	}
	var got []byte
	r := bufio.NewReaderSize(conn, 4<<10)
	for !bytes.Contains(got, []byte("checkpoint_complete")) {
		b, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the server ended the connection after %.500q", got)
			}
			return nil, err
		}
		got = append(got, b)
		if rest, err := r.Peek(r.Buffered()); err == nil {
			got = append(got, rest...)
			_, _ = r.Discard(len(rest)) // they are buffered
		}
	}
	return conn, nil
}

// clientFrame is a frame of a client, masked with zeros.
func clientFrame(opcode byte, payload []byte) []byte {
	return append([]byte{0x80 | opcode, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 0, 0, 0, 0}, payload...)
}
