package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// sqlRewritten reads the rows of a bucket ($1) whose PUTs ($2) are still the last
// op of their row, given that they were at $3. A bucket that was changed more
// than $4 times since is left alone, so that no flush waits for the answer.
func sqlRewritten(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		WITH since AS MATERIALIZED (
			SELECT kind, type, row_id, subkey FROM millrace.ops_%d
			WHERE definition = %[1]d AND bucket = $1::int8 AND op_id > $3::int8 ORDER BY op_id LIMIT $4::int8 + 1),
		old AS MATERIALIZED (
			SELECT o.op_id, o.type, o.row_id, o.subkey, o.checksum, o.data FROM unnest($2::int8[]) k (op_id) CROSS JOIN LATERAL (
				SELECT * FROM millrace.ops_%[1]d p
				WHERE p.definition = %[1]d AND p.bucket = $1::int8 AND p.op_id = k.op_id AND p.kind = 1 LIMIT 1) o
			WHERE (SELECT count(*) FROM since) <= $4::int8 AND NOT EXISTS (SELECT FROM since WHERE kind = 4)),
		-- The newest op of a row wins: one from since, which has no op id here, if
		-- there is any.
		newest AS (
			SELECT DISTINCT ON (type COLLATE "C", row_id, coalesce(subkey, '')) * FROM (
				SELECT op_id, type, row_id, subkey, checksum, data FROM old
				UNION ALL SELECT NULL, type, row_id, subkey, NULL, NULL FROM since WHERE kind IN (1, 2)) b
			ORDER BY type COLLATE "C", row_id, coalesce(subkey, ''), op_id DESC)
		SELECT type, row_id, coalesce(subkey, ''), checksum, data FROM newest WHERE op_id IS NOT NULL ORDER BY op_id`, d)
}

const rewriteSince = 50_000

// rewriteRows appends old rows of one bucket again, with their own text, as
// compaction asked; see bucket_rewrites. It is a flush of its own, made while
// none is open. A row is left alone if anything happened to it since. It reports
// whether there was a request.
func (w *Writer) rewriteRows(ctx context.Context) (bool, error) {
	var bucket, liveAt int64
	var def int32
	var ops []int64
	err := w.conn.QueryRow(ctx, `SELECT bucket, definition, live_at, op_ids FROM millrace.bucket_rewrites ORDER BY bucket LIMIT 1`).
		Scan(&bucket, &def, &liveAt, &ops)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, w.failure("look for rows to append again", err)
	}
	if err := w.begin(ctx); err != nil {
		return false, err
	}
	if err := w.appendAgain(ctx, millrace.DefinitionID(def), bucket, liveAt, ops); err != nil {
		return false, w.abandon(ctx, err)
	}
	if _, err := w.conn.Exec(ctx, `DELETE FROM millrace.bucket_rewrites WHERE bucket = $1`, bucket); err != nil {
		return false, w.abandon(ctx, w.failure("append rows again", err))
	}
	if _, err := w.commit(ctx, &millrace.Flush{}); err != nil {
		return false, w.abandon(ctx, err)
	}
	return true, nil
}

// appendAgain collects the PUTs of the rows that are as they were.
func (w *Writer) appendAgain(ctx context.Context, def millrace.DefinitionID, bucket, liveAt int64, ops []int64) error {
	var there bool
	err := w.conn.QueryRow(ctx, `
		SELECT to_regclass('millrace.ops_' || $1::int) IS NOT NULL AND EXISTS (SELECT FROM millrace.definition_versions WHERE id = $1::int AND retired_at IS NULL)`, int32(def)).Scan(&there)
	if err != nil {
		return w.failure("append rows again", err)
	}
	if !there { // the definition was retired since
		return nil
	}
	rows, err := w.conn.Query(ctx, sqlRewritten(def), pgx.QueryExecModeExec, bucket, ops, liveAt, int64(rewriteSince))
	if err != nil {
		return w.failure("read rows to append again", err)
	}
	f := &w.flush
	id := millrace.BucketID(bucket)
	var typ, rowID, subkey, data string
	var sum int32
	_, err = pgx.ForEachRow(rows, []any{&typ, &rowID, &subkey, &sum, &data}, func() error {
		f.op++
		at := w.delta(id)
		d := &f.deltas[at]
		d.lastOp = f.op
		d.ops++
		d.bytes += int64(len(data))
		d.checksum += millrace.Checksum(sum)
		w.appendOp(def, id, millrace.OpPut, millrace.Checksum(sum), typ, rowID, subkey)
		f.ops.text(data)
		f.ops.end(at)
		return nil
	})
	if err != nil {
		return w.failure("read rows to append again", err)
	}
	return nil
}
