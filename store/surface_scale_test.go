package store

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// grow makes a sidecar of n ops in definition 0 with the tables beside it in
// proportion: a tenth of the ops in one bucket, in which every row was updated
// nine times, the others in buckets of a hundred rows.
func (x *world) grow(tb testing.TB, n int) (big string) {
	tb.Helper()
	def, table := int32(x.set.Definitions[0].ID), int32(x.tables[0].ID)
	lookup := int32(x.set.Definitions[2].ID)
	head := x.head(tb)
	for _, s := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO millrace.bucket_names (id, definition, name) SELECT i + 1, $1::int4, 'by_owner["u' || i || '"]' FROM generate_series(0, $2::int * 9 / 1000) i`, []any{def, n}},
		{`INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
			SELECT CASE WHEN i % 10 = 0 THEN 1 ELSE i / 10 % ($2::int * 9 / 1000) + 2 END, i + $3::int8, $1::int4, i % 1000003, 1, 'lists',
				CASE WHEN i % 10 = 0 THEN 'b' || i / 10 % ($2::int / 100) ELSE 'r' || i END,
				'{"id":"' || i || '","name":"' || repeat('x', 60) || '"}' FROM generate_series(1, $2::int) i`, []any{def, n, head}},
		{`INSERT INTO millrace.bucket_totals (bucket, last_op, ops, rows, bytes, checksum)
			SELECT bucket, max(op_id), count(*), count(DISTINCT row_id), sum(length(data)), millrace.wrap32(sum(checksum)) FROM millrace.ops GROUP BY bucket`, nil},
		{`INSERT INTO millrace.row_state (definition, source_table, bucket, since_op, row_key, type)
			SELECT DISTINCT ON (row_id) definition, $1::int4, bucket, op_id, row_id, type FROM millrace.ops ORDER BY row_id, op_id`, []any{table}},
		{`INSERT INTO millrace.ended_outputs (definition, source_table, row_key, ended_op, since_op, bucket, type, row_id)
			SELECT $1::int4, $2::int4, 'gone' || i, i + $4::int8, i + $4::int8 - 1, 2, 'lists', 'gone' || i FROM generate_series(1, $3::int / 20) i`, []any{def, table, n, head}},
		{`INSERT INTO millrace.lookups (added, definition, source_table, row_key, key, outputs)
			SELECT i + $4::int8, $1::int4, $2::int4, 'r' || i, '["u' || i || '"]', '["u' || i || '"]' FROM generate_series(1, $3::int / 20) i`, []any{lookup, table, n, head}},
		{`INSERT INTO millrace.checkpoint_log (seq, op_id, at, lsns, buckets, lookups)
			SELECT i + 1000, i * 100 + $2::int8, now(), '{"1":"0/10"}', '{2}', '{}' FROM generate_series(1, $1::int / 100) i`, []any{n, head}},
		{`UPDATE millrace.head SET op_id = op_id + $1::int8, seq = 1000 + $1::int / 100`, []any{n}},
		{`ANALYZE`, nil},
	} {
		exec(tb, x.conn, s.sql, s.args...)
	}
	exec(tb, x.conn, `VACUUM millrace.ops`)
	return `by_owner["u0"]`
}

// surfaceQueries is what people ask, with the tables that may be read whole for
// it; others of many rows may not.
func surfaceQueries(big string, head millrace.OpID) []struct {
	name, sql string
	whole     []string
} {
	small := `by_owner["u7"]`
	return []struct {
		name, sql string
		whole     []string
	}{
		{"status", `SELECT * FROM millrace.status`, nil},
		{"replication", `SELECT * FROM millrace.replication`, nil},
		{"definitions", `SELECT * FROM millrace.definitions`, []string{"bucket_names"}},
		{"buckets, one", fmt.Sprintf(`SELECT * FROM millrace.buckets WHERE name = '%s'`, small), nil},
		{"buckets, all", `SELECT * FROM millrace.buckets`, []string{"bucket_names", "bucket_totals"}},
		{"bucket_bloat, worst", `SELECT * FROM millrace.bucket_bloat ORDER BY dead_ops DESC LIMIT 20`, []string{"bucket_names", "bucket_totals"}},
		{"checkpoints, newest", `SELECT * FROM millrace.checkpoints ORDER BY seq DESC LIMIT 10`, nil},
		{"sessions", `SELECT * FROM millrace.sessions`, nil},
		{"pending_write_checkpoints", `SELECT * FROM millrace.pending_write_checkpoints`, nil},
		{"bucket_rows, small", fmt.Sprintf(`SELECT * FROM millrace.bucket_rows('%s')`, small), nil},
		{"bucket_rows, large", fmt.Sprintf(`SELECT * FROM millrace.bucket_rows('%s')`, big), nil},
		{"bucket_rows, then", fmt.Sprintf(`SELECT * FROM millrace.bucket_rows('%s', %d)`, big, head-head/4), nil},
		{"bucket_checksum, now", fmt.Sprintf(`SELECT * FROM millrace.bucket_checksum('%s')`, big), nil},
		{"bucket_checksum, just before", fmt.Sprintf(`SELECT * FROM millrace.bucket_checksum('%s', %d)`, big, head-100), nil},
		{"ops_between, newest", fmt.Sprintf(`SELECT * FROM millrace.ops_between('%s', %d, NULL)`, big, head-1000), nil},
		{"ops_between, a page", fmt.Sprintf(`SELECT * FROM millrace.ops_between('%s', 0, NULL)`, big), nil},
		{"verify_bucket, small", fmt.Sprintf(`SELECT * FROM millrace.verify_bucket('%s')`, small), nil},
		{"row_history, small bucket", `SELECT * FROM millrace.row_history('lists', 'r61')`, nil},
		{"row_history, large bucket", `SELECT * FROM millrace.row_history('lists', 'b61')`, nil},
		{"row_history, gone", `SELECT * FROM millrace.row_history('public.lists', 'gone99')`, nil},
		{"why", `SELECT * FROM millrace.why('lists', 'r61', 'u7')`, nil},
		{"op_time", fmt.Sprintf(`SELECT millrace.op_time(%d)`, head/2), nil},
	}
}

// TestSurfaceScans: on a million ops nothing of the SQL surface reads a large
// table whole, unless it is asked for all of it.
func TestSurfaceScans(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a million ops")
	}
	x := newWorld(t, Options{})
	big := x.grow(t, 1_000_000)
	// What is looked for is found.
	if _, scanned := x.scans(t, `SELECT count(data) FROM millrace.ops`); !slices.Equal(scanned, []string{fmt.Sprintf("ops_%d", x.set.Definitions[0].ID)}) {
		t.Fatalf("a full scan shows as %v", scanned)
	}
	for _, q := range surfaceQueries(big, millrace.OpID(x.head(t))) {
		t.Run(q.name, func(t *testing.T) {
			n, scanned := x.scans(t, q.sql)
			if n == 0 && q.name != "sessions" && q.name != "pending_write_checkpoints" {
				t.Error("it gives nothing")
			}
			for _, table := range scanned {
				if !slices.Contains(q.whole, table) {
					t.Errorf("reads all of %s", table)
				}
			}
		})
	}
}

// scans runs a query and gives the number of its rows and the tables of more than
// 5,000 rows that it read whole.
func (x *world) scans(t *testing.T, sql string) (n int, tables []string) {
	t.Helper()
	// A session of its own: the counters of an older one may hold what its
	// earlier transactions did.
	conn, err := pgx.Connect(t.Context(), x.uri)
	must(t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(t.Context())
	rows, err := tx.Query(t.Context(), sql)
	must(t, err)
	for rows.Next() {
		n++
	}
	must(t, rows.Err())
	rows, err = tx.Query(t.Context(), `
		SELECT s.relname FROM pg_stat_xact_user_tables s JOIN pg_class c ON c.oid = s.relid
		WHERE s.schemaname = 'millrace' AND s.seq_scan > 0 AND c.reltuples > 5000`)
	must(t, err)
	tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return n, tables
}

func (x *world) ask(b *testing.B, sql string) {
	for range b.N {
		rows, err := x.conn.Query(b.Context(), sql)
		must(b, err)
		rows.Close()
		must(b, rows.Err())
	}
}

// BenchmarkSurface times the SQL surface on a sidecar of MILLRACE_BENCH_OPS ops
// (1,000,000 by default); `make bench-sql` runs it.
func BenchmarkSurface(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv("MILLRACE_BENCH_OPS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 10_000 {
			b.Fatalf("MILLRACE_BENCH_OPS=%q is not a number from 10000 on", text)
		}
	}
	x := newWorld(b, Options{})
	began := time.Now()
	big := x.grow(b, n)
	b.Logf("%d ops made in %s", n, time.Since(began).Round(time.Second))
	for _, q := range surfaceQueries(big, millrace.OpID(x.head(b))) {
		b.Run(q.name, func(b *testing.B) { x.ask(b, q.sql) })
	}
	// Once: there is nothing to gain afterwards.
	began = time.Now()
	r, err := x.store.CompactNow(b.Context(), CompactionOptions{Bucket: big})
	must(b, err)
	rate := float64(r.Deleted+r.Emptied) / time.Since(began).Seconds()
	b.Run("compaction, large", func(b *testing.B) { b.ReportMetric(rate, "ops/s") })
	for _, q := range surfaceQueries(big, millrace.OpID(x.head(b))) {
		if q.name == "bucket_rows, large" || q.name == "row_history, large bucket" {
			b.Run(q.name+", compacted", func(b *testing.B) { x.ask(b, q.sql) })
		}
	}
}
