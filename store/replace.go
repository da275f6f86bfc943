package store

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// replace makes what a table has in the definitions of a scope what its shadow
// has, or nothing for a ChangeTruncate. It works on whole sets inside the
// database, so memory is bounded whatever the number of rows, and nothing is
// visible before COMMIT (R23).
//
// Ops are written only where something differs: a REMOVE for an identity that
// is not there any more, a PUT where the data is another. A bucket that the
// table alone feeds, and of which nothing stays, gets one CLEAR instead of a
// REMOVE for each row; it carries the bucket's running sum (I5).
func (w *Writer) replace(ctx context.Context, scope *millrace.Scope, kind millrace.ChangeKind) (err error) {
	ctx, span := millrace.ChildSpan(ctx, "store.replace")
	if span.On() {
		before := w.flush.op
		span.Set(slog.Int("table_id", int(scope.Table)), slog.Bool("truncate", kind == millrace.ChangeTruncate),
			slog.Int("bucket_definitions", len(scope.Buckets)), slog.Int("lookup_definitions", len(scope.Lookups)))
		defer func() {
			span.Set(slog.Int64("numbers", int64(w.flush.op-before)))
			span.End(err)
		}()
	}
	if err := w.writeOut(ctx); err != nil {
		return err
	}
	if kind == millrace.ChangeTruncate {
		if err := w.exec(ctx, "forget the long values of a table", `DELETE FROM millrace.row_wide WHERE source_table = %d`, scope.Table); err != nil {
			return err
		}
		if scope.Shadow != 0 {
			return w.emptyShadow(ctx, scope.Shadow)
		}
	}
	w.rows.drop()
	w.buckets.drop()
	for _, d := range scope.Buckets {
		r := replacement{w, scope.Table, d, scope.Shadow}
		if err := r.run(ctx); err != nil {
			return err
		}
	}
	for _, d := range scope.Lookups {
		if err := w.replaceLookups(ctx, scope.Table, d, scope.Shadow); err != nil {
			return err
		}
	}
	if kind == millrace.ChangeTruncate && !w.hasErrors[scope.Table] {
		return nil
	}
	definitions := list(slices.Concat(scope.Buckets, scope.Lookups, scope.Events))
	w.hasErrors[scope.Table] = true
	return w.exec(ctx, "replace the errors of a table", `
		DELETE FROM millrace.row_errors WHERE definition IN (%[1]s) AND source_table = %[2]d;
		INSERT INTO millrace.row_errors (definition, source_table, row_key, message)
			SELECT DISTINCT ON (definition, row_key) definition, %[2]d, row_key, message FROM millrace.shadow_errors
			WHERE copy = %[3]d AND definition IN (%[1]s) ORDER BY definition, row_key`, definitions, scope.Table, scope.Shadow)
}

// list writes numbers for IN (...); never empty.
func list(ids []millrace.DefinitionID) string {
	var b strings.Builder
	b.WriteString("0")
	for _, id := range ids {
		fmt.Fprintf(&b, ",%d", id)
	}
	return b.String()
}

// exec runs statements made of numbers only. It gives no rows.
func (w *Writer) exec(ctx context.Context, doing, format string, args ...any) error {
	_, err := w.affected(ctx, doing, format, args...)
	return err
}

// affected is exec that gives how many rows the last statement touched. The
// text must not end with a semicolon.
func (w *Writer) affected(ctx context.Context, doing, format string, args ...any) (int64, error) {
	results, err := w.pg.Exec(ctx, planForSets(true)+fmt.Sprintf(format, args...)+";"+planForSets(false)).ReadAll()
	if err != nil {
		return 0, w.failure(doing, err)
	}
	if len(results) < 3 {
		return 0, nil
	}
	return results[len(results)-2].CommandTag.RowsAffected(), nil
}

// planForSets switches the session between the plans of the row path, which
// only look up keys, and those for whole sets, which never do: nothing is known
// of how many rows a table has. Outside of a set-based statement they must be
// off, since a prepared statement is planned when it is first used.
func planForSets(on bool) string {
	sets, keys := "off", "on"
	if on {
		sets, keys = "on", "off"
	}
	return "SELECT set_config('enable_' || n, '" + sets + "', true) FROM unnest('{seqscan,hashjoin,mergejoin,material,memoize}'::text[]) n" +
		" UNION ALL SELECT set_config('enable_nestloop', '" + keys + "', true);"
}

// replacement is one bucket definition's share of replacing a table. Its
// scratch tables are
//
//	replaced   the outputs there are, from row_state
//	replacing  those there will be, from the shadow: since_op, digest and row
//	           key of the output it continues (null if it is new), whether it
//	           needs a PUT, and n, a number of its own
//	cleared    the buckets that get a CLEAR
type replacement struct {
	w          *Writer
	table      millrace.TableID
	definition millrace.DefinitionID
	shadow     millrace.CopyID
}

func (r replacement) run(ctx context.Context) error {
	if r.shadow == 0 { // as most truncated tables, it may have nothing or little
		if done, err := r.emptySmall(ctx); done || err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{r.gather, r.chooseClears, r.clear, r.removeRest, r.put, r.restate, r.noteChanged} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.w.exec(ctx, "replace a table", `DROP TABLE pg_temp.replaced, pg_temp.replacing, pg_temp.cleared`)
}

// gather fills replaced and replacing, and makes the buckets that are new.
func (r replacement) gather(ctx context.Context) error {
	w := r.w
	err := w.exec(ctx, "gather what a table has", `
		CREATE TEMP TABLE replaced ON COMMIT DROP AS
		SELECT row_key, bucket, since_op, digest, type, coalesce(row_id, row_key) AS row_id, coalesce(subkey, '') COLLATE "C" AS subkey
		FROM millrace.row_state WHERE definition = %[1]d AND source_table = %[2]d
		UNION ALL
		SELECT s.row_key, m.bucket, m.since_op, m.digest, m.type, coalesce(m.row_id, s.row_key), coalesce(m.subkey, '')
		FROM millrace.row_state s CROSS JOIN LATERAL unnest(s.more) m WHERE s.definition = %[1]d AND s.source_table = %[2]d;
		ANALYZE pg_temp.replaced`, r.definition, r.table)
	if err != nil {
		return err
	}
	made, err := w.affected(ctx, "make buckets of a replaced table", `
		INSERT INTO millrace.bucket_names (id, definition, name)
		SELECT %d + row_number() OVER (ORDER BY bucket), %d, bucket
		FROM (SELECT DISTINCT bucket FROM millrace.shadow_rows WHERE copy = %d AND definition = %[2]d) s
		WHERE NOT EXISTS (SELECT FROM millrace.bucket_names b WHERE b.definition = %[2]d AND b.name = s.bucket)`,
		w.flush.bucket, r.definition, r.shadow)
	if err != nil {
		return err
	}
	w.flush.bucket += millrace.BucketID(made)
	w.flush.bucketBase = w.flush.bucket // their totals are inserted below
	data := "WITH DATA"
	if r.shadow == 0 {
		data = "WITH NO DATA"
	}
	return w.exec(ctx, "gather what a table will have", `
		CREATE TEMP TABLE replacing ON COMMIT DROP AS
		WITH new AS MATERIALIZED (
			SELECT s.*, b.id AS bucket_id FROM millrace.shadow_rows s
			JOIN millrace.bucket_names b ON b.definition = %[1]d AND b.name = s.bucket
			WHERE s.copy = %[2]d AND s.definition = %[1]d),
		latest AS (
			SELECT bucket, type, row_id, coalesce(subkey, '') COLLATE "C" AS subkey, max(op_id) AS op_id FROM millrace.ops
			WHERE definition = %[1]d AND kind = 1 AND bucket IN (SELECT bucket FROM pg_temp.replaced)
			GROUP BY 1, 2, 3, 4)
		SELECT row_number() OVER (ORDER BY n.bucket_id, n.row_key) AS n, n.row_key, n.bucket_id AS bucket, n.type, n.row_id,
			coalesce(n.subkey, '') COLLATE "C" AS subkey, n.checksum, n.digest, n.data,
			r.since_op, r.digest AS old_digest, r.row_key AS old_key,
			r.since_op IS NULL OR o.data IS DISTINCT FROM n.data AS put
		FROM new n
		LEFT JOIN pg_temp.replaced r ON r.bucket = n.bucket_id AND r.type = n.type AND r.row_id = n.row_id AND r.subkey = coalesce(n.subkey, '')
		LEFT JOIN latest l ON l.bucket = r.bucket AND l.type = r.type AND l.row_id = r.row_id AND l.subkey = r.subkey
		LEFT JOIN millrace.ops o ON o.definition = %[1]d AND o.bucket = l.bucket AND o.op_id = l.op_id
		%[3]s;
		ANALYZE pg_temp.replacing`, r.definition, r.shadow, data)
}

// clearFrom is how many rows must leave for a CLEAR.
const clearFrom = 2

// chooseClears finds the buckets that the table alone feeds, of which nothing
// stays as it is. Rows there all end, and those that come are new.
func (r replacement) chooseClears(ctx context.Context) error {
	return r.w.exec(ctx, "find buckets to clear", `
		CREATE TEMP TABLE cleared ON COMMIT DROP AS
		SELECT row_number() OVER (ORDER BY t.bucket) AS n, t.bucket, t.checksum
		FROM (
			SELECT o.bucket, count(*) AS rows,
				count(*) FILTER (WHERE n.bucket IS NULL) AS leaving, count(*) FILTER (WHERE NOT n.put) AS staying
			FROM pg_temp.replaced o
			LEFT JOIN pg_temp.replacing n ON n.bucket = o.bucket AND n.type = o.type AND n.row_id = o.row_id AND n.subkey = o.subkey
			GROUP BY o.bucket) b
		JOIN millrace.bucket_totals t ON t.bucket = b.bucket
		WHERE b.rows = t.rows AND b.leaving >= %d AND b.staying = 0;
		UPDATE pg_temp.replacing SET since_op = NULL, old_digest = NULL, old_key = NULL, put = true
			WHERE bucket IN (SELECT bucket FROM pg_temp.cleared);
		ANALYZE pg_temp.cleared`, clearFrom)
}

// clear writes the CLEARs. Each row that ends with one has a number of its own
// below it, so that history tells them apart.
func (r replacement) clear(ctx context.Context) error {
	f := &r.w.flush
	ended, err := r.w.affected(ctx, "end the rows of cleared buckets", `
		INSERT INTO millrace.ended_outputs (definition, source_table, row_key, ended_op, since_op, bucket, type, row_id, subkey)
		SELECT %d, %d, row_key, %d + row_number() OVER (ORDER BY bucket, row_key), since_op, bucket, type, row_id, nullif(subkey, '')
		FROM pg_temp.replaced WHERE bucket IN (SELECT bucket FROM pg_temp.cleared)`, r.definition, r.table, f.op)
	if err != nil || ended == 0 {
		return err
	}
	f.op += millrace.OpID(ended)
	cleared, err := r.w.affected(ctx, "clear buckets", `
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind)
			SELECT bucket, %[1]d + n, %[2]d, checksum, 4 FROM pg_temp.cleared;
		UPDATE millrace.bucket_totals t SET last_op = %[1]d + c.n, ops = t.ops + 1, rows = 0
			FROM pg_temp.cleared c WHERE t.bucket = c.bucket`, f.op, r.definition)
	f.op += millrace.OpID(cleared)
	return err
}

// removePage is how many rows that leave are fetched at once.
const removePage = 5_000

// removeRest removes one by one what leaves buckets that go on.
func (r replacement) removeRest(ctx context.Context) error {
	w := r.w
	err := w.exec(ctx, "find rows that leave", `
		DECLARE millrace_leaving NO SCROLL CURSOR FOR
		SELECT o.row_key, o.bucket, o.since_op, o.type, o.row_id, o.subkey FROM pg_temp.replaced o
		WHERE o.bucket NOT IN (SELECT bucket FROM pg_temp.cleared) AND NOT EXISTS (SELECT FROM pg_temp.replacing n
			WHERE n.bucket = o.bucket AND n.type = o.type AND n.row_id = o.row_id AND n.subkey = o.subkey)
		ORDER BY o.bucket, o.row_key`)
	if err != nil {
		return err
	}
	for n := removePage; n == removePage; {
		rows, err := w.conn.Query(ctx, fmt.Sprintf(`FETCH %d FROM millrace_leaving`, removePage), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return w.failure("read rows that leave", err)
		}
		n = 0
		row := rowState{table: r.table}
		var o output
		_, err = pgx.ForEachRow(rows, []any{&row.key, &o.bucket, &o.since, &o.typ, &o.rowID, &o.subkey}, func() error {
			n++
			w.remove(&row, r.definition, &o)
			return nil
		})
		if err != nil {
			return w.failure("read rows that leave", err)
		}
		if err := w.writeOut(ctx); err != nil {
			return err
		}
	}
	return w.exec(ctx, "find rows that leave", `CLOSE millrace_leaving`)
}

// put writes the PUTs. Rows that need none leave a hole in the numbers.
func (r replacement) put(ctx context.Context) error {
	f := &r.w.flush
	_, err := r.w.affected(ctx, "put the rows of a replaced table", `
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, subkey, data)
			SELECT bucket, %[1]d + n, %[2]d, checksum, 1, type, row_id, nullif(subkey, ''), data FROM pg_temp.replacing WHERE put;
		INSERT INTO millrace.bucket_totals AS t (bucket, last_op, ops, rows, bytes, checksum)
			SELECT bucket, max(%[1]d + n), count(*), count(*) FILTER (WHERE since_op IS NULL), sum(octet_length(data)), millrace.wrap32(sum(checksum))
			FROM pg_temp.replacing WHERE put GROUP BY bucket
			ON CONFLICT (bucket) DO UPDATE SET last_op = excluded.last_op, ops = t.ops + excluded.ops, rows = t.rows + excluded.rows,
				bytes = t.bytes + excluded.bytes, checksum = millrace.wrap32(t.checksum::bigint + excluded.checksum)`,
		f.op, r.definition)
	if err != nil {
		return err
	}
	// The numbers of all rows are used up; see restate.
	count, err := r.w.affected(ctx, "count the rows of a replaced table", `
		UPDATE pg_temp.replacing SET since_op = %d + n WHERE since_op IS NULL; SELECT FROM pg_temp.replacing`, f.op)
	f.op += millrace.OpID(count)
	return err
}

// restate writes the row states that differ.
func (r replacement) restate(ctx context.Context) error {
	return r.w.exec(ctx, "write the row states of a replaced table", `
		CREATE TEMP TABLE restated ON COMMIT DROP AS
			SELECT o.row_key FROM pg_temp.replaced o WHERE NOT EXISTS (SELECT FROM pg_temp.replacing n
				WHERE n.bucket = o.bucket AND n.type = o.type AND n.row_id = o.row_id AND n.subkey = o.subkey AND n.old_key = o.row_key AND n.row_key = o.row_key)
			UNION
			SELECT row_key FROM pg_temp.replacing WHERE old_key IS DISTINCT FROM row_key OR digest IS DISTINCT FROM old_digest;
		ANALYZE pg_temp.restated;
		DELETE FROM millrace.row_state WHERE definition = %[1]d AND source_table = %[2]d AND row_key IN (SELECT row_key FROM pg_temp.restated);
		INSERT INTO millrace.row_state (`+stateColumns+`)
			SELECT %[1]d, %[2]d, (o[1]).bucket, (o[1]).since_op, (o[1]).digest, row_key, (o[1]).type, (o[1]).row_id, (o[1]).subkey,
				CASE WHEN cardinality(o) > 1 THEN o[2:] END
			FROM (
				SELECT row_key, array_agg(ROW(bucket, since_op, digest, type, nullif(row_id, row_key), nullif(subkey, ''))::millrace.row_output ORDER BY n) AS o
				FROM pg_temp.replacing WHERE row_key IN (SELECT row_key FROM pg_temp.restated) GROUP BY row_key) s;
		DROP TABLE pg_temp.restated`, r.definition, r.table)
}

// noteChanged tells the checkpoint which buckets changed, beside those in which
// single rows were removed.
func (r replacement) noteChanged(ctx context.Context) error {
	f := &r.w.flush
	if f.changedUnknown {
		return nil
	}
	rows, err := r.w.conn.Query(ctx, fmt.Sprintf(`
		SELECT bucket FROM pg_temp.cleared UNION SELECT bucket FROM pg_temp.replacing WHERE put LIMIT %d`, maxChangedBuckets+1), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return r.w.failure("read changed buckets", err)
	}
	var bucket int64
	_, err = pgx.ForEachRow(rows, []any{&bucket}, func() error {
		f.changed[millrace.BucketID(bucket)] = struct{}{}
		return nil
	})
	if err != nil {
		return r.w.failure("read changed buckets", err)
	}
	if len(f.changed) > maxChangedBuckets {
		f.changedUnknown = true
		clear(f.changed)
	}
	return nil
}

// replaceLookups ends the table's lookups that the shadow does not have, and
// adds those that only it has.
func (w *Writer) replaceLookups(ctx context.Context, table millrace.TableID, d millrace.DefinitionID, shadow millrace.CopyID) error {
	f := &w.flush
	ended, err := w.affected(ctx, "end lookups of a replaced table", `
		UPDATE millrace.lookups l SET removed = %d + o.n FROM (
			SELECT l.added, row_number() OVER (ORDER BY l.added) AS n FROM millrace.lookups l
			WHERE l.definition = %d AND l.source_table = %d AND l.removed = 9223372036854775807
			AND NOT EXISTS (SELECT FROM millrace.shadow_lookups s WHERE s.copy = %d AND s.definition = l.definition
				AND s.row_key = l.row_key AND s.key = l.key AND s.outputs = l.outputs)) o
		WHERE l.added = o.added`, f.op, d, table, shadow)
	if err != nil {
		return err
	}
	f.op += millrace.OpID(ended)
	begun, err := w.affected(ctx, "add lookups of a replaced table", `
		INSERT INTO millrace.lookups (added, definition, source_table, row_key, key, outputs)
		SELECT %d + row_number() OVER (ORDER BY s.row_key, s.key), %d, %d, s.row_key, s.key, s.outputs
		FROM (SELECT DISTINCT row_key, key, outputs FROM millrace.shadow_lookups WHERE copy = %d AND definition = %[2]d) s
		WHERE NOT EXISTS (SELECT FROM millrace.lookups l WHERE l.definition = %[2]d AND l.source_table = %[3]d AND l.row_key = s.row_key
			AND l.key = s.key AND l.outputs = s.outputs AND l.removed = 9223372036854775807)`, f.op, d, table, shadow)
	if err != nil {
		return err
	}
	f.op += millrace.OpID(begun)
	f.openedBase = f.op
	if ended+begun > 0 {
		f.lookups[d] = struct{}{}
	}
	return nil
}
