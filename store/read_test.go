package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

func openReader(tb testing.TB, uri string) *Reader {
	tb.Helper()
	r, err := OpenReader(tb.Context(), uri, ReaderOptions{Logger: quiet})
	must(tb, err)
	tb.Cleanup(r.Close)
	return r
}

func snapshot(tb testing.TB, r *Reader) *ReadSnapshot {
	tb.Helper()
	s, err := r.Snapshot(tb.Context())
	must(tb, err)
	tb.Cleanup(s.Close)
	return s
}

func readOps(tb testing.TB, s *ReadSnapshot, upto millrace.OpID, limit int, ranges ...millrace.BucketRange) (out []string) {
	tb.Helper()
	must(tb, s.Ops(tb.Context(), ranges, upto, limit, func(i int, op *millrace.Op) bool {
		out = append(out, fmt.Sprintf("%d %d %s %s/%s/%s %s", i, op.ID, op.Kind, op.Type, op.RowID, op.Subkey, op.Data))
		return true
	}))
	return out
}

func TestSnapshotIsOneCheckpoint(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	x.apply(t, x.upsert(0, "l1", x.out(0, `by_owner["u1"]`, "lists", "l1", `{"id":"l1"}`)))
	first := x.commit(t, nil)
	s := snapshot(t, r)
	x.apply(t, x.upsert(0, "l2", x.out(0, `by_owner["u1"]`, "lists", "l2", `{"id":"l2"}`)),
		x.upsert(1, "t1", x.out(1, `by_list["l1"]`, "todos", "t1", `{"id":"t1"}`)))
	second := x.commit(t, nil)

	h := s.Head()
	if h.OpID != first.OpID || h.Seq != first.Seq || h.RuleSet != x.set.ID || h.ActiveFrom != 1 || h.Replica {
		t.Fatalf("head %+v, want %+v of rule set %d", h, first, x.set.ID)
	}
	owner := millrace.BucketName{Definition: x.set.Definitions[0].ID, Name: `by_owner["u1"]`}
	list := millrace.BucketName{Definition: x.set.Definitions[1].ID, Name: `by_list["l1"]`}
	names := []millrace.BucketName{list, owner}
	got, err := s.Buckets(t.Context(), names)
	must(t, err)
	if got[0] != (millrace.BucketTotals{}) || got[1].Ops != 1 || got[1].Last != first.OpID {
		t.Errorf("in the old snapshot: %+v", got)
	}

	s = snapshot(t, r)
	got, err = s.Buckets(t.Context(), names)
	must(t, err)
	byID, err := s.Totals(t.Context(), []millrace.BucketID{got[0].ID, 999, got[1].ID})
	must(t, err)
	if byID[0] != got[0] || byID[1].ID != 0 || byID[2] != got[1] || got[1].Ops != 2 || got[1].Last != second.OpID-1 {
		t.Errorf("by name %+v, by id %+v", got, byID)
	}
	sum := millrace.PutChecksum("lists", "l1", "", `{"id":"l1"}`) + millrace.PutChecksum("lists", "l2", "", `{"id":"l2"}`)
	if got[1].Checksum != sum {
		t.Errorf("checksum %d, want %d", got[1].Checksum, sum)
	}
	one := readOps(t, s, second.OpID, 10, millrace.BucketRange{Definition: owner.Definition, Bucket: got[1].ID})
	many := readOps(t, s, second.OpID, 10,
		millrace.BucketRange{Definition: list.Definition, Bucket: got[0].ID},
		millrace.BucketRange{Definition: owner.Definition, Bucket: got[1].ID, After: first.OpID})
	equal(t, []string{`0 2 PUT lists/l1/ {"id":"l1"}`, `0 3 PUT lists/l2/ {"id":"l2"}`}, one)
	equal(t, []string{`0 4 PUT todos/t1/ {"id":"t1"}`, `1 3 PUT lists/l2/ {"id":"l2"}`}, many)
	equal(t, many[:1], readOps(t, s, second.OpID, 1,
		millrace.BucketRange{Definition: list.Definition, Bucket: got[0].ID},
		millrace.BucketRange{Definition: owner.Definition, Bucket: got[1].ID}))

	c, err := s.Changes(t.Context(), first.Seq)
	must(t, err)
	slices.Sort(c.Buckets)
	want := []millrace.BucketID{got[1].ID, got[0].ID}
	slices.Sort(want)
	if c.BucketsUnknown || c.LookupsUnknown || !slices.Equal(c.Buckets, want) || len(c.Lookups) != 0 || c.Published.IsZero() {
		t.Errorf("changes %+v, want buckets %v", c, want)
	}
	last, err := s.LastBucket(t.Context())
	must(t, err)
	fresh, err := s.BucketsAfter(t.Context(), got[1].ID, 10)
	must(t, err)
	if last != got[0].ID || len(fresh) != 1 || fresh[0] != (millrace.NamedBucket{ID: got[0].ID, BucketName: list}) {
		t.Errorf("last %d, new %+v", last, fresh)
	}
	set, err := s.RuleSet(t.Context(), x.set.ID)
	must(t, err)
	if set.Content != "rules" || set.ActiveFrom != 1 || !slices.Equal(set.Definitions, x.set.Definitions) {
		t.Errorf("rule set %+v, want %+v", set, x.set)
	}
}

func TestChangesOfThinnedCheckpointsAreUnknown(t *testing.T) {
	x := newWorld(t, Options{})
	first := x.commit(t, nil)
	x.commit(t, nil)
	x.commit(t, nil)
	exec(t, x.conn, `DELETE FROM millrace.checkpoint_log WHERE seq = $1`, first.Seq+1)
	c, err := snapshot(t, openReader(t, x.uri)).Changes(t.Context(), first.Seq)
	must(t, err)
	if !c.BucketsUnknown || !c.LookupsUnknown {
		t.Errorf("changes %+v", c)
	}
}

func TestReadLookups(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	def := x.set.Definitions[2].ID
	grant := x.upsert(0, "l1")
	grant.Lookups = []millrace.Lookup{x.look(`["u1"]`, `["l1"]`), x.look(`["u2"]`, `["l1"]`)}
	x.apply(t, grant)
	first := x.commit(t, nil)
	keys := []millrace.LookupKey{{Definition: def, Key: `["u2"]`}, {Definition: def, Key: `["u3"]`}, {Definition: def, Key: `["u1"]`}}
	got, err := snapshot(t, r).Lookups(t.Context(), keys)
	must(t, err)
	equal(t, [][]string{{`["l1"]`}, nil, {`["l1"]`}}, got)

	withdraw := x.upsert(0, "l1")
	withdraw.Lookups = []millrace.Lookup{x.look(`["u1"]`, `["l1"]`)}
	x.apply(t, withdraw)
	x.commit(t, nil)
	s := snapshot(t, r)
	got, err = s.Lookups(t.Context(), keys)
	must(t, err)
	equal(t, [][]string{nil, nil, {`["l1"]`}}, got)
	changed, ok, err := s.ChangedLookups(t.Context(), []millrace.DefinitionID{def}, first.OpID, 10)
	must(t, err)
	if !ok || len(changed) != 1 || changed[0] != keys[0] {
		t.Errorf("changed %v %v, want %v", changed, ok, keys[0])
	}
	if _, ok, err = s.ChangedLookups(t.Context(), []millrace.DefinitionID{def}, 0, 1); ok || err != nil {
		t.Errorf("two changes within a limit of one: %v %v", ok, err)
	}
	if other, ok, err := s.ChangedLookups(t.Context(), []millrace.DefinitionID{def + 1}, 0, 1); len(other) != 0 || !ok || err != nil {
		t.Errorf("of another definition: %v %v %v", other, ok, err)
	}
}

func TestSA28_WriteCheckpointNumbers(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	ask := func(q ...millrace.WriteRequest) []int64 {
		t.Helper()
		ids, err := r.RequestWriteCheckpoints(t.Context(), q)
		must(t, err)
		return ids
	}
	before := time.Now().Add(-time.Hour).UnixMicro()
	next := ask(millrace.WriteRequest{User: "a/1"}, millrace.WriteRequest{User: "b"}, millrace.WriteRequest{User: "a/1"})
	if next[0] < before || next[1] < before || next[2] <= next[0] {
		t.Errorf("numbers %v", next)
	}
	// SA-28: replies 5, 5, 5, 6.
	equal(t, []int64{5}, ask(millrace.WriteRequest{User: "c", ID: 5}))
	equal(t, []int64{5, 5, 6}, ask(millrace.WriteRequest{User: "c", ID: 5}, millrace.WriteRequest{User: "c", ID: 3}, millrace.WriteRequest{User: "c", ID: 6}))
	if after := ask(millrace.WriteRequest{User: "c"}); after[0] <= 6 {
		t.Errorf("next after 6 is %d", after[0])
	}
	// The greatest number stays below the clients' sentinel.
	const greatest = 1<<63 - 2
	equal(t, []int64{greatest, greatest}, ask(millrace.WriteRequest{User: "d", ID: greatest}, millrace.WriteRequest{User: "d"}))

	exec(t, x.conn, `UPDATE millrace.write_requests SET acked_id = id, acked_seq = 7 WHERE user_id = 'b'`)
	s := snapshot(t, r)
	list, err := s.WriteCheckpoints(t.Context(), nil, []string{"a/1", "b", "nobody"})
	must(t, err)
	if len(list) != 2 {
		t.Fatalf("counters %+v", list)
	}
	acks, ok, err := s.AcknowledgedAfter(t.Context(), nil, 6, 10)
	must(t, err)
	if !ok || len(acks) != 1 || acks[0] != (millrace.WriteCheckpoint{User: "b", ID: next[1], Acknowledged: next[1], Seq: 7}) {
		t.Errorf("acknowledged %+v", acks)
	}
	equal(t, []string{"(a/1)", "(c)", "(d)"}, lines(t, x.conn, `SELECT user_id FROM millrace.pending_write_checkpoints ORDER BY 1`))
}

func TestReports(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	now := time.Now()
	report := millrace.RelayReport{ID: "r1", Name: "host/1", StartedAt: now, OpID: 1, RuleSets: []millrace.RuleSetID{1}, Connections: 2, Sessions: []millrace.SessionReport{
		{ID: 1, User: "u1/c1", ClientID: "c1", Transport: "http", Agent: "sdk", Buckets: 3, Sent: 5, Bytes: 100, Since: now},
		{ID: 2, User: "u2", Transport: "ws", Buckets: 1, Sent: 5, Acknowledged: 4, Since: now},
	}}
	must(t, r.Report(t.Context(), report))
	report.Sessions = report.Sessions[1:]
	report.Sessions[0].Acknowledged = 5
	must(t, r.Report(t.Context(), report))
	equal(t, []string{"(r1,2,u2,5)"}, lines(t, x.conn, `SELECT relay, id, user_id, acknowledged_op FROM millrace.sessions`))
	equal(t, []string{"(r1,host/1,2,0)"}, lines(t, x.conn, `SELECT id, name, connections, ops_behind FROM millrace.relays`))

	exec(t, x.conn, `UPDATE millrace.relay_reports SET at = at - interval '6 minutes'`)
	report.ID, report.Sessions = "r2", nil
	must(t, r.Report(t.Context(), report))
	equal(t, []string{"(r2)"}, lines(t, x.conn, `SELECT id FROM millrace.relay_reports`))
	equal(t, 0, value[int](t, x.conn, `SELECT count(*) FROM millrace.session_reports`))
}

func TestSA30_WatchHearsOfCheckpoints(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- r.Watch(ctx, func() { heard <- struct{}{} }) }()
	<-heard // connected
	start := time.Now()
	x.commit(t, nil)
	<-heard
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Errorf("heard after %s: that was the poll", d)
	}
	// A session that ends is replaced.
	exec(t, x.conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'millrace relay watch' AND datname = current_database()`)
	pgtest.Eventually(t, 10*time.Second, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millrace relay watch' AND datname = current_database()`); n != 1 {
			return fmt.Errorf("%d sessions wait for checkpoints", n)
		}
		return nil
	})
	cancel()
	must(t, <-done)
}

func TestUnreachableSidecarIsUnavailable(t *testing.T) {
	r := openReader(t, "postgres://nobody:secret@127.0.0.1:1/none")
	_, err := r.Snapshot(t.Context())
	if !errors.Is(err, millrace.ErrUnavailable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}

// TestReadPlans: each statement of the row path of serving uses the index meant
// for it, on tables of a realistic size, with the generic plans that are used.
func TestReadPlans(t *testing.T) {
	x := newWorld(t, Options{})
	def := x.set.Definitions[0].ID
	exec(t, x.conn, `
		INSERT INTO millrace.bucket_names (id, definition, name) SELECT i, $1::int4, 'b[' || i || ']' FROM generate_series(1, 20000) i`, int32(def))
	exec(t, x.conn, `
		INSERT INTO millrace.bucket_totals SELECT i, i + 1000, 10, 10, 100, 0 FROM generate_series(1, 20000) i`)
	exec(t, x.conn, `
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
		SELECT i % 20000 + 1, i + 1000, $1::int4, 0, 1, 't', i::text, '{}' FROM generate_series(1, 200000) i`, int32(def))
	exec(t, x.conn, `
		INSERT INTO millrace.lookups (added, definition, source_table, row_key, key, outputs)
		SELECT i + 1000, $1::int4, 1, i::text, '["' || i || '"]', '[]' FROM generate_series(1, 50000) i`, int32(x.set.Definitions[2].ID))
	exec(t, x.conn, `
		INSERT INTO millrace.write_requests (user_id, id, managed, acked_id, acked_seq)
		SELECT 'u' || i, i, true, i, i FROM generate_series(1, 20000) i`)
	exec(t, x.conn, `
		INSERT INTO millrace.custom_write_checkpoints (definition, user_id, id, seq)
		SELECT 4 + i % 2, 'u' || i / 2, i, i FROM generate_series(1, 40000) i`)
	exec(t, x.conn, `
		INSERT INTO millrace.checkpoint_log (seq, op_id, at, lsns) SELECT i + 100, i, now(), '{}' FROM generate_series(1, 20000) i`)
	exec(t, x.conn, `VACUUM ANALYZE`)
	conn := connect(t, x.uri)
	exec(t, conn, `SET search_path = pg_catalog; SET jit = off; SET plan_cache_mode = force_generic_plan`)
	pkey := fmt.Sprintf("ops_%d_pkey", def)
	for _, c := range []struct {
		name, sql string
		want      []string
		args      string
	}{
		{"ops", sqlOps(def), []string{pkey}, `1, 5::int8, 0::int8, 900000::int8, 1000::int8`},
		{"ops of many", sqlOpsOfMany(def), []string{pkey, "Incremental Sort"}, `1, ARRAY[5]::int8[], ARRAY[0]::int8[], 900000::int8, 1000::int8`},
		{"totals", sqlTotals, []string{"bucket_totals_pkey"}, `ARRAY[5]::int8[]`},
		{"buckets", sqlBuckets, []string{"bucket_names_definition_name_key", "bucket_totals_pkey"}, `ARRAY[1]::int4[], ARRAY['b']::text[]`},
		{"new buckets", sqlBucketsAfter, []string{"bucket_names_pkey"}, `5::int8, 10`},
		{"last bucket", sqlLastBucket, []string{"bucket_names_pkey"}, ``},
		{"lookups", sqlLookups, []string{"lookups_key"}, `ARRAY[1]::int4[], ARRAY['["1"]']::text[]`},
		{"changed lookups", sqlChangedLookups, []string{"lookups_pkey", "lookups_removed"}, `900000::int8, 10::int8, ARRAY[1]::int4[]`},
		{"write checkpoints", sqlWriteCheckpoints, []string{"write_requests_pkey"}, `ARRAY['u1']::text[]`},
		{"acknowledged", sqlAcknowledged, []string{"write_requests_acked"}, `19000::int8, 10::int8`},
		{"custom write checkpoints", sqlCustomWriteCheckpoints, []string{"custom_write_checkpoints_pkey", "write_requests_pkey"}, `ARRAY['u1']::text[], ARRAY[4]::int4[]`},
		{"custom acknowledged", sqlCustomAcknowledged, []string{"custom_write_checkpoints_seq", "write_requests_acked", "custom_write_checkpoints_pkey", "write_requests_pkey"}, `39000::int8, ARRAY[4]::int4[], 10::int8`},
		{"changes", sqlChanges, []string{"checkpoint_log_pkey"}, `19000::int8, 20000::int8, 10`},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := "p_" + strings.ReplaceAll(c.name, " ", "_")
			exec(t, conn, "PREPARE "+name+" AS "+c.sql)
			call := "EXPLAIN EXECUTE " + name
			if c.args != "" {
				call += "(" + c.args + ")"
			}
			rows, err := conn.Query(t.Context(), call, pgx.QueryExecModeSimpleProtocol)
			must(t, err)
			text, err := pgx.CollectRows(rows, pgx.RowTo[string])
			must(t, err)
			plan := strings.Join(text, "\n")
			for _, w := range c.want {
				if !strings.Contains(plan, w) {
					t.Errorf("does not use %s:\n%s", w, plan)
				}
			}
			if strings.Contains(plan, "Seq Scan") && !strings.Contains(plan, "Seq Scan on bucket_floors") {
				t.Errorf("scans a table:\n%s", plan)
			}
		})
	}
}

// BenchmarkReadOps reads one bucket in pages of 1,000, each in a snapshot of its
// own, as catch-up does.
func BenchmarkReadOps(b *testing.B) {
	const ops = 100_000
	x := newWorld(b, Options{})
	def := x.set.Definitions[0].ID
	exec(b, x.conn, `INSERT INTO millrace.bucket_names (id, definition, name) VALUES (1, $1::int4, 'b[1]')`, int32(def))
	exec(b, x.conn, `INSERT INTO millrace.bucket_totals VALUES (1, $1::int8, $1::int8, 10, 100, 0)`, int64(ops))
	exec(b, x.conn, `
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
		SELECT 1, i, $1::int4, 0, 1, 't', i::text, '{"id":"' || i || '","text":"' || repeat('x', 250) || '"}' FROM generate_series(1, $2::int) i`, int32(def), ops)
	exec(b, x.conn, `VACUUM ANALYZE millrace.ops`)
	exec(b, x.conn, `UPDATE millrace.head SET op_id = $1::int8`, int64(ops))
	r := openReader(b, x.uri)
	b.ResetTimer()
	for range b.N {
		var after millrace.OpID
		for after < ops {
			s, err := r.Snapshot(b.Context())
			must(b, err)
			if _, err := s.Totals(b.Context(), []millrace.BucketID{1}); err != nil {
				b.Fatal(err)
			}
			must(b, s.Ops(b.Context(), []millrace.BucketRange{{Definition: def, Bucket: 1, After: after}}, ops, 1000, func(_ int, op *millrace.Op) bool {
				after = op.ID
				return true
			}))
			s.Close()
		}
	}
	b.ReportMetric(float64(b.N)*ops/b.Elapsed().Seconds(), "ops/s")
}
