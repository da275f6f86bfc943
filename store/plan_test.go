package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// plan gives the plan of a statement; prepared ones are given as EXECUTE.
func plan(tb testing.TB, conn *pgx.Conn, statement string) string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), "EXPLAIN (COSTS OFF) "+statement, pgx.QueryExecModeSimpleProtocol)
	must(tb, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(tb, err)
	return strings.Join(lines, "\n")
}

// fill makes the tables as large as they really get, in proportion.
func (x *world) fill(tb testing.TB, rows int) {
	tb.Helper()
	for at := 0; at < rows; at += 5_000 {
		changes := make([]millrace.Change, 5_000)
		for i := range changes {
			n := at + i
			key := fmt.Sprintf("k%07d", n)
			changes[i] = x.upsert(n%2, key, x.out(n%2, fmt.Sprintf(`b["%d"]`, n%2_000), "todos", key, `{"id":"x"}`))
			changes[i].Lookups = []millrace.Lookup{x.look(fmt.Sprintf(`["u%d"]`, n%5_000), `["l"]`)}
			changes[i].Wide, changes[i].WideValues = millrace.WideStore, []byte("wide")
		}
		x.apply(tb, changes...)
		x.commit(tb, nil)
	}
	exec(tb, x.conn, `ANALYZE`)
}

// TestRowPathPlans looks at the plans of the writing session: those made for
// empty tables, which a term keeps, and those made for full ones.
func TestRowPathPlans(t *testing.T) {
	x := newWorld(t, Options{})
	check := func(when string) {
		for statement, want := range map[string]struct {
			args string
			cond []string
		}{
			stmtRowState:         {"1,1,'{}'", []string{"Index Cond: ((source_table = $2) AND (row_key = k.row_key))"}},
			stmtLookups:          {"3,1,'{}'", []string{"Index Scan using lookups_row", "Index Cond: ((definition = $1) AND (source_table = $2) AND (row_key = k.row_key))"}},
			stmtBuckets:          {"1,'{}'", []string{"Index Cond: ((definition = $1) AND (name = k.name))"}},
			stmtWide:             {"1,'{}',1", []string{"Index Cond: ((source_table = $1) AND (row_key = k.row_key))"}},
			stmtShadowRowsDelete: {"1,'{}'", []string{"Index Cond: ((copy = $1) AND (row_key = k.row_key))", "TID Cond: (ctid = s.ctid)"}},
			stmtStateDelete:      {"1,1,'{}'", []string{"Index Cond: ((source_table = $2) AND (row_key = k.row_key))", "TID Cond: (ctid = s.ctid)"}},
			stmtTotalsUpdate:     {"'{}','{}','{}','{}','{}','{}'", []string{"Index Cond: (bucket = d.bucket)"}},
			stmtLookupsClose:     {"'{}','{}'", []string{"Index Cond: (added = d.added)"}},
			stmtLookupsDelete:    {"'{}'", []string{"Index Cond: (added = ANY ($1))"}},
			stmtWideDelete:       {"'{}','{}'", []string{"Index Cond: ((source_table = k.source_table) AND (row_key = k.row_key))", "TID Cond: (ctid = r.ctid)"}},
			stmtErrorsDelete:     {"'{}','{}','{}'", []string{"Index Cond: ((definition = k.definition) AND (source_table = k.source_table) AND (row_key = k.row_key))", "TID Cond: (ctid = e.ctid)"}},
		} {
			got := plan(t, x.w.conn, fmt.Sprintf("EXECUTE %s(%s)", statement, want.args))
			for _, cond := range want.cond {
				if !strings.Contains(got, cond) {
					t.Errorf("%s, %s: no %s in\n%s", statement, when, cond, got)
				}
			}
			if strings.Contains(got, "Seq Scan") {
				t.Errorf("%s, %s: a sequential scan in\n%s", statement, when, got)
			}
		}
	}
	check("tables empty")
	x.fill(t, 60_000)
	check("tables full, plans old")
	must(t, x.w.Close(t.Context()))
	x.w = lead(t, x.store)
	check("tables full, plans new")
}

// TestSurfacePlans looks at what functions and relays ask, on full tables.
func TestSurfacePlans(t *testing.T) {
	x := newWorld(t, Options{})
	x.fill(t, 60_000)
	exec(t, x.conn, `INSERT INTO millrace.ended_outputs SELECT 1, 1, 'k' || i, i + 1000000, i, 1, 'todos', 'r' FROM generate_series(1, 50000) i; ANALYZE`)
	for query, want := range map[string]string{
		`SELECT * FROM millrace.ops WHERE definition = 1 AND bucket = 7 AND op_id > 100 AND op_id <= 100000 ORDER BY op_id LIMIT 1000`: "Index Scan using ops_1_pkey",
		`SELECT outputs FROM millrace.lookups WHERE definition = 3 AND key = '["u1"]' AND added <= 100000 AND removed > 100000`:        "using lookups_key",
		`SELECT definition FROM millrace.lookups WHERE added > 170000 AND added <= 170100`:                                             "using lookups_pkey",
		`SELECT definition FROM millrace.lookups WHERE removed > 100 AND removed <= 200 AND removed < 9223372036854775807`:             "lookups_removed",
		`SELECT * FROM millrace.checkpoint_log WHERE seq > 5 ORDER BY seq`:                                                             "checkpoint_log",
		`SELECT c.at FROM millrace.checkpoint_log c WHERE c.op_id >= 50 ORDER BY c.op_id, c.seq LIMIT 1`:                               "checkpoint_log",
		`SELECT * FROM millrace.ended_outputs WHERE source_table = 1 AND row_key = 'k1'`:                                               "ended_outputs_row",
		`SELECT * FROM millrace.row_state WHERE definition = ANY ('{1,2}') AND source_table = ANY ('{1}') AND row_key = 'k0000001'`:    "row_state_1_pkey",
		`SELECT * FROM millrace.bucket_names WHERE definition = 1 AND name = 'b["7"]'`:                                                 "bucket_names_definition_name_key",
	} {
		if got := plan(t, x.conn, query); !strings.Contains(got, want) {
			t.Errorf("%s:\nno %s in\n%s", query, want, got)
		}
	}
}
