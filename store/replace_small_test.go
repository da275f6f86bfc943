package store

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// A table with little in it is emptied through memory, one with more set-based:
// both write the same history.
func TestSmallTruncateWritesTheSame(t *testing.T) {
	type history struct{ ops, ended, states, totals, checkpoint, clears []string }
	of := func(opts Options) (h history) {
		x := newWorld(t, opts)
		for i := range 40 {
			key := fmt.Sprint(i)
			outs := []millrace.Output{x.out(0, fmt.Sprintf(`by_owner["%d"]`, i%7), "lists", key, fmt.Sprintf(`{"n":%d}`, i))}
			if i%3 == 0 { // several outputs of a row, in buckets of both definitions
				outs = append(outs, x.out(0, "extra", "lists", "other id "+key, "{}"), x.out(1, fmt.Sprintf(`by_list["%d"]`, i), "todos", key, "{}"))
			}
			x.apply(t, x.upsert(0, key, outs...))
		}
		// The other table is in one of the buckets, so that it gets no CLEAR.
		x.apply(t, x.upsert(1, "other", x.out(0, `by_owner["1"]`, "lists", "other", "{}")))
		x.commit(t, nil)
		x.apply(t, x.upsert(0, "0", x.out(0, `by_owner["0"]`, "lists", "0", `{"n":100}`))) // in the same flush
		x.apply(t, millrace.Change{Scope: x.scopes[0], Kind: millrace.ChangeTruncate}, x.upsert(0, "1", x.out(0, `by_owner["0"]`, "lists", "1", `{}`)))
		x.commit(t, nil)
		x.verifyAll(t)
		h.ops = lines(t, x.conn, `SELECT definition, bucket, op_id, kind, type, row_id, subkey, checksum, data FROM millrace.ops ORDER BY op_id`)
		h.ended = lines(t, x.conn, `SELECT definition, source_table, row_key, ended_op, since_op, bucket, type, row_id, subkey FROM millrace.ended_outputs ORDER BY ended_op`)
		h.states = lines(t, x.conn, `SELECT definition, source_table, bucket, since_op, digest, row_key, type, row_id, subkey, more FROM millrace.row_state ORDER BY 1, 2, row_key`)
		h.totals = lines(t, x.conn, `SELECT bucket, last_op, ops, rows, bytes, checksum FROM millrace.bucket_totals ORDER BY bucket`)
		h.checkpoint = lines(t, x.conn, `SELECT op_id, ARRAY(SELECT unnest(buckets) ORDER BY 1) FROM millrace.checkpoint_log ORDER BY seq DESC LIMIT 1`)
		h.clears = lines(t, x.conn, `SELECT count(*) FROM millrace.ops WHERE kind = 4`)
		return h
	}
	small, sets := of(Options{}), of(Options{smallTable: 1})
	equal(t, sets.ops, small.ops)
	equal(t, sets.ended, small.ended)
	equal(t, sets.states, small.states)
	equal(t, sets.totals, small.totals)
	equal(t, sets.checkpoint, small.checkpoint)
	equal(t, []string{"(7)"}, small.clears) // six buckets of owners and extra
}

// BenchmarkTruncate is a TRUNCATE of a small table that feeds two definitions, in
// a flush of its own: as it is, and set-based. Beside time it reports what does not
// depend on the machine's load: WAL written, and how many oids were used up by scratch
// tables, their types and TOAST tables.
func BenchmarkTruncate(b *testing.B) {
	for _, rows := range []int{0, 10, 100, 1000} {
		for name, small := range map[string]int{"memory": smallTable, "sets": 1} {
			b.Run(fmt.Sprintf("rows=%d/%s", rows, name), func(b *testing.B) {
				x := newWorld(b, Options{smallTable: small})
				scope := *x.scopes[0]
				scope.Lookups = nil
				b.StopTimer()
				var wal, oids int64
				for range b.N {
					for i := range rows {
						key := fmt.Sprint(i)
						c := x.upsert(0, key, x.out(0, fmt.Sprintf("b%d", i%20), "lists", key, "{}"), x.out(1, "list", "lists", key, "{}"))
						c.Scope = &scope
						x.apply(b, c)
					}
					x.commit(b, nil)
					wal -= value[int64](b, x.conn, walWritten)
					before := value[int64](b, x.conn, nextOID)
					b.StartTimer()
					x.apply(b, millrace.Change{Scope: &scope, Kind: millrace.ChangeTruncate})
					x.commit(b, nil)
					b.StopTimer()
					wal += value[int64](b, x.conn, walWritten)
					oids += value[int64](b, x.conn, nextOID) - before - 1
				}
				b.ReportMetric(float64(wal)/float64(b.N), "wal-B/op")
				b.ReportMetric(float64(oids)/float64(b.N), "oids/op")
			})
		}
	}
}

const (
	walWritten = `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`
	nextOID    = `SELECT pg_catalog.lo_create(0)::bigint` // takes one itself
)
