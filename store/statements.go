package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// The statements of the row path, prepared once a term. Parameters and results
// are binary. Each has a test that its plan uses the index meant for it.
//
// Their generic plans are made once, perhaps for an empty table, and must
// still fit the full one. So keys are looked up one by one in a LATERAL that
// cannot be pulled up: with = ANY (...), or as a join, the planner may read
// all rows of a (definition, table) and filter. Deletes find their row the same
// way and reach it by ctid.
const (
	stmtRowState = "millrace_row_state"
	stmtLookups  = "millrace_lookups"
	stmtBuckets  = "millrace_buckets"
	stmtWide     = "millrace_wide"

	stmtShadowRowsDelete    = "millrace_shadow_rows_delete"
	stmtShadowLookupsDelete = "millrace_shadow_lookups_delete"
	stmtShadowErrorsDelete  = "millrace_shadow_errors_delete"

	stmtStateDelete   = "millrace_state_delete"
	stmtTotalsInsert  = "millrace_totals_insert"
	stmtTotalsUpdate  = "millrace_totals_update"
	stmtLookupsClose  = "millrace_lookups_close"
	stmtLookupsDelete = "millrace_lookups_delete"
	stmtWideDelete    = "millrace_wide_delete"
	stmtWideStore     = "millrace_wide_store"
	stmtErrorsDelete  = "millrace_errors_delete"
	stmtErrorsInsert  = "millrace_errors_insert"

	stmtPosition    = "millrace_position"
	stmtCheckpoint  = "millrace_checkpoint"
	stmtAcknowledge = "millrace_acknowledge"
	stmtMarks       = "millrace_marks"
	stmtNotify      = "millrace_notify"
	stmtHead        = "millrace_head"
)

var statements = map[string]string{
	stmtRowState: `
		SELECT s.* FROM unnest($3::text[]) AS k (row_key) CROSS JOIN LATERAL (
			SELECT s.row_key, s.bucket, s.since_op, s.digest, s.type, s.row_id, s.subkey, s.more FROM millrace.row_state s
			WHERE s.definition = $1::int4 AND s.source_table = $2::int4 AND s.row_key = k.row_key LIMIT 1) s`,
	stmtLookups: `
		SELECT l.row_key, l.added, l.key, l.outputs FROM unnest($3::text[]) AS k (row_key) CROSS JOIN LATERAL (
			SELECT l.row_key, l.added, l.key, l.outputs FROM millrace.lookups l
			WHERE l.definition = $1::int4 AND l.source_table = $2::int4 AND l.row_key = k.row_key
			AND l.removed = 9223372036854775807 OFFSET 0) l`,
	stmtBuckets: `
		SELECT b.name, b.id FROM unnest($2::text[]) AS k (name) CROSS JOIN LATERAL (
			SELECT b.name, b.id FROM millrace.bucket_names b
			WHERE b.definition = $1::int4 AND b.name = k.name LIMIT 1) b`,
	// Values beyond $3 bytes are not read: the lengths are known without them.
	stmtWide: `
		SELECT r.row_key, CASE WHEN sum(octet_length(r."values")) OVER (ORDER BY k.n) <= $3::int8 THEN r."values" END
		FROM unnest($2::text[]) WITH ORDINALITY AS k (row_key, n) CROSS JOIN LATERAL (
			SELECT r.row_key, r."values" FROM millrace.row_wide r
			WHERE r.source_table = $1::int4 AND r.row_key = k.row_key LIMIT 1) r`,

	stmtStateDelete: `
		DELETE FROM millrace.row_state d USING unnest($3::text[]) AS k (row_key) CROSS JOIN LATERAL (
			SELECT s.ctid FROM millrace.row_state s
			WHERE s.definition = $1::int4 AND s.source_table = $2::int4 AND s.row_key = k.row_key LIMIT 1) s
		WHERE d.definition = $1::int4 AND d.ctid = s.ctid`,
	stmtTotalsInsert: `
		INSERT INTO millrace.bucket_totals (bucket, last_op, ops, rows, bytes, checksum)
		SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int4[])`,
	// The sum wraps at 32 bits: unsigned addition, then the sign put back.
	stmtTotalsUpdate: `
		UPDATE millrace.bucket_totals t SET
			last_op = d.last_op, ops = t.ops + d.ops, rows = t.rows + d.rows, bytes = t.bytes + d.bytes,
			checksum = ((((t.checksum::int8 + d.checksum) & 4294967295) # 2147483648) - 2147483648)::int4
		FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int4[])
			AS d (bucket, last_op, ops, rows, bytes, checksum)
		WHERE t.bucket = d.bucket`,
	stmtLookupsClose: `
		UPDATE millrace.lookups l SET removed = d.removed
		FROM unnest($1::int8[], $2::int8[]) AS d (added, removed)
		WHERE l.added = d.added`,
	stmtLookupsDelete: `
		DELETE FROM millrace.lookups WHERE added = ANY ($1::int8[])`,
	stmtWideDelete: `
		DELETE FROM millrace.row_wide d USING unnest($1::int4[], $2::text[]) AS k (source_table, row_key) CROSS JOIN LATERAL (
			SELECT r.ctid FROM millrace.row_wide r
			WHERE r.source_table = k.source_table AND r.row_key = k.row_key LIMIT 1) r
		WHERE d.ctid = r.ctid`,
	stmtWideStore: `
		INSERT INTO millrace.row_wide (source_table, row_key, "values")
		SELECT * FROM unnest($1::int4[], $2::text[], $3::bytea[])
		ON CONFLICT (source_table, row_key) DO UPDATE SET "values" = excluded."values"`,
	stmtErrorsDelete: `
		DELETE FROM millrace.row_errors d
		USING unnest($1::int4[], $2::int4[], $3::text[]) AS k (definition, source_table, row_key) CROSS JOIN LATERAL (
			SELECT e.ctid FROM millrace.row_errors e
			WHERE e.definition = k.definition AND e.source_table = k.source_table AND e.row_key = k.row_key LIMIT 1) e
		WHERE d.ctid = e.ctid`,
	stmtErrorsInsert: `
		INSERT INTO millrace.row_errors (definition, source_table, row_key, message)
		SELECT * FROM unnest($1::int4[], $2::int4[], $3::text[], $4::text[])
		ON CONFLICT (definition, source_table, row_key) DO UPDATE SET message = excluded.message, at = excluded.at`,

	stmtShadowRowsDelete:    shadowDelete("shadow_rows"),
	stmtShadowLookupsDelete: shadowDelete("shadow_lookups"),
	stmtShadowErrorsDelete:  shadowDelete("shadow_errors"),

	stmtPosition: `
		UPDATE millrace.sources SET durable = greatest(durable, $2::text::pg_lsn) WHERE id = $1::int2`,
	stmtCheckpoint: `
		INSERT INTO millrace.checkpoint_log (seq, op_id, at, published, lsns, buckets, lookups)
		VALUES ($1::int8, $2::int8, clock_timestamp(), $3::timestamptz, $4::text::jsonb, $5::int8[], $6::int4[])`,
	// Rows are locked in the order in which relays lock them, so that neither
	// waits for the other in a circle.
	stmtAcknowledge: `
		WITH due AS (
			SELECT w.user_id, d.id FROM unnest($1::text[], $2::int8[]) AS d (user_id, id)
			JOIN millrace.write_requests w ON w.user_id = d.user_id
			WHERE w.acked_id < d.id AND w.id >= d.id
			ORDER BY w.user_id FOR NO KEY UPDATE OF w)
		UPDATE millrace.write_requests w SET acked_id = due.id, acked_seq = $3::int8
		FROM due WHERE w.user_id = due.user_id`,
	// The greatest number of a device holds. Nobody else writes these rows.
	stmtMarks: `
		INSERT INTO millrace.custom_write_checkpoints AS c (definition, user_id, id, seq)
		SELECT m.*, $4::int8 FROM unnest($1::int4[], $2::text[], $3::int8[]) AS m
		ON CONFLICT (definition, user_id) DO UPDATE SET id = excluded.id, seq = excluded.seq, at = excluded.at WHERE c.id < excluded.id`,
	// Notifications are hints. A queue that fills up is left alone before it
	// makes COMMIT fail for everybody; relays poll anyway.
	stmtNotify: `
		SELECT CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify('millrace', $1::text) END`,
	// Last in every flush. Without the fence there is no row, and the division
	// by zero keeps the COMMIT sent with it from happening.
	stmtHead: `
		WITH moved AS (
			UPDATE millrace.head SET op_id = $2::int8, seq = $3::int8, published = greatest(published, $4::timestamptz),
				at = (SELECT c.at FROM millrace.checkpoint_log c WHERE c.seq = $3::int8)
			WHERE fence = $1::int8
			RETURNING at)
		SELECT (SELECT at FROM moved), 1 / (SELECT count(*) FROM moved)`,
}

func shadowDelete(table string) string {
	return `
		DELETE FROM millrace.` + table + ` d USING unnest($2::text[]) AS k (row_key) CROSS JOIN LATERAL (
			SELECT s.ctid FROM millrace.` + table + ` s WHERE s.copy = $1::int8 AND s.row_key = k.row_key OFFSET 0) s
		WHERE d.ctid = s.ctid`
}

func (w *Writer) prepare(ctx context.Context) error {
	for name, text := range statements {
		if _, err := w.pg.Prepare(ctx, name, text, nil); err != nil {
			return w.failure(fmt.Sprintf("prepare %s", name), err)
		}
	}
	return nil
}

var binaryFormat = []int16{1}

// batch is a list of statements sent together.
type batch struct {
	list pgconn.Batch
	n    int
}

func (b *batch) add(statement string, params ...[]byte) {
	b.list.ExecPrepared(statement, params, binaryFormat, binaryFormat)
	b.n++
}

// text adds a statement without parameters or results.
func (b *batch) text(sql string) {
	b.list.ExecParams(sql, nil, nil, nil, nil)
	b.n++
}

// run sends a batch and calls each for every row of each result, whose values
// are valid until it returns. It gives how many statements had finished when
// an error came. A batch that changes tables must come after begin.
func (w *Writer) run(ctx context.Context, b *batch, each func(statement int, row [][]byte) error) (done int, err error) {
	if b.n == 0 {
		return 0, nil
	}
	results := w.pg.ExecBatch(ctx, &b.list)
	for results.NextResult() {
		r := results.ResultReader()
		for r.NextRow() {
			if each == nil || err != nil {
				continue
			}
			err = each(done, r.Values())
		}
		if _, closeErr := r.Close(); closeErr != nil {
			break // Close of the results has the error too
		}
		done++
	}
	if closeErr := results.Close(); closeErr != nil {
		return done, closeErr
	}
	return done, err
}

// begin opens the flush's transaction.
func (w *Writer) begin(ctx context.Context) error {
	if w.flush.begun {
		return nil
	}
	w.flush.begun = true
	if _, err := w.pg.Exec(ctx, "BEGIN").ReadAll(); err != nil {
		return w.failure("begin a flush", err)
	}
	return nil
}
