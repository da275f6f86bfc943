package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// sqlRemovals tells whether somebody asked for the removal of a source.
const sqlRemovals = `SELECT FROM millrace.sources WHERE removal_requested_at IS NOT NULL AND lost_at IS NULL`

// RemoveSource ends a source that nothing which is fed has rows of, with its
// tables and those of its lost histories. Its name is free then. What is kept of
// long values is deleted later.
func (w *Writer) RemoveSource(ctx context.Context, id millrace.SourceID) error {
	err := w.fenced(ctx, "remove a source", func(tx pgx.Tx) error {
		var name string
		err := tx.QueryRow(ctx, `
			UPDATE millrace.sources SET name = format('%s (removed %s)', left(name, 100), id), was = name, lost_at = now(),
				lost_reason = format('it was removed, as %s asked', coalesce(removal_requested_by, 'somebody'))
			WHERE id = $1 AND lost_at IS NULL RETURNING was`, int16(id)).Scan(&name)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("source %d is not there, or has ended already", id)
		}
		if err != nil {
			return err
		}
		const tables = `(SELECT t.id FROM millrace.source_tables t JOIN millrace.sources s ON s.id = t.source WHERE s.was = $1)`
		for _, statement := range []string{
			`DELETE FROM millrace.shadow_rows WHERE copy IN (SELECT id FROM millrace.copies WHERE source_table IN ` + tables + `)`,
			`DELETE FROM millrace.shadow_lookups WHERE copy IN (SELECT id FROM millrace.copies WHERE source_table IN ` + tables + `)`,
			`DELETE FROM millrace.shadow_errors WHERE copy IN (SELECT id FROM millrace.copies WHERE source_table IN ` + tables + `)`,
			`DELETE FROM millrace.copies WHERE source_table IN ` + tables,
			`UPDATE millrace.source_tables SET forgotten_at = clock_timestamp() WHERE forgotten_at IS NULL AND id IN ` + tables,
		} {
			if _, err := tx.Exec(ctx, statement, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	delete(w.lsns, id)
	return nil
}

// KeepSource forgets that somebody asked for the removal of a source.
func (w *Writer) KeepSource(ctx context.Context, id millrace.SourceID) error {
	return w.fenced(ctx, "keep a source", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE millrace.sources SET removal_requested_at = NULL, removal_requested_by = NULL WHERE id = $1`, int16(id))
		return err
	})
}

// ErrNoSource is the error for a source that the sidecar does not know, or that
// has ended.
var ErrNoSource = errors.New("the sidecar has no such source")

// RequestRemoval asks the decoder that leads to remove a source with its rows. It
// gives its number, for Removal, and the name of its slot. It wraps ErrNoSource.
func (r *Rules) RequestRemoval(ctx context.Context, name string) (id millrace.SourceID, slot string, err error) {
	err = pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		var number int16
		err := tx.QueryRow(ctx, `
			UPDATE millrace.sources SET removal_requested_at = clock_timestamp(), removal_requested_by = current_user
			WHERE name = $1 AND lost_at IS NULL RETURNING id, slot`, name).Scan(&number, &slot)
		if errors.Is(err, pgx.ErrNoRows) {
			return noSource(ctx, tx, name)
		}
		if err != nil {
			return err
		}
		id = millrace.SourceID(number)
		_, err = tx.Exec(ctx, `SELECT pg_notify($1, 'remove a source')`, RulesChannel)
		return err
	})
	if err != nil {
		return 0, "", fmt.Errorf("ask for the removal of source %q: %w", name, err)
	}
	return id, slot, nil
}

func noSource(ctx context.Context, tx pgx.Tx, name string) error {
	rows, err := tx.Query(ctx, `SELECT name FROM millrace.sources WHERE lost_at IS NULL ORDER BY id`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w, and no other one", ErrNoSource)
	}
	return fmt.Errorf("%w; it has %s", ErrNoSource, strings.Join(names, ", "))
}

// Removal is how far the removal of a source is.
type Removal struct {
	Done bool
	// Refused: no decoder does it, since it has the source in its configuration.
	Refused bool
	// DecoderSeen is how long ago a decoder last gave a sign of life.
	DecoderSeen time.Duration
}

// Removal reads how far the removal of a source is that was asked for.
func (r *Rules) Removal(ctx context.Context, id millrace.SourceID) (m Removal, err error) {
	var seen float64
	err = r.conn.QueryRow(ctx, `
		SELECT s.lost_at IS NOT NULL, s.lost_at IS NULL AND s.removal_requested_at IS NULL, extract(epoch FROM clock_timestamp() - l.at)
		FROM millrace.sources s CROSS JOIN millrace.leader l WHERE s.id = $1`, int16(id)).Scan(&m.Done, &m.Refused, &seen)
	m.DecoderSeen = time.Duration(seen * float64(time.Second))
	if err != nil {
		return m, fmt.Errorf("read how far the removal of source %d is: %w", id, err)
	}
	return m, nil
}
