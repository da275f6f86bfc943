package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// Compaction of one bucket. A pass takes the ops since the last one (the news,
// at most newsOps of them and none above the horizon) and goes over the bucket
// from its beginning, in parts of partOps, each in a transaction of its own:
// an op that a later one of the same row among the news supersedes becomes a
// MOVE, which keeps its op id and checksum only. What lies below the lowest op
// that still holds a row is replaced by one CLEAR with their sum. A pass that is
// interrupted goes on where it stopped; every state between is valid.
//
// The statements name the partition, as in reading: the planner then sees that
// the primary key gives the bucket in order. They find what belongs together by
// sorting and change rows by ctid, so that no plan is bad whatever the planner
// believes about a bucket's size.

// compactLimits bound a transaction.
type compactLimits struct {
	newsOps int // ops that a pass takes as reasons
	partOps int // ops that one transaction rewrites
}

// About a second of work at most on a small machine.
var defaultCompactLimits = compactLimits{newsOps: 50_000, partOps: 50_000}

// sqlNthOp is the op id of the $4-th op after $2, at most $3; the last one there
// is if there are fewer, null if there is none.
func sqlNthOp(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		SELECT max(op_id) FROM (
			SELECT op_id FROM millrace.ops_%d
			WHERE definition = %[1]d AND bucket = $1::int8 AND op_id > $2::int8 AND op_id <= $3::int8
			ORDER BY op_id LIMIT $4::int8) n`, d)
}

// sqlCompactPart rewrites the ops of a bucket ($1) in ($2, $3], with those in
// ($4, $5] as reasons, raises the floor and gives what it did.
//
//   - last: the last op of the same row among the news.
//   - clear: the last CLEAR among the news (the decoder writes one when a table is
//     truncated): everything below it is void.
//   - part.dead: superseded or void. Only these and what is no PUT are touched.
//   - run: what can be one CLEAR, from the bucket's beginning up to the op below
//     the first live PUT.
func sqlCompactPart(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		WITH ops AS (
			SELECT ctid AS at, op_id, kind, checksum, coalesce(octet_length(data), 0) AS bytes, type, row_id, subkey FROM millrace.ops_%d
			WHERE definition = %[1]d AND bucket = $1::int8 AND op_id > $2::int8 AND op_id <= $3::int8
			UNION ALL
			SELECT NULL, op_id, kind, NULL, NULL, type, row_id, subkey FROM millrace.ops_%[1]d
			WHERE definition = %[1]d AND bucket = $1::int8 AND op_id > greatest($3::int8, $4::int8) AND op_id <= $5::int8),
		known AS (
			SELECT b.*, max(op_id) FILTER (WHERE op_id > $4::int8) OVER (
					PARTITION BY kind IN (1, 2), type COLLATE "C", row_id, coalesce(subkey, '')) AS last,
				coalesce(max(op_id) FILTER (WHERE op_id > $4::int8 AND kind = 4) OVER (), 0) AS clear
			FROM ops b),
		part AS MATERIALIZED (
			SELECT at, op_id, kind, checksum, bytes, last, clear, op_id < clear OR kind IN (1, 2) AND coalesce(last > op_id, false) AS dead
			FROM known WHERE at IS NOT NULL),
		live AS MATERIALIZED (
			SELECT min(op_id) AS first FROM part WHERE kind = 1 AND NOT dead),
		run AS MATERIALIZED (
			SELECT max(p.op_id) AS upto, max(p.op_id) FILTER (WHERE p.kind = 4) AS clear
			FROM part p CROSS JOIN live
			WHERE (live.first IS NULL OR p.op_id < live.first) AND NOT EXISTS (
				SELECT FROM millrace.ops_%[1]d o WHERE o.definition = %[1]d AND o.bucket = $1::int8 AND o.op_id <= $2::int8)
			HAVING count(*) > 1 OR bool_or(p.kind = 1)),
		cleared AS (
			UPDATE millrace.ops_%[1]d o SET kind = 4, type = NULL, row_id = NULL, subkey = NULL, data = NULL, checksum = (
				SELECT millrace.wrap32(sum(s.checksum)) FROM part s WHERE s.op_id <= run.upto AND s.op_id >= coalesce(run.clear, 0))
			FROM run JOIN part p ON p.op_id = run.upto WHERE o.ctid = p.at),
		deleted AS (
			DELETE FROM millrace.ops_%[1]d o USING part p CROSS JOIN run WHERE p.op_id < run.upto AND o.ctid = p.at),
		moved AS (
			UPDATE millrace.ops_%[1]d o SET kind = 3, type = NULL, row_id = NULL, subkey = NULL, data = NULL
			FROM part p WHERE p.dead AND p.kind IN (1, 2) AND p.op_id > coalesce((SELECT upto FROM run), 0) AND o.ctid = p.at),
		total AS (
			SELECT count(*) FILTER (WHERE p.op_id < run.upto) AS deleted,
				count(*) FILTER (WHERE p.dead AND p.kind IN (1, 2) AND p.op_id > coalesce(run.upto, 0)) AS moved,
				coalesce(sum(p.bytes) FILTER (WHERE p.dead OR p.op_id <= run.upto), 0)::int8 AS bytes,
				greatest(run.upto, max(p.last) FILTER (WHERE p.dead AND p.kind IN (1, 2)), max(p.clear) FILTER (WHERE p.op_id < p.clear)) AS floor
			FROM part p LEFT JOIN run ON true GROUP BY run.upto),
		raised AS (
			INSERT INTO millrace.bucket_floors AS f (bucket, floor_op) SELECT $1::int8, floor FROM total WHERE floor > 0
			ON CONFLICT (bucket) DO UPDATE SET floor_op = excluded.floor_op WHERE f.floor_op < excluded.floor_op)
		SELECT deleted, moved, bytes FROM total`, d)
}

// sqlRewrites asks for old rows of a bucket ($1, compacted up to $2) to be
// appended again: those up to the op where most is gained, counting a row that
// devices fetch again as two ops that are cleared.
func sqlRewrites(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		WITH part AS MATERIALIZED (
			SELECT op_id, kind, coalesce(octet_length(data), 0) AS bytes FROM millrace.ops_%d
			WHERE definition = %[1]d AND bucket = $1::int8 AND op_id <= $2::int8 ORDER BY op_id LIMIT $3::int8),
		sums AS (
			SELECT op_id, count(*) FILTER (WHERE kind <> 1) OVER w AS dead, count(*) FILTER (WHERE kind = 1) OVER w AS live, sum(bytes) OVER w AS bytes
			FROM part WINDOW w AS (ORDER BY op_id)),
		best AS (
			SELECT op_id FROM sums WHERE live <= $4::int8 AND bytes <= $5::int8 AND dead > 2 * live
			ORDER BY dead - 2 * live DESC, op_id DESC LIMIT 1),
		asked AS (
			INSERT INTO millrace.bucket_rewrites (bucket, definition, live_at, op_ids)
			SELECT $1::int8, %[1]d, $2::int8, array_agg(p.op_id ORDER BY p.op_id) FROM part p JOIN best ON p.op_id <= best.op_id
			WHERE p.kind = 1 HAVING count(*) > 0
			ON CONFLICT (bucket) DO NOTHING RETURNING 1)
		SELECT count(*) FROM asked`, d)
}

// Defragmenting: a bucket of which a third or less is rows is worth having its
// oldest ones sent to devices again, once a day.
const (
	rewriteDead  = 1000 // ops that are no rows, at least
	rewritePart  = 100_000
	rewriteRows  = 5_000
	rewriteBytes = 4 << 20
	rewriteEvery = 24 * time.Hour
)

const (
	sqlCompactionBegin = `
		INSERT INTO millrace.bucket_compactions (bucket)
		SELECT $1::int8 WHERE NOT EXISTS (SELECT FROM millrace.bucket_compactions WHERE bucket = $1::int8) ON CONFLICT (bucket) DO NOTHING`
	sqlCompactionLock = `
		SELECT compacted_to, upto, scanned, coalesce(rewritten_at < clock_timestamp() - $2::interval, true)
		FROM millrace.bucket_compactions WHERE bucket = $1::int8 FOR UPDATE SKIP LOCKED`
	sqlCompactionGo = `
		UPDATE millrace.bucket_compactions SET upto = $2::int8, scanned = $3::int8 WHERE bucket = $1::int8`
	sqlCompactionEnd = `
		UPDATE millrace.bucket_compactions c SET compacted_to = $2::int8, upto = 0, scanned = 0, finished_at = clock_timestamp(),
			residue = CASE WHEN $4::bool THEN 0 ELSE $3::int8 END,
			rewritten_at = CASE WHEN $4::bool THEN clock_timestamp() ELSE rewritten_at END
		WHERE bucket = $1::int8`
	sqlCompactionTotals = `
		UPDATE millrace.bucket_totals SET ops = ops - $2::int8, bytes = bytes - $3::int8 WHERE bucket = $1::int8`
	// Flushes, which update other columns, do not wait for this lock, and a
	// take-over does.
	sqlCompactionFence = `
		SELECT true FROM millrace.head WHERE fence = $1::int8 FOR KEY SHARE`
)

// errBusy tells that another compactor has the bucket.
var errBusy = errors.New("the bucket is being compacted elsewhere")

// bucketStep is what one transaction did.
type bucketStep struct {
	deleted, moved, bytes int64
	asked                 bool // rows are to be appended again
	more                  bool // the bucket is not compacted up to the horizon yet
}

// compactBucket does one transaction of work on a bucket, up to the horizon. The
// fence is proved last, so that a take-over finds no compactor of a term before.
func (c *compactor) compactBucket(ctx context.Context, def millrace.DefinitionID, bucket, horizon int64) (step bucketStep, err error) {
	err = pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		if step, err = c.compactPart(ctx, tx, def, bucket, horizon); err != nil {
			return err
		}
		var mine bool
		err := tx.QueryRow(ctx, sqlCompactionFence, c.fence).Scan(&mine)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("another decoder took fence %d: %w", c.fence, ErrLeadershipLost)
		}
		return err
	})
	return step, err
}

func (c *compactor) compactPart(ctx context.Context, tx pgx.Tx, def millrace.DefinitionID, bucket, horizon int64) (step bucketStep, err error) {
	var to, upto, scanned int64
	var rewritable bool
	lock := func() error {
		return tx.QueryRow(ctx, sqlCompactionLock, bucket, rewriteEvery).Scan(&to, &upto, &scanned, &rewritable)
	}
	if err = lock(); errors.Is(err, pgx.ErrNoRows) {
		// It is not there, or locked: then an INSERT would wait for it.
		if tag, insertErr := tx.Exec(ctx, sqlCompactionBegin, bucket); insertErr != nil {
			return step, insertErr
		} else if tag.RowsAffected() == 0 {
			return step, errBusy
		}
		err = lock()
	}
	if err != nil {
		return step, err
	}
	nth := func(after, upto int64, n int) (*int64, error) {
		var op *int64
		return op, tx.QueryRow(ctx, sqlNthOp(def), bucket, after, upto, n).Scan(&op)
	}
	if upto == 0 {
		last, err := nth(to, horizon, c.limits.newsOps)
		if err != nil || last == nil {
			return step, err
		}
		upto, scanned = *last, 0
	}
	end, err := nth(scanned, upto, c.limits.partOps)
	if err != nil {
		return step, err
	}
	if end == nil { // cannot be: the op at upto stays
		return step, fmt.Errorf("compact bucket %d: op %d is gone", bucket, upto)
	}
	if err := tx.QueryRow(ctx, sqlCompactPart(def), bucket, scanned, *end, to, upto).Scan(&step.deleted, &step.moved, &step.bytes); err != nil {
		return step, err
	}
	if *end < upto {
		step.more = true
		// A CLEAR at the end of the part may become one with what follows.
		if _, err := tx.Exec(ctx, sqlCompactionGo, bucket, upto, c.next(*end, scanned)); err != nil {
			return step, err
		}
	} else if step.asked, err = c.finishPass(ctx, tx, def, bucket, upto, step.deleted, rewritable); err != nil {
		return step, err
	} else {
		step.more = upto < horizon
	}
	if step.deleted > 0 || step.bytes > 0 {
		if _, err := tx.Exec(ctx, sqlCompactionTotals, bucket, step.deleted, step.bytes); err != nil {
			return step, err
		}
	}
	return step, nil
}

// next is where the part after one that ended at end begins: with that op, so
// that a run that reached it goes on. A part is then at least two ops, or it
// would be the same one for ever.
func (c *compactor) next(end, scanned int64) int64 {
	if c.limits.partOps < 2 || end-1 <= scanned {
		return end
	}
	return end - 1
}

// finishPass notes that the bucket is compacted up to upto, with what is left,
// and asks for rows to be appended again if there is much to gain.
func (c *compactor) finishPass(ctx context.Context, tx pgx.Tx, def millrace.DefinitionID, bucket, upto, deleted int64, rewritable bool) (asked bool, err error) {
	var ops, rows, since int64
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		SELECT t.ops, t.rows, (SELECT count(*) FROM millrace.ops_%d o WHERE o.definition = %[1]d AND o.bucket = $1::int8 AND o.op_id > $2::int8)
		FROM millrace.bucket_totals t WHERE t.bucket = $1::int8`, def), bucket, upto).Scan(&ops, &rows, &since)
	if err != nil {
		return false, err
	}
	left := ops - deleted - since
	if c.opts.Defragment && rewritable && left-rows >= rewriteDead && left-rows >= 2*rows {
		var n int
		if err := tx.QueryRow(ctx, sqlRewrites(def), bucket, upto, rewritePart, rewriteRows, rewriteBytes).Scan(&n); err != nil {
			return false, err
		}
		asked = n > 0
	}
	_, err = tx.Exec(ctx, sqlCompactionEnd, bucket, upto, left-rows, asked)
	return asked, err
}

// passing tells whether an error leaves the bucket for the next round: somebody
// else has it, its definition was dropped just now, or a flush holds its totals.
func passing(err error) bool {
	if errors.Is(err, errBusy) {
		return true
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "55P03")
}
