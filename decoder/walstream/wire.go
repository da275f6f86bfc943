package walstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// wire is the replication connection as a stream of bytes. One goroutine may
// read while another writes.
type wire struct {
	net.Conn               // what to read and write; TLS on top if the server wants it
	below    *wakeup       // below TLS: the socket
	timeout  time.Duration // the server's wal_sender_timeout, 0 if off
}

// wakeup is the connection below TLS. It begins as an ordinary connection and
// may be switched to coalesced reads.
type wakeup struct {
	net.Conn
	fd *coalescer // nil for ordinary reads
}

func (w *wakeup) Read(p []byte) (int, error) {
	if w.fd != nil {
		return w.fd.Read(p)
	}
	return w.Conn.Read(p)
}

func (w *wakeup) Write(p []byte) (int, error) {
	if w.fd != nil {
		return w.fd.Write(p)
	}
	return w.Conn.Write(p)
}

func (w *wakeup) SetDeadline(t time.Time) error {
	if w.fd != nil {
		w.fd.setWriteDeadline(t)
		return nil
	}
	return w.Conn.SetDeadline(t)
}

func (w *wakeup) SetWriteDeadline(t time.Time) error {
	if w.fd != nil {
		w.fd.setWriteDeadline(t)
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

func (w *wakeup) Close() error {
	if w.fd != nil {
		return w.fd.Close()
	}
	return w.Conn.Close()
}

// interrupt ends a Read and all later ones, from any goroutine.
func (w *wakeup) interrupt() {
	if w.fd != nil {
		w.fd.interrupt()
		return
	}
	_ = w.Conn.Close()
}

// dial connects, asks for the settings the stream depends on and starts
// replication.
func dial(ctx context.Context, c *Config) (_ *wire, err error) {
	pc, err := session.Config(c.URI, session.Replication)
	if err != nil {
		return nil, err
	}
	var below *wakeup
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	pc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		below = &wakeup{Conn: conn}
		return below, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, session.Explain(pc, err)
	}
	timeout, err := senderTimeout(ctx, conn)
	if err == nil {
		err = conn.SyncConn(ctx)
	}
	if err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("replication connection: %w", err)
	}
	h, err := conn.Hijack()
	if err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("replication connection: %w", err)
	}
	w := &wire{Conn: h.Conn, below: below, timeout: timeout}
	stop := context.AfterFunc(ctx, below.interrupt)
	err = w.start(c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = w.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	below.coalesce(h.TLSConfig != nil)
	return w, nil
}

func senderTimeout(ctx context.Context, conn *pgconn.PgConn) (time.Duration, error) {
	results, err := conn.Exec(ctx, "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'").ReadAll()
	if err != nil {
		return 0, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return 0, errors.New("server does not tell wal_sender_timeout")
	}
	ms, err := time.ParseDuration(string(results[0].Rows[0][0]) + "ms")
	if err != nil {
		return 0, fmt.Errorf("wal_sender_timeout: %w", err)
	}
	return ms, nil
}

// start sends START_REPLICATION and reads up to its answer, not a byte more.
func (w *wire) start(c *Config) error {
	names := make([]string, len(c.Publications))
	for i, p := range c.Publications {
		names[i] = session.Ident(p)
	}
	sql := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %s (proto_version '1', publication_names '%s', messages 'true')",
		session.SlotName(c.Slot), c.Start, strings.ReplaceAll(strings.Join(names, ","), "'", "''"))
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	if _, err := w.Write(query); err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(w, header[:]); err != nil {
			return fmt.Errorf("start replication: %w", err)
		}
		size := binary.BigEndian.Uint32(header[1:])
		if size < 4 || size > 1<<20 {
			return fmt.Errorf("start replication: %w: message of %d bytes", ErrProtocol, size)
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(w, body); err != nil {
			return fmt.Errorf("start replication: %w", err)
		}
		switch header[0] {
		case 'W': // CopyBothResponse
			return nil
		case 'E':
			return serverError(c.Slot, pgError(body))
		case 'N', 'S':
		default:
			return fmt.Errorf("start replication: %w: unexpected message %q", ErrProtocol, header[0])
		}
	}
}

func pgError(body []byte) *pgconn.PgError {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return &pgconn.PgError{Severity: "FATAL", Code: "08P01", Message: "error message of the server cannot be read"}
	}
	return pgconn.ErrorResponseToPgError(&m)
}

// postgresEpoch is 2000-01-01 in microseconds since 1970.
const postgresEpoch = 946684800000000

// sendStatus tells the server the safe position: written, flushed and applied
// are always the same (P90).
func (w *wire) sendStatus(safe millrace.LSN, now time.Time) error {
	var b [frameHeader + 34]byte
	b[0] = 'd'
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	b[5] = 'r'
	for i := range 3 {
		binary.BigEndian.PutUint64(b[6+8*i:], uint64(safe))
	}
	binary.BigEndian.PutUint64(b[30:], uint64(now.UnixMicro()-postgresEpoch))
	return w.send(b[:], 10*time.Second)
}

// sendEnd asks the server to end the stream and the session.
func (w *wire) sendEnd() error {
	return w.send([]byte{'c', 0, 0, 0, 4, 'X', 0, 0, 0, 4}, time.Second)
}

func (w *wire) send(b []byte, timeout time.Duration) error {
	if err := w.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}
