package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// startHeartbeat shows standbys that this process lives, on a session of its
// own that no flush holds up, until the term ends.
func (w *Writer) startHeartbeat(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.startDropping(ctx)
	w.beating.Add(1)
	go func() {
		defer w.beating.Done()
		defer w.closeSide(ctx)
		defer w.cancel() // whatever else the term runs ends with it
		ticker := time.NewTicker(w.opts.Heartbeat)
		defer ticker.Stop()
		for {
			if err := w.beat(ctx); err != nil && ctx.Err() == nil {
				w.opts.Logger.Warn("heartbeat failed", "name", w.name, "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-w.lost:
				return
			case <-ticker.C:
			}
		}
	}()
}

// beat moves the heartbeat, and ends the term if the fence is another's.
func (w *Writer) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.opts.LeaderSilence)
	defer cancel()
	return w.onSide(ctx, func(conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `UPDATE millrace.leader SET beat = beat + 1, at = clock_timestamp() WHERE fence = $1`, w.fence)
		if err == nil && tag.RowsAffected() == 0 {
			w.lose()
			return fmt.Errorf("fence %d was taken: %w", w.fence, ErrLeadershipLost)
		}
		return err
	})
}

// onSide runs f on the side session, opening it if it is down.
func (w *Writer) onSide(ctx context.Context, f func(*pgx.Conn) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.side == nil || w.side.IsClosed() {
		conn, err := w.store.connect(ctx, "millrace heartbeat "+w.name)
		if err != nil {
			return err
		}
		w.side = conn
	}
	return f(w.side)
}

func (w *Writer) closeSide(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.side != nil {
		_ = w.side.Close(context.WithoutCancel(ctx)) // the server ends it in any case
		w.side = nil
	}
}

// Report replaces what the status views show of a source. It may be called by
// any goroutine, and neither waits for a flush nor holds one up.
func (w *Writer) Report(ctx context.Context, r millrace.SourceReport) error {
	findings := r.Findings
	if findings == nil {
		findings = []string{}
	}
	err := w.onSide(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			INSERT INTO millrace.source_reports (source, received, applied, confirmed, head, head_at, retained, slot_state, waiting_for, error_code, error, at,
				restart_at, safe_wal, wal_rate, findings, holds)
			SELECT $2, $3::text::pg_lsn, $4::text::pg_lsn, $5::text::pg_lsn, $6::text::pg_lsn, $7, $8, $9, $10, $11, $12, clock_timestamp(), nullif($13, '0/0')::text::pg_lsn, $14, $15, $16, nullif($17, 0)
			FROM millrace.head WHERE fence = $1
			ON CONFLICT (source) DO UPDATE SET received = excluded.received, applied = excluded.applied, confirmed = excluded.confirmed,
				head = excluded.head, head_at = excluded.head_at, retained = excluded.retained, slot_state = excluded.slot_state,
				waiting_for = excluded.waiting_for, error_code = excluded.error_code, error = excluded.error, at = excluded.at,
				restart_at = excluded.restart_at, safe_wal = excluded.safe_wal, wal_rate = excluded.wal_rate, findings = excluded.findings, holds = excluded.holds`,
			w.fence, int16(r.Source), r.Received.String(), r.Applied.String(), r.Confirmed.String(), r.Head.String(),
			timeOrNil(r.HeadAt), known(r.Retained), r.SlotState, r.WaitingFor, r.ErrorCode, r.Error,
			r.Restart.String(), known(r.SafeWAL), known(r.WALRate), findings, int32(r.Holds))
		return err
	})
	if err != nil {
		return fmt.Errorf("report on source %d: %w", r.Source, err)
	}
	return nil
}

// known is nil for a number that is negative, which means unknown.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}
