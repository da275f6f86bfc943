package decoder

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// soakHistory is all ops there are, folded.
type soakHistory struct {
	head    int64
	buckets map[soakBucket]*soakFold
	errs    []error // found while folding
}

type soakBucket struct {
	definition int32
	id         int64
}

type soakFold struct {
	millrace.Reduced
	name string
	ops  int64
}

func readHistory(ctx context.Context, tx pgx.Tx) (*soakHistory, error) {
	h := &soakHistory{buckets: map[soakBucket]*soakFold{}}
	if err := tx.QueryRow(ctx, `SELECT op_id FROM millrace.head`).Scan(&h.head); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		SELECT o.definition, o.bucket, n.name, o.op_id, o.kind, o.checksum, coalesce(o.type, ''), coalesce(o.row_id, ''), coalesce(o.subkey, ''), coalesce(o.data, '')
		FROM millrace.ops o JOIN millrace.bucket_names n ON n.id = o.bucket ORDER BY o.definition, o.bucket, o.op_id`)
	if err != nil {
		return nil, err
	}
	byOp := map[int64]soakBucket{}
	var b soakBucket
	var name string
	var id int64
	var kind int16
	var checksum int32
	var op millrace.Op
	_, err = pgx.ForEachRow(rows, []any{&b.definition, &b.id, &name, &id, &kind, &checksum, &op.Type, &op.RowID, &op.Subkey, &op.Data}, func() error {
		op.ID, op.Kind, op.Checksum = millrace.OpID(id), millrace.OpKind(kind), millrace.Checksum(uint32(checksum))
		if other, ok := byOp[id]; ok {
			h.errs = append(h.errs, fmt.Errorf("op %d is in buckets %v and %v", id, other, b))
		}
		byOp[id] = b
		if id > h.head {
			h.errs = append(h.errs, fmt.Errorf("op %d is beyond the head, %d", id, h.head))
		}
		if op.Kind == millrace.OpPut && op.Checksum != millrace.PutChecksum(op.Type, op.RowID, op.Subkey, op.Data) ||
			op.Kind == millrace.OpRemove && op.Checksum != millrace.RemoveChecksum(op.Type, op.RowID, op.Subkey) {
			h.errs = append(h.errs, fmt.Errorf("op %d has a wrong checksum", id))
		}
		f := h.buckets[b]
		if f == nil {
			f = &soakFold{name: name}
			h.buckets[b] = f
		}
		f.Reduce(op)
		f.ops++
		return nil
	})
	return h, err
}

// content is what clients have of a definition: each row as a query gives it.
func (h *soakHistory) content(definition int32) map[string]int {
	rows := map[string]int{}
	for b, f := range h.buckets {
		if b.definition != definition {
			continue
		}
		for id, op := range f.Rows {
			rows[fmt.Sprintln(f.name, id.RowID, op.Data)]++
		}
	}
	return rows
}

// check holds the running totals, row state and checkpoints against the ops.
func (h *soakHistory) check(ctx context.Context, tx pgx.Tx) error {
	errs := h.errs
	addf := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	rows, err := tx.Query(ctx, `
		SELECT n.definition, t.bucket, t.last_op, t.ops, t.rows, t.checksum FROM millrace.bucket_totals t JOIN millrace.bucket_names n ON n.id = t.bucket
		JOIN millrace.definition_versions v ON v.id = n.definition WHERE v.dropped_at IS NULL AND (v.retired_at IS NULL OR to_regclass('millrace.ops_' || v.id) IS NOT NULL)`)
	if err != nil {
		return err
	}
	var b soakBucket
	var last, ops, live int64
	var checksum int32
	if _, err := pgx.ForEachRow(rows, []any{&b.definition, &b.id, &last, &ops, &live, &checksum}, func() error {
		f := h.buckets[b]
		if f == nil {
			f = &soakFold{}
		}
		if int64(f.Last) != last || f.ops != ops || int64(len(f.Rows)) != live || uint32(f.Checksum) != uint32(checksum) {
			addf("bucket %v: totals say last op %d, %d ops, %d rows, checksum %d; the ops give %d, %d, %d, %d",
				b, last, ops, live, uint32(checksum), f.Last, f.ops, len(f.Rows), f.Checksum)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := h.checkRowState(ctx, tx, addf); err != nil {
		return err
	}
	for what, query := range map[string]string{
		"checkpoints are out of order": `SELECT count(*) FROM (SELECT op_id < lag(op_id) OVER w OR seq <> lag(seq) OVER w + 1 AS bad FROM millrace.checkpoint_log WINDOW w AS (ORDER BY seq)) x WHERE bad`,
		"rows have errors":             `SELECT count(*) FROM millrace.row_errors`,
		"ops belong to no definition":  `SELECT count(*) FROM millrace.ops WHERE definition NOT IN (SELECT id FROM millrace.definition_versions)`,
	} {
		var n int64
		if err := tx.QueryRow(ctx, query).Scan(&n); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		if n != 0 {
			addf("%d %s", n, what)
		}
	}
	if len(errs) > 10 {
		errs = append(errs[:10:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	return errors.Join(errs...)
}

// checkRowState compares what the store believes each row to have with the ops:
// a difference would show at the row's next change.
func (h *soakHistory) checkRowState(ctx context.Context, tx pgx.Tx, addf func(string, ...any)) error {
	rows, err := tx.Query(ctx, `
		SELECT r.definition, o.bucket, o.type, o.row_id, coalesce(o.subkey, ''), o.since_op
		FROM millrace.row_state r CROSS JOIN LATERAL millrace.row_outputs(r) o`)
	if err != nil {
		return err
	}
	var b soakBucket
	var id millrace.RowIdentity
	var since int64
	stated := map[soakBucket]int{}
	if _, err := pgx.ForEachRow(rows, []any{&b.definition, &b.id, &id.Type, &id.RowID, &id.Subkey, &since}, func() error {
		stated[b]++
		f := h.buckets[b]
		if f == nil {
			addf("row state has %v in bucket %v, which has no ops", id, b)
		} else if op, ok := f.Rows[id]; !ok {
			addf("row state has %v in bucket %v, the ops have not", id, b)
		} else if since > int64(op.ID) {
			addf("row state has %v in bucket %v since op %d, its PUT is op %d", id, b, since, op.ID)
		}
		return nil
	}); err != nil {
		return err
	}
	for b, f := range h.buckets {
		if stated[b] != len(f.Rows) {
			addf("bucket %v: row state has %d rows, the ops %d", b, stated[b], len(f.Rows))
		}
	}
	return nil
}
