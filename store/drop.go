package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

const (
	// dropGrace is how long relays that still serve a retired definition are
	// waited for.
	dropGrace = 5 * time.Minute
	// dropRows is how many rows are deleted in one transaction.
	dropRows = 10_000
	// dropPoll is how often a Writer looks whether there is something to drop.
	dropPoll = 10 * time.Second
)

// startDropping deletes the history of retired definitions and what is kept of
// forgotten tables, on a connection of its own, until the term ends. Nothing
// writes to them any more. Each step may be interrupted, and is taken up by the
// next term.
func (w *Writer) startDropping(ctx context.Context) {
	w.beating.Add(1)
	go func() {
		defer w.beating.Done()
		for ctx.Err() == nil {
			if err := w.dropRetired(ctx); err != nil && ctx.Err() == nil {
				w.opts.Logger.Warn("dropping what no rules use any more; trying again", "error", err)
			}
			wait(ctx, w.opts.dropPoll)
		}
	}()
}

// retired is a definition whose history is to be dropped.
type retired struct {
	id   int32
	kind millrace.DefinitionKind
}

// dropRetired drops what is due, if anything is.
func (w *Writer) dropRetired(ctx context.Context) error {
	var due bool
	err := w.onSide(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM millrace.definition_versions WHERE retired_at IS NOT NULL AND dropped_at IS NULL)
				OR EXISTS (SELECT FROM millrace.source_tables t JOIN millrace.row_wide r ON r.source_table = t.id WHERE t.forgotten_at IS NOT NULL)`).Scan(&due)
	})
	if err != nil || !due {
		return err
	}
	conn, err := w.store.connect(ctx, "millrace drop "+w.name)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `
		SELECT d.id, d.kind FROM millrace.definition_versions d
		WHERE d.retired_at IS NOT NULL AND d.dropped_at IS NULL AND (d.retired_at < clock_timestamp() - $1::interval OR NOT EXISTS (
			SELECT FROM millrace.relay_reports r JOIN millrace.rule_sets s ON s.id = ANY (r.rule_sets)
			WHERE r.at > clock_timestamp() - interval '1 minute' AND s.mapping @> jsonb_build_array(jsonb_build_object('definition', d.id))))
		ORDER BY d.id`, dropGrace)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r retired, err error) {
		err = row.Scan(&r.id, &r.kind)
		return r, err
	})
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := w.drop(ctx, conn, d); err != nil {
			return fmt.Errorf("definition %d: %w", d.id, err)
		}
		w.opts.Logger.Info("history of a retired definition dropped", "definition", d.id)
	}
	return w.inSteps(ctx, conn, `
		DELETE FROM millrace.row_wide WHERE (source_table, row_key) IN (
			SELECT r.source_table, r.row_key FROM millrace.source_tables t JOIN millrace.row_wide r ON r.source_table = t.id
			WHERE t.forgotten_at IS NOT NULL LIMIT $1)`)
}

// drop deletes all that a retired definition had.
func (w *Writer) drop(ctx context.Context, conn *pgx.Conn, d retired) error {
	switch d.kind {
	case millrace.BucketDefinition:
		// What says that there are buckets goes before their ops. The greatest
		// number stays, so that it is not given again.
		err := w.inSteps(ctx, conn, `
			WITH page AS MATERIALIZED (
				SELECT id FROM millrace.bucket_names WHERE definition = $2 AND id < (SELECT max(id) FROM millrace.bucket_names) LIMIT $1),
			totals AS (DELETE FROM millrace.bucket_totals t USING page p WHERE t.bucket = p.id),
			floors AS (DELETE FROM millrace.bucket_floors f USING page p WHERE f.bucket = p.id),
			compactions AS (DELETE FROM millrace.bucket_compactions c USING page p WHERE c.bucket = p.id),
			rewrites AS (DELETE FROM millrace.bucket_rewrites r USING page p WHERE r.bucket = p.id)
			DELETE FROM millrace.bucket_names n USING page p WHERE n.id = p.id`, d.id)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `DELETE FROM millrace.bucket_totals t USING millrace.bucket_names n WHERE n.definition = $1 AND t.bucket = n.id`, d.id)
		if err != nil {
			return err
		}
		if err := w.dropEnded(ctx, conn, d.id); err != nil {
			return err
		}
		for _, parent := range []string{"ops", "row_state"} {
			if err := dropPartition(ctx, conn, parent, d.id); err != nil {
				return err
			}
		}
	case millrace.EventDefinition:
		err := w.inSteps(ctx, conn, `
			DELETE FROM millrace.custom_write_checkpoints WHERE (definition, user_id) IN (
				SELECT definition, user_id FROM millrace.custom_write_checkpoints WHERE definition = $2 LIMIT $1)`, d.id)
		if err != nil {
			return err
		}
	case millrace.LookupDefinition:
		err := w.inSteps(ctx, conn, `
			DELETE FROM millrace.lookups WHERE added IN (SELECT added FROM millrace.lookups WHERE definition = $2 LIMIT $1)`, d.id)
		if err != nil {
			return err
		}
	}
	err := w.inSteps(ctx, conn, `
		DELETE FROM millrace.row_errors WHERE (definition, source_table, row_key) IN (
			SELECT definition, source_table, row_key FROM millrace.row_errors WHERE definition = $2 LIMIT $1)`, d.id)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `UPDATE millrace.definition_versions SET dropped_at = clock_timestamp() WHERE id = $1`, d.id)
	return err
}

// inSteps repeats a statement that deletes at most $1 rows until it deletes
// fewer. It stops when another decoder leads.
func (w *Writer) inSteps(ctx context.Context, conn *pgx.Conn, sql string, args ...any) error {
	for {
		if err := w.stillLeads(ctx, conn); err != nil {
			return err
		}
		tag, err := conn.Exec(ctx, sql, append([]any{dropRows}, args...)...)
		if err != nil || tag.RowsAffected() < dropRows {
			return err
		}
	}
}

func (w *Writer) stillLeads(ctx context.Context, conn *pgx.Conn) error {
	var mine bool
	err := conn.QueryRow(ctx, `SELECT fence = $1 FROM millrace.head`, w.fence).Scan(&mine)
	if err == nil && !mine {
		return ErrLeadershipLost
	}
	return err
}

// dropEnded forgets the outputs of a definition that ended, in one walk over
// those of all definitions: they are kept by op id.
func (w *Writer) dropEnded(ctx context.Context, conn *pgx.Conn, definition int32) error {
	for after, n := int64(0), dropRows; n == dropRows; {
		if err := w.stillLeads(ctx, conn); err != nil {
			return err
		}
		err := conn.QueryRow(ctx, `
			WITH page AS MATERIALIZED (
				SELECT ended_op, definition FROM millrace.ended_outputs WHERE ended_op > $1 ORDER BY ended_op LIMIT $2),
			gone AS (DELETE FROM millrace.ended_outputs e USING page p WHERE e.ended_op = p.ended_op AND p.definition = $3)
			SELECT coalesce(max(ended_op), 0), count(*)::int FROM page`, after, dropRows, definition).Scan(&after, &n)
		if err != nil {
			return err
		}
	}
	return nil
}

// dropPartition detaches a partition and drops it, without making any reader
// wait: detaching concurrently waits for those that have the parent open, and
// queues nobody behind it. A detach that was interrupted is finished first.
func dropPartition(ctx context.Context, conn *pgx.Conn, parent string, definition int32) error {
	parentTable := pgx.Identifier{"millrace", parent}.Sanitize()
	table := pgx.Identifier{"millrace", fmt.Sprintf("%s_%d", parent, definition)}.Sanitize()
	var pending bool
	err := conn.QueryRow(ctx, `
		SELECT inhdetachpending FROM pg_inherits WHERE inhparent = to_regclass($1) AND inhrelid = to_regclass($2)`, parentTable, table).Scan(&pending)
	how := " CONCURRENTLY"
	if pending {
		how = " FINALIZE"
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows): // detached already
	case err != nil:
		return fmt.Errorf("look for partition %s: %w", table, err)
	default:
		if _, err := conn.Exec(ctx, `ALTER TABLE `+parentTable+` DETACH PARTITION `+table+how); err != nil {
			return fmt.Errorf("detach partition %s: %w", table, err)
		}
	}
	// Nobody reaches it through its parent any more; whoever has it open by
	// name is not made to queue others for long.
	for ctx.Err() == nil {
		_, err := conn.Exec(ctx, `SET lock_timeout = '500ms'; DROP TABLE IF EXISTS `+table)
		_, reset := conn.Exec(ctx, `SET lock_timeout = 0`)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "55P03" { // lock_not_available
			wait(ctx, time.Second)
			continue
		}
		if err != nil {
			return fmt.Errorf("drop partition %s: %w", table, err)
		}
		return reset
	}
	return ctx.Err()
}
