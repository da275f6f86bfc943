package store

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// TestRowsThatCannotBeStored are listed; their neighbours are stored.
func TestRowsThatCannotBeStored(t *testing.T) {
	x := newWorld(t, Options{})
	bad := func(key string, o millrace.Output) millrace.Change {
		c := x.upsert(0, key, o, x.out(1, "fine", "lists", key, "{}"))
		c.Lookups = []millrace.Lookup{x.look(`["`+key+`"]`, `[]`)}
		return c
	}
	long := strings.Repeat("x", maxKeyBytes+1)
	lookup := bad("d", x.out(0, "b", "lists", "d", "{}"))
	lookup.Lookups[0].Key = long
	changes := []millrace.Change{
		bad("a", x.out(0, long, "lists", "a", "{}")),
		bad("b", x.out(0, "b", "lists", "b\x00", "{}")),
		bad("c", x.out(0, "b", "lists", "\xff", "{}")),
		lookup,
	}
	x.apply(t, changes...)
	x.commit(t, nil)
	equal(t, []string{
		`(1,a,"the bucket's name would have 2049 bytes, the limit is 2048")`,
		`(1,b,"the row id is not valid text")`,
		`(1,c,"the row id is not valid text")`,
		`(3,d,"the looked up values would have 2049 bytes, the limit is 2048")`,
	}, lines(t, x.conn, `SELECT definition, row_key, message FROM millrace.row_errors ORDER BY row_key`))
	equal(t, int64(4), value[int64](t, x.conn, `SELECT count(*) FROM millrace.bucket_rows('fine')`))
	equal(t, int64(3), value[int64](t, x.conn, `SELECT count(*) FROM millrace.lookups`))
	equal(t, int64(4), value[int64](t, x.conn, `SELECT row_errors FROM millrace.status`))
	// An update cures one, a delete another.
	x.apply(t, x.upsert(0, "a", x.out(0, "b", "lists", "a", "{}")), x.delete(0, "b"))
	x.commit(t, nil)
	equal(t, []string{`(c)`, `(d)`}, lines(t, x.conn, `SELECT row_key FROM millrace.row_errors ORDER BY row_key`))
}

func TestMisuseIsRefused(t *testing.T) {
	x := newWorld(t, Options{})
	foreign := x.out(0, "b", "lists", "k", "{}")
	foreign.Definition = 99
	for name, c := range map[string]millrace.Change{
		"definition outside the scope": x.upsert(0, "k", foreign),
		"delete with outputs":          {Scope: x.scopes[0], Kind: millrace.ChangeDelete, Key: "k", Outputs: []millrace.Output{x.out(0, "b", "lists", "k", "{}")}},
		"no scope":                     {Kind: millrace.ChangeUpsert, Key: "k"},
		"no kind":                      {Scope: x.scopes[0], Key: "k"},
	} {
		if err := x.w.Apply(t.Context(), []millrace.Change{x.upsert(0, "other", x.out(0, "b", "lists", "other", "{}")), c}); err == nil {
			t.Errorf("%s was applied", name)
		}
	}
	c := x.commit(t, nil)
	if n := value[int64](t, x.conn, `SELECT count(*) FROM millrace.ops`); n != 0 || c.OpID != 1 {
		t.Errorf("%d ops, op id %d after calls that failed", n, c.OpID)
	}
}

// TestLargeTransactionTakesBoundedMemory applies far more than a piece in one
// flush (I8), truncates it in the same flush and checks that all of it counts.
func TestLargeTransactionTakesBoundedMemory(t *testing.T) {
	x := newWorld(t, Options{PieceBytes: 1 << 20, CacheBytes: 4 << 20})
	pad := strings.Repeat("p", 500)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var first, most uint64
	const rows = 100_000
	for at := 0; at < rows; at += 2_000 {
		changes := make([]millrace.Change, 2_000)
		for i := range changes {
			key := fmt.Sprintf("k%07d", at+i)
			changes[i] = x.upsert(0, key, x.out(0, fmt.Sprintf("b%d", (at+i)/4), "lists", key, pad))
		}
		x.apply(t, changes...)
		changes = nil
		if at == 30_000 {
			first = heap()
		} else if at > 30_000 && at%10_000 == 0 {
			most = max(most, heap())
		}
	}
	if most > first+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes within one flush", first, most)
	}
	c := x.commit(t, nil)
	equal(t, []string{fmt.Sprintf("(%d,%d,25000)", rows+1, rows)}, lines(t, x.conn, `
		SELECT (SELECT op_id FROM millrace.head), (SELECT sum(rows) FROM millrace.bucket_totals), (SELECT count(*) FROM millrace.bucket_names)`))
	if value[bool](t, x.conn, `SELECT buckets IS NOT NULL FROM millrace.checkpoint_log WHERE seq = $1`, c.Seq) {
		t.Error("25,000 changed buckets are named")
	}
	x.apply(t, millrace.Change{Scope: x.scopes[0], Kind: millrace.ChangeTruncate}, x.upsert(0, "k0000000", x.out(0, "b0", "lists", "k0000000", "{}")))
	x.commit(t, nil)
	// A number for each row that ended, one for each CLEAR of a bucket, one for
	// the PUT.
	equal(t, []string{fmt.Sprintf("(%d,1,1,%d)", 2*rows+25_000+2, rows)}, lines(t, x.conn, `
		SELECT (SELECT op_id FROM millrace.head), (SELECT sum(rows) FROM millrace.bucket_totals), (SELECT count(*) FROM millrace.row_state), (SELECT count(*) FROM millrace.ended_outputs)`))
}

func TestUpkeep(t *testing.T) {
	x := newWorld(t, Options{HistoryKeep: 24 * time.Hour})
	for i := range 3 {
		c := x.upsert(0, "k", x.out(0, fmt.Sprint("b", i), "lists", "k", "{}"))
		c.Lookups = []millrace.Lookup{x.look(fmt.Sprint(i), "[]")}
		x.apply(t, c)
		x.commit(t, nil)
	}
	state := func() []string {
		return lines(t, x.conn, `SELECT (SELECT count(*) FROM millrace.ended_outputs), (SELECT count(*) FROM millrace.lookups),
			(SELECT count(*) FROM millrace.checkpoint_log), (SELECT count(buckets) FROM millrace.checkpoint_log)`)
	}
	step := func() {
		t.Helper()
		for more := true; more; {
			var err error
			more, err = x.w.maintainStep(t.Context(), checkpointAge)
			must(t, err)
		}
	}
	step()
	equal(t, []string{`(2,3,4,4)`}, state())
	// Ten thousand checkpoints, three a minute, up to two hours ago; the newest
	// ones stay.
	exec(t, x.conn, `
		UPDATE millrace.checkpoint_log SET seq = seq + 100000;
		INSERT INTO millrace.checkpoint_log (seq, op_id, at, lsns, buckets, lookups)
		SELECT i, 1, date_trunc('minute', now()) - interval '2 hours' - (10000 - i) * interval '20 seconds', '{}', '{1}', '{}' FROM generate_series(1, 10000) i`)
	x.w.upkeep.thinned = 0
	step()
	left := value[int](t, x.conn, `SELECT count(*) FROM millrace.checkpoint_log WHERE seq <= 10000`)
	if want := 22 * 60; left < want-1 || left > want+1 {
		t.Errorf("%d old checkpoints are left, want %d: one a minute from a day ago to two hours ago", left, want)
	}
	if n := value[int](t, x.conn, `SELECT count(*) - count(DISTINCT date_trunc('minute', at)) FROM millrace.checkpoint_log WHERE seq <= 10000`); n > 1 {
		t.Errorf("%d minutes have a second checkpoint", n)
	}
	if n := value[int](t, x.conn, `SELECT count(buckets) FROM millrace.checkpoint_log WHERE seq <= 10000`); n > 1 {
		t.Errorf("%d old checkpoints have arrays", n)
	}
	equal(t, []string{`(2,3)`}, lines(t, x.conn, `SELECT (SELECT count(*) FROM millrace.ended_outputs), (SELECT count(*) FROM millrace.lookups)`))
	// A day later nothing but the present is kept.
	exec(t, x.conn, `UPDATE millrace.checkpoint_log SET at = at - interval '2 days'`)
	step()
	// The newest of the old checkpoints is not thinned, so a relay may still ask
	// which lookup it ended.
	equal(t, []string{`(0,2)`}, lines(t, x.conn, `SELECT (SELECT count(*) FROM millrace.ended_outputs), (SELECT count(*) FROM millrace.lookups)`))
	x.commit(t, nil)
	exec(t, x.conn, `
		UPDATE millrace.checkpoint_log SET seq = seq + 200000 WHERE seq < 100000;
		UPDATE millrace.checkpoint_log SET at = at - interval '2 days'`)
	step()
	equal(t, []string{`(0,1)`}, lines(t, x.conn, `SELECT (SELECT count(*) FROM millrace.ended_outputs), (SELECT count(*) FROM millrace.lookups)`))
}
