package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// history puts a few rows through their life. Op ids from 2 on: l1 in A (2), l2
// in A (3), l1 changed (4), l1 moved to B (5 removed, 6 put), l2 deleted (7).
func (x *world) history(tb testing.TB) {
	l1, l2 := `{"id":"l1","n":1}`, `{"id":"l2"}`
	a, b := `by_owner["a"]`, `by_owner["b"]`
	x.apply(tb, x.upsert(0, "l1", x.out(0, a, "lists", "l1", l1)), x.upsert(0, "l2", x.out(0, a, "lists", "l2", l2)))
	x.commit(tb, nil)
	x.apply(tb, x.upsert(0, "l1", x.out(0, a, "lists", "l1", `{"id":"l1","n":2}`)))
	x.commit(tb, nil)
	x.apply(tb, x.upsert(0, "l1", x.out(0, b, "lists", "l1", `{"id":"l1","n":2}`)))
	x.commit(tb, nil)
	x.apply(tb, x.delete(0, "l2"))
	x.commit(tb, nil)
}

func TestBucketFunctions(t *testing.T) {
	x := newWorld(t, Options{})
	x.history(t)
	prefix := x.set.Definitions[0].WirePrefix
	for _, c := range []struct {
		sql  string
		args []any
		want []string
	}{
		{`SELECT * FROM millrace.bucket_rows($1)`, []any{`by_owner["a"]`}, []string{}},
		{`SELECT * FROM millrace.bucket_rows($1)`, []any{`by_owner["b"]`}, []string{`(lists,l1,,6,"{""id"":""l1"",""n"":2}")`}},
		{`SELECT * FROM millrace.bucket_rows($1, 3)`, []any{prefix + `#by_owner["a"]`}, []string{`(lists,l1,,2,"{""id"":""l1"",""n"":1}")`, `(lists,l2,,3,"{""id"":""l2""}")`}},
		{`SELECT * FROM millrace.bucket_rows($1, 4)`, []any{`by_owner["a"]`}, []string{`(lists,l1,,4,"{""id"":""l1"",""n"":2}")`, `(lists,l2,,3,"{""id"":""l2""}")`}},
		{`SELECT * FROM millrace.bucket_rows($1, 5)`, []any{`by_owner["a"]`}, []string{`(lists,l2,,3,"{""id"":""l2""}")`}},
		{`SELECT * FROM millrace.bucket_rows($1, 0)`, []any{`by_owner["a"]`}, []string{}}, // before the rule set was in force
		{`SELECT op_id, kind, row_id, data IS NOT NULL AS data FROM millrace.ops_between($1, 3, 7)`, []any{`by_owner["a"]`}, []string{`(4,PUT,l1,t)`, `(5,REMOVE,l1,f)`, `(7,REMOVE,l2,f)`}},
		{`SELECT op_id FROM millrace.ops_between($1, 0, 1000000, 2)`, []any{`by_owner["a"]`}, []string{`(2)`, `(3)`}},
		{`SELECT count(*) FROM millrace.ops_between($1, 0, NULL, NULL)`, []any{`by_owner["a"]`}, []string{`(5)`}},
		{`SELECT c.op_id, c.ops, c.checksum = b.checksum AS equal FROM millrace.bucket_checksum($1) c, millrace.buckets b WHERE b.name = $1`, []any{`by_owner["a"]`}, []string{`(7,5,t)`}},
		{`SELECT ops, checksum FROM millrace.bucket_checksum($1, 2)`, []any{`by_owner["a"]`},
			[]string{fmt.Sprintf("(1,%d)", int32(millrace.PutChecksum("lists", "l1", "", `{"id":"l1","n":1}`)))}},
		{`SELECT ok, ops, wrong_ops, rows FROM millrace.verify_bucket($1)`, []any{`by_owner["a"]`}, []string{`(t,5,0,0)`}},
		{`SELECT definition, name, served, rows, ops, last_op FROM millrace.buckets ORDER BY 2`, nil, []string{`(by_owner,"by_owner[""a""]",t,0,5,7)`, `(by_owner,"by_owner[""b""]",t,1,1,6)`}},
		{`SELECT kind, name, state, rule_sets, buckets FROM millrace.definitions`, nil, []string{`(bucket,by_owner,active,{1},2)`, `(bucket,by_list,active,{1},0)`, `(lookup,by_list,active,{1},0)`}},
	} {
		equal(t, c.want, lines(t, x.conn, c.sql, c.args...))
	}
}

func TestVerifyBucketFindsFaults(t *testing.T) {
	for _, c := range []struct{ fault, want string }{
		{`UPDATE millrace.ops SET data = '{"id":"l1","n":3}' WHERE op_id = 4`, `(f,1,4)`},
		{`UPDATE millrace.ops SET checksum = checksum + 1 WHERE op_id = 3`, `(f,1,3)`},
		{`DELETE FROM millrace.ops WHERE op_id = 7`, `(f,0,)`},
		{`UPDATE millrace.bucket_totals SET checksum = checksum # 1`, `(f,0,)`},
		{`UPDATE millrace.bucket_totals SET rows = rows + 1`, `(f,0,)`},
	} {
		x := newWorld(t, Options{})
		x.history(t)
		exec(t, x.conn, c.fault)
		equal(t, []string{c.want}, lines(t, x.conn, `SELECT ok, wrong_ops, first_wrong_op FROM millrace.verify_bucket('by_owner["a"]')`))
	}
}

// TestClearMakesOlderOpsVoid has a CLEAR as compaction will write it.
func TestClearMakesOlderOpsVoid(t *testing.T) {
	x := newWorld(t, Options{})
	x.history(t)
	want := lines(t, x.conn, `SELECT checksum FROM millrace.bucket_checksum('by_owner["a"]')`)
	exec(t, x.conn, `
		WITH gone AS (DELETE FROM millrace.ops WHERE bucket = 1 AND op_id <= 4 RETURNING checksum)
		INSERT INTO millrace.ops (definition, bucket, op_id, kind, checksum) SELECT 1, 1, 4, 4, millrace.wrap32(sum(checksum)) FROM gone;
		UPDATE millrace.bucket_totals SET ops = 3 WHERE bucket = 1`)
	equal(t, want, lines(t, x.conn, `SELECT checksum FROM millrace.bucket_checksum('by_owner["a"]')`))
	equal(t, []string{`(t,3)`}, lines(t, x.conn, `SELECT ok, ops FROM millrace.verify_bucket('by_owner["a"]')`))
	equal(t, []string{}, lines(t, x.conn, `SELECT row_id FROM millrace.bucket_rows('by_owner["a"]')`))
}

func TestRowHistory(t *testing.T) {
	x := newWorld(t, Options{})
	x.history(t)
	p := x.set.Definitions[0].WirePrefix + "#"
	const q = `SELECT bucket_name, client_row_id, since_op, until_op, since <= until AS times, jsonb_path_query_array(ops, '$[*].op_id') AS ops FROM millrace.row_history`
	equal(t, []string{`("` + p + `by_owner[""a""]",l1,2,5,t,"[2, 4, 5]")`, `("` + p + `by_owner[""b""]",l1,6,,,[6])`},
		lines(t, x.conn, q+`('public.lists', 'l1')`))
	equal(t, []string{`("` + p + `by_owner[""a""]",l2,3,7,t,"[3, 7]")`}, lines(t, x.conn, q+`('main.public.lists', 'l2')`))
	equal(t, []string{`("` + p + `by_owner[""b""]",l1,6,,,[6])`}, lines(t, x.conn, q+`('public.lists', 'l1', 'by_owner["b"]')`))
	equal(t, []string{}, lines(t, x.conn, q+`('public.todos', 'l1')`))
	// A definition that is only being built shows nothing.
	set, err := x.w.Deploy(t.Context(), "other", []millrace.Definition{{Kind: millrace.BucketDefinition, Key: "n", Name: "n", Hash: "n"}})
	must(t, err)
	scope := &millrace.Scope{Table: x.tables[0].ID, Buckets: []millrace.DefinitionID{set.Definitions[0].ID}}
	x.apply(t, millrace.Change{Scope: scope, Kind: millrace.ChangeUpsert, Key: "l9", Outputs: []millrace.Output{{Definition: set.Definitions[0].ID, Bucket: "n[]", Type: "lists", RowID: "l9", Data: "{}"}}})
	x.commit(t, nil)
	equal(t, []string{}, lines(t, x.conn, q+`('public.lists', 'l9')`))
	equal(t, []string{}, lines(t, x.conn, `SELECT * FROM millrace.bucket_rows($1)`, set.Definitions[0].WirePrefix+"#n[]"))
	equal(t, []string{`(t)`}, lines(t, x.conn, `SELECT ok FROM millrace.verify_bucket($1)`, set.Definitions[0].WirePrefix+"#n[]"))
	x.commit(t, &millrace.Flush{Activate: set.ID})
	if got := lines(t, x.conn, q+`('public.lists', 'l9')`); len(got) != 1 {
		t.Errorf("after activation: %v", got)
	}
	equal(t, []string{}, lines(t, x.conn, q+`('public.lists', 'l1')`))
}

func TestUnknownNamesAreExplained(t *testing.T) {
	x := newWorld(t, Options{})
	x.history(t)
	x.apply(t, x.upsert(0, "m", x.out(0, "same", "lists", "m", "{}"), x.out(1, "same", "lists", "m", "{}")))
	x.commit(t, nil)
	for sql, want := range map[string][]string{
		`SELECT * FROM millrace.bucket_rows('by_owner["aa"]')`:         {`there is no bucket by_owner["aa"]`, `Nearest: by_owner["a"], by_owner["b"]`},
		`SELECT * FROM millrace.bucket_rows('same')`:                   {`bucket same is in several definitions`, x.set.Definitions[0].WirePrefix + "#same, " + x.set.Definitions[1].WirePrefix + "#same"},
		`SELECT * FROM millrace.verify_bucket('nothing')`:              {`there is no bucket nothing`, "Nearest:"},
		`SELECT * FROM millrace.row_history('public.list', 'l1')`:      {`the rules use no source table public.list`, `public.lists, public.todos`},
		`SELECT * FROM millrace.row_history('public.lists', 'l1', '')`: {`there is no bucket`, "Nearest:"},
	} {
		_, err := x.conn.Exec(t.Context(), sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(pgErr.Message+" "+pgErr.Hint, w) {
				t.Errorf("%s: no %q in %q, hint %q", sql, w, pgErr.Message, pgErr.Hint)
			}
		}
	}
}

// TestRights reads as the two roles do.
func TestRights(t *testing.T) {
	x := newWorld(t, Options{})
	x.history(t)
	may := func(role, sql string, want bool) {
		t.Helper()
		exec(t, x.conn, "SET ROLE "+role)
		_, err := x.conn.Exec(t.Context(), sql)
		exec(t, x.conn, "RESET ROLE")
		if (err == nil) != want {
			t.Errorf("%s: %s: %v", role, sql, err)
		}
	}
	for _, sql := range []string{`TABLE millrace.status`, `TABLE millrace.replication`, `TABLE millrace.definitions`,
		`SELECT id, definition, rows, ops, dead_ops, bytes, floor_op, compacted_at FROM millrace.bucket_bloat`, // without names
		`SELECT relay, id, transport, buckets, sent_op, sending_op FROM millrace.sessions`} {                   // without users
		may("millrace_reader", sql, true)
		may("pg_monitor", sql, true)
	}
	for _, sql := range []string{`TABLE millrace.buckets`, `TABLE millrace.checkpoints`, `TABLE millrace.ops`, `SELECT * FROM millrace.bucket_rows('by_owner["a"]')`,
		`SELECT * FROM millrace.row_history('public.lists', 'l1')`, `SELECT * FROM millrace.verify_bucket('by_owner["a"]')`,
		`SELECT * FROM millrace.bucket_checksum('by_owner["a"]')`, `SELECT * FROM millrace.why('lists', 'l1', 'a')`, `SELECT * FROM millrace.user_values('by_list', 'a')`,
		`TABLE millrace.bucket_bloat`, `TABLE millrace.sessions`, `TABLE millrace.bucket_compactions`} {
		may("millrace_reader", sql, true)
		may("pg_monitor", sql, false)
	}
	may("millrace_reader", `UPDATE millrace.head SET op_id = 0`, false)
	may("millrace_reader", `CALL millrace.add_partitions(99)`, false)
}

// TestDocumentedExamplesRun runs what docs/reference/sql.md shows.
func TestDocumentedExamplesRun(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/sql.md")
	must(t, err)
	x := newWorld(t, Options{})
	x.apply(t, x.upsert(1, "6f1c…", x.out(0, `by_owner["alice"]`, "todos", "6f1c…", `{"id":"6f1c…"}`)))
	x.commit(t, nil)
	_, block, _ := strings.Cut(string(text), "```sql\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("the page has no examples")
	}
	for i, want := range []int{1, 1, 1, 0} {
		statement, rest, _ := strings.Cut(block, ";\n")
		block = rest
		if got := lines(t, x.conn, statement); len(got) != want {
			t.Errorf("example %d gives %v", i+1, got)
		}
	}
	if s := strings.TrimSpace(block); s != "" {
		t.Errorf("more examples than this test knows: %s", s)
	}
}

// TestHistoryBelowTheFloor: what compaction has taken is an error and no wrong
// answer; what is left is as it was.
func TestHistoryBelowTheFloor(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "a", 0, 20)
	x.apply(t, x.upsert(0, "b", x.out(0, busyBucket, "lists", "b", `{"id":"b"}`)))
	floor := x.commit(t, nil).OpID - 1
	x.change(t, "a", 20, 22)
	ask := []string{
		`SELECT row_id, data FROM millrace.bucket_rows($1, $2)`,
		`SELECT checksum FROM millrace.bucket_checksum($1, $2)`,
	}
	for at := floor; at <= floor+3; at++ {
		for _, sql := range ask {
			before := lines(t, x.conn, sql, busyBucket, int64(at))
			if at == floor {
				step, err := x.newCompactor(t, CompactionOptions{}).compactBucket(t.Context(), x.set.Definitions[0].ID, x.busy(t), int64(floor))
				must(t, err)
				if step.deleted == 0 && sql == ask[0] {
					t.Fatal("nothing was compacted")
				}
			}
			equal(t, before, lines(t, x.conn, sql, busyBucket, int64(at)))
		}
	}
	for _, sql := range append(ask, `SELECT * FROM millrace.ops_between($1, 0, $2)`) {
		_, err := x.conn.Exec(t.Context(), sql, busyBucket, int64(floor-1))
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message, fmt.Sprintf("it is compacted up to %d", floor)) || !strings.Contains(pgErr.Hint, fmt.Sprint(floor)) {
			t.Errorf("%s below the floor: %v", sql, err)
		}
	}
	x.verified(t)
}

// TestSA18_SA44_ChecksumsOfThePast (SA-17, SA-44): running values less what came since are
// what a sum from the beginning gives, CLEAR or not.
func TestSA18_SA44_ChecksumsOfThePast(t *testing.T) {
	x := newWorld(t, Options{})
	log := []millrace.Op{
		{ID: 101, Kind: millrace.OpPut, Type: "t", RowID: "a", Checksum: 1, Data: "{}"},
		{ID: 102, Kind: millrace.OpPut, Type: "t", RowID: "a", Checksum: 2, Data: "{}"},
		{ID: 103, Kind: millrace.OpPut, Type: "t", RowID: "a", Checksum: 4, Data: "{}"},
		{ID: 104, Kind: millrace.OpClear, Checksum: 7},
		{ID: 105, Kind: millrace.OpPut, Type: "t", RowID: "b", Checksum: 0xFFFFFFFF, Data: "{}"},
	}
	x.addLog(t, 7, "by_owner[7]", log)
	exec(t, x.conn, `UPDATE millrace.head SET op_id = 110`)
	sums := func() []string {
		return lines(t, x.conn, `SELECT at, c.checksum FROM generate_series(100, 106) at, millrace.bucket_checksum('by_owner[7]', at) c WHERE at >= $1`,
			value[int64](t, x.conn, `SELECT coalesce(max(floor_op), 0) FROM millrace.bucket_floors`))
	}
	equal(t, []string{"(100,0)", "(101,1)", "(102,3)", "(103,7)", "(104,7)", "(105,6)", "(106,6)"}, sums())
	// Up to 103: CLEAR(102) with the sum 3, then 103: at 103 it is 7 and not 10.
	_, err := x.newCompactor(t, CompactionOptions{}).compactBucket(t.Context(), x.set.Definitions[0].ID, 7, 103)
	must(t, err)
	equal(t, []string{"(102,CLEAR,3)", "(103,PUT,4)"}, lines(t, x.conn, `SELECT op_id, kind, checksum FROM millrace.ops_between('by_owner[7]', 0, NULL) WHERE op_id < 104`))
	equal(t, []string{"(103,7)", "(104,7)", "(105,6)", "(106,6)"}, sums())
}

// TestWhy: the lookups that give a user a bucket, or gave until when.
func TestWhy(t *testing.T) {
	x := newWorld(t, Options{})
	grant := x.upsert(0, "l1", x.out(0, `by_owner["u1"]`, "lists", "l1", `{"id":"l1"}`))
	grant.Lookups = []millrace.Lookup{x.look(`["u1"]`, `["l1"]`), x.look(`["u2"]`, `["l1"]`)}
	x.apply(t, grant, x.upsert(1, "t1", x.out(1, `by_list["l1"]`, "todos", "t1", `{"id":"t1"}`)))
	x.commit(t, nil)
	op := x.head(t)
	why := func(user string) []string {
		return lines(t, x.conn, `SELECT definition, type, client_row_id, granted, regexp_replace(because, '\(20[^)]*\)', '(then)', 'g') FROM millrace.why('todos', 't1', $1)`, user)
	}
	equal(t, []string{`(by_list,todos,t1,t,"row l1 of public.lists gives the user ""l1"" since op 4 (then)")`}, why("u2"))
	equal(t, []string{`(by_list,todos,t1,f,"nothing gives the user ""l1""")`}, why("u3"))
	withdraw := x.upsert(0, "l1", x.out(0, `by_owner["u1"]`, "lists", "l1", `{"id":"l1"}`))
	withdraw.Lookups = []millrace.Lookup{x.look(`["u1"]`, `["l1"]`)}
	x.apply(t, withdraw)
	x.commit(t, nil)
	equal(t, []string{fmt.Sprintf(`(by_list,todos,t1,f,"row l1 of public.lists gave the user ""l1"" until op %d (then)")`, op+2)}, why("u2"))
	equal(t, []string{`(by_owner,t,"""u1"" is the user")`}, lines(t, x.conn, `SELECT definition, granted, because FROM millrace.why('public.lists', 'l1', 'u1')`))
	equal(t, []string{`(by_list,,)`}, lines(t, x.conn, `SELECT definition, granted, because FROM millrace.why('main.public.todos', 't1')`))
	equal(t, []string{}, lines(t, x.conn, `SELECT * FROM millrace.why('todos', 'nobody', 'u1')`))
	must(t, openReader(t, x.uri).Report(t.Context(), millrace.RelayReport{ID: "r", StartedAt: time.Now(), Connections: 1,
		Sessions: []millrace.SessionReport{{ID: 1, User: "u2/phone", ClientID: "phone", Transport: "ws", Sent: 5, Since: time.Now()}}}))
	equal(t, []string{`(phone,5)`}, lines(t, x.conn, `SELECT s->>'client_id', s->>'sent_op' FROM millrace.why('todos', 't1', 'u2') w, jsonb_array_elements(w.sessions) s`))
	equal(t, int64(1), value[int64](t, x.conn, `SELECT sessions FROM millrace.status`))
}
