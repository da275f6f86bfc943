package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
	err := w.retrying(ctx, func() error {
		return w.fenced(ctx, "begin a new history", func(tx pgx.Tx) (err error) {
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '500ms'`); err != nil {
				return err
			}
			var set int32 // its number was never used
			if err := tx.QueryRow(ctx, `SELECT coalesce(max(id), 0) + 1 FROM millrace.rule_sets`).Scan(&set); err != nil {
				return err
			}
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
				if _, err := tx.Exec(ctx, `UPDATE millrace.head SET op_id = op_id + $1`, jump); err != nil {
					return err
				}
			}
			return rebuild(ctx, tx, set, r.Content, r.Definitions)
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
		`DELETE FROM millrace.rule_sets WHERE state = 'building'`,
		`DELETE FROM millrace.copies WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
		`DELETE FROM millrace.row_wide WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
		`DELETE FROM millrace.row_errors WHERE source_table IN (SELECT t.id FROM millrace.source_tables t WHERE t.source = $1)`,
	} {
		var args []any
		if statement[len(statement)-1] == ')' {
			args = append(args, int16(r.Source))
		}
		if _, err := tx.Exec(ctx, statement, args...); err != nil {
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

// rebuild stores a rule set to be built.
func rebuild(ctx context.Context, tx pgx.Tx, set int32, content string, defs []millrace.Definition) error {
	mapping := make([]mapped, len(defs))
	for i := range defs {
		d := defs[i]
		if err := ensureDefinition(ctx, tx, &d); err != nil {
			return fmt.Errorf("definition %s: %w", d.Key, err)
		}
		mapping[i] = mapped{d.Key, d.Kind, d.Name, d.ID}
	}
	text, err := json.Marshal(mapping)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO millrace.rule_sets (id, content, state, mapping) VALUES ($1, $2, 'building', $3)`, set, content, text)
	return err
}

// retrying repeats f while a partition cannot be attached because something
// else holds its parent.
func (w *Writer) retrying(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		var pgErr *pgconn.PgError
		if err == nil || !errors.As(err, &pgErr) || pgErr.Code != "55P03" || try == attachTries { // lock_not_available
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
