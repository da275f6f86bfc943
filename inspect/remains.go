package inspect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/pgvalue"
)

// RemainsConfig says where to look, and how long things are kept.
type RemainsConfig struct {
	Sidecar string // connection string
	// Horizon and Keep are compaction.horizon and history.keep.
	Horizon, Keep time.Duration
}

// Remains says where data of a row or a user still are.
type Remains struct {
	Subject string `json:"subject"`
	// Served tells that clients still get it: it has to be deleted on the
	// source first.
	Served bool     `json:"served"`
	Places []Remain `json:"places"`
	// Buckets are those whose history has data of the row: compacting them
	// removes it.
	Buckets []string `json:"buckets"`
}

// Remain is one place.
type Remain struct {
	Place string `json:"place"` // what and where
	What  string `json:"what"`  // "data", "identity" or "user"
	Count int64  `json:"count"`
	Until string `json:"until"`
}

// Gone tells whether nothing is left.
func (r *Remains) Gone() bool { return len(r.Places) == 0 }

func (r *Remains) add(place, what string, count int64, until string) {
	if count > 0 {
		r.Places = append(r.Places, Remain{place, what, count, until})
	}
}

// keptFor says a time span in days where it is whole days.
func keptFor(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return plural(int(d/(24*time.Hour)), "day")
	}
	return d.String()
}

// RowRemains says what the sidecar still has of a source row.
func RowRemains(ctx context.Context, c RemainsConfig, table, id string) (*Remains, error) {
	side, err := openSidecar(ctx, c.Sidecar)
	if err != nil {
		return nil, err
	}
	defer side.close()
	out := &Remains{Subject: "row " + id + " of " + table, Places: []Remain{}, Buckets: []string{}}
	tx, err := side.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("open a snapshot of the sidecar: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tables, keys, err := namedTables(ctx, tx, table)
	if err != nil {
		return nil, err
	}
	if _, err := pgvalue.SplitKey(id, keys); err != nil {
		return nil, fmt.Errorf("the key of %s has %d columns: give %w", table, keys, err)
	}
	count := func(sql string) (n int64, err error) {
		if err = tx.QueryRow(ctx, sql, tables, id).Scan(&n); err != nil {
			err = fmt.Errorf("look for the row: %w", err)
		}
		return n, err
	}
	live, err := count(`SELECT count(*) FROM millrace.row_state WHERE source_table = ANY ($1) AND row_key = $2`)
	if err != nil {
		return nil, err
	}
	out.Served = live > 0
	out.add("buckets that clients are served", "data", live, "it is deleted on the source")
	if err := historyOf(ctx, tx, tables, id, c.Horizon, out); err != nil {
		return nil, err
	}
	for _, q := range []struct{ place, what, sql, until string }{
		{"kept values of long columns (millrace.row_wide)", "data", `SELECT count(*) FROM millrace.row_wide WHERE source_table = ANY ($1) AND row_key = $2`, "it is deleted on the source"},
		{"lookups in force (millrace.lookups)", "data", `SELECT count(*) FROM millrace.lookups WHERE source_table = ANY ($1) AND row_key = $2 AND removed = 9223372036854775807`, "it is deleted on the source"},
		{"ended lookups (millrace.lookups)", "data", `SELECT count(*) FROM millrace.lookups WHERE source_table = ANY ($1) AND row_key = $2 AND removed < 9223372036854775807`, keptFor(c.Keep) + " after they ended (history.keep)"},
		{"where it was (millrace.ended_outputs)", "identity", `SELECT count(*) FROM millrace.ended_outputs WHERE source_table = ANY ($1) AND row_key = $2`, keptFor(c.Keep) + " after it left (history.keep)"},
		{"errors (millrace.row_errors)", "identity", `SELECT count(*) FROM millrace.row_errors WHERE source_table = ANY ($1) AND row_key = $2`, "it is deleted on the source"},
	} {
		n, err := count(q.sql)
		if err != nil {
			return nil, err
		}
		out.add(q.place, q.what, n, q.until)
	}
	return out, nil
}

// namedTables finds a table as people name it: also without its schema, if it is
// the only one of that name.
func namedTables(ctx context.Context, tx pgx.Tx, table string) (ids []int32, keys int, err error) {
	err = tx.QueryRow(ctx, `
		SELECT coalesce(array_agg(t.id), '{}'), coalesce(max(cardinality(t.key_columns)), 0)
		FROM millrace.source_tables t JOIN millrace.sources s ON s.id = t.source
		WHERE $1 IN (t.name, t.schema || '.' || t.name, s.name || '.' || t.schema || '.' || t.name)
		HAVING count(DISTINCT (t.source, t.schema, t.name)) <= 1`, table).Scan(&ids, &keys)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, fmt.Errorf("several tables are called %s: name the source and the schema, as main.public.%[1]s", table)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("find table %s: %w", table, err)
	}
	if len(ids) == 0 {
		return nil, 0, fmt.Errorf("the sidecar has never read a table %s: SELECT DISTINCT schema, name FROM millrace.source_tables", table)
	}
	return ids, keys, nil
}

// historyOf counts the ops that still hold the row's data.
func historyOf(ctx context.Context, tx pgx.Tx, tables []int32, id string, horizon time.Duration, out *Remains) error {
	rows, err := tx.Query(ctx, `
		WITH stays AS (
			SELECT DISTINCT definition, bucket, type, row_id FROM (
				SELECT s.definition, u.bucket, u.type, u.row_id FROM millrace.row_state s CROSS JOIN LATERAL millrace.row_outputs(s) u
				WHERE s.source_table = ANY ($1) AND s.row_key = $2
				UNION ALL
				SELECT e.definition, e.bucket, e.type, e.row_id FROM millrace.ended_outputs e WHERE e.source_table = ANY ($1) AND e.row_key = $2) x)
		SELECT coalesce(d.wire_prefix, '') || '#' || n.name, count(*) FROM stays s
		JOIN millrace.ops o ON o.definition = s.definition AND o.bucket = s.bucket AND o.type = s.type AND o.row_id = s.row_id AND o.kind = 1
		JOIN millrace.bucket_names n ON n.id = s.bucket JOIN millrace.definition_versions d ON d.id = s.definition
		GROUP BY 1 ORDER BY 1`, tables, id)
	if err != nil {
		return fmt.Errorf("look for the row's ops: %w", err)
	}
	total, bucket, n := int64(0), "", int64(0)
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &n}, func() error {
		out.Buckets = append(out.Buckets, bucket)
		total += n
		return nil
	}); err != nil {
		return fmt.Errorf("look for the row's ops: %w", err)
	}
	until := "compaction: " + keptFor(horizon) + " after the row was removed or changed, at the latest a day later; millrace compact --bucket does it at once"
	if out.Served {
		until = "it is deleted on the source, then " + until
	}
	out.add("history of buckets (millrace.ops)", "data", total, until)
	return nil
}

// UserRemains says what the sidecar still has of a user, by the subject of the
// tokens.
func UserRemains(ctx context.Context, c RemainsConfig, user string) (*Remains, error) {
	side, err := openSidecar(ctx, c.Sidecar)
	if err != nil {
		return nil, err
	}
	defer side.close()
	out := &Remains{Subject: "user " + user, Places: []Remain{}, Buckets: []string{}}
	for _, q := range []struct{ place, what, sql, until string }{
		{"connected devices (millrace.sessions)", "user", `SELECT count(*) FROM millrace.sessions WHERE user_id = $1 OR starts_with(user_id, $1 || '/')`, "they disconnect: their tokens expire"},
		{"write checkpoints (millrace.write_requests)", "user", `SELECT count(*) FROM millrace.write_requests WHERE user_id = $1 OR starts_with(user_id, $1 || '/')`, "90 days after the last upload"},
		{"custom write checkpoints (millrace.custom_write_checkpoints)", "user", `SELECT count(*) FROM millrace.custom_write_checkpoints WHERE user_id = $1 OR starts_with(user_id, $1 || '/')`, "the event leaves the rules, or you delete them"},
		{"lookups in force by this key (millrace.lookups)", "user",
			`SELECT count(*) FROM millrace.lookups WHERE definition IN (SELECT id FROM millrace.definition_versions WHERE kind = 'lookup') AND key = jsonb_build_array($1::text)::text AND removed = 9223372036854775807`,
			"the rows that grant it are deleted on the source"},
		{"ended lookups by this key (millrace.lookups)", "user",
			`SELECT count(*) FROM millrace.lookups WHERE definition IN (SELECT id FROM millrace.definition_versions WHERE kind = 'lookup') AND key = jsonb_build_array($1::text)::text AND removed < 9223372036854775807`,
			keptFor(c.Keep) + " after they ended (history.keep)"},
	} {
		var n int64
		if err := side.conn.QueryRow(ctx, q.sql, user).Scan(&n); err != nil {
			return nil, fmt.Errorf("look for the user: %w", err)
		}
		out.add(q.place, q.what, n, q.until)
	}
	rows, err := side.conn.Query(ctx, `
		SELECT coalesce(d.wire_prefix, '') || '#' || n.name, coalesce(t.rows, 0) > 0
		FROM millrace.bucket_names n JOIN millrace.definition_versions d ON d.id = n.definition LEFT JOIN millrace.bucket_totals t ON t.bucket = n.id
		WHERE strpos(n.name, to_jsonb($1::text)::text) > 0 ORDER BY 1 LIMIT 1000`, user)
	if err != nil {
		return nil, fmt.Errorf("look for buckets of the user: %w", err)
	}
	var bucket string
	var filled bool
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &filled}, func() error {
		out.Buckets = append(out.Buckets, bucket)
		out.Served = out.Served || filled
		return nil
	}); err != nil {
		return nil, fmt.Errorf("look for buckets of the user: %w", err)
	}
	out.add("names of buckets (millrace.bucket_names)", "user", int64(len(out.Buckets)), "the definition is retired: deploy rules without it, or change it")
	slices.Sort(out.Buckets)
	return out, nil
}
