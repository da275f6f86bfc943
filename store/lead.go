package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// opIDJump is added to the counter when the sidecar is not the server it was:
// ops that clients hold may be missing from it.
const opIDJump = int64(1) << 32

// standbyPoll is how often a standby looks at the leader.
const standbyPoll = time.Second

// Lead waits until this process may write, and begins a term. name says in the
// sidecar who leads. A leader whose session is gone is replaced at once, one
// whose heartbeat stands still after Options.LeaderSilence; its session is
// ended first. Lead returns early only with an error: the context's, one of
// the sidecar, or a leader that this role may not end.
func (s *Store) Lead(ctx context.Context, name string) (*Writer, error) {
	return s.lead(ctx, name, false)
}

// Restored is to be called after the sidecar was restored from a backup: what
// clients hold may be ahead of it. It takes the leadership from whoever has it,
// gives every bucket a new name towards clients, and moves the counter of op
// ids beyond what they may have seen. Decoders begin again, relays send
// clients everything anew. It gives the new op id.
func (s *Store) Restored(ctx context.Context, name string) (millrace.OpID, error) {
	w, err := s.lead(ctx, name, true)
	if err != nil {
		return 0, err
	}
	op := w.head.OpID
	return op, w.Close(ctx)
}

func (s *Store) lead(ctx context.Context, name string, restored bool) (*Writer, error) {
	watch, err := s.connect(ctx, "millrace standby")
	if err != nil {
		return nil, err
	}
	defer func() { _ = watch.Close(context.WithoutCancel(ctx)) }()
	poll := time.NewTicker(min(standbyPoll, s.opts.LeaderSilence/4))
	defer poll.Stop()
	var silence silence
	told := int64(-1)
	for {
		l, err := look(ctx, watch)
		if err != nil {
			return nil, err
		}
		if restored || !l.alive || silence.longer(l, s.opts.LeaderSilence) {
			w, err := s.takeOver(ctx, watch, l, name, restored)
			if w != nil || err != nil {
				return w, err
			}
			continue // another standby was faster
		}
		if told != l.fence {
			told = l.fence
			s.opts.Logger.Info("standing by", "leader", l.writer, "fence", l.fence)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-poll.C:
		}
	}
}

// leader is what a standby sees.
type leader struct {
	fence  int64
	writer string
	beat   int64
	alive  bool // its session exists
}

func look(ctx context.Context, conn *pgx.Conn) (leader, error) {
	var l leader
	// backend_start is hidden from roles that may not see the session; then
	// the process id has to do.
	err := conn.QueryRow(ctx, `
		SELECT h.fence, coalesce(h.writer, ''), CASE WHEN l.fence = h.fence THEN l.beat ELSE -1 END,
			a.pid IS NOT NULL AND coalesce(a.backend_start = h.writer_start, true)
		FROM millrace.head h CROSS JOIN millrace.leader l
		LEFT JOIN pg_stat_activity a ON a.pid = h.writer_pid`).Scan(&l.fence, &l.writer, &l.beat, &l.alive)
	if err != nil {
		return l, fmt.Errorf("look for the leader: %w", err)
	}
	return l, nil
}

// silence measures, by this process's clock, how long a leader's beat has
// stood still.
type silence struct {
	fence, beat int64
	since       time.Time
}

func (s *silence) longer(l leader, limit time.Duration) bool {
	if s.since.IsZero() || s.fence != l.fence || s.beat != l.beat {
		*s = silence{l.fence, l.beat, time.Now()}
	}
	return time.Since(s.since) >= limit
}

// takeOver ends the leader's session, waits until it is gone and takes the
// fence. It gives nil if another decoder took it first.
func (s *Store) takeOver(ctx context.Context, watch *pgx.Conn, l leader, name string, restored bool) (_ *Writer, err error) {
	if l.alive && !restored {
		s.opts.Logger.Warn("taking over from a silent leader", "leader", l.writer, "fence", l.fence)
	}
	if err := endSession(ctx, watch, l); err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, "millrace decoder "+name)
	if err != nil {
		return nil, err
	}
	w := &Writer{store: s, opts: s.opts, name: name, conn: conn, pg: conn.PgConn()}
	w.lost = make(chan struct{})
	won := false
	defer func() {
		if !won {
			err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
		}
	}()
	fence, err := w.takeFence(ctx, l.fence, restored)
	if err != nil || fence == 0 {
		return nil, err
	}
	w.fence = fence
	if err := w.begins(ctx); err != nil {
		return nil, err
	}
	won = true
	w.startHeartbeat(ctx)
	s.opts.Logger.Info("leading", "name", name, "fence", w.fence, "op_id", int64(w.head.OpID))
	return w, nil
}

// endSession terminates the leader's backend, if it is the one the head names,
// and waits until it is gone: only then is no transaction of it left open.
func endSession(ctx context.Context, conn *pgx.Conn, l leader) error {
	deadline := time.Now().Add(30 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		var there, ended bool
		err := conn.QueryRow(ctx, `
			SELECT count(*) > 0, coalesce(bool_and(pg_terminate_backend(a.pid)), false)
			FROM millrace.head h JOIN pg_stat_activity a ON a.pid = h.writer_pid AND coalesce(a.backend_start = h.writer_start, true)
			WHERE h.fence = $1`, l.fence).Scan(&there, &ended)
		if err != nil {
			return fmt.Errorf("end the session of decoder %s, which is silent (its role must be this one, or grant pg_signal_backend): %w", l.writer, err)
		}
		if !there {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the session of decoder %s, which is silent, does not end", l.writer)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// takeFence raises the fence above seen. 0: somebody else did.
func (w *Writer) takeFence(ctx context.Context, seen int64, restored bool) (int64, error) {
	system, timeline := w.identify(ctx)
	for {
		fence, err := w.tryFence(ctx, seen, restored, system, timeline)
		var pgErr *pgconn.PgError
		if err == nil || !errors.As(err, &pgErr) || pgErr.Code != "55P03" { // lock_not_available
			return fence, err
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}

func (w *Writer) tryFence(ctx context.Context, seen int64, restored bool, system *string, timeline *int64) (fence int64, err error) {
	err = pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '1s'`); err != nil {
			return err
		}
		var oldSystem *string
		var oldTimeline *int64
		err := tx.QueryRow(ctx, `SELECT system_id, timeline FROM millrace.head WHERE fence = $1 FOR UPDATE`, seen).Scan(&oldSystem, &oldTimeline)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		moved := restored || differ(oldSystem, system)
		jump := int64(0)
		if moved || differ(oldTimeline, timeline) {
			jump = opIDJump
			if err := renewWriteRequests(ctx, tx, moved); err != nil {
				return err
			}
		}
		if moved {
			if err := renewWirePrefixes(ctx, tx); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `
			UPDATE millrace.head SET fence = fence + 1, op_id = op_id + $2,
				writer = $3, writer_pid = pg_backend_pid(),
				writer_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
				system_id = coalesce($4, system_id), timeline = coalesce($5, timeline)
			WHERE fence = $1`, seen, jump, w.name, system, timeline)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE millrace.leader SET fence = $1, beat = 0, at = clock_timestamp()`, seen+1); err != nil {
			return err
		}
		fence = seen + 1
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("take the fence: %w", err)
	}
	return fence, nil
}

func differ[T comparable](old, now *T) bool { return old != nil && now != nil && *old != *now }

// identify tells which server this is, as far as the role may know.
func (w *Writer) identify(ctx context.Context) (system *string, timeline *int64) {
	// Errors leave nil: then a restored sidecar goes unnoticed here, and is
	// found by its positions or by checksums.
	_ = w.conn.QueryRow(ctx, `SELECT system_identifier::text FROM pg_control_system()`).Scan(&system)
	_ = w.conn.QueryRow(ctx, `SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint`).Scan(&timeline)
	return system, timeline
}

// renewWirePrefixes gives every bucket a new name towards clients, so that
// they begin again: what they hold may belong to another history.
func renewWirePrefixes(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT id FROM millrace.definition_versions WHERE wire_prefix IS NOT NULL`)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return err
	}
	for _, id := range ids {
		prefix, err := freeWirePrefix(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE millrace.definition_versions SET wire_prefix = $2 WHERE id = $1`, id, prefix); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `UPDATE millrace.head SET renewed = renewed + 1`)
	return err
}

// renewWriteRequests gives every device that has a number for its uploads a new
// one, above any that a lost sidecar may have given it, and asks for it again: a
// device that is told a lower number than it was told before would hold all
// server data back until it writes something. With restored, numbers that devices
// gave themselves are forgotten, since what they asked for later is not known.
func renewWriteRequests(ctx context.Context, tx pgx.Tx, restored bool) error {
	for _, sql := range []string{
		`SELECT setval('millrace.write_checkpoint_ids', greatest(last_value, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)) FROM millrace.write_checkpoint_ids`,
		`UPDATE millrace.write_requests SET id = greatest(id + 1, nextval('millrace.write_checkpoint_ids')), heads = NULL, acked_id = 0, acked_seq = 0
		WHERE managed AND id < 9223372036854775805`,
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("renew write checkpoints: %w", err)
		}
	}
	if !restored {
		return nil
	}
	if _, err := tx.Exec(ctx, `DELETE FROM millrace.write_requests WHERE NOT managed`); err != nil {
		return fmt.Errorf("forget write checkpoints: %w", err)
	}
	return nil
}

// freeWirePrefix draws a wire prefix that no definition has.
func freeWirePrefix(ctx context.Context, tx pgx.Tx) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	for length := 5; length <= 16; length++ {
		b := make([]byte, length)
		if _, err := rand.Read(b); err != nil {
			return "", err
		}
		for i := range b {
			b[i] = letters[b[i]%32]
		}
		var taken bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.definition_versions WHERE wire_prefix = $1)`, string(b)).Scan(&taken)
		if err != nil || !taken {
			return string(b), err
		}
	}
	return "", errors.New("no free wire prefix was found")
}

// begins reads where the history stands: only now, with every earlier writer
// gone.
func (w *Writer) begins(ctx context.Context) error {
	err := w.conn.QueryRow(ctx, `
		SELECT h.seq, h.op_id, h.at, 'millrace.row_output'::regtype::oid,
			(SELECT coalesce(max(id), 0) FROM millrace.bucket_names),
			-- Copies are deleted; what is left of their shadows, and what is noted of
			-- them, must not become a later copy's.
			greatest((SELECT max(id) FROM millrace.copies), (SELECT max(copy) FROM millrace.shadow_rows), (SELECT max(copy) FROM millrace.shadow_lookups),
				(SELECT max(copy) FROM millrace.shadow_errors), (SELECT max(copy) FROM millrace.schema_events), 0)
		FROM millrace.head h WHERE h.fence = $1`, w.fence).
		Scan(&w.head.Seq, &w.head.OpID, &w.head.At, &w.outputOID, &w.lastBucket, &w.lastCopy)
	if err != nil {
		return w.failure("read the head", err)
	}
	if w.hasWide, err = w.tables(ctx, `SELECT id FROM millrace.source_tables t WHERE EXISTS (SELECT FROM millrace.row_wide r WHERE r.source_table = t.id)`); err != nil {
		return err
	}
	if w.hasErrors, err = w.tables(ctx, `SELECT DISTINCT source_table FROM millrace.row_errors`); err != nil {
		return err
	}
	rows, err := w.conn.Query(ctx, `SELECT id, durable::text FROM millrace.sources WHERE lost_at IS NULL`)
	if err != nil {
		return w.failure("read positions", err)
	}
	w.lsns = map[millrace.SourceID]millrace.LSN{}
	var id int16
	var durable string
	if _, err := pgx.ForEachRow(rows, []any{&id, &durable}, func() (err error) {
		w.lsns[millrace.SourceID(id)], err = millrace.ParseLSN(durable)
		return err
	}); err != nil {
		return w.failure("read positions", err)
	}
	// Every statement of the row path asks for rows by key, and its plan is made
	// once: never a plan that fitted the empty table it was made for.
	if _, err := w.conn.Exec(ctx, `
		SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off`); err != nil {
		return w.failure("set up the writing session", err)
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	w.initCaches()
	return nil
}

func (w *Writer) tables(ctx context.Context, query string) (map[millrace.TableID]bool, error) {
	rows, err := w.conn.Query(ctx, query)
	if err != nil {
		return nil, w.failure("read which tables have kept values or errors", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, w.failure("read which tables have kept values or errors", err)
	}
	tables := map[millrace.TableID]bool{}
	for _, id := range ids {
		tables[millrace.TableID(id)] = true
	}
	return tables, nil
}
