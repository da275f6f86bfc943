package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// addLog stores a log as the history of a new bucket.
func (x *world) addLog(tb testing.TB, bucket int64, name string, log []millrace.Op) {
	tb.Helper()
	def := int32(x.set.Definitions[0].ID)
	exec(tb, x.conn, `INSERT INTO millrace.bucket_names (id, definition, name) VALUES ($1, $2, $3)`, bucket, def, name)
	var state millrace.Reduced
	state.Reduce(log...)
	bytes := 0
	rows := make([][]any, len(log))
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	for i, op := range log {
		bytes += len(op.Data)
		rows[i] = []any{bucket, int64(op.ID), def, int32(op.Checksum), int16(op.Kind), text(op.Type), text(op.RowID), text(op.Subkey), text(op.Data)}
		if !holdsRow(op) {
			rows[i][5], rows[i][6], rows[i][7] = nil, nil, nil
		}
	}
	_, err := x.conn.CopyFrom(tb.Context(), pgx.Identifier{"millrace", "ops"},
		[]string{"bucket", "op_id", "definition", "checksum", "kind", "type", "row_id", "subkey", "data"}, pgx.CopyFromRows(rows))
	must(tb, err)
	exec(tb, x.conn, `INSERT INTO millrace.bucket_totals (bucket, last_op, ops, rows, bytes, checksum) VALUES ($1, $2, $3, $4, $5, $6)`,
		bucket, int64(log[len(log)-1].ID), len(log), len(state.Rows), bytes, int32(state.Checksum))
}

// bucketOps reads the ops of a bucket of the first definition.
func (x *world) bucketOps(tb testing.TB, bucket int64) []millrace.Op {
	tb.Helper()
	rows, err := x.conn.Query(tb.Context(), `
		SELECT op_id, kind, coalesce(type, ''), coalesce(row_id, ''), coalesce(subkey, ''), checksum, coalesce(data, '')
		FROM millrace.ops WHERE definition = $1 AND bucket = $2 ORDER BY op_id`, int32(x.set.Definitions[0].ID), bucket)
	must(tb, err)
	ops, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (op millrace.Op, err error) {
		var kind int16
		var sum int32
		err = row.Scan(&op.ID, &kind, &op.Type, &op.RowID, &op.Subkey, &sum, &op.Data)
		op.Kind, op.Checksum = millrace.OpKind(kind), millrace.Checksum(sum)
		return op, err
	})
	must(tb, err)
	return ops
}

// newCompactor makes a session like that of the decoder's process.
func (x *world) newCompactor(tb testing.TB, opts CompactionOptions) *compactor {
	tb.Helper()
	c, err := x.store.compactor(tb.Context(), opts, x.w.fence)
	must(tb, err)
	tb.Cleanup(func() { _ = c.conn.Close(context.Background()) })
	return c
}

// TestCompactionPlans: the statements read a bucket by its primary key and change
// rows by ctid, whatever the planner knows of the bucket.
func TestCompactionPlans(t *testing.T) {
	x := newWorld(t, Options{})
	c := x.newCompactor(t, CompactionOptions{})
	def := x.set.Definitions[0].ID
	check := func(when string) {
		exec(t, c.conn, `DEALLOCATE ALL`)
		exec(t, c.conn, `PREPARE part AS `+sqlCompactPart(def))
		got := plan(t, c.conn, `EXECUTE part(7, 100, 50000, 40000, 60000)`)
		if strings.Contains(got, "Seq Scan") || strings.Count(got, "Tid Scan") != 3 || strings.Contains(got, "Hash Join") || strings.Contains(got, "Merge") {
			t.Errorf("%s:\n%s", when, got)
		}
		exec(t, c.conn, `PREPARE nth AS `+sqlNthOp(def))
		if got := plan(t, c.conn, `EXECUTE nth(7, 100, 50000, 1000)`); !strings.Contains(got, "Index Only Scan using ops_") {
			t.Errorf("%s:\n%s", when, got)
		}
	}
	check("tables empty")
	x.fill(t, 60_000)
	check("tables full")
}

// TestSA20_CompactionMatchesModel (SA-20 in SQL): each transaction does what the model
// does, floor and totals included. The model's own properties are tested with
// far more logs.
func TestSA20_CompactionMatchesModel(t *testing.T) {
	x := newWorld(t, Options{})
	c := x.newCompactor(t, CompactionOptions{})
	logs := 250
	if testing.Short() {
		logs = 40
	}
	for i := range logs {
		r := rand.New(rand.NewPCG(uint64(i), 2))
		log := randomLog(r, 1+r.IntN(25))
		last := int64(log[len(log)-1].ID)
		bucket := int64(1000 + i)
		x.addLog(t, bucket, fmt.Sprintf("b[%d]", i), log)
		m := &compactModel{ops: slices.Clone(log)}
		var want millrace.Reduced
		want.Reduce(log...)
		for horizon := int64(0); horizon < last; {
			horizon = min(last, horizon+1+r.Int64N(last))
			for more := true; more; {
				c.limits = compactLimits{newsOps: 1 + r.IntN(10), partOps: 1 + r.IntN(10)}
				before := slices.Clone(m.ops)
				m.step(millrace.OpID(horizon), c.limits)
				step, err := c.compactBucket(t.Context(), x.set.Definitions[0].ID, bucket, horizon)
				must(t, err)
				more = step.more
				got := x.bucketOps(t, bucket)
				if !slices.Equal(got, m.ops) {
					t.Fatalf("log %d, %+v, horizon %d:\nbefore %v\nSQL    %v\nmodel  %v", i, c.limits, horizon, before, got, m.ops)
				}
				floor := value[int64](t, x.conn, `SELECT coalesce(max(floor_op), 0) FROM millrace.bucket_floors WHERE bucket = $1`, bucket)
				if floor != int64(m.floor) {
					t.Fatalf("log %d: floor %d, in the model %d\nbefore %v\nnow %v", i, floor, m.floor, before, got)
				}
				bytes := 0
				for _, op := range got {
					bytes += len(op.Data)
				}
				equal(t, []string{fmt.Sprintf("(%d,%d,%d,%d,%d)", last, len(got), len(want.Rows), bytes, int32(want.Checksum))},
					lines(t, x.conn, `SELECT last_op, ops, rows, bytes, checksum FROM millrace.bucket_totals WHERE bucket = $1`, bucket))
			}
			if err := checkComplete(m.ops, millrace.OpID(horizon)); err != nil {
				t.Fatalf("log %d: %v", i, err)
			}
		}
	}
}
