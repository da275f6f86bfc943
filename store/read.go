package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace"
)

// ReaderOptions change how a Reader works. The zero value is ready for
// production.
type ReaderOptions struct {
	// ReadURI is a streaming replica to read from; empty reads the primary.
	ReadURI string
	// Connections bounds those for snapshots. Default 12.
	Connections int
	// PollEvery is how often a replica, which cannot notify, is asked for a new
	// checkpoint. Default 200 ms. The primary notifies, and is asked once a
	// second in case a notification got lost.
	PollEvery time.Duration
	// Logger gets failures of the notification session. Default:
	// slog.Default().
	Logger *slog.Logger
}

// Reader reads the sidecar to serve clients, and takes what relays write: write
// checkpoint requests and reports. It may be used concurrently.
type Reader struct {
	primary *pgxpool.Pool
	reads   *pgxpool.Pool // the same as primary without a replica
	listen  *pgx.ConnConfig
	opts    ReaderOptions
	replica bool
}

// OpenReader prepares to read. It connects to nothing yet, so that a relay can
// start before its sidecar.
func OpenReader(ctx context.Context, uri string, opts ReaderOptions) (*Reader, error) {
	if opts.Connections == 0 {
		opts.Connections = 12
	}
	if opts.PollEvery == 0 {
		opts.PollEvery = 200 * time.Millisecond
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	r := &Reader{opts: opts}
	own := opts.Connections
	if opts.ReadURI != "" {
		own = 4
	}
	var err error
	if r.primary, err = readerPool(ctx, uri, own); err != nil {
		return nil, fmt.Errorf("sidecar connection string: %w", err)
	}
	r.reads = r.primary
	if opts.ReadURI != "" {
		if r.reads, err = readerPool(ctx, opts.ReadURI, opts.Connections); err != nil {
			r.primary.Close()
			return nil, fmt.Errorf("connection string of the sidecar's replica: %w", err)
		}
		r.replica = true
	}
	r.listen = r.primary.Config().ConnConfig.Copy()
	r.listen.RuntimeParams["application_name"] = "millrace relay watch"
	return r, nil
}

func readerPool(ctx context.Context, uri string, size int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(uri)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(size)
	config.MinConns = 0
	config.MaxConnIdleTime = 5 * time.Minute
	config.HealthCheckPeriod = time.Minute
	config.ConnConfig.ConnectTimeout = 10 * time.Second
	params := config.ConnConfig.RuntimeParams
	params["application_name"] = "millrace relay"
	params["client_encoding"] = "UTF8"
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			SET search_path = pg_catalog;
			SET statement_timeout = '60s';
			SET idle_in_transaction_session_timeout = '60s';
			SET jit = off;
			SET plan_cache_mode = force_generic_plan`)
		return err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// Close closes all sessions. Snapshots must be closed before.
func (r *Reader) Close() {
	if r.reads != r.primary {
		r.reads.Close()
	}
	r.primary.Close()
}

// PrimaryHead is the newest op id of the primary.
func (r *Reader) PrimaryHead(ctx context.Context) (millrace.OpID, error) {
	var op int64
	err := r.primary.QueryRow(ctx, `SELECT op_id FROM millrace.head`).Scan(&op)
	return millrace.OpID(op), readFailure("read the head of the primary sidecar", err)
}

// Watch calls changed after every new checkpoint, once a second without one, and
// after each reconnection, until ctx ends.
func (r *Reader) Watch(ctx context.Context, changed func()) error {
	if r.replica {
		return r.poll(ctx, changed)
	}
	pause := time.Duration(0)
	for ctx.Err() == nil {
		err := r.listenOnce(ctx, changed, func() { pause = 0 })
		if ctx.Err() != nil {
			break
		}
		if pause == 0 {
			r.opts.Logger.Warn("the session that waits for checkpoints ended", "error", err)
		}
		// Meanwhile new checkpoints are found by asking.
		changed()
		pause = min(max(2*pause, 100*time.Millisecond), time.Second)
		wait(ctx, pause)
	}
	return nil
}

// listenOnce waits for notifications on a session of its own, never inside a
// transaction.
func (r *Reader) listenOnce(ctx context.Context, changed, connected func()) error {
	conn, err := pgx.ConnectConfig(ctx, r.listen)
	if err != nil {
		return readFailure("connect to wait for checkpoints", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN millrace`); err != nil {
		return readFailure("listen for checkpoints", err)
	}
	connected()
	for {
		changed()
		wait, cancel := context.WithTimeout(ctx, time.Second)
		_, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !pgconn.Timeout(err)) {
			return readFailure("wait for checkpoints", err)
		}
	}
}

// poll asks for a new checkpoint where no notification comes.
func (r *Reader) poll(ctx context.Context, changed func()) error {
	last, told := int64(-1), time.Time{}
	for ctx.Err() == nil {
		var seq int64
		if err := r.reads.QueryRow(ctx, `SELECT seq FROM millrace.head`).Scan(&seq); err != nil || seq != last || time.Since(told) >= time.Second {
			last, told = seq, time.Now()
			changed()
		}
		wait(ctx, r.opts.PollEvery)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// readFailure says what was being done, and puts ErrUnavailable into the chain
// if trying again later may help.
func readFailure(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case passes(err):
		return fmt.Errorf("%s: %w: %w", doing, millrace.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// passes tells whether an error is about reaching the server or its present
// condition rather than about what was asked.
func passes(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001", // also: cancelled by recovery on a replica
			"53300", "57P01", "57P02", "57P03", "25006":
			return true
		}
		return strings.HasPrefix(pg.Code, "08")
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
