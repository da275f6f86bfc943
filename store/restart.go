package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// RestartHistory puts a source of the same name in the place of one whose
// history is lost, and stores a rule set in state building that has new
// definitions in the place of the lost ones. The old source keeps its tables and
// rows, under a name of its own, until the old definitions are dropped. A rule
// set that was being built is replaced.
func (w *Writer) RestartHistory(ctx context.Context, r millrace.HistoryRestart) error {
	jump := int64(0)
	if r.Restored {
		jump = opIDJump
	}
	var id int16
	err := w.attaching(ctx, func() error {
		return w.fenced(ctx, "begin a new history", func(tx pgx.Tx) (err error) {
			if id, err = replaceSource(ctx, tx, r); err != nil {
				return err
			}
			if err := loseDefinitions(ctx, tx, r.Lost, id); err != nil {
				return err
			}
			if r.Restored {
				if err := renewWirePrefixes(ctx, tx); err != nil {
					return err
				}
				if err := renewWriteRequests(ctx, tx, true); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `UPDATE millrace.head SET op_id = op_id + $1`, jump); err != nil {
					return err
				}
			}
			_, err = deploy(ctx, tx, r.Content, r.Definitions)
			return err
		})
	})
	if err != nil {
		return err
	}
	w.head.OpID += millrace.OpID(jump)
	w.resetFlush()
	delete(w.lsns, r.Source)
	w.lsns[millrace.SourceID(id)] = 0
	return nil
}

// replaceSource ends a source and registers its successor, with the slot's name
// recorded as ours: what is left of the slot may be dropped.
func replaceSource(ctx context.Context, tx pgx.Tx, r millrace.HistoryRestart) (id int16, err error) {
	var name, slot string
	var plain bool
	err = tx.QueryRow(ctx, `
		UPDATE millrace.sources SET name = format('%s (history %s)', left(name, 100), id), was = name, lost_at = now(), lost_reason = left($2, 2000)
		WHERE id = $1 AND lost_at IS NULL RETURNING was, slot, plain_ids`, int16(r.Source), r.Reason).Scan(&name, &slot, &plain)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("source %d is not there, or its history is lost already", r.Source)
	}
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `
		INSERT INTO millrace.sources (id, name, system_id, timeline, database, slot, publication, publication_oid, plain_ids)
		SELECT max(id) + 1, $1, '', 0, '', $2, '', 0, $3 FROM millrace.sources RETURNING id`, name, slot, plain).Scan(&id)
	if err != nil {
		return 0, err
	}
	// Nothing of its tables is fed any more.
	for _, statement := range []string{
		`DELETE FROM millrace.copies WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
		`DELETE FROM millrace.row_wide WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
		`DELETE FROM millrace.row_errors WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
	} {
		if _, err := tx.Exec(ctx, statement, int16(r.Source)); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// loseDefinitions takes the place of definitions free for successors of the
// same content, and keeps a source out of all that exist.
func loseDefinitions(ctx context.Context, tx pgx.Tx, lost []millrace.DefinitionID, source int16) error {
	if _, err := tx.Exec(ctx, `
		UPDATE millrace.definition_versions SET hash = hash || '~' || $2 WHERE id = ANY ($1::int4[])`, ints[int32](lost), fmt.Sprint(source)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE millrace.definition_versions SET without = without || $1::smallint`, source)
	return err
}
