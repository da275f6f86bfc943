package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// activate puts a rule set in force with a number of its own and retires the
// one before.
func (w *Writer) activate(ctx context.Context, id millrace.RuleSetID) error {
	w.flush.op++
	_, err := w.conn.Exec(ctx, `UPDATE millrace.rule_sets SET state = 'retired', retired_at = clock_timestamp() WHERE state = 'active'`)
	if err != nil {
		return w.failure("retire the active rule set", err)
	}
	tag, err := w.conn.Exec(ctx, `
		UPDATE millrace.rule_sets SET state = 'active', active_from = $2, activated_at = clock_timestamp()
		WHERE id = $1 AND state = 'building'`, int32(id), int64(w.flush.op))
	if err != nil {
		return w.failure(fmt.Sprintf("activate rule set %d", id), err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("activate rule set %d: there is no such rule set being built", id)
	}
	return nil
}

// saveCopies stores copies and the changes of their re-read lists. It gives
// the ids the copies have once the flush is committed.
func (w *Writer) saveCopies(ctx context.Context, f *millrace.Flush) ([]millrace.CopyID, error) {
	if !storesParts(f) {
		return nil, nil
	}
	for _, t := range f.Tables {
		if err := saveTable(ctx, w.conn, t); err != nil {
			return nil, w.failure(fmt.Sprintf("store table %s.%s", t.Schema, t.Name), err)
		}
	}
	var b pgx.Batch
	ids := make([]millrace.CopyID, len(f.Copies))
	last := w.lastCopy
	for i, c := range f.Copies {
		if ids[i] = c.ID; c.ID == 0 {
			last++
			ids[i] = last
		}
		queueCopy(&b, ids[i], c)
		if c.ID == 0 && c.Shadow {
			b.Queue(`DELETE FROM millrace.row_wide WHERE source_table = $1`, int32(c.Table))
		}
	}
	for i := range f.SchemaChanges {
		queueSchemaChange(&b, &f.SchemaChanges[i], f.Copies, ids)
	}
	for _, r := range f.RereadAdd {
		key := storedKey(r.Key)
		var full *string
		if key != r.Key {
			full = &r.Key
		}
		b.Queue(`INSERT INTO millrace.rereads (copy, row_key, full_key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, int64(r.Copy), key, full)
	}
	for _, r := range f.RereadDone {
		b.Queue(`DELETE FROM millrace.rereads WHERE copy = $1 AND row_key = $2`, int64(r.Copy), storedKey(r.Key))
	}
	for i, c := range f.Copies {
		if c.State == millrace.CopyDone {
			b.Queue(`DELETE FROM millrace.rereads WHERE copy = $1`, int64(ids[i]))
		}
	}
	if err := w.conn.SendBatch(ctx, &b).Close(); err != nil {
		return nil, w.failure("store copies", err)
	}
	w.lastCopy = last
	return ids, nil
}

func queueCopy(b *pgx.Batch, id millrace.CopyID, c *millrace.Copy) {
	b.Queue(`
		INSERT INTO millrace.copies (id, rule_set, source_table, definitions, state, filenode, end_page, cursor_page, rows, estimate, wait_for, started_at, done_at, shadow, since)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::text::pg_lsn)
		ON CONFLICT (id) DO UPDATE SET rule_set = excluded.rule_set, source_table = excluded.source_table,
			definitions = excluded.definitions, state = excluded.state, filenode = excluded.filenode,
			end_page = excluded.end_page, cursor_page = excluded.cursor_page, rows = excluded.rows,
			estimate = excluded.estimate, wait_for = excluded.wait_for, started_at = excluded.started_at, done_at = excluded.done_at`,
		int64(id), int32(c.RuleSet), int32(c.Table), ints[int32](c.Definitions), string(c.State),
		int64(c.Filenode), int64(c.EndPage), int64(c.Cursor), c.Rows, c.Estimate, ints[int64](c.WaitFor),
		timeOrNil(c.StartedAt), timeOrNil(c.DoneAt), c.Shadow, c.Since.String())
}

// storesParts tells whether a flush has anything for saveCopies.
func storesParts(f *millrace.Flush) bool {
	return len(f.Copies)+len(f.RereadAdd)+len(f.RereadDone)+len(f.Tables)+len(f.SchemaChanges) > 0
}

// queueSchemaChange notes a schema change, unless it is one that a person must
// act upon and that is noted already. A change that needs nobody ends those of
// its object that did.
func queueSchemaChange(b *pgx.Batch, c *millrace.SchemaChange, copies []*millrace.Copy, ids []millrace.CopyID) {
	id := c.Copy
	for i := range copies {
		if copies[i] == c.CopyOf {
			id = ids[i]
		}
	}
	if c.Code == "" {
		b.Queue(`UPDATE millrace.schema_events SET ended_at = clock_timestamp()
			WHERE source = $1 AND object = $2 AND code <> '' AND ended_at IS NULL`, int16(c.Source), c.Object)
	}
	b.Queue(`
		INSERT INTO millrace.schema_events (source, object, change, action, code, cure, copy)
		SELECT $1, $2, $3, $4, $5, $6, nullif($7, 0)
		WHERE $5 = '' OR NOT EXISTS (SELECT FROM millrace.schema_events e WHERE e.source = $1 AND e.object = $2 AND e.code = $5 AND e.code <> '' AND e.change = $3 AND e.ended_at IS NULL)`,
		int16(c.Source), c.Object, c.Change, c.Action, c.Code, c.Cure, int64(id))
}

// ints converts to a type pgx knows; never nil, so that no null is stored.
func ints[To ~int32 | ~int64, From ~int32 | ~int64 | ~uint64](v []From) []To {
	out := make([]To, len(v))
	for i, x := range v {
		out[i] = To(x)
	}
	return out
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
