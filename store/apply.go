package store

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// applyRows is how many changes are compared with the tables in one go.
const applyRows = 10_000

// Apply compares the changes, in order, with what their rows had before, and
// collects the ops and lookup changes that lead there. See decoder.Sink.
func (w *Writer) Apply(ctx context.Context, changes []millrace.Change) error {
	if err := w.open(); err != nil {
		return w.abandon(ctx, err)
	}
	ctx, span := millrace.ChildSpan(ctx, "store.apply")
	if span.On() {
		span.Set(slog.Int("changes", len(changes)))
	}
	err := w.apply(ctx, changes)
	span.End(err)
	if err != nil {
		return w.abandon(ctx, err)
	}
	return nil
}

func (w *Writer) apply(ctx context.Context, changes []millrace.Change) error {
	if err := w.noteMarks(ctx, changes); err != nil {
		return err
	}
	for len(changes) > 0 {
		n := together(changes)
		var err error
		switch first := &changes[0]; {
		case first.Kind == millrace.ChangeTruncate || first.Kind == millrace.ChangeReplace:
			err = w.replace(ctx, first.Scope, first.Kind)
		case inShadow(first):
			err = w.shadow(ctx, changes[:n])
		default:
			err = w.applyBatch(ctx, changes[:n])
		}
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// together counts the changes that are handled like the first: one that is about a
// whole table stands alone.
func together(changes []millrace.Change) int {
	for i := range changes {
		c := &changes[i]
		whole := c.Kind == millrace.ChangeTruncate || c.Kind == millrace.ChangeReplace
		if whole || i == applyRows || i > 0 && inShadow(c) != inShadow(&changes[0]) {
			return max(i, 1)
		}
	}
	return len(changes)
}

func inShadow(c *millrace.Change) bool { return c.Scope != nil && c.Scope.Shadow != 0 }

func (w *Writer) applyBatch(ctx context.Context, changes []millrace.Change) error {
	if err := w.loadBefore(ctx, changes); err != nil {
		return err
	}
	ids := w.load.ids
	for i := range changes {
		c := &changes[i]
		row := w.load.rows[i]
		if err := w.change(c, row, ids[:len(c.Outputs)]); err != nil {
			return err
		}
		ids = ids[len(c.Outputs):]
		w.rows.bytes += row.grown()
		if w.collected() > w.opts.PieceBytes {
			if err := w.writeOut(ctx); err != nil {
				return err
			}
		}
	}
	w.load.forget()
	if w.rows.full() || w.buckets.full() {
		// What leaves the caches must be in the tables.
		if len(w.flush.dirty) > 0 || w.flush.names.rows > 0 {
			if err := w.writeOut(ctx); err != nil {
				return err
			}
		}
		w.rows.age()
		w.buckets.age()
	}
	return nil
}

// collected estimates the bytes that wait to be written.
func (w *Writer) collected() int {
	f := &w.flush
	return len(f.ops.b) + len(f.ended.b) + len(f.names.b) + f.wideBytes + f.shadowBytes +
		300*len(f.dirty) + 64*len(f.deltas) + 200*len(f.opened) + 16*len(f.closedAdded) + 200*len(f.errors) + 100*len(f.marks)
}

// change diffs one row. ids are the bucket ids of its outputs: 0 not known yet,
// -1 cannot be stored.
func (w *Writer) change(c *millrace.Change, row *rowState, ids []millrace.BucketID) error {
	switch c.Kind {
	case millrace.ChangeUpsert:
	case millrace.ChangeDelete:
		if len(c.Outputs) > 0 || len(c.Lookups) > 0 {
			return fmt.Errorf("apply: a delete of table %d has outputs", c.Scope.Table)
		}
	default:
		return fmt.Errorf("apply: unknown kind of change %d", c.Kind)
	}
	if len(w.hasErrors) > 0 || len(c.Errors) > 0 {
		w.noteErrors(c, row)
	}
	if len(c.Scope.Buckets) > 0 {
		if err := w.diffOutputs(c, row, ids); err != nil {
			return err
		}
	}
	if len(c.Scope.Lookups) > 0 {
		if err := w.diffLookups(c, row); err != nil {
			return err
		}
	}
	w.noteWide(c, row)
	return nil
}

// diffOutputs emits a REMOVE for each output that ended and a PUT for each that
// is there (R9), removes first.
func (w *Writer) diffOutputs(c *millrace.Change, row *rowState, ids []millrace.BucketID) error {
	before := 0
	for i := range row.buckets {
		before += len(row.buckets[i].outputs)
	}
	if before+len(c.Outputs) > indexAbove {
		return w.diffManyOutputs(c, row, ids)
	}
	for i := range c.Outputs {
		out := &c.Outputs[i]
		id, err := w.bucketID(out, ids[i], c)
		if err != nil {
			return err
		}
		if ids[i] = id; id < 0 {
			w.noteError(row, out.Definition, unstorable(out))
			continue
		}
		for j := range row.buckets {
			if b := &row.buckets[j]; b.definition == out.Definition {
				if o := findOutput(b.outputs, id, out); o != nil {
					o.kept = true
				}
			}
		}
	}
	w.removeOthers(c, row)
	for i := range c.Outputs {
		if ids[i] < 0 {
			continue
		}
		b := row.bucketState(c.Outputs[i].Definition)
		w.put(row, b, findOutput(b.outputs, ids[i], &c.Outputs[i]), ids[i], &c.Outputs[i])
	}
	return nil
}

func findOutput(outputs []output, id millrace.BucketID, out *millrace.Output) *output {
	for i := range outputs {
		if outputs[i].is(id, out) {
			return &outputs[i]
		}
	}
	return nil
}

// removeOthers ends the outputs, in the definitions of the scope, that are not
// marked kept, and unmarks the others.
func (w *Writer) removeOthers(c *millrace.Change, row *rowState) {
	for i := range row.buckets {
		b := &row.buckets[i]
		if !slices.Contains(c.Scope.Buckets, b.definition) {
			continue
		}
		n := 0
		for j := range b.outputs {
			o := &b.outputs[j]
			if !o.kept {
				w.remove(row, b.definition, o)
				continue
			}
			o.kept = false
			if n != j {
				b.outputs[n] = *o
			}
			n++
		}
		if n < len(b.outputs) {
			clear(b.outputs[n:])
			b.outputs = b.outputs[:n]
			w.touch(row, b)
		}
	}
}

// touch lists a row to be written.
func (w *Writer) touch(row *rowState, b *bucketState) {
	b.changed = true
	if !row.dirty {
		row.dirty = true
		w.flush.dirty = append(w.flush.dirty, row)
	}
}

// put emits a PUT. o is the output it continues, nil if the row enters the
// bucket with it.
func (w *Writer) put(row *rowState, b *bucketState, o *output, id millrace.BucketID, out *millrace.Output) {
	f := &w.flush
	var digest int64
	if w.opts.SuppressUnchanged {
		digest = dataDigest(out.Data)
		if o != nil && o.digest == digest {
			return
		}
	}
	f.op++
	at := w.delta(id)
	d := &f.deltas[at]
	d.lastOp = f.op
	d.ops++
	d.bytes += int64(len(out.Data))
	sum := millrace.PutChecksum(out.Type, out.RowID, out.Subkey, stringBytes(out.Data))
	d.checksum += sum
	w.appendOp(out.Definition, id, millrace.OpPut, sum, out.Type, out.RowID, out.Subkey)
	f.ops.text(out.Data)
	f.ops.end(at)
	if o != nil {
		if o.digest != digest {
			o.digest = digest
			w.touch(row, b)
		}
		return
	}
	d.rows++
	n := output{bucket: id, since: f.op, digest: digest, typ: w.internType(out.Type), subkey: strings.Clone(out.Subkey)}
	if out.RowID == row.key {
		n.rowID = row.key
	} else {
		n.rowID = strings.Clone(out.RowID)
	}
	b.outputs = append(b.outputs, n)
	w.touch(row, b)
}

// remove emits a REMOVE and keeps the memory of the ended output.
func (w *Writer) remove(row *rowState, definition millrace.DefinitionID, o *output) {
	f := &w.flush
	f.op++
	at := w.delta(o.bucket)
	d := &f.deltas[at]
	d.lastOp = f.op
	d.ops++
	d.rows--
	sum := millrace.RemoveChecksum(o.typ, o.rowID, o.subkey)
	d.checksum += sum
	w.appendOp(definition, o.bucket, millrace.OpRemove, sum, o.typ, o.rowID, o.subkey)
	f.ops.null()
	f.ops.end(at)

	w.end(row, definition, o)
}

// end notes that a row's output ended with the newest op id.
func (w *Writer) end(row *rowState, definition millrace.DefinitionID, o *output) {
	e := &w.flush.ended
	e.row(9)
	e.int32(int32(definition))
	e.int32(int32(row.table))
	e.text(row.key)
	e.int64(int64(w.flush.op))
	e.int64(int64(o.since))
	e.int64(int64(o.bucket))
	e.text(o.typ)
	e.text(o.rowID)
	e.textUnless(o.subkey, "")
}

// appendOp writes an op but for its data, with the newest op id.
func (w *Writer) appendOp(definition millrace.DefinitionID, id millrace.BucketID, kind millrace.OpKind, sum millrace.Checksum, typ, rowID, subkey string) {
	b := &w.flush.ops
	b.row(9)
	b.int64(int64(id))
	b.int64(int64(w.flush.op))
	b.int32(int32(definition))
	b.int32(int32(sum))
	b.int16(int16(kind))
	b.text(typ)
	b.text(rowID)
	b.textUnless(subkey, "")
}

// delta finds or makes what the flush adds to a bucket: an index into deltas.
func (w *Writer) delta(id millrace.BucketID) int32 {
	f := &w.flush
	if n := len(f.deltas); n > 0 && f.deltas[n-1].bucket == id {
		return int32(n - 1)
	}
	i, ok := f.totals[id]
	if !ok {
		i = int32(len(f.deltas))
		f.totals[id] = i
		f.deltas = append(f.deltas, delta{bucket: id})
	}
	return i
}

// bucketID finds the bucket of an output, making it if it does not exist.
func (w *Writer) bucketID(out *millrace.Output, known millrace.BucketID, c *millrace.Change) (millrace.BucketID, error) {
	if known != 0 {
		return known, nil
	}
	if !slices.Contains(c.Scope.Buckets, out.Definition) {
		return 0, fmt.Errorf("apply: a row of table %d has an output of definition %d, which is not in its scope", c.Scope.Table, out.Definition)
	}
	k := bucketKey{out.Definition, out.Bucket}
	if id, ok := w.buckets.young[k]; ok && id != 0 {
		return id, nil
	}
	f := &w.flush
	f.bucket++
	k.name = strings.Clone(k.name)
	w.buckets.put(k, f.bucket, 0) // it was looked for, and has its place
	f.names.row(3)
	f.names.int64(int64(f.bucket))
	f.names.int32(int32(k.definition))
	f.names.text(k.name)
	return f.bucket, nil
}

func (w *Writer) internType(s string) string {
	if t, ok := w.types[s]; ok {
		return t
	}
	if len(w.types) > 10_000 {
		clear(w.types)
	}
	s = strings.Clone(s)
	w.types[s] = s
	return s
}

// unstorable says why an output cannot be stored; empty if it can.
func unstorable(out *millrace.Output) string {
	switch {
	case len(out.Bucket) > maxKeyBytes:
		return fmt.Sprintf("the bucket's name would have %d bytes, the limit is %d", len(out.Bucket), maxKeyBytes)
	case strings.IndexByte(out.RowID, 0) >= 0 || !utf8.ValidString(out.RowID):
		return "the row id is not valid text"
	case strings.IndexByte(out.Bucket, 0) >= 0 || !utf8.ValidString(out.Bucket):
		return "the bucket's name is not valid text"
	}
	return ""
}

// noteErrors collects the row's errors and, where the table has any, the
// clearing of older ones.
func (w *Writer) noteErrors(c *millrace.Change, row *rowState) {
	k := rowKey{c.Scope.Table, row.key}
	if w.hasErrors[c.Scope.Table] {
		for _, d := range c.Scope.Buckets {
			w.flush.errors[errorKey{d, k}] = ""
		}
		for _, d := range c.Scope.Lookups {
			w.flush.errors[errorKey{d, k}] = ""
		}
		for _, d := range c.Scope.Events {
			w.flush.errors[errorKey{d, k}] = ""
		}
	}
	for _, e := range c.Errors {
		w.noteError(row, e.Definition, e.Message)
	}
}

func (w *Writer) noteError(row *rowState, d millrace.DefinitionID, message string) {
	w.hasErrors[row.table] = true
	w.flush.errors[errorKey{d, rowKey{row.table, row.key}}] = strings.Clone(cleanMessage(message))
}

// cleanMessage makes a message that can be stored.
func cleanMessage(message string) string {
	message = strings.ToValidUTF8(strings.ReplaceAll(message, "\x00", ""), "\uFFFD")
	if message == "" {
		return "evaluation failed"
	}
	if len(message) > 1000 {
		message = strings.ToValidUTF8(message[:990], "") + "…"
	}
	return message
}

// noteWide collects what becomes of the row's kept wide values.
func (w *Writer) noteWide(c *millrace.Change, row *rowState) {
	f := &w.flush
	k := rowKey{row.table, row.key}
	switch {
	case c.Wide == millrace.WideStore && c.Kind == millrace.ChangeUpsert:
		w.hasWide[row.table] = true
		f.wideBytes += len(c.WideValues) + len(row.key)
		f.wide[k] = append(make([]byte, 0, len(c.WideValues)), c.WideValues...)
	case c.Wide == millrace.WideDrop || c.Kind == millrace.ChangeDelete:
		if w.hasWide[row.table] {
			f.wideBytes += len(row.key)
			f.wide[k] = nil
		}
	}
}
