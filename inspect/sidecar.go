package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// sidecar is a connection to the sidecar.
type sidecar struct{ conn *pgx.Conn }

func openSidecar(ctx context.Context, uri string) (*sidecar, error) {
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("reach the sidecar: %w", err)
	}
	return &sidecar{conn}, nil
}

func (s *sidecar) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// What cannot be removed is removed when it is old.
	_, _ = s.conn.Exec(ctx, `DELETE FROM millrace.write_requests WHERE user_id = $1 AND acked_id = id`, verifyUser)
	_ = s.conn.Close(ctx)
}

// served reads and compiles the rule set in force.
func (s *sidecar) served(ctx context.Context) (*served, error) {
	var (
		v             served
		content       string
		mapping, wire []byte
	)
	err := s.conn.QueryRow(ctx, `
		SELECT r.id, r.content, r.mapping,
			(SELECT coalesce(jsonb_object_agg(d.id, jsonb_build_object('prefix', coalesce(d.wire_prefix, ''), 'hash', d.hash)), '{}') FROM millrace.definition_versions d)
		FROM millrace.head h JOIN millrace.rule_sets r ON r.id = millrace.rule_set_at(h.op_id)`).Scan(&v.id, &content, &mapping, &wire)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errors.New("no sync rules are active on the sidecar yet: the first copy of the source may still be running")
	}
	if err != nil {
		return nil, fmt.Errorf("read the rule set in force: %w", err)
	}
	var entries []struct {
		Key        string
		Definition millrace.DefinitionID
	}
	var versions map[millrace.DefinitionID]struct{ Prefix, Hash string }
	if err := errors.Join(json.Unmarshal(mapping, &entries), json.Unmarshal(wire, &versions)); err != nil {
		return nil, fmt.Errorf("read the rule set in force: %w", err)
	}
	hashes := map[string]string{}
	for _, e := range entries {
		hashes[e.Key] = versions[e.Definition].Hash
	}
	rules, diagnostics, err := syncrules.CompileDeployed(fmt.Sprintf("rule set %d", v.id), []byte(content), hashes)
	if err != nil {
		return nil, fmt.Errorf("rule set %d: %w", v.id, err)
	}
	if rules == nil {
		return nil, fmt.Errorf("rule set %d of the sidecar does not compile with this binary: %s", v.id, diagnostics[0].Message)
	}
	v.rules = rules
	v.definitions, v.prefixes = make([]millrace.DefinitionID, len(rules.Definitions())), make([]string, len(rules.Definitions()))
	for i, d := range rules.Definitions() {
		for _, e := range entries {
			if e.Key == d.Key {
				v.definitions[i], v.prefixes[i] = e.Definition, versions[e.Definition].Prefix
			}
		}
		if v.definitions[i] == 0 {
			return nil, fmt.Errorf("rule set %d has no definition %s: it was deployed by another version; verify with that one", v.id, d.Key)
		}
	}
	return &v, nil
}

// name gives a single source the name that the sidecar has for its only one.
func (s *sidecar) name(ctx context.Context, sources []Source) error {
	if len(sources) != 1 {
		return nil
	}
	rows, err := s.conn.Query(ctx, `SELECT name FROM millrace.sources`)
	if err != nil {
		return fmt.Errorf("read the sources: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read the sources: %w", err)
	}
	if len(names) == 1 {
		sources[0].Name = names[0]
	}
	return nil
}

// verifyUser is the row of write_requests through which a verification asks for
// a checkpoint, as a device does that waits for its own upload.
const verifyUser = "millrace verify"

// wait returns once the newest checkpoint contains the positions, by source
// name.
func (s *sidecar) wait(ctx context.Context, heads map[string]millrace.LSN, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	asked := false
	for {
		behind, err := s.behind(ctx, heads)
		if err != nil || behind == "" {
			return err
		}
		if !asked {
			// An idle source's position is stored now and then only.
			if err := s.askCheckpoint(ctx); err != nil {
				return err
			}
			asked = true
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v the sidecar still lacks what was read of the source (%s): is a decoder running? SELECT * FROM millrace.replication says what it waits for", limit, behind)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// askCheckpoint asks the decoder for a checkpoint with the present positions. A
// role that may only read has to wait for the next one.
func (s *sidecar) askCheckpoint(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, `
		INSERT INTO millrace.write_requests AS w (user_id, id, managed) VALUES ($1, nextval('millrace.write_checkpoint_ids'), true)
		ON CONFLICT (user_id) DO UPDATE SET id = greatest(w.id + 1, excluded.id), heads = NULL, requested_at = excluded.requested_at`, verifyUser)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42501" || pg.Code == "25006") { // not allowed, read-only
		return nil
	}
	if err == nil {
		_, err = s.conn.Exec(ctx, `SELECT pg_notify('millrace_writes', '')`)
	}
	if err != nil {
		return fmt.Errorf("ask for a checkpoint: %w", err)
	}
	return nil
}

// behind says which source the sidecar has not followed up to its position.
func (s *sidecar) behind(ctx context.Context, heads map[string]millrace.LSN) (string, error) {
	rows, err := s.conn.Query(ctx, `SELECT name, durable::text FROM millrace.sources`)
	if err != nil {
		return "", fmt.Errorf("read positions: %w", err)
	}
	at := map[string]millrace.LSN{}
	var name, text string
	if _, err := pgx.ForEachRow(rows, []any{&name, &text}, func() (err error) {
		at[name], err = millrace.ParseLSN(text)
		return err
	}); err != nil {
		return "", fmt.Errorf("read positions: %w", err)
	}
	for name, head := range heads {
		durable, known := at[name]
		if !known {
			return "", fmt.Errorf("the sidecar knows no source %q: use the configuration it was filled with", name)
		}
		if durable < head {
			return fmt.Sprintf("%s: it has %v, read was %v", name, durable, head), nil
		}
	}
	return "", nil
}

// contents is the sidecar at one checkpoint.
type contents struct {
	tx   pgx.Tx
	head millrace.OpID
}

// contents opens a snapshot of the sidecar, which must still serve the rule
// set.
func (s *sidecar) contents(ctx context.Context, set int32) (*contents, error) {
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("open a snapshot of the sidecar: %w", err)
	}
	c := &contents{tx: tx}
	var now int32
	if err := tx.QueryRow(ctx, `SELECT op_id, coalesce(millrace.rule_set_at(op_id), 0) FROM millrace.head`).Scan(&c.head, &now); err != nil {
		c.close(ctx)
		return nil, fmt.Errorf("read the head: %w", err)
	}
	if now != set {
		c.close(ctx)
		return nil, fmt.Errorf("the rule set in force changed from %d to %d meanwhile: begin again", set, now)
	}
	return c, nil
}

func (c *contents) close(ctx context.Context) {
	_ = c.tx.Rollback(context.WithoutCancel(ctx)) // it has written nothing
}

// failedRow is a source row that a definition could not evaluate or store.
type failedRow struct {
	definition millrace.DefinitionID
	table, key string // table as scannedTable.name
}

// failed lists the rows that are excepted.
func (c *contents) failed(ctx context.Context, several bool) (map[failedRow]bool, error) {
	rows, err := c.tx.Query(ctx, `
		SELECT e.definition, CASE WHEN $1 THEN s.name || '.' ELSE '' END || t.schema || '.' || t.name, e.row_key
		FROM millrace.row_errors e JOIN millrace.source_tables t ON t.id = e.source_table JOIN millrace.sources s ON s.id = t.source`, several)
	if err != nil {
		return nil, fmt.Errorf("read row_errors: %w", err)
	}
	failed := map[failedRow]bool{}
	var f failedRow
	if _, err := pgx.ForEachRow(rows, []any{&f.definition, &f.table, &f.key}, func() error { failed[f] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read row_errors: %w", err)
	}
	return failed, nil
}

// heldRow is a row of a bucket.
type heldRow struct {
	op              millrace.OpID
	table, id, data string // valid during the call
}

// bucketNames calls f with every bucket of a definition.
func (c *contents) bucketNames(ctx context.Context, definition millrace.DefinitionID, f func(id int64, name string) error) error {
	rows, err := c.tx.Query(ctx, `SELECT id, name FROM millrace.bucket_names WHERE definition = $1`, definition)
	if err != nil {
		return fmt.Errorf("read buckets: %w", err)
	}
	var id int64
	var name string
	if _, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error { return f(id, name) }); err != nil {
		return fmt.Errorf("read buckets: %w", err)
	}
	return nil
}

// rows folds the ops of some buckets and calls f with each row they have, as a
// client folds them: nothing at or below the last CLEAR, then the last op of
// each (type, id, subkey), if it is a PUT.
func (c *contents) rows(ctx context.Context, definition millrace.DefinitionID, buckets []int64, f func(bucket int64, r *heldRow) error) error {
	rows, err := c.tx.Query(ctx, strings.ReplaceAll(`
		WITH clears AS (
			SELECT bucket, max(op_id) AS op_id FROM millrace.ops WHERE definition = $D AND bucket = ANY ($1) AND kind = 4 GROUP BY bucket),
		live AS (
			SELECT DISTINCT ON (o.bucket, o.type, o.row_id, o.subkey) o.bucket, o.op_id, o.kind
			FROM millrace.ops o LEFT JOIN clears c ON c.bucket = o.bucket
			WHERE o.definition = $D AND o.bucket = ANY ($1) AND o.kind IN (1, 2) AND o.op_id > coalesce(c.op_id, 0)
			ORDER BY o.bucket, o.type, o.row_id, o.subkey, o.op_id DESC)
		SELECT l.bucket, l.op_id, o.type, o.row_id, o.data
		FROM live l JOIN millrace.ops o ON o.definition = $D AND o.bucket = l.bucket AND o.op_id = l.op_id
		WHERE l.kind = 1`, "$D", fmt.Sprint(int32(definition))), buckets)
	if err != nil {
		return fmt.Errorf("read the rows of buckets: %w", err)
	}
	defer rows.Close()
	var bucket int64
	var r heldRow
	for rows.Next() {
		if err := rows.Scan(&bucket, &r.op, &r.table, &r.id, &r.data); err != nil {
			return fmt.Errorf("read the rows of buckets: %w", err)
		}
		if err := f(bucket, &r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the rows of buckets: %w", err)
	}
	return nil
}
