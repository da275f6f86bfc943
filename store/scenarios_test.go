package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// The acceptance scenarios of storage that are not the subject of a test
// elsewhere; docs/reference/storage-scenarios.md says which test has which.

// follow reads a bucket of definition 0 as a device does: after what it has, up
// to the head, in one snapshot.
func follow(tb testing.TB, r *Reader, d millrace.DefinitionID, name string, have *millrace.Reduced) {
	tb.Helper()
	s, err := r.Snapshot(tb.Context())
	must(tb, err)
	defer s.Close()
	totals, err := s.Buckets(tb.Context(), []millrace.BucketName{{Definition: d, Name: name}})
	must(tb, err)
	if totals[0].ID == 0 {
		return
	}
	last := have.Last
	must(tb, s.Ops(tb.Context(), []millrace.BucketRange{{Definition: d, Bucket: totals[0].ID, After: last}}, s.Head().OpID, 1<<20, func(_ int, op *millrace.Op) bool {
		if op.ID <= last {
			tb.Errorf("op %d after %d", op.ID, last)
		}
		last = op.ID
		kept := *op
		kept.Type, kept.RowID, kept.Subkey, kept.Data = strings.Clone(op.Type), strings.Clone(op.RowID), strings.Clone(op.Subkey), strings.Clone(op.Data)
		have.Reduce(kept)
		return true
	}))
	if have.Checksum != totals[0].Checksum {
		tb.Errorf("checksum %d at %d, want %d", have.Checksum, s.Head().OpID, totals[0].Checksum)
	}
}

// device gives the rows of the reduced bucket as "type/id/subkey data".
func device(have *millrace.Reduced) []string {
	list := []string{}
	for id, op := range have.Rows {
		list = append(list, fmt.Sprintf("%s/%s/%s %s", id.Type, id.RowID, id.Subkey, op.Data))
	}
	slices.Sort(list)
	return list
}

const bucketA, bucketB = `by_owner["a"]`, `by_owner["b"]`

func (x *world) row(bucket, id, data string) millrace.Change {
	return x.upsert(0, id, x.out(0, bucket, "lists", id, data))
}

// TestSA01_ReaderSkipsNothing: numbers are given in commit order, so a reader
// that asks for what follows its last op never misses one. The control shows
// what a sequence would do.
func TestSA01_ReaderSkipsNothing(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	var have millrace.Reduced
	for n := range 5 {
		x.apply(t, x.row(bucketA, fmt.Sprint("r", n), "{}"))
		must(t, x.w.writeOut(t.Context())) // in the open transaction
		follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
		if len(have.Rows) != n {
			t.Fatalf("%d rows are seen while flush %d is open", len(have.Rows), n)
		}
		x.commit(t, nil)
		follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
		if len(have.Rows) != n+1 {
			t.Fatalf("%d rows after flush %d", len(have.Rows), n)
		}
	}

	first, second := connect(t, x.uri), connect(t, x.uri)
	exec(t, x.conn, `CREATE SEQUENCE public.s; CREATE TABLE public.log (id bigint PRIMARY KEY)`)
	seen := func(after int64) int64 {
		return value[int64](t, x.conn, `SELECT coalesce(max(id), $1) FROM public.log WHERE id > $1`, after)
	}
	exec(t, first, `BEGIN; INSERT INTO public.log SELECT nextval('public.s')`)
	exec(t, second, `INSERT INTO public.log SELECT nextval('public.s')`)
	last := seen(0)
	exec(t, first, `COMMIT`)
	if seen(last) != last || value[int](t, x.conn, `SELECT count(*) FROM public.log`) != 2 {
		t.Error("the control, which numbers by a sequence, skips nothing: the test shows nothing")
	}
}

// TestSA02_PiecesAreNotSeen: a transaction that is written in many pieces shows
// when it is committed, wholly.
func TestSA02_PiecesAreNotSeen(t *testing.T) {
	x := newWorld(t, Options{PieceBytes: 4 << 10})
	r := openReader(t, x.uri)
	var have millrace.Reduced
	for n := range 10 {
		var changes []millrace.Change
		for i := range 200 {
			changes = append(changes, x.row(bucketA, fmt.Sprintf("r%d", n*200+i), `{"text":"some text to fill pieces with"}`))
		}
		x.apply(t, changes...)
		follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
	}
	if len(have.Rows) != 0 {
		t.Errorf("%d rows are seen before the commit", len(have.Rows))
	}
	x.commit(t, nil)
	follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
	if len(have.Rows) != 2000 {
		t.Errorf("%d rows after the commit, want 2000", len(have.Rows))
	}
}

// TestSA04_NothingGoesBack: a position below the checkpoint's moves nothing back.
func TestSA04_NothingGoesBack(t *testing.T) {
	x := newWorld(t, Options{})
	before := x.commit(t, nil)
	c := x.commit(t, &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: 1}}})
	if c.OpID != before.OpID || c.Seq != before.Seq+1 {
		t.Errorf("checkpoint %+v after %+v", c, before)
	}
	equal(t, x.lsn.String(), value[string](t, x.conn, `SELECT durable::text FROM millrace.sources`))
	equal(t, x.lsn.String(), value[string](t, x.conn, `SELECT lsns->>'1' FROM millrace.checkpoint_log ORDER BY seq DESC LIMIT 1`))
}

// TestSA06_RowComesAndGoes: in one flush, in flushes of their own, and with the
// last two changes delivered again.
func TestSA06_RowComesAndGoes(t *testing.T) {
	for name, flushes := range map[string][][]int{"one flush": {{0, 1, 2, 3}}, "four flushes": {{0}, {1}, {2}, {3}}, "delivered again": {{0, 1}, {2, 3}, {2}, {3}, {3}}} {
		t.Run(name, func(t *testing.T) {
			x := newWorld(t, Options{})
			r := openReader(t, x.uri)
			changes := []millrace.Change{x.row(bucketA, "r", `{"n":1}`), x.delete(0, "r"), x.row(bucketA, "r", `{"n":2}`), x.delete(0, "r")}
			var have millrace.Reduced
			for _, flush := range flushes {
				for _, i := range flush {
					x.apply(t, changes[i])
				}
				x.commit(t, nil)
				follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
			}
			if len(have.Rows) != 0 {
				t.Errorf("left: %v", device(&have))
			}
			// R9: a REMOVE only after a PUT.
			equal(t, 0, value[int](t, x.conn, `SELECT count(*) FROM (SELECT kind, lag(kind) OVER (ORDER BY op_id) AS before FROM millrace.ops) o WHERE kind = 2 AND before IS DISTINCT FROM 1`))
		})
	}
}

// TestSA07_RowMoves: between buckets, and to another client id within one.
func TestSA07_RowMoves(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	d := x.set.Definitions[0].ID
	var a, b millrace.Reduced
	for _, step := range []struct {
		change millrace.Change
		a, b   []string
	}{
		{x.row(bucketA, "r", "{}"), []string{"lists/r/ {}"}, []string{}},
		{x.row(bucketB, "r", "{}"), []string{}, []string{"lists/r/ {}"}},
		{x.upsert(0, "r", x.out(0, bucketB, "lists", "other", "{}")), []string{}, []string{"lists/other/ {}"}},
	} {
		x.apply(t, step.change)
		x.commit(t, nil)
		follow(t, r, d, bucketA, &a)
		follow(t, r, d, bucketB, &b)
		equal(t, step.a, device(&a))
		equal(t, step.b, device(&b))
	}
}

// TestSA08_TwoRowsOfOneID: two source rows with one client id; without one the
// other stays.
func TestSA08_TwoRowsOfOneID(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	var have millrace.Reduced
	for i, key := range []string{"k1", "k2"} {
		out := x.out(0, bucketA, "all", "same", fmt.Sprintf(`{"n":%d}`, i+1))
		out.Subkey = key
		x.apply(t, x.upsert(i, key, out))
	}
	x.commit(t, nil)
	x.apply(t, x.delete(1, "k2"))
	x.commit(t, nil)
	follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
	equal(t, []string{`all/same/k1 {"n":1}`}, device(&have))
}

// TestSA09_KeysTradePlaces: a swap and a chain of row keys in one transaction,
// written out between any two changes.
func TestSA09_KeysTradePlaces(t *testing.T) {
	for name, steps := range map[string][][2]string{"swap": {{"1", "x"}, {"2", "1"}, {"x", "2"}}, "chain": {{"3", "4"}, {"2", "3"}, {"1", "2"}}} {
		for _, pieces := range []bool{false, true} {
			t.Run(fmt.Sprint(name, pieces), func(t *testing.T) {
				x := newWorld(t, Options{})
				r := openReader(t, x.uri)
				data := map[string]string{"1": `{"was":1}`, "2": `{"was":2}`, "3": `{"was":3}`}
				for k, v := range data {
					x.apply(t, x.row(bucketA, k, v))
				}
				x.commit(t, nil)
				for _, s := range steps {
					data[s[1]] = data[s[0]]
					delete(data, s[0])
					for _, c := range []millrace.Change{x.delete(0, s[0]), x.row(bucketA, s[1], data[s[1]])} {
						x.apply(t, c)
						if pieces {
							must(t, x.w.writeOut(t.Context()))
						}
					}
				}
				x.commit(t, nil)
				var have millrace.Reduced
				follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
				want := []string{}
				for k, v := range data {
					want = append(want, fmt.Sprintf("lists/%s/ %s", k, v))
				}
				slices.Sort(want)
				equal(t, want, device(&have))
			})
		}
	}
}

// TestSA12_TruncateIsWhole: a TRUNCATE of 10,000 rows that is cut off after some
// batches shows nothing; done again it leaves nothing, of lookups neither.
func TestSA12_TruncateIsWhole(t *testing.T) {
	x := newWorld(t, Options{PieceBytes: 64 << 10})
	r := openReader(t, x.uri)
	d := x.set.Definitions[0].ID
	var changes []millrace.Change
	for i := range 10_000 {
		c := x.row(bucketA, fmt.Sprint("r", i), "{}")
		c.Lookups = []millrace.Lookup{x.look(fmt.Sprintf(`["u%d"]`, i), `["l"]`)}
		changes = append(changes, c)
	}
	x.apply(t, changes...)
	x.commit(t, nil)
	var have millrace.Reduced
	follow(t, r, d, bucketA, &have)
	truncate := millrace.Change{Scope: x.scopes[0], Kind: millrace.ChangeTruncate}
	x.apply(t, truncate)
	follow(t, r, d, bucketA, &have)
	if len(have.Rows) != 10_000 {
		t.Fatalf("%d rows while it is open", len(have.Rows))
	}
	must(t, x.w.Close(t.Context())) // the process dies
	x.w = lead(t, x.store)
	x.verifyAll(t)
	x.apply(t, truncate, x.row(bucketA, "after", "{}"))
	x.commit(t, nil)
	follow(t, r, d, bucketA, &have)
	equal(t, []string{"lists/after/ {}"}, device(&have))
	equal(t, 0, value[int](t, x.conn, `SELECT count(*) FROM millrace.lookups WHERE removed = 9223372036854775807`))
	equal(t, 1, value[int](t, x.conn, `SELECT count(*) FROM millrace.row_state`))
	x.verifyAll(t)
}

func (x *world) verifyAll(tb testing.TB) {
	tb.Helper()
	equal(tb, []string{}, lines(tb, x.conn, `SELECT v.* FROM millrace.buckets b, millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`))
}

// TestSA13_LookupChangesOwner: at the checkpoint before, the old answer; at the
// new one, the new.
func TestSA13_LookupChangesOwner(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	owned := func(user string) {
		c := x.upsert(0, "l1")
		c.Lookups = []millrace.Lookup{x.look(fmt.Sprintf(`[%q]`, user), `["l1"]`)}
		x.apply(t, c)
		x.commit(t, nil)
	}
	keys := []millrace.LookupKey{{Definition: x.set.Definitions[2].ID, Key: `["u1"]`}, {Definition: x.set.Definitions[2].ID, Key: `["u2"]`}}
	owned("u1")
	before := snapshot(t, r)
	owned("u2")
	for _, c := range []struct {
		s    *ReadSnapshot
		want [][]string
	}{{before, [][]string{{`["l1"]`}, nil}}, {snapshot(t, r), [][]string{nil, {`["l1"]`}}}} {
		got, err := c.s.Lookups(t.Context(), keys)
		must(t, err)
		equal(t, c.want, got)
	}
}

// TestSA16_LookupsAreForgotten: ended entries are deleted while a relay is
// between its checkpoint and the answer: its snapshot still has them, and one
// that asks for changes since before is told that it must resolve all. They are
// not deleted before that is so, however short history.keep is.
func TestSA16_LookupsAreForgotten(t *testing.T) {
	x := newWorld(t, Options{HistoryKeep: time.Minute})
	r := openReader(t, x.uri)
	key := millrace.LookupKey{Definition: x.set.Definitions[2].ID, Key: `["u1"]`}
	grant := x.upsert(0, "l1")
	grant.Lookups = []millrace.Lookup{x.look(key.Key, `["l1"]`)}
	x.apply(t, grant)
	granted := x.commit(t, nil)
	reading := snapshot(t, r)
	x.apply(t, x.upsert(0, "l1"))
	x.commit(t, nil)
	x.commit(t, nil)
	kept := func() int {
		for more := true; more; {
			var err error
			more, err = x.w.maintainStep(t.Context(), checkpointAge)
			must(t, err)
		}
		return value[int](t, x.conn, `SELECT count(*) FROM millrace.lookups`)
	}
	age := func(d string) {
		exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = at - $1::text::interval`, d)
		x.commit(t, nil)
	}
	age("10 minutes") // beyond history.keep, and not thinned yet
	if n := kept(); n != 1 {
		t.Fatalf("%d entries while relays may ask what changed", n)
	}
	age("2 hours")
	x.w.upkeep.thinned = 0
	if n := kept(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	got, err := reading.Lookups(t.Context(), []millrace.LookupKey{key})
	must(t, err)
	equal(t, [][]string{{`["l1"]`}}, got)
	s := snapshot(t, r)
	got, err = s.Lookups(t.Context(), []millrace.LookupKey{key})
	must(t, err)
	equal(t, [][]string{nil}, got)
	changes, err := s.Changes(t.Context(), granted.Seq)
	must(t, err)
	if !changes.LookupsUnknown {
		t.Errorf("changes since then: %+v", changes)
	}
}

// TestSA17_WorkedExample is the example of a compaction, with given checksums.
func TestSA17_WorkedExample(t *testing.T) {
	log := []millrace.Op{
		{ID: 11, Kind: millrace.OpPut, Type: "todo", RowID: "a", Subkey: "s1", Checksum: 1595029448, Data: `{"id":"a","t":"milk"}`},
		{ID: 12, Kind: millrace.OpPut, Type: "todo", RowID: "b", Subkey: "s2", Checksum: 307580532, Data: `{"id":"b","t":"eggs"}`},
		{ID: 15, Kind: millrace.OpPut, Type: "todo", RowID: "a", Subkey: "s1", Checksum: 2121947916, Data: `{"id":"a","t":"oat milk"}`},
		{ID: 17, Kind: millrace.OpRemove, Type: "todo", RowID: "b", Subkey: "s2", Checksum: 2095323671},
		{ID: 20, Kind: millrace.OpPut, Type: "todo", RowID: "c", Subkey: "s3", Checksum: 54749772, Data: `{"id":"c","t":"rye"}`},
		{ID: 22, Kind: millrace.OpPut, Type: "todo", RowID: "a", Subkey: "s1", Checksum: 2699153920, Data: `{"id":"a","t":"soy milk"}`},
		{ID: 25, Kind: millrace.OpRemove, Type: "todo", RowID: "c", Subkey: "s3", Checksum: 2577710209},
	}
	for _, c := range []struct {
		horizon, floor int64
		ops            []string
	}{
		{25, 25, []string{"(20,CLEAR,1879664043)", "(22,PUT,-1595813376)", "(25,REMOVE,-1717257087)"}},
		{17, 17, []string{"(12,CLEAR,1902609980)", "(15,PUT,2121947916)", "(17,REMOVE,2095323671)", "(20,PUT,54749772)", "(22,PUT,-1595813376)", "(25,REMOVE,-1717257087)"}},
	} {
		x := newWorld(t, Options{})
		x.addLog(t, 7, "by_owner[7]", log)
		exec(t, x.conn, `UPDATE millrace.head SET op_id = 30`)
		equal(t, []string{"(30,7,-1433406420)"}, lines(t, x.conn, `SELECT * FROM millrace.bucket_checksum('by_owner[7]')`))
		equal(t, []string{"(17,4,1824914271)"}, lines(t, x.conn, `SELECT * FROM millrace.bucket_checksum('by_owner[7]', 17)`))
		_, err := x.newCompactor(t, CompactionOptions{}).compactBucket(t.Context(), x.set.Definitions[0].ID, 7, c.horizon)
		must(t, err)
		equal(t, c.ops, lines(t, x.conn, `SELECT op_id, kind, checksum FROM millrace.ops_between('by_owner[7]', 0, NULL)`))
		equal(t, c.floor, value[int64](t, x.conn, `SELECT floor_op FROM millrace.bucket_floors WHERE bucket = 7`))
		equal(t, []string{fmt.Sprintf("(30,%d,-1433406420)", len(c.ops))}, lines(t, x.conn, `SELECT * FROM millrace.bucket_checksum('by_owner[7]')`))
		equal(t, []string{`(a,"{""id"":""a"",""t"":""soy milk""}")`}, lines(t, x.conn, `SELECT row_id, data FROM millrace.bucket_rows('by_owner[7]')`))
		// Devices that had everything up to some op before.
		for _, cut := range []millrace.OpID{0, 12, 22, 25} {
			var have holds
			have.reduce(log, 0, cut)
			have.reduce(x.bucketOps(t, 7), cut, noLimit)
			if len(have.rows) != 1 || have.rows[millrace.RowIdentity{Type: "todo", RowID: "a", Subkey: "s1"}] != `{"id":"a","t":"soy milk"}` || have.sum != 2861560876 {
				t.Errorf("horizon %d: a device that had everything up to %d has %+v", c.horizon, cut, have)
			}
		}
	}
}

// TestSA22_TwoCompactorsAndAWriter on one bucket, with parts as small as can be.
func TestSA22_TwoCompactorsAndAWriter(t *testing.T) {
	x := newWorld(t, Options{})
	x.change(t, "r0", 0, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var compacting sync.WaitGroup
	for i := range 2 {
		c := x.newCompactor(t, CompactionOptions{})
		c.limits = compactLimits{newsOps: 20 + i, partOps: 7 + i}
		compacting.Go(func() {
			for ctx.Err() == nil {
				horizon, _, err := c.horizon(context.Background())
				if err == nil {
					err = c.walk(context.Background(), horizon, true)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := openReader(t, x.uri)
	var have millrace.Reduced // reads along, and is never wrong
	for n := range 150 {
		x.change(t, fmt.Sprint("r", n%10), n, n+5)
		if n%7 == 0 {
			x.apply(t, x.delete(0, fmt.Sprint("r", n%10)))
			x.commit(t, nil)
		}
		follow(t, r, x.set.Definitions[0].ID, busyBucket, &have)
	}
	cancel()
	compacting.Wait()
	x.verified(t)
	equal(t, lines(t, x.conn, `SELECT row_id || ' ' || data FROM millrace.bucket_rows($1) ORDER BY row_id`, busyBucket), func() (list []string) {
		rows := map[string]string{}
		for id, op := range have.Rows {
			rows[id.RowID] = op.Data
		}
		for i := range 10 {
			if data, ok := rows[fmt.Sprint("r", i)]; ok {
				list = append(list, value[string](t, x.conn, `SELECT r::text FROM (SELECT $1::text || ' ' || $2::text) r`, fmt.Sprint("r", i), data))
			}
		}
		return list
	}())
	if n := value[int](t, x.conn, `SELECT ops FROM millrace.buckets WHERE name = $1`, busyBucket); n > 500 {
		t.Errorf("%d ops are left: nothing was compacted meanwhile", n)
	}
}

// TestSA29_UnansweredRequestsStay: however old, until a checkpoint contains them.
func TestSA29_UnansweredRequestsStay(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	_, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "waits", ID: 5}, {User: "answered", ID: 5}})
	must(t, err)
	exec(t, x.conn, `UPDATE millrace.write_requests SET requested_at = now() - interval '2 years';
		UPDATE millrace.write_requests SET acked_id = id, acked_seq = 1 WHERE user_id = 'answered'`)
	must(t, r.Report(t.Context(), millrace.RelayReport{ID: "r", StartedAt: time.Now()}))
	equal(t, []string{"(waits)"}, lines(t, x.conn, `SELECT user_id FROM millrace.write_requests`))
}

// TestSA37_NewerFormatIsRefused: a release that does not know the schema says so
// and touches nothing.
func TestSA37_NewerFormatIsRefused(t *testing.T) {
	x := newWorld(t, Options{})
	exec(t, x.conn, `UPDATE millrace.schema_migrations SET version = version + 1`)
	if _, err := Open(t.Context(), x.uri, Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "use the release that made it, or a newer one") {
		t.Errorf("opened: %v", err)
	}
}

// TestSA38_FreshStorage: the first checkpoint has no op, the first number is 1.
func TestSA38_FreshStorage(t *testing.T) {
	x := &world{uri: newSidecar(t)}
	x.store = openStore(t, x.uri, Options{})
	x.conn = connect(t, x.uri)
	s := snapshot(t, openReader(t, x.uri))
	if h := s.Head(); h.OpID != 0 || h.RuleSet != 0 {
		t.Errorf("head %+v", h)
	}
	got, err := s.Buckets(t.Context(), []millrace.BucketName{{Definition: 1, Name: bucketA}})
	must(t, err)
	equal(t, []millrace.BucketTotals{{}}, got) // R36: checksum 0, no ops
	x.w = lead(t, x.store)
	x.register(t) // activates the rules
	equal(t, int64(1), x.head(t))
	x.apply(t, x.row(bucketA, "r", "{}"))
	if c := x.commit(t, nil); c.OpID != 2 {
		t.Errorf("the first op is %d", c.OpID)
	}
}

// TestSA19_SA39_ManyBuckets (and SA-19): of 100,000 buckets a client with 1,000, a few
// of them empty or unknown; pages end exactly at their limit.
func TestSA19_SA39_ManyBuckets(t *testing.T) {
	x := newWorld(t, Options{})
	d := x.set.Definitions[0].ID
	exec(t, x.conn, `INSERT INTO millrace.bucket_names SELECT i, $1::int4, 'b[' || i || ']' FROM generate_series(1, 100000) i`, int32(d))
	exec(t, x.conn, `INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
		SELECT i, i + 10, $1::int4, i, 1, 't', 'r', '{}' FROM generate_series(1, 100000) i`, int32(d))
	exec(t, x.conn, `INSERT INTO millrace.bucket_totals SELECT i, i + 10, 1, 1, 2, i FROM generate_series(1, 100000) i`)
	exec(t, x.conn, `UPDATE millrace.head SET op_id = 200000; ANALYZE`)
	s := snapshot(t, openReader(t, x.uri))
	names := make([]millrace.BucketName, 1000)
	for i := range names {
		names[i] = millrace.BucketName{Definition: d, Name: fmt.Sprintf("b[%d]", i*100+1)}
	}
	names[7].Name, names[9].Definition = "never had a row", 999
	totals, err := s.Buckets(t.Context(), names)
	must(t, err)
	var ranges []millrace.BucketRange
	for i, b := range totals {
		known := i != 7 && i != 9
		if (b.ID != 0) != known || known && b.Checksum != millrace.Checksum(i*100+1) {
			t.Fatalf("bucket %d: %+v", i, b)
		}
		if known {
			ranges = append(ranges, millrace.BucketRange{Definition: d, Bucket: b.ID})
		}
	}
	for _, limit := range []int{len(ranges) - 1, len(ranges), len(ranges) + 1} {
		equal(t, min(limit, len(ranges)), len(readOps(t, s, 200000, limit, ranges...)))
	}
}

// TestSA40_EvaluationError: the row's ops of before end, the error shows, others
// go on, and an update that works cures it.
func TestSA40_EvaluationError(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	d := x.set.Definitions[0].ID
	var have millrace.Reduced
	x.apply(t, x.row(bucketA, "bad", "{}"), x.row(bucketA, "good", "{}"))
	x.commit(t, nil)
	broken := x.upsert(0, "bad")
	broken.Errors = []millrace.RowError{{Definition: d, Message: "division by zero"}}
	x.apply(t, broken, x.row(bucketA, "next", "{}"))
	x.commit(t, nil)
	follow(t, r, d, bucketA, &have)
	equal(t, []string{"lists/good/ {}", "lists/next/ {}"}, device(&have))
	equal(t, []string{`(bad,"division by zero")`}, lines(t, x.conn, `SELECT row_key, message FROM millrace.row_errors`))
	x.apply(t, x.row(bucketA, "bad", `{"n":2}`))
	x.commit(t, nil)
	follow(t, r, d, bucketA, &have)
	equal(t, []string{`lists/bad/ {"n":2}`, "lists/good/ {}", "lists/next/ {}"}, device(&have))
	equal(t, 0, value[int](t, x.conn, `SELECT count(*) FROM millrace.row_errors`))
}

// TestSA45_LongFlush: a flush that is open for longer than a leader may be silent
// neither stops the heartbeat nor loses the fence.
func TestSA45_LongFlush(t *testing.T) {
	x := newWorld(t, Options{Heartbeat: 50 * time.Millisecond, LeaderSilence: 2 * time.Second})
	x.apply(t, x.row(bucketA, "r", "{}"))
	must(t, x.w.writeOut(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	if _, err := x.store.Lead(ctx, "standby"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the standby: %v", err)
	}
	x.commit(t, nil)
	x.verifyAll(t)
}
