package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// CountSharedIDs counts, in the given definitions, the ids that rows of several
// sources have in one bucket, for the status views; those of replaced rules, which
// no client is sent any more, do not count. It reads all row states of
// the definitions on a connection of its own, for ten minutes at most, and may
// run beside everything else.
func (w *Writer) CountSharedIDs(ctx context.Context, definitions []millrace.DefinitionID) error {
	conn, err := w.store.connect(ctx, "millrace upkeep")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = '10min'; LOCK TABLE millrace.shared_ids IN SHARE ROW EXCLUSIVE MODE; DELETE FROM millrace.shared_ids`); err != nil {
			return err
		}
		var used []int32
		err := tx.QueryRow(ctx, `
			SELECT coalesce(array_agg(DISTINCT (m->>'definition')::int4), '{}') FROM millrace.rule_sets s, jsonb_array_elements(s.mapping) m
			WHERE s.state IN ('building', 'active') AND (m->>'definition')::int4 = ANY ($1::int4[])`, ints[int32](definitions)).Scan(&used)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO millrace.shared_ids (definition, ids, example)
			SELECT s.definition, count(*), min(format('%s %s %s', b.name, s.type, s.row_id))
			FROM (
				SELECT r.definition, o.bucket, o.type, o.row_id
				FROM millrace.row_state r
				JOIN millrace.source_tables t ON t.id = r.source_table
				JOIN millrace.sources c ON c.id = t.source AND c.lost_at IS NULL
				CROSS JOIN LATERAL (
					SELECT r.bucket, r.type, coalesce(r.row_id, r.row_key)
					UNION ALL SELECT m.bucket, m.type, coalesce(m.row_id, r.row_key) FROM unnest(r.more) m) o (bucket, type, row_id)
				WHERE r.definition = ANY ($1::int4[])
				GROUP BY 1, 2, 3, 4 HAVING count(DISTINCT t.source) > 1) s
			JOIN millrace.bucket_names b ON b.id = s.bucket
			GROUP BY s.definition`, used)
		return err
	})
	if err != nil {
		return fmt.Errorf("count ids that several sources have: %w", err)
	}
	return nil
}
