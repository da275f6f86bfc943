package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// smallTable is how many outputs a table may have in a definition to be emptied
// through memory. Making and dropping scratch tables takes longer than that.
const smallTable = 1_000

// stayed is an output that a truncated table had, with its row.
type stayed struct {
	key string
	output
}

// emptySmall empties a definition of a table that has little in it, through the
// buffers of the row path; the ops are those of the set-based way. False: there is
// more, and nothing was done.
func (r replacement) emptySmall(ctx context.Context) (done bool, err error) {
	w := r.w
	outputs, err := r.outputs(ctx, w.opts.smallTable+1)
	switch {
	case err != nil:
		return false, err
	case len(outputs) > w.opts.smallTable:
		return false, nil
	case len(outputs) == 0: // a table is truncated empty more often than not
		return true, nil
	}
	slices.SortFunc(outputs, func(a, b stayed) int {
		return cmp.Or(cmp.Compare(a.bucket, b.bucket), strings.Compare(a.key, b.key))
	})
	sums, err := r.clearable(ctx, outputs)
	if err != nil {
		return false, err
	}
	// Each row that ends with a CLEAR has a number of its own below it.
	row := rowState{table: r.table}
	for i := range outputs {
		if o := &outputs[i]; hasKey(sums, o.bucket) {
			row.key = o.key
			w.flush.op++
			w.end(&row, r.definition, &o.output)
		}
	}
	for run := range runsOf(outputs) {
		if sum, ok := sums[run[0].bucket]; ok {
			w.clear(r.definition, run[0].bucket, sum, len(run))
		}
	}
	for i := range outputs {
		if o := &outputs[i]; !hasKey(sums, o.bucket) {
			row.key = o.key
			w.remove(&row, r.definition, &o.output)
		}
	}
	_, err = w.pg.Exec(ctx, fmt.Sprintf(`DELETE FROM millrace.row_state WHERE definition = %d AND source_table = %d`, r.definition, r.table)).ReadAll()
	if err != nil {
		return false, w.failure("forget the rows of a truncated table", err)
	}
	return true, nil
}

// outputs reads what a table has in the definition, at most limit of them.
func (r replacement) outputs(ctx context.Context, limit int) ([]stayed, error) {
	rows, err := r.w.conn.Query(ctx, fmt.Sprintf(`
		SELECT s.row_key, o.bucket, o.since_op, o.type, coalesce(o.row_id, s.row_key), coalesce(o.subkey, '')
		FROM (SELECT * FROM millrace.row_state WHERE definition = %d AND source_table = %d LIMIT %[3]d) s
		CROSS JOIN LATERAL (
			SELECT s.bucket, s.since_op, s.type, s.row_id, s.subkey
			UNION ALL SELECT m.bucket, m.since_op, m.type, m.row_id, m.subkey FROM unnest(s.more) m) o
		LIMIT %[3]d`, r.definition, r.table, limit), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, r.w.failure("read what a truncated table has", err)
	}
	outputs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o stayed, err error) {
		err = row.Scan(&o.key, &o.bucket, &o.since, &o.typ, &o.rowID, &o.subkey)
		return o, err
	})
	if err != nil {
		return nil, r.w.failure("read what a truncated table has", err)
	}
	return outputs, nil
}

// clearable finds the buckets that nothing but the outputs, in order, is in, and
// their running sums.
func (r replacement) clearable(ctx context.Context, outputs []stayed) (map[millrace.BucketID]millrace.Checksum, error) {
	leaving := map[millrace.BucketID]int64{}
	var ids strings.Builder
	for run := range runsOf(outputs) {
		if len(run) >= clearFrom {
			leaving[run[0].bucket] = int64(len(run))
			fmt.Fprintf(&ids, ",%d", run[0].bucket)
		}
	}
	if len(leaving) == 0 {
		return nil, nil
	}
	rows, err := r.w.conn.Query(ctx, fmt.Sprintf(`SELECT bucket, rows, checksum FROM millrace.bucket_totals WHERE bucket IN (%s)`, ids.String()[1:]),
		pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, r.w.failure("read the totals of buckets to clear", err)
	}
	sums := map[millrace.BucketID]millrace.Checksum{}
	var id, there int64
	var sum int32
	_, err = pgx.ForEachRow(rows, []any{&id, &there, &sum}, func() error {
		if there == leaving[millrace.BucketID(id)] {
			sums[millrace.BucketID(id)] = millrace.Checksum(uint32(sum))
		}
		return nil
	})
	if err != nil {
		return nil, r.w.failure("read the totals of buckets to clear", err)
	}
	return sums, nil
}

// runsOf gives the outputs of each bucket together.
func runsOf(outputs []stayed) func(yield func([]stayed) bool) {
	return func(yield func([]stayed) bool) {
		for first := 0; first < len(outputs); {
			next := first + 1
			for next < len(outputs) && outputs[next].bucket == outputs[first].bucket {
				next++
			}
			if !yield(outputs[first:next]) {
				return
			}
			first = next
		}
	}
}

func hasKey(sums map[millrace.BucketID]millrace.Checksum, id millrace.BucketID) bool {
	_, ok := sums[id]
	return ok
}

// clear emits a CLEAR, which carries the bucket's running sum and ends its rows.
func (w *Writer) clear(definition millrace.DefinitionID, id millrace.BucketID, sum millrace.Checksum, rows int) {
	f := &w.flush
	f.op++
	at := w.delta(id)
	d := &f.deltas[at]
	d.lastOp = f.op
	d.ops++
	d.rows -= int64(rows)
	b := &f.ops
	b.row(9)
	b.int64(int64(id))
	b.int64(int64(f.op))
	b.int32(int32(definition))
	b.int32(int32(sum))
	b.int16(int16(millrace.OpClear))
	for range 4 { // type, row id, subkey, data
		b.null()
	}
	b.end(at)
}
