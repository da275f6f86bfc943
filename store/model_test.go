package store

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// modelRow is what a source row has: nothing else decides what the sidecar
// must show.
type modelRow struct {
	outputs []millrace.Output
	lookups []millrace.Lookup
	wide    string
	errors  []millrace.RowError
}

type modelKey struct {
	table int
	key   string
}

// model is the simple in-memory twin of a sidecar.
type model map[modelKey]modelRow

// shadowTable is how the model tells rows of a table's shadow from its own.
const shadowTable = 100

func (m model) clone() model {
	c := model{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m model) apply(x *world, table int, c millrace.Change) {
	k := modelKey{table, c.Key}
	if c.Scope.Shadow != 0 && c.Kind != millrace.ChangeReplace {
		// Long values are kept for the table, whoever shows its rows.
		k.table += shadowTable
		for o, r := range m {
			if o.table == table && (c.Kind == millrace.ChangeTruncate || c.Kind == millrace.ChangeDelete && o.key == c.Key) {
				r.wide = ""
				m[o] = r
			}
		}
	}
	switch c.Kind {
	case millrace.ChangeTruncate:
		for o := range m {
			if o.table == k.table {
				delete(m, o)
			}
		}
	case millrace.ChangeReplace:
		for o, r := range m {
			if o.table == table {
				m[o] = modelRow{wide: r.wide}
			}
		}
		for o, r := range m.clone() {
			if o.table == table+shadowTable {
				live := modelKey{table, o.key}
				r.wide = m[live].wide
				m[live] = r
			}
		}
	case millrace.ChangeDelete:
		delete(m, k)
	default:
		r := modelRow{outputs: c.Outputs, lookups: c.Lookups, errors: c.Errors, wide: m[k].wide}
		if len(c.Scope.Buckets)+len(c.Scope.Lookups) == 0 {
			r = m[k] // only the long values are concerned
		}
		switch c.Wide {
		case millrace.WideStore:
			r.wide = string(c.WideValues)
		case millrace.WideDrop:
			r.wide = ""
		}
		m[k] = r
	}
}

// rows gives bucket -> row -> data, as definition and logical name.
func (m model) rows() map[string]map[millrace.RowIdentity]string {
	all := map[string]map[millrace.RowIdentity]string{}
	for k, r := range m {
		if k.table >= shadowTable {
			continue
		}
		for _, o := range r.outputs {
			b := fmt.Sprintf("%d %s", o.Definition, o.Bucket)
			if all[b] == nil {
				all[b] = map[millrace.RowIdentity]string{}
			}
			all[b][millrace.RowIdentity{Type: o.Type, RowID: o.RowID, Subkey: o.Subkey}] = o.Data
		}
	}
	return all
}

func (m model) list(x *world, f func(table millrace.TableID, key string, r modelRow) []string) []string {
	list := []string{}
	for k, r := range m {
		if k.table >= shadowTable {
			continue
		}
		list = append(list, f(x.tables[k.table].ID, storedKey(k.key), r)...)
	}
	sort.Strings(list)
	return slices.Compact(list)
}

// check compares all tables with the model.
func (m model) check(t rapid.TB, x *world, lastOp millrace.OpID) {
	t.Helper()
	ctx := context.Background()
	rows, err := x.conn.Query(ctx, `
		SELECT o.op_id, o.kind, coalesce(o.type, ''), coalesce(o.row_id, ''), coalesce(o.subkey, ''), o.checksum, coalesce(o.data, ''),
			o.definition || ' ' || n.name
		FROM millrace.ops o JOIN millrace.bucket_names n ON n.id = o.bucket AND n.definition = o.definition ORDER BY o.op_id`)
	if err != nil {
		t.Fatal(err)
	}
	reduced := map[string]*millrace.Reduced{}
	counts := map[string]int{}
	var last millrace.OpID
	var op millrace.Op
	var kind int16
	var sum int32
	var bucket string
	_, err = pgx.ForEachRow(rows, []any{&op.ID, &kind, &op.Type, &op.RowID, &op.Subkey, &sum, &op.Data, &bucket}, func() error {
		op.Kind, op.Checksum = millrace.OpKind(kind), millrace.Checksum(sum)
		if op.ID <= last || op.ID > lastOp {
			t.Fatalf("op %d after %d, head %d", op.ID, last, lastOp)
		}
		last = op.ID
		r := reduced[bucket]
		if r == nil {
			r = &millrace.Reduced{Rows: map[millrace.RowIdentity]millrace.Op{}}
			reduced[bucket] = r
		}
		if op.Kind == millrace.OpRemove {
			if _, ok := r.Rows[millrace.RowIdentity{Type: op.Type, RowID: op.RowID, Subkey: op.Subkey}]; !ok {
				t.Fatalf("op %d removes a row that is not there", op.ID) // R9
			}
		}
		r.Reduce(op)
		counts[bucket]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want, got := m.rows(), map[string]map[millrace.RowIdentity]string{}
	totals := []string{}
	for b, r := range reduced {
		totals = append(totals, fmt.Sprintf("(%q,%d,%d,%d,%d)", b, r.Last, counts[b], len(r.Rows), int32(r.Checksum)))
		for id, op := range r.Rows {
			if got[b] == nil {
				got[b] = map[millrace.RowIdentity]string{}
			}
			got[b][id] = op.Data
		}
	}
	same(t, "rows folded from ops", want, got)
	query := func(sql string) []string {
		rows, err := x.conn.Query(ctx, sql)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		sort.Strings(list)
		return list
	}
	sort.Strings(totals)
	same(t, "bucket totals", totals, query(`
		SELECT '("' || replace(n.definition || ' ' || n.name, '"', '\"') || '",' || concat_ws(',', t.last_op, t.ops, t.rows, t.checksum) || ')'
		FROM millrace.bucket_totals t JOIN millrace.bucket_names n ON n.id = t.bucket`))
	same(t, "row state", m.list(x, func(table millrace.TableID, key string, r modelRow) (list []string) {
		for _, o := range r.outputs {
			list = append(list, fmt.Sprintf("%d|%d|%s|%s|%s|%s|%s", o.Definition, table, key, o.Bucket, o.Type, o.RowID, o.Subkey))
		}
		return list
	}), query(`
		SELECT concat_ws('|', s.definition, s.source_table, s.row_key, n.name, u.type, u.row_id, coalesce(u.subkey, ''))
		FROM millrace.row_state s CROSS JOIN LATERAL millrace.row_outputs(s) u JOIN millrace.bucket_names n ON n.id = u.bucket`))
	same(t, "lookups in force", m.list(x, func(table millrace.TableID, key string, r modelRow) (list []string) {
		for _, l := range r.lookups {
			list = append(list, fmt.Sprintf("%d|%d|%s|%s|%s", l.Definition, table, key, l.Key, l.Outputs))
		}
		return list
	}), query(`
		SELECT concat_ws('|', definition, source_table, row_key, key, outputs) FROM millrace.lookups
		WHERE added <= (SELECT op_id FROM millrace.head) AND removed > (SELECT op_id FROM millrace.head)`))
	same(t, "kept wide values", m.list(x, func(table millrace.TableID, key string, r modelRow) []string {
		if r.wide == "" {
			return nil
		}
		return []string{fmt.Sprintf("%d|%s|%s", table, key, r.wide)}
	}), query(`SELECT concat_ws('|', source_table, row_key, convert_from("values", 'UTF8')) FROM millrace.row_wide`))
	same(t, "row errors", m.list(x, func(table millrace.TableID, key string, r modelRow) (list []string) {
		for _, e := range r.errors {
			list = append(list, fmt.Sprintf("%d|%d|%s|%s", e.Definition, table, key, e.Message))
		}
		return list
	}), query(`SELECT concat_ws('|', definition, source_table, row_key, message) FROM millrace.row_errors`))
	same(t, "numbers given twice, or beyond the head", []string{}, query(`
		SELECT n::text FROM (
			SELECT op_id AS n FROM millrace.ops UNION ALL SELECT added FROM millrace.lookups
			UNION ALL SELECT removed FROM millrace.lookups WHERE removed < 9223372036854775807
			UNION ALL SELECT active_from FROM millrace.rule_sets) a
		GROUP BY n HAVING count(*) > 1 OR n > (SELECT op_id FROM millrace.head)`))
	same(t, "ended outputs without their REMOVE or CLEAR", []string{}, query(`
		SELECT e.ended_op::text FROM millrace.ended_outputs e WHERE NOT EXISTS (SELECT FROM millrace.ops o
			WHERE o.definition = e.definition AND o.bucket = e.bucket
			AND (o.op_id = e.ended_op AND o.kind = 2 AND o.row_id = e.row_id OR o.op_id > e.ended_op AND o.kind = 4))`))
	// I5: a CLEAR carries the sum of what it voids.
	same(t, "clears with another sum", []string{}, query(`
		SELECT c.op_id::text FROM millrace.ops c WHERE c.kind = 4 AND c.checksum <> (
			SELECT millrace.wrap32(sum(o.checksum)) FROM millrace.ops o WHERE o.definition = c.definition AND o.bucket = c.bucket AND o.op_id < c.op_id
			AND o.op_id >= (SELECT coalesce(max(p.op_id), 0) FROM millrace.ops p WHERE p.definition = c.definition AND p.bucket = c.bucket AND p.op_id < c.op_id AND p.kind = 4))`))
}

func same(t rapid.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

// draw makes a random change of one of a few rows.
func (x *world) draw(t *rapid.T) (table int, c millrace.Change) {
	table = rapid.IntRange(0, 1).Draw(t, "table")
	scope := x.scopes[table]
	if rapid.IntRange(0, 3).Draw(t, "shadow") == 0 {
		scope = x.shadows[table]
	}
	switch n := rapid.IntRange(0, 99).Draw(t, "kind"); {
	case n < 3:
		return table, millrace.Change{Scope: scope, Kind: millrace.ChangeTruncate}
	case n < 6 && scope.Shadow != 0:
		return table, millrace.Change{Scope: scope, Kind: millrace.ChangeReplace}
	case n < 25:
		return table, millrace.Change{Scope: scope, Kind: millrace.ChangeDelete, Key: x.drawKey(t)}
	case n < 28:
		return table, millrace.Change{Scope: &millrace.Scope{Table: scope.Table}, Kind: millrace.ChangeUpsert, Key: x.drawKey(t), Wide: millrace.WideDrop}
	}
	c = millrace.Change{Scope: scope, Kind: millrace.ChangeUpsert, Key: x.drawKey(t)}
	// Now and then enough outputs to be compared by a map.
	outputs := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, 3), rapid.IntRange(0, 90)).Draw(t, "outputs")
	for i := range outputs {
		id := c.Key
		if rapid.Bool().Draw(t, "other id") {
			id = fmt.Sprintf("o%d", i%40)
		}
		o := millrace.Output{
			Definition: x.set.Definitions[rapid.IntRange(0, 1).Draw(t, "definition")].ID,
			Bucket:     fmt.Sprintf(`b["%d"]`, rapid.IntRange(0, 4).Draw(t, "bucket")),
			Type:       scopeTypes[rapid.IntRange(0, 1).Draw(t, "type")],
			RowID:      id,
			Subkey:     string(millrace.AppendSubkey(nil, scope.Table, c.Key)),
			Data:       fmt.Sprintf(`{"v":%d}`, rapid.IntRange(0, 3).Draw(t, "data")),
		}
		// Two outputs of one identity: the later one counts. The model has no
		// order, so it is given each identity once.
		if !slices.ContainsFunc(c.Outputs, func(p millrace.Output) bool { o := o; o.Data = p.Data; return o == p }) {
			c.Outputs = append(c.Outputs, o)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "lookups") {
		l := x.look(fmt.Sprintf(`["u%d"]`, rapid.IntRange(0, 3).Draw(t, "lookup")), fmt.Sprintf(`["%s"]`, c.Key))
		if !slices.Contains(c.Lookups, l) {
			c.Lookups = append(c.Lookups, l)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "error") == 0 {
		c.Errors = []millrace.RowError{{Definition: scope.Buckets[0], Message: "cannot cast"}}
		c.Outputs = slices.DeleteFunc(c.Outputs, func(o millrace.Output) bool { return o.Definition == scope.Buckets[0] })
	}
	if scope.Shadow != 0 {
		return table, c
	}
	switch rapid.IntRange(0, 4).Draw(t, "wide") {
	case 0:
		c.Wide, c.WideValues = millrace.WideStore, []byte(fmt.Sprintf("w%d", rapid.IntRange(0, 9).Draw(t, "value")))
	case 1:
		c.Wide = millrace.WideDrop
	}
	return table, c
}

var scopeTypes = []string{"lists", "todos"}

func (x *world) drawKey(t *rapid.T) string {
	n := rapid.IntRange(0, 12).Draw(t, "key")
	if n == 12 {
		return strings.Repeat("long", 600)
	}
	return fmt.Sprintf("k%d", n)
}

// TestHistoryMatchesModel splits random changes into random flushes, pieces and
// calls, rolls some back, changes the leader in between, and compares all
// tables with the model after each term.
func TestHistoryMatchesModel(t *testing.T) {
	for _, opts := range []Options{
		{CacheBytes: 2000},                  // the caches forget all the time
		{PieceBytes: 1},                     // every change is a piece
		{PieceBytes: 700, CacheBytes: 1500}, // some are
		{SuppressUnchanged: true},
		{smallTable: 1}, // nearly every truncated table is emptied set-based
	} {
		t.Run(fmt.Sprintf("piece=%d,cache=%d,suppress=%t,small=%d", opts.PieceBytes, opts.CacheBytes, opts.SuppressUnchanged, opts.smallTable), func(t *testing.T) {
			x := newWorld(t, opts)
			x.castShadows(t)
			m := model{}
			rapid.Check(t, func(rt *rapid.T) { x.randomTerm(t, rt, &m) })
			equal(t, []string{}, lines(t, x.conn, `SELECT v.* FROM millrace.buckets b CROSS JOIN LATERAL millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`))
		})
	}
}

// castShadows registers a copy of each table into a shadow.
func (x *world) castShadows(tb testing.TB) {
	for i := range x.shadows {
		c := &millrace.Copy{RuleSet: x.set.ID, Table: x.tables[i].ID, State: millrace.CopyRunning, Shadow: true}
		x.commit(tb, &millrace.Flush{Copies: []*millrace.Copy{c}})
		scope := *x.scopes[i]
		scope.Shadow = c.ID
		x.shadows[i] = &scope
	}
}

// randomTerm goes on from where the last run ended: m is what is committed.
func (x *world) randomTerm(t *testing.T, rt *rapid.T, committed *model) {
	ctx := context.Background()
	open := committed.clone()
	var head millrace.Checkpoint
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		switch n := rapid.IntRange(0, 9).Draw(rt, "step"); {
		case n < 5:
			var changes []millrace.Change
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				table, c := x.draw(rt)
				open.apply(x, table, c)
				changes = append(changes, c)
			}
			if err := x.w.Apply(ctx, changes); err != nil {
				rt.Fatal(err)
			}
			x.checkWide(rt, open)
		case n < 8:
			x.lsn += 8
			c, err := x.w.Commit(ctx, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: x.lsn}}})
			if err != nil {
				rt.Fatal(err)
			}
			if c.Seq != head.Seq+1 && head.Seq != 0 || c.OpID < head.OpID {
				rt.Fatalf("checkpoint %+v after %+v", c, head)
			}
			head, *committed = c, open.clone()
		case n < 9:
			if err := x.w.Rollback(ctx); err != nil {
				rt.Fatal(err)
			}
			open = committed.clone()
		default:
			if err := x.w.Close(ctx); err != nil {
				rt.Fatal(err)
			}
			x.w = lead(t, x.store)
			open = committed.clone()
		}
	}
	if err := x.w.Rollback(ctx); err != nil {
		rt.Fatal(err)
	}
	state, err := x.w.State(ctx)
	if err != nil {
		rt.Fatal(err)
	}
	if head.Seq != 0 && (state.Head.Seq != head.Seq || state.Head.OpID != head.OpID) {
		rt.Fatalf("head %+v, committed %+v", state.Head, head)
	}
	if state.Sources[0].Durable > x.lsn {
		rt.Fatalf("durable %s beyond %s", state.Sources[0].Durable, x.lsn)
	}
	committed.check(rt, x, state.Head.OpID)
}

// checkWide asks for the kept values as of the open flush.
func (x *world) checkWide(t rapid.TB, m model) {
	var refs []millrace.RowRef
	var want []string
	for k, r := range m {
		if k.table >= shadowTable {
			continue
		}
		refs = append(refs, millrace.RowRef{Table: x.tables[k.table].ID, Key: k.key})
		want = append(want, r.wide)
	}
	refs, want = append(refs, millrace.RowRef{Table: x.tables[0].ID, Key: "never"}), append(want, "")
	got, err := x.w.Wide(context.Background(), refs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range refs {
		if string(got[i]) != want[i] {
			t.Fatalf("wide values of %v: %q, want %q", refs[i], got[i], want[i])
		}
	}
}
