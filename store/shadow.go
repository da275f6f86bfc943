package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// shadowPart is what an open flush has collected for the shadow of one copy:
// of each row the last change.
type shadowPart struct {
	rows map[string]*shadowRow
}

// shadowRow is what a row of a shadow has now; nothing if it was deleted. Its
// parts are encoded for COPY, without header.
type shadowRow struct {
	outputs, lookups, errors copyBuffer
}

// shadow takes changes of rows that are kept in a shadow.
func (w *Writer) shadow(ctx context.Context, changes []millrace.Change) error {
	for i := range changes {
		c := &changes[i]
		if c.Kind != millrace.ChangeUpsert && c.Kind != millrace.ChangeDelete {
			return fmt.Errorf("apply: unknown kind of change %d", c.Kind)
		}
		w.shadowChange(c)
		if w.collected() > w.opts.PieceBytes {
			if err := w.writeOut(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) shadowChange(c *millrace.Change) {
	f := &w.flush
	part := f.shadows[c.Scope.Shadow]
	if part == nil {
		part = &shadowPart{rows: map[string]*shadowRow{}}
		f.shadows[c.Scope.Shadow] = part
	}
	key := strings.Clone(storedKey(c.Key))
	row := &shadowRow{}
	part.rows[key] = row
	copyID := int64(c.Scope.Shadow)
	last := lastOutputs(c.Outputs)
	for i := range c.Outputs {
		out := &c.Outputs[i]
		if last != nil && last[shadowIdentityOf(out)] != i {
			continue // the later one is what the row has
		}
		if why := unstorable(out); why != "" {
			row.fail(copyID, key, out.Definition, why)
			continue
		}
		b := &row.outputs
		b.row(10)
		b.int64(copyID)
		b.text(key)
		b.int32(int32(out.Definition))
		b.text(out.Bucket)
		b.text(out.Type)
		b.text(out.RowID)
		b.textUnless(out.Subkey, "")
		b.int32(int32(millrace.PutChecksum(out.Type, out.RowID, out.Subkey, stringBytes(out.Data))))
		if w.opts.SuppressUnchanged {
			b.int64OrNull(dataDigest(out.Data))
		} else {
			b.null()
		}
		b.text(out.Data)
	}
	for i := range c.Lookups {
		l := &c.Lookups[i]
		if why := unstorableLookup(l); why != "" {
			row.fail(copyID, key, l.Definition, why)
			continue
		}
		b := &row.lookups
		b.row(5)
		b.int64(copyID)
		b.text(key)
		b.int32(int32(l.Definition))
		b.text(l.Key)
		b.text(l.Outputs)
	}
	for _, e := range c.Errors {
		row.fail(copyID, key, e.Definition, e.Message)
	}
	f.shadowBytes += len(key) + len(row.outputs.b) + len(row.lookups.b) + len(row.errors.b) + 200
	w.noteWide(c, &rowState{table: c.Scope.Table, key: key})
}

type shadowIdentity struct {
	definition millrace.DefinitionID
	bucket     string
	row        millrace.RowIdentity
}

func shadowIdentityOf(out *millrace.Output) shadowIdentity {
	return shadowIdentity{out.Definition, out.Bucket, millrace.RowIdentity{Type: out.Type, RowID: out.RowID, Subkey: out.Subkey}}
}

// lastOutputs tells which of several outputs with one identity is the last; nil
// for a single output.
func lastOutputs(outputs []millrace.Output) map[shadowIdentity]int {
	if len(outputs) < 2 {
		return nil
	}
	last := make(map[shadowIdentity]int, len(outputs))
	for i := range outputs {
		last[shadowIdentityOf(&outputs[i])] = i
	}
	return last
}

// fail notes an error of the row.
func (r *shadowRow) fail(copyID int64, key string, d millrace.DefinitionID, message string) {
	b := &r.errors
	b.row(4)
	b.int64(copyID)
	b.text(key)
	b.int32(int32(d))
	b.text(cleanMessage(message))
}

// writeShadows writes what was collected for shadows: what the changed rows had
// goes, what they have now is appended.
func (w *Writer) writeShadows(ctx context.Context) error {
	f := &w.flush
	if len(f.shadows) == 0 {
		return nil
	}
	var outputs, lookups, errors copyBuffer
	var b batch
	for id, part := range f.shadows {
		keys := make([]string, 0, len(part.rows))
		for key := range part.rows {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			row := part.rows[key]
			outputs.add(&row.outputs)
			lookups.add(&row.lookups)
			errors.add(&row.errors)
		}
		for _, statement := range []string{stmtShadowRowsDelete, stmtShadowLookupsDelete, stmtShadowErrorsDelete} {
			b.add(statement, int8Param(id), textArray(keys))
		}
	}
	if _, err := w.run(ctx, &b, nil); err != nil {
		return w.failure("delete changed rows of a shadow", err)
	}
	if err := w.copyIn(ctx, &outputs, "shadow_rows (copy, row_key, definition, bucket, type, row_id, subkey, checksum, digest, data)"); err != nil {
		return err
	}
	if err := w.copyIn(ctx, &lookups, "shadow_lookups (copy, row_key, definition, key, outputs)"); err != nil {
		return err
	}
	return w.copyIn(ctx, &errors, "shadow_errors (copy, row_key, definition, message)")
}

// emptyShadow deletes all that a copy has in its shadow.
func (w *Writer) emptyShadow(ctx context.Context, id millrace.CopyID) error {
	f := &w.flush
	delete(f.shadows, id)
	if err := w.begin(ctx); err != nil {
		return err
	}
	for _, table := range []string{"shadow_rows", "shadow_lookups", "shadow_errors"} {
		if _, err := w.conn.Exec(ctx, `DELETE FROM millrace.`+table+` WHERE copy = $1`, int64(id)); err != nil {
			return w.failure("empty a shadow", err)
		}
	}
	return nil
}
