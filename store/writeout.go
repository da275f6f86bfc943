package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// writeOut writes what is collected into the open transaction and forgets it.
// The caches stay: they say what the tables say now.
func (w *Writer) writeOut(ctx context.Context) (err error) {
	ctx, span := millrace.ChildSpan(ctx, "store.write_out")
	defer func() { span.End(err) }()
	if err := w.begin(ctx); err != nil {
		return err
	}
	if err := w.copyRows(ctx); err != nil {
		return err
	}
	var b batch
	w.addUpkeep(&b)
	if _, err := w.run(ctx, &b, nil); err != nil {
		return w.failure("write a piece of a flush", err)
	}
	w.noteChanged()
	w.resetPiece()
	return nil
}

// noteChanged keeps the names of the buckets changed by a piece.
func (w *Writer) noteChanged() {
	f := &w.flush
	for i := range f.deltas {
		if len(f.changed) > maxChangedBuckets {
			f.changedUnknown = true
			clear(f.changed)
		}
		if f.changedUnknown {
			return
		}
		f.changed[f.deltas[i].bucket] = struct{}{}
	}
}

// copyRows sends the rows that are appended: bucket names, ops, row states,
// ended outputs and lookups. Row states that were there before are deleted
// first: they change rarely, and one path is enough.
func (w *Writer) copyRows(ctx context.Context) (err error) {
	f := &w.flush
	ctx, span := millrace.ChildSpan(ctx, "store.copy_rows")
	if span.On() {
		span.Set(slog.Int("ops", len(f.ops.places)), slog.Int("rows", len(f.dirty)))
		defer func() { span.End(err) }()
	}
	if err := w.copyIn(ctx, &f.names, "bucket_names (id, definition, name)"); err != nil {
		return err
	}
	if err := w.copyOps(ctx, "ops (bucket, op_id, definition, checksum, kind, type, row_id, subkey, data)"); err != nil {
		return err
	}
	if err := w.copyStates(ctx); err != nil {
		return err
	}
	if err := w.copyIn(ctx, &f.ended, "ended_outputs (definition, source_table, row_key, ended_op, since_op, bucket, type, row_id, subkey)"); err != nil {
		return err
	}
	if err := w.writeShadows(ctx); err != nil {
		return err
	}
	var lookups copyBuffer
	for i := range f.opened {
		l := &f.opened[i]
		if l.gone {
			continue
		}
		lookups.row(6)
		lookups.int64(int64(l.added))
		lookups.int32(int32(l.definition))
		lookups.int32(int32(l.row.table))
		lookups.text(l.row.key)
		lookups.text(l.key)
		lookups.text(l.outputs)
	}
	return w.copyIn(ctx, &lookups, "lookups (added, definition, source_table, row_key, key, outputs)")
}

func (w *Writer) copyStates(ctx context.Context) error {
	type part struct {
		definition millrace.DefinitionID
		table      millrace.TableID
	}
	// In the order of the primary key, which makes inserting into it cheaper by
	// a third.
	slices.SortFunc(w.flush.dirty, compareRows)
	stale := map[part][]string{}
	for _, row := range w.flush.dirty {
		row.dirty, row.assumed = false, false
		for i := range row.buckets {
			s := &row.buckets[i]
			if !s.changed {
				continue
			}
			s.changed = false
			if s.stored {
				p := part{s.definition, row.table}
				stale[p] = append(stale[p], row.key)
			}
			if s.stored = len(s.outputs) > 0; s.stored {
				w.flush.states.appendState(s.definition, row, s.outputs, w.outputOID)
			}
		}
	}
	var b batch
	for p, keys := range stale {
		b.add(stmtStateDelete, int4Param(p.definition), int4Param(p.table), textArray(keys))
	}
	if _, err := w.run(ctx, &b, nil); err != nil {
		return w.failure("delete changed row states", err)
	}
	return w.stateFailure(w.copyIn(ctx, &w.flush.states, "row_state ("+stateColumns+")"))
}

func compareRows(a, b *rowState) int {
	if c := cmp.Compare(a.table, b.table); c != 0 {
		return c
	}
	return strings.Compare(a.key, b.key)
}

// copyIn sends a buffer. target is a table of ours with its columns.
func (w *Writer) copyIn(ctx context.Context, c *copyBuffer, target string) error {
	if c.rows == 0 {
		return nil
	}
	c.b = c.finish()
	return w.copyFrom(ctx, bytes.NewReader(c.b), c.rows, target)
}

// copyOps sends the ops in another order than that in which they were numbered.
func (w *Writer) copyOps(ctx context.Context, target string) error {
	f := &w.flush
	if f.ops.rows == 0 {
		return nil
	}
	f.ops.b = f.ops.finish()
	return w.copyFrom(ctx, f.ops.sorted(f.deltas, &f.opOrder), f.ops.rows, target)
}

func (w *Writer) copyFrom(ctx context.Context, r io.Reader, rows int, target string) error {
	tag, err := w.pg.CopyFrom(ctx, r, "COPY millrace."+target+" FROM STDIN (FORMAT binary)")
	if err != nil {
		return w.failure(fmt.Sprintf("copy %d rows into millrace.%s", rows, target), err)
	}
	if tag.RowsAffected() != int64(rows) {
		return fmt.Errorf("copy into millrace.%s: %d rows of %d arrived", target, tag.RowsAffected(), rows)
	}
	return nil
}

// addUpkeep adds the set-based changes: totals, ended lookups, wide values, row
// errors and custom write checkpoints.
func (w *Writer) addUpkeep(b *batch) {
	f := &w.flush
	w.addTotals(b)
	if len(f.closedAdded) > 0 {
		b.add(stmtLookupsClose, int8Array(f.closedAdded), int8Array(f.closedAt))
	}
	if len(f.undone) > 0 {
		b.add(stmtLookupsDelete, int8Array(f.undone))
		f.undone = f.undone[:0]
	}
	w.addWide(b)
	w.addErrors(b)
	w.addMarks(b)
}

func (w *Writer) addTotals(b *batch) {
	f := &w.flush
	for _, fresh := range []bool{true, false} {
		var buckets []millrace.BucketID
		var lastOps []millrace.OpID
		var ops, rows, sizes []int64
		var sums []uint32
		for i := range f.deltas {
			d := &f.deltas[i]
			if (d.bucket > f.bucketBase) != fresh {
				continue
			}
			buckets, lastOps = append(buckets, d.bucket), append(lastOps, d.lastOp)
			ops, rows, sizes = append(ops, d.ops), append(rows, d.rows), append(sizes, d.bytes)
			sums = append(sums, uint32(d.checksum))
		}
		if len(buckets) == 0 {
			continue
		}
		statement := stmtTotalsUpdate
		if fresh {
			statement = stmtTotalsInsert
		}
		b.add(statement, int8Array(buckets), int8Array(lastOps), int8Array(ops), int8Array(rows), int8Array(sizes), int4Array(sums))
	}
}

func (w *Writer) addWide(b *batch) {
	var dropTables, storeTables []int32
	var dropKeys, storeKeys []string
	var values [][]byte
	for k, v := range w.flush.wide {
		if v == nil {
			dropTables, dropKeys = append(dropTables, int32(k.table)), append(dropKeys, k.key)
			continue
		}
		storeTables, storeKeys, values = append(storeTables, int32(k.table)), append(storeKeys, k.key), append(values, v)
	}
	if len(dropKeys) > 0 {
		b.add(stmtWideDelete, int4Array(dropTables), textArray(dropKeys))
	}
	if len(storeKeys) > 0 {
		b.add(stmtWideStore, int4Array(storeTables), textArray(storeKeys), byteaArray(values))
	}
}

func (w *Writer) addErrors(b *batch) {
	var definitions, tables, newDefinitions, newTables []int32
	var keys, newKeys, messages []string
	for k, message := range w.flush.errors {
		if message == "" {
			definitions, tables, keys = append(definitions, int32(k.definition)), append(tables, int32(k.row.table)), append(keys, k.row.key)
			continue
		}
		newDefinitions, newTables = append(newDefinitions, int32(k.definition)), append(newTables, int32(k.row.table))
		newKeys, messages = append(newKeys, k.row.key), append(messages, message)
	}
	if len(keys) > 0 {
		b.add(stmtErrorsDelete, int4Array(definitions), int4Array(tables), textArray(keys))
	}
	if len(newKeys) > 0 {
		b.add(stmtErrorsInsert, int4Array(newDefinitions), int4Array(newTables), textArray(newKeys), textArray(messages))
	}
}
