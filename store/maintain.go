package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// upkeep is the Writer's own housekeeping: thinning the log of checkpoints,
// deleting what history.keep no longer covers, and appending old rows again where
// compaction asks for it.
type upkeep struct {
	next    time.Time
	thinned int64 // checkpoints up to this seq have been thinned
	op      int64 // … which contained ops up to this one
}

const (
	upkeepEvery   = time.Minute
	upkeepMore    = time.Second // while there is more to do
	upkeepRows    = 2_000       // per step, so that a flush waits a few milliseconds at most
	shadowRows    = 10_000      // of shadows, likewise
	checkpointAge = time.Hour   // checkpoints older than this are thinned
)

// maintain does one small step now and then, between flushes, in a
// transaction of its own. A failure is logged: the next step tries again, and
// a session that ended fails the next flush.
func (w *Writer) maintain(ctx context.Context) {
	if now := time.Now(); now.Before(w.upkeep.next) || w.flush.begun {
		return
	}
	w.upkeep.next = time.Now().Add(upkeepEvery)
	more, err := w.maintainStep(ctx, checkpointAge)
	if err != nil {
		w.opts.Logger.Warn("upkeep of the sidecar failed", "error", err)
		return
	}
	rewrote, err := w.rewriteRows(ctx)
	if err != nil {
		w.opts.Logger.Warn("appending old rows again failed", "error", err)
		return
	}
	if more || rewrote {
		w.upkeep.next = time.Now().Add(upkeepMore)
	}
}

// maintainStep reports whether there is more to do.
func (w *Writer) maintainStep(ctx context.Context, age time.Duration) (more bool, err error) {
	thinned, thinnedOp := w.upkeep.thinned, w.upkeep.op
	err = w.fenced(ctx, "upkeep", func(tx pgx.Tx) error {
		full, err := thinCheckpoints(ctx, tx, &thinned, &thinnedOp, age)
		if err != nil {
			return err
		}
		more = full
		full, err = w.forgetEnded(ctx, tx, thinnedOp)
		if err != nil {
			return err
		}
		more = more || full
		full, err = forgetShadows(ctx, tx)
		more = more || full
		return err
	})
	if err == nil {
		w.upkeep.thinned, w.upkeep.op = thinned, thinnedOp
	}
	return more, err
}

// thinCheckpoints keeps, of the checkpoints older than age, the last of each
// minute without its arrays.
func thinCheckpoints(ctx context.Context, tx pgx.Tx, thinned, thinnedOp *int64, age time.Duration) (full bool, err error) {
	var last, lastOp *int64
	var n int
	err = tx.QueryRow(ctx, `
		WITH page AS MATERIALIZED (
			SELECT seq, op_id, at, date_trunc('minute', at) <> date_trunc('minute', lead(at) OVER (ORDER BY seq)) AS keep
			FROM (SELECT seq, op_id, at FROM millrace.checkpoint_log WHERE seq > $1 AND at < clock_timestamp() - $2::interval
				ORDER BY seq LIMIT $3) p),
		gone AS (
			DELETE FROM millrace.checkpoint_log c USING page p WHERE c.seq = p.seq AND NOT p.keep),
		kept AS (
			UPDATE millrace.checkpoint_log c SET buckets = NULL, lookups = NULL FROM page p
			WHERE c.seq = p.seq AND p.keep AND (c.buckets IS NOT NULL OR c.lookups IS NOT NULL))
		SELECT max(seq) FILTER (WHERE keep IS NOT NULL), max(op_id) FILTER (WHERE keep IS NOT NULL), count(*) FROM page`,
		*thinned, age, upkeepRows).Scan(&last, &lastOp, &n)
	if err != nil {
		return false, fmt.Errorf("thin the log of checkpoints: %w", err)
	}
	if last != nil {
		*thinned, *thinnedOp = *last, *lastOp
	}
	return n == upkeepRows, nil
}

// forgetEnded deletes ended outputs, ended lookups and checkpoints from before
// history.keep. A lookup that ended stays until the checkpoint that ended it is
// thinned, however short history.keep is: a relay that was told of changes from
// before is then told that it does not know which, and asks for all (R29, R66).
func (w *Writer) forgetEnded(ctx context.Context, tx pgx.Tx, thinnedOp int64) (full bool, err error) {
	var seq, op int64
	err = tx.QueryRow(ctx, `
		SELECT seq, op_id FROM millrace.checkpoint_log WHERE at < clock_timestamp() - $1::interval
		ORDER BY seq DESC LIMIT 1`, w.opts.HistoryKeep).Scan(&seq, &op)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find the end of the history that is kept: %w", err)
	}
	for _, q := range []struct {
		sql   string
		bound int64
	}{
		{`DELETE FROM millrace.ended_outputs WHERE ended_op IN (
			SELECT ended_op FROM millrace.ended_outputs WHERE ended_op <= $1 ORDER BY ended_op LIMIT $2)`, op},
		{`DELETE FROM millrace.lookups WHERE added IN (
			SELECT added FROM millrace.lookups WHERE removed <= $1 AND removed < 9223372036854775807 ORDER BY removed LIMIT $2)`, min(op, thinnedOp)},
		{`DELETE FROM millrace.checkpoint_log WHERE seq IN (
			SELECT seq FROM millrace.checkpoint_log WHERE seq < $1 ORDER BY seq LIMIT $2)`, seq},
	} {
		tag, err := tx.Exec(ctx, q.sql, q.bound, upkeepRows)
		if err != nil {
			return false, fmt.Errorf("delete history that is no longer kept: %w", err)
		}
		full = full || tag.RowsAffected() == upkeepRows
	}
	return full, nil
}

// forgetShadows deletes what copies that are over left in their shadows.
func forgetShadows(ctx context.Context, tx pgx.Tx) (full bool, err error) {
	for _, table := range []string{"shadow_rows", "shadow_lookups", "shadow_errors"} {
		tag, err := tx.Exec(ctx, `
			WITH RECURSIVE copy (id) AS (
				SELECT min(copy) FROM millrace.`+table+`
				UNION ALL
				SELECT (SELECT min(s.copy) FROM millrace.`+table+` s WHERE s.copy > copy.id) FROM copy WHERE copy.id IS NOT NULL)
			DELETE FROM millrace.`+table+` WHERE ctid IN (
				SELECT s.ctid FROM copy CROSS JOIN LATERAL (SELECT ctid FROM millrace.`+table+` s WHERE s.copy = copy.id LIMIT $1) s
				WHERE NOT EXISTS (SELECT FROM millrace.copies c WHERE c.id = copy.id AND c.state <> 'done') LIMIT $1)`, shadowRows)
		if err != nil {
			return false, fmt.Errorf("delete shadows that are over: %w", err)
		}
		full = full || tag.RowsAffected() == shadowRows
	}
	return full, nil
}
