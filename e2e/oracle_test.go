package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// content is what every bucket holds: logical bucket name -> row -> data. A row
// is named "type/id".
type content map[string]map[string]string

func (c content) add(bucket string, r row) error {
	rows := c[bucket]
	if rows == nil {
		rows = map[string]string{}
		c[bucket] = rows
	}
	key := r.Type + "/" + r.ID
	if _, ok := rows[key]; ok {
		return fmt.Errorf("bucket %s holds %s twice", bucket, key)
	}
	rows[key] = r.Data
	return nil
}

func (c content) rows() (n int) {
	for _, rows := range c {
		n += len(rows)
	}
	return n
}

// folds are the buckets' histories as far as they were folded, by wire name.
type folds struct {
	buckets map[string]*fold
	lastOp  int64
	lastSeq int64
}

// fold is one bucket's history.
type fold struct {
	millrace.Reduced
	ops int64
}

// verifiable is how many bytes a bucket may have to be verified op by op in SQL,
// which is slow before PostgreSQL 18.
const verifiable = 50_000

// differences collects findings, the first of each kind in words.
type differences struct {
	lines []string
	count int
}

func (d *differences) addf(format string, args ...any) {
	d.count++
	if len(d.lines) < 12 {
		d.lines = append(d.lines, fmt.Sprintf(format, args...))
	}
}

func (d *differences) err() error {
	if d.count == 0 {
		return nil
	}
	return fmt.Errorf("%d differences, the first:\n  %s", d.count, strings.Join(d.lines, "\n  "))
}

// oracle holds every invariant the sidecar must satisfy once it has caught up
// with a source at rest. Each check is independent of the others and of the
// product's code.
func (s *system) oracle() {
	s.t.Helper()
	if err := s.checkAll(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) checkAll() error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	start := time.Now()
	src, err := connectAs(ctx, s.sourceURI, "e2e-oracle")
	if err != nil {
		return err
	}
	defer src.Close(ctx)
	conn, err := connectAs(ctx, s.sidecarURI, "e2e-oracle")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	rows, err := check(ctx, src, sidecar{tx}, s.rules, &s.folded)
	s.t.Logf("oracle: %d rows, op %d, %v", rows, s.folded.lastOp, time.Since(start).Round(time.Millisecond))
	return err
}

// check compares a sidecar with its source and returns how many rows it saw.
// folded remembers the ops seen, so that the next call reads only newer ones.
func check(ctx context.Context, src querier, side sidecar, r rules, folded *folds) (int, error) {
	expected, err := expectedContent(ctx, src, "testdata/"+r.name+".sql")
	if err != nil {
		return 0, err
	}
	buckets, err := side.buckets(ctx)
	if err != nil {
		return 0, err
	}
	actual, err := actualContent(ctx, side, buckets)
	if err != nil {
		return 0, err
	}
	lookups, err := checkLookups(ctx, src, side, r)
	if err != nil {
		return 0, err
	}
	history, err := checkHistory(ctx, side, buckets, actual, folded)
	if err != nil {
		return 0, err
	}
	return expected.rows(), errors.Join(
		wrap("rows of the buckets against the rules' queries on the source", compareContents(expected, actual)),
		wrap("lookups against the source", lookups),
		wrap("history", history))
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func expectedContent(ctx context.Context, src querier, file string) (content, error) {
	sql, err := readText(file)
	if err != nil {
		return nil, err
	}
	rows, err := src.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer rows.Close()
	c := content{}
	for rows.Next() {
		var bucket string
		var r row
		if err := rows.Scan(&bucket, &r.Type, &r.ID, &r.Data); err != nil {
			return nil, err
		}
		if err := c.add(bucket, r); err != nil {
			return nil, err
		}
	}
	return c, rows.Err()
}

func actualContent(ctx context.Context, side sidecar, buckets []bucket) (content, error) {
	c := content{}
	for _, b := range buckets {
		rows, err := side.rows(ctx, b.Wire)
		if err != nil {
			return nil, fmt.Errorf("bucket_rows of %s: %w", b.Wire, err)
		}
		for _, r := range rows {
			if err := c.add(b.Name, r); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// compareContents is I6: each bucket holds exactly what the rules' queries give.
func compareContents(expected, actual content) error {
	var d differences
	names := map[string]bool{}
	for name := range expected {
		names[name] = true
	}
	for name := range actual {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, key := range slices.Sorted(maps.Keys(expected[name])) {
			want := expected[name][key]
			got, ok := actual[name][key]
			switch {
			case !ok:
				d.addf("%s: %s is missing", name, key)
			case got != want:
				d.addf("%s: %s is %s, want %s", name, key, around(got, want), around(want, got))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(actual[name])) {
			if _, ok := expected[name][key]; !ok {
				d.addf("%s: %s should not be there", name, key)
			}
		}
	}
	return d.err()
}

// around is the part of a that differs from b, with what surrounds it.
func around(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return fmt.Sprintf("%.120q (from byte %d of %d)", a[max(0, i-20):], max(0, i-20), len(a))
}

func checkLookups(ctx context.Context, src querier, side sidecar, r rules) (found, failed error) {
	sql, err := readText("testdata/" + r.name + ".lookups.sql")
	if err != nil {
		return nil, err
	}
	type entry struct{ Name, Key, Output string }
	read := func(q querier, sql string) (map[entry]int, error) {
		rows, err := q.Query(ctx, sql)
		if err != nil {
			return nil, err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
		n := map[entry]int{}
		for _, e := range list {
			n[e]++
		}
		return n, err
	}
	want, err := read(src, sql)
	if err != nil {
		return nil, err
	}
	got, err := read(side, lookupsInForce)
	if err != nil {
		return nil, err
	}
	var d differences
	for e, n := range want {
		if got[e] != n {
			d.addf("%v is there %d times, want %d", e, got[e], n)
		}
	}
	for e, n := range got {
		if want[e] == 0 {
			d.addf("%v is there %d times, want none", e, n)
		}
	}
	return d.err(), nil
}

// checkHistory folds the ops of every bucket and compares the result with what
// the sidecar says of it (I1, I5, R9).
func checkHistory(ctx context.Context, side sidecar, buckets []bucket, actual content, folded *folds) (found, failed error) {
	var d differences
	h, err := side.head(ctx)
	if err != nil {
		return nil, err
	}
	if h.OpID < folded.lastOp || h.Seq < folded.lastSeq {
		d.addf("the head went back from op %d, seq %d to op %d, seq %d", folded.lastOp, folded.lastSeq, h.OpID, h.Seq)
	}
	if folded.buckets == nil {
		folded.buckets = map[string]*fold{}
	}
	byOp := map[int64]string{} // op ids of this pass: unique over all buckets
	for _, b := range buckets {
		f := folded.buckets[b.Wire]
		if f == nil {
			f = &fold{}
			folded.buckets[b.Wire] = f
		}
		if err := foldBucket(ctx, side, b, h, f, byOp, &d); err != nil {
			return nil, err
		}
		if uint32(f.Checksum) != uint32(b.Checksum) {
			d.addf("%s: running checksum %d, the ops give %d", b.Wire, uint32(b.Checksum), f.Checksum)
		}
		if int64(f.Last) != b.LastOp {
			d.addf("%s: last op is said to be %d, it is %d", b.Wire, b.LastOp, f.Last)
		}
		if n := len(actual[b.Name]); n != len(f.Rows) {
			d.addf("%s: bucket_rows gives %d rows, the ops give %d", b.Wire, n, len(f.Rows))
		}
		for id, op := range f.Rows {
			if actual[b.Name][id.Type+"/"+id.RowID] != op.Data {
				d.addf("%s: bucket_rows and the ops differ on %s/%s", b.Wire, id.Type, id.RowID)
			}
		}
		if int64(len(f.Rows)) != b.Rows || f.ops != b.Ops {
			d.addf("%s: said to hold %d rows and %d ops, the ops give %d rows and %d ops", b.Wire, b.Rows, b.Ops, len(f.Rows), f.ops)
		}
		sum, err := side.checksum(ctx, b.Wire)
		if err != nil {
			return nil, err
		}
		if uint32(sum) != uint32(f.Checksum) {
			d.addf("%s: bucket_checksum says %d, the ops give %d", b.Wire, uint32(sum), f.Checksum)
		}
		if b.Bytes <= verifiable {
			ok, report, err := side.verified(ctx, b.Wire)
			if err != nil {
				return nil, err
			}
			if !ok {
				d.addf("%s: verify_bucket says %s", b.Wire, report)
			}
		}
	}
	folded.lastOp, folded.lastSeq = h.OpID, h.Seq
	if err := checkRowState(ctx, side, folded, &d); err != nil {
		return nil, fmt.Errorf("row_state: %w", err)
	}
	for name, sql := range historyViolations {
		var n int64
		if err := side.QueryRow(ctx, sql).Scan(&n); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if n != 0 {
			d.addf("%s: %d", name, n)
		}
	}
	return d.err(), nil
}

// checkRowState compares what the writer believes each row to have with what
// the ops say (R19): a disagreement shows only at the row's next change.
func checkRowState(ctx context.Context, side sidecar, folded *folds, d *differences) error {
	rows, err := side.Query(ctx, liveOutputs)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var wire string
		var id millrace.RowIdentity
		var since int64
		if err := rows.Scan(&wire, &id.Type, &id.RowID, &id.Subkey, &since); err != nil {
			return err
		}
		n++
		f := folded.buckets[wire]
		if f == nil {
			d.addf("row_state has %v in bucket %s, which has no ops", id, wire)
			continue
		}
		op, ok := f.Rows[id]
		if !ok {
			d.addf("row_state has %v in bucket %s, the ops have not", id, wire)
		} else if since > int64(op.ID) {
			d.addf("row_state has %v in bucket %s since op %d, its last PUT is op %d", id, wire, since, op.ID)
		}
	}
	live := 0
	for _, f := range folded.buckets {
		live += len(f.Rows)
	}
	if n != live {
		d.addf("row_state has %d outputs, the ops %d", n, live)
	}
	return rows.Err()
}

func foldBucket(ctx context.Context, side sidecar, b bucket, h head, f *fold, byOp map[int64]string, d *differences) error {
	const page = 20_000
	for {
		ops, err := side.opsPage(ctx, b.Wire, int64(f.Last), h.OpID, page)
		if err != nil {
			return fmt.Errorf("ops_between of %s: %w", b.Wire, err)
		}
		for _, op := range ops {
			if op.ID <= f.Last || int64(op.ID) > h.OpID {
				d.addf("%s: op %d follows op %d, head is at %d", b.Wire, op.ID, f.Last, h.OpID)
			}
			if other, ok := byOp[int64(op.ID)]; ok {
				d.addf("op %d is in %s and %s", op.ID, other, b.Wire)
			}
			byOp[int64(op.ID)] = b.Wire
			if want := opChecksum(op); op.Checksum != want && (op.Kind == millrace.OpPut || op.Kind == millrace.OpRemove) {
				d.addf("%s: op %d has checksum %d, want %d", b.Wire, op.ID, op.Checksum, want)
			}
			if op.Kind == millrace.OpRemove {
				if _, ok := f.Rows[millrace.RowIdentity{Type: op.Type, RowID: op.RowID, Subkey: op.Subkey}]; !ok {
					d.addf("%s: op %d removes %s/%s, which is not there", b.Wire, op.ID, op.Type, op.RowID)
				}
			}
			f.Reduce(op)
			f.ops++
		}
		if len(ops) < page {
			return nil
		}
	}
}

// opChecksum is the checksum from its definition, apart from the product's own.
func opChecksum(op millrace.Op) millrace.Checksum {
	parts := []string{"P" + op.Type, op.RowID, op.Subkey, op.Data}
	if op.Kind == millrace.OpRemove {
		parts = []string{"R" + op.Type, op.RowID, op.Subkey}
	}
	h := crc32.Checksum([]byte(strings.Join(parts, "\x00")), crc32.MakeTable(crc32.Castagnoli))
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return millrace.Checksum(h ^ h>>16)
}

// The definition's own worked values, so that the oracle's checksum is not only
// compared with itself.
func TestOracleChecksum(t *testing.T) {
	for _, op := range []millrace.Op{
		{Kind: millrace.OpPut, Type: "todos", RowID: "1", Data: `{"id":"1"}`},
		{Kind: millrace.OpPut, Type: "todos", RowID: "1", Subkey: "3/1", Data: `{"id":"1"}`},
		{Kind: millrace.OpRemove, Type: "todos", RowID: "1"},
	} {
		want := millrace.PutChecksum(op.Type, op.RowID, op.Subkey, op.Data)
		if op.Kind == millrace.OpRemove {
			want = millrace.RemoveChecksum(op.Type, op.RowID, op.Subkey)
		}
		if got := opChecksum(op); got != want {
			t.Errorf("%v: oracle %d, product %d", op, got, want)
		}
	}
}
