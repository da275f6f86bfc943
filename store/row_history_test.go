package store

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// stayOpsByScan lists the stays whose ops, read without any knowledge of
// compaction, are not what stay_ops gives.
const stayOpsByScan = `
	WITH stays AS (
		SELECT s.definition, u.bucket, u.type, u.row_id, u.subkey, u.since_op, NULL::bigint AS until_op
		FROM millrace.row_state s CROSS JOIN LATERAL millrace.row_outputs(s) u
		UNION ALL
		SELECT definition, bucket, type, row_id, subkey, since_op, ended_op FROM millrace.ended_outputs)
	SELECT s.*, want, got FROM stays s CROSS JOIN LATERAL (
		SELECT (SELECT jsonb_agg(jsonb_build_object('op_id', o.op_id, 'kind', (ARRAY['PUT', 'REMOVE'])[o.kind],
				'at', millrace.op_time(o.op_id), 'data', o.data::jsonb) ORDER BY o.op_id)
			FROM millrace.ops o
			WHERE o.definition = s.definition AND o.bucket = s.bucket AND o.op_id >= s.since_op AND o.op_id <= coalesce(s.until_op, (SELECT op_id FROM millrace.head))
				AND o.type = s.type AND o.row_id = s.row_id AND o.subkey IS NOT DISTINCT FROM s.subkey) AS want,
			millrace.stay_ops(s.definition, s.bucket, s.type, s.row_id, s.subkey, s.since_op, s.until_op) AS got) g
	WHERE want IS DISTINCT FROM got`

// TestRowHistoryOfCompactedBuckets: whatever was compacted, and how far, the ops of
// a row that are looked for by means of it are those that reading all would find.
func TestRowHistoryOfCompactedBuckets(t *testing.T) {
	x := newWorld(t, Options{})
	x.castShadows(t)
	c := x.newCompactor(t, CompactionOptions{})
	ctx := context.Background()
	must := func(rt *rapid.T, err error) {
		if err != nil {
			rt.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 4).Draw(rt, "flushes") {
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				_, change := x.draw(rt)
				must(rt, x.w.Apply(ctx, []millrace.Change{change}))
			}
			x.lsn += 8
			_, err := x.w.Commit(ctx, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: x.lsn}}})
			must(rt, err)
		}
		head := x.head(t)
		for _, bucket := range value[[]int64](t, x.conn, `SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM millrace.bucket_names`) {
			if rapid.Bool().Draw(rt, "left alone") {
				continue
			}
			c.limits = compactLimits{newsOps: rapid.IntRange(1, 100).Draw(rt, "news"), partOps: rapid.IntRange(1, 100).Draw(rt, "part")}
			definition := value[millrace.DefinitionID](t, x.conn, `SELECT definition FROM millrace.bucket_names WHERE id = $1`, bucket)
			horizon := rapid.Int64Range(max(1, head-200), head).Draw(rt, "horizon")
			for range rapid.IntRange(1, 20).Draw(rt, "steps") {
				step, err := c.compactBucket(ctx, definition, bucket, horizon)
				must(rt, err)
				if !step.more {
					break
				}
			}
		}
		if wrong := lines(t, x.conn, stayOpsByScan); len(wrong) > 0 {
			rt.Fatalf("%d stays have other ops, the first: %s", len(wrong), wrong[0])
		}
	})
	if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.bucket_compactions WHERE compacted_to > 0`); n == 0 {
		t.Error("nothing was compacted")
	}
}

// TestRowHistoryReadsWhatIsNew: a row of a bucket that is compacted, or where
// nothing is superseded, is found without reading the bucket.
func TestRowHistoryReadsWhatIsNew(t *testing.T) {
	x := newWorld(t, Options{})
	const rows = 20_000
	def, table := x.set.Definitions[0].ID, x.tables[0].ID
	exec(t, x.conn, `INSERT INTO millrace.bucket_names (id, definition, name) VALUES (1, $1, 'by_owner["all"]')`, def)
	exec(t, x.conn, `INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
		SELECT 1, i + 100, $1, 1, 1, 'lists', 'r' || i, '{}' FROM generate_series(1, $2::int) i`, def, rows)
	exec(t, x.conn, `INSERT INTO millrace.row_state (definition, source_table, bucket, since_op, row_key, type)
		SELECT $1, $2, 1, i + 100, 'r' || i, 'lists' FROM generate_series(1, $3::int) i`, def, table, rows)
	exec(t, x.conn, `INSERT INTO millrace.bucket_totals (bucket, last_op, ops, rows, bytes, checksum) VALUES (1, $1::int + 100, $1, $1, 0, 0)`, rows)
	exec(t, x.conn, `UPDATE millrace.head SET op_id = $1::int + 100`, rows)
	exec(t, x.conn, `ANALYZE`)
	read := func(what string) {
		t.Helper()
		// Tuples that scans of the primary key gave, in this transaction.
		conn := connect(t, x.uri)
		tx, err := conn.Begin(t.Context())
		must(t, err)
		defer tx.Rollback(t.Context())
		equal(t, []string{"(101)"}, lines(t, conn, `SELECT since_op FROM millrace.row_history('lists', 'r1') WHERE jsonb_array_length(ops) = 1`))
		if n := value[int](t, conn, `SELECT sum(idx_tup_fetch + seq_tup_read)::int FROM pg_stat_xact_user_tables WHERE relid = $1::text::regclass`, fmt.Sprintf("millrace.ops_%d", def)); n > 10 {
			t.Errorf("%s: %d ops were read", what, n)
		}
	}
	read("only rows")
	exec(t, x.conn, `UPDATE millrace.bucket_totals SET rows = rows - 1`)
	exec(t, x.conn, `INSERT INTO millrace.bucket_compactions (bucket, compacted_to) VALUES (1, $1::int + 95)`, rows)
	read("compacted")
}
