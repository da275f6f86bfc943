package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The write path is held against the insert bound: the ops that a run of the
// pipeline wrote, written again by pgx's COPY and nothing else, into a table with
// the columns, the constraint and the primary key of millrace.ops, boundBatch to
// a transaction. The pipeline does it beside decoding, evaluating, and keeping
// row states and totals.
const (
	boundTable = "bench_bound"
	boundBatch = 10_000 // about what a flush holds
)

// insertBound copies the ops above an op id, and gives the rate. Reading them is
// not part of it.
func (b *bed) insertBound(ctx context.Context, above int64) (m measurement, err error) {
	if _, err := b.side.Exec(ctx, fmt.Sprintf("DROP TABLE IF EXISTS %[1]s; CREATE TABLE %[1]s (LIKE millrace.ops INCLUDING ALL)", boundTable), pgx.QueryExecModeSimpleProtocol); err != nil {
		return m, fmt.Errorf("insert bound: %w", err)
	}
	reader, err := connect(ctx, b.sidecar.URI("postgres"))
	if err != nil {
		return m, err
	}
	defer reader.Close(context.WithoutCancel(ctx))
	columns := []string{"bucket", "op_id", "definition", "checksum", "kind", "type", "row_id", "subkey", "data"}
	rows, err := reader.Query(ctx, "SELECT bucket, op_id, definition, checksum, kind, type, row_id, subkey, data FROM millrace.ops WHERE op_id > $1", above)
	if err != nil {
		return m, fmt.Errorf("insert bound: read ops: %w", err)
	}
	defer rows.Close()
	var batch [][]any
	write := func() error {
		start := time.Now()
		n, err := b.side.CopyFrom(ctx, pgx.Identifier{boundTable}, columns, pgx.CopyFromRows(batch))
		if err != nil {
			return fmt.Errorf("insert bound: %w", err)
		}
		m.rows, m.elapsed = m.rows+int(n), m.elapsed+time.Since(start)
		batch = batch[:0]
		return nil
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return m, err
		}
		if batch = append(batch, values); len(batch) == boundBatch {
			if err := write(); err != nil {
				return m, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return m, fmt.Errorf("insert bound: read ops: %w", err)
	}
	if err := write(); err != nil {
		return m, err
	}
	if m.rows == 0 {
		return m, errors.New("insert bound: there are no ops")
	}
	_, err = b.side.Exec(ctx, "DROP TABLE "+boundTable)
	return m, err
}

// opBytes is what ops of 320 bytes of data take on the sidecar's disk.
type opBytes struct {
	ops              int
	heap, index      int64 // of the ops' partition: its heap with what is out of line, its index
	states, stateIdx int64 // the same of the row states
}

const (
	sizedData = 320 // bytes of data of each op
	// sizedNote is the length of a note that makes {"id":"…","owner":"…","note":"…"}
	// that long.
	sizedNote = sizedData - 30 - 36 - 6
)

// size loads rows of one size and measures what they take. The decoder is not
// running.
func (b *bed) size(ctx context.Context, rows int) (s opBytes, err error) {
	progress("bytes of %d ops", rows)
	for from := 0; from < rows; from += 100 { // as ops come from transactions, not from a copy
		_, err := b.src.Exec(ctx, `INSERT INTO sized SELECT gen_random_uuid(), 'user' || lpad((g % 100)::text, 2, '0'), left(repeat(md5(g::text), 8), $3)
			FROM generate_series($1::int, $2::int) g`, from, min(from+100, rows)-1, sizedNote)
		if err != nil {
			return s, fmt.Errorf("load: %w", err)
		}
	}
	_, commit := b.mark(ctx)
	if err := commit(); err != nil {
		return s, err
	}
	_, stop, err := b.decoder(ctx)
	if err != nil {
		return s, err
	}
	err = poll(ctx, 10*time.Minute, func() (bool, error) { return b.arrived(ctx) })
	if err := errors.Join(err, stop()); err != nil {
		return s, err
	}
	var definition, wrong int
	if err := b.side.QueryRow(ctx, "SELECT id FROM millrace.definition_versions WHERE name = 'sized' AND kind = 'bucket'").Scan(&definition); err != nil {
		return s, err
	}
	err = b.side.QueryRow(ctx, "SELECT count(*), count(*) FILTER (WHERE octet_length(data) <> $2) FROM millrace.ops WHERE definition = $1", definition, sizedData).Scan(&s.ops, &wrong)
	if err != nil {
		return s, err
	}
	if s.ops != rows || wrong > 0 {
		return s, fmt.Errorf("%d ops were written, want %d; %d of them have not %d bytes of data", s.ops, rows, wrong, sizedData)
	}
	return s, b.side.QueryRow(ctx, fmt.Sprintf(`SELECT pg_table_size('millrace.ops_%[1]d'), pg_indexes_size('millrace.ops_%[1]d'),
		pg_table_size('millrace.row_state_%[1]d'), pg_indexes_size('millrace.row_state_%[1]d')`, definition)).Scan(&s.heap, &s.index, &s.states, &s.stateIdx)
}

// perOp is bytes by op.
func (s opBytes) perOp(bytes int64) float64 { return float64(bytes) / float64(s.ops) }

// Goals, as README names them.
const (
	maxBytesPerOp = 520
	minBoundRatio = 0.35
)

// writePath writes the figures through p, which ends each line.
func (r *report) writePath(p func(string, ...any)) {
	p("| rows per transaction | insert bound, ops/s | slot to durable checkpoint of it (at least %.2f for 100) |", minBoundRatio)
	p("|---|---|---|")
	for _, size := range []int{100, 1} {
		column := r.column(size)
		p("| %d | %s | %s |", size,
			spread("%.0f", column(func(x pair) float64 { return x.bound.rate() })),
			spread("%.2f", column(func(x pair) float64 { return x.pipeline.rate() / x.bound.rate() })))
	}
	p("")
	p("The insert bound is pgx's COPY of the same ops into a table with the columns, the constraint and the primary key of `millrace.ops`, %d to a transaction, and nothing else.", boundBatch)
	if s := r.bytes; s.ops > 0 {
		p("")
		p("%d ops with %d bytes of data each take %.0f bytes of disk an op, at most %d: heap %.0f, primary key %.0f. Beside them each source row has a row state: %.0f, its primary key %.0f.",
			s.ops, sizedData, s.perOp(s.heap+s.index), maxBytesPerOp, s.perOp(s.heap), s.perOp(s.index), s.perOp(s.states), s.perOp(s.stateIdx))
	}
	p("")
}
