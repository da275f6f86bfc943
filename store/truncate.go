package store

import (
	"context"
	"encoding/binary"

	"github.com/millrace/millrace"
)

// truncateRows is how many rows are taken from the tables in one go.
const truncateRows = 5_000

// truncate ends all a table has in the definitions of the scope. The tables
// are brought up to date first and walked in key order, so memory is bounded
// whatever the number of rows (R23: nothing of it is visible before COMMIT).
func (w *Writer) truncate(ctx context.Context, scope *millrace.Scope) error {
	if err := w.writeOut(ctx); err != nil {
		return err
	}
	w.rows.drop()
	for _, d := range scope.Buckets {
		if err := w.truncateOutputs(ctx, scope.Table, d); err != nil {
			return err
		}
	}
	for _, d := range scope.Lookups {
		if err := w.truncateLookups(ctx, scope.Table, d); err != nil {
			return err
		}
	}
	definitions := ints[int32](append(append([]millrace.DefinitionID(nil), scope.Buckets...), scope.Lookups...))
	if _, err := w.conn.Exec(ctx, `DELETE FROM millrace.row_errors WHERE definition = ANY ($1) AND source_table = $2`, definitions, int32(scope.Table)); err != nil {
		return w.failure("truncate row errors", err)
	}
	if _, err := w.conn.Exec(ctx, `DELETE FROM millrace.row_wide WHERE source_table = $1`, int32(scope.Table)); err != nil {
		return w.failure("truncate kept wide values", err)
	}
	return nil
}

func (w *Writer) truncateOutputs(ctx context.Context, table millrace.TableID, d millrace.DefinitionID) error {
	row := rowState{table: table}
	var outputs []output
	for after, more := "", true; more; {
		n := 0
		var b batch
		b.add(stmtStatePage, int4Param(d), int4Param(table), []byte(after), int4Param(int32(truncateRows)))
		_, err := w.run(ctx, &b, func(_ int, v [][]byte) (err error) {
			n++
			row.key = string(v[0])
			if outputs, err = decodeState(v[1:], outputs[:0], row.key, w.internTypeBytes); err != nil {
				return err
			}
			for i := range outputs {
				w.remove(&row, d, &outputs[i])
			}
			return nil
		})
		if err != nil {
			return w.failure("read rows of a truncated table", err)
		}
		after, more = row.key, n == truncateRows
		if err := w.writeOut(ctx); err != nil {
			return err
		}
	}
	if _, err := w.conn.Exec(ctx, `DELETE FROM millrace.row_state WHERE definition = $1 AND source_table = $2`, int32(d), int32(table)); err != nil {
		return w.failure("truncate row states", err)
	}
	return nil
}

func (w *Writer) truncateLookups(ctx context.Context, table millrace.TableID, d millrace.DefinitionID) error {
	for {
		n := 0
		var b batch
		b.add(stmtLookupsPage, int4Param(d), int4Param(table), int4Param(int32(truncateRows)))
		_, err := w.run(ctx, &b, func(_ int, v [][]byte) error {
			n++
			w.closeLookup(d, &lookupEntry{added: millrace.OpID(binary.BigEndian.Uint64(v[0]))})
			return nil
		})
		if err != nil {
			return w.failure("read lookups of a truncated table", err)
		}
		if n == 0 {
			return nil
		}
		if err := w.writeOut(ctx); err != nil {
			return err
		}
	}
}
