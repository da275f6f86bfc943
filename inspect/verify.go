package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// Verify evaluates the rules in force on the rows that the sources have now,
// and compares what they give with the content of the sidecar's buckets, row by
// row.
//
// Each look reads the sources at one snapshot, waits until a checkpoint contains
// it, and reads the buckets at that or a later checkpoint. So a row may differ
// because it changed between the two. The first look compares sums of whole
// buckets, the second the rows of those that differ, further ones the rows that
// have always differed. One found twice in a row with the same difference and no
// newer op is a finding.
//
// It writes nothing but a request for a checkpoint, and holds a snapshot of each source and of the sidecar
// while it reads.
func Verify(ctx context.Context, c VerifyConfig) (*Verification, error) {
	if c.Wait <= 0 {
		c.Wait = defaultVerifyWait
	}
	if c.Sample < 0 || c.Sample > 1 || math.IsNaN(c.Sample) {
		return nil, fmt.Errorf("a sample of %v is no share between 0 and 1", c.Sample)
	}
	side, err := openSidecar(ctx, c.Sidecar)
	if err != nil {
		return nil, err
	}
	defer side.close()
	set, err := side.served(ctx)
	if err != nil {
		return nil, err
	}
	if err := side.name(ctx, c.Sources); err != nil {
		return nil, err
	}
	v := &verifier{config: &c, sidecar: side, set: set, seed: maphash.MakeSeed()}
	v.out.RuleSet, v.out.Findings, v.out.Unsettled, v.out.Problems = int(set.id), []Difference{}, []Difference{}, []SimulationProblem{}
	if err := v.choose(ctx); err != nil {
		return nil, err
	}
	suspects := v.only
	if suspects == nil {
		if suspects, err = v.sums(ctx); err != nil {
			return nil, err
		}
	}
	if err := v.settle(ctx, suspects); err != nil {
		return nil, err
	}
	return &v.out, nil
}

type verifier struct {
	config  *VerifyConfig
	sidecar *sidecar
	set     *served
	seed    maphash.Seed
	// only are the buckets to verify; nil for all, or a sample.
	only map[bucketKey]bool
	out  Verification
}

// choose finds the one bucket that was asked for.
func (v *verifier) choose(ctx context.Context) error {
	if v.config.Bucket == "" {
		return nil
	}
	prefix, name, wire := strings.Cut(v.config.Bucket, "#")
	v.only = map[bucketKey]bool{}
	for i, d := range v.set.definitions {
		switch {
		case wire && v.set.prefixes[i] == prefix:
			v.only[bucketKey{i, name}] = true
		case !wire && v.set.prefixes[i] != "":
			var known bool
			err := v.sidecar.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.bucket_names WHERE definition = $1 AND name = $2)`, d, v.config.Bucket).Scan(&known)
			if err != nil {
				return fmt.Errorf("find bucket %s: %w", v.config.Bucket, err)
			}
			if known {
				v.only[bucketKey{i, v.config.Bucket}] = true
			}
		}
	}
	if len(v.only) == 0 {
		return fmt.Errorf("the rules in force have no bucket %s: SELECT bucket FROM millrace.buckets WHERE served lists them", v.config.Bucket)
	}
	return nil
}

// chosen tells whether a bucket is in the sample.
func (v *verifier) chosen(name string) bool {
	if v.config.Sample == 0 || v.config.Sample == 1 {
		return true
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return float64(h.Sum32()) < v.config.Sample*math.MaxUint32
}

// look reads the sources and the sidecar once. wanted limits the buckets; held
// is called with every row the sidecar has of them, given with every row that
// the rules give.
func (v *verifier) look(ctx context.Context, purpose string, wanted func(bucketKey) bool,
	held func(bucketKey, *heldRow) error, given func(bucketKey, *givenRow) error) error {
	scan, err := openScanner(ctx, &SimulationConfig{Rules: v.set.rules, Sources: v.config.Sources, Progress: v.config.Progress})
	if err != nil {
		return err
	}
	defer scan.close()
	v.out.Problems = append(v.out.Problems[:0], scan.skipped...)
	heads, err := scan.heads(ctx)
	if err != nil {
		return err
	}
	if err := v.sidecar.wait(ctx, heads, v.config.Wait); err != nil {
		return err
	}
	failed, err := v.held(ctx, wanted, held)
	if err != nil {
		return err
	}
	v.out.Rows, v.out.Excepted = 0, 0
	bucketDefinition := func(d int) bool { return v.set.prefixes[d] != "" }
	return scan.scan(ctx, purpose, bucketDefinition, func(r *scannedRow) error {
		if r.err != nil {
			return nil // the decoder has the same error, and lists it
		}
		key := ""
		for i := range r.out.Rows {
			o := &r.out.Rows[i]
			b := bucketKey{o.Definition, o.Bucket}
			if v.set.prefixes[o.Definition] == "" || !wanted(b) || slices.ContainsFunc(r.out.Errors, func(e syncrules.OutputError) bool { return e.Definition == o.Definition }) {
				continue
			}
			if len(failed) > 0 {
				if key == "" {
					key = r.key()
				}
				if failed[failedRow{v.set.definitions[o.Definition], r.table.name, key}] {
					v.out.Excepted++
					continue
				}
			}
			v.out.Rows++
			if err := given(b, &givenRow{o.Type, o.RowID, o.Data, r}); err != nil {
				return err
			}
		}
		return nil
	})
}

// held reads the sidecar's side of a look.
func (v *verifier) held(ctx context.Context, wanted func(bucketKey) bool, f func(bucketKey, *heldRow) error) (map[failedRow]bool, error) {
	c, err := v.sidecar.contents(ctx, v.set.id)
	if err != nil {
		return nil, err
	}
	defer c.close(ctx)
	v.out.Checkpoint, v.out.Buckets = c.head, 0
	for i, d := range v.set.definitions {
		if v.set.prefixes[i] == "" {
			continue
		}
		names := map[int64]string{}
		err := c.bucketNames(ctx, d, func(id int64, name string) error {
			if wanted(bucketKey{i, name}) {
				names[id] = name
			}
			if len(names) > maxVerifiedBuckets {
				return fmt.Errorf("there are more than %d buckets: verify a sample of them, or one", maxVerifiedBuckets)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		v.out.Buckets += int64(len(names))
		for ids := range slices.Chunk(slices.Sorted(maps.Keys(names)), bucketsAtATime) {
			if err := c.rows(ctx, d, ids, func(id int64, r *heldRow) error { return f(bucketKey{i, names[id]}, r) }); err != nil {
				return nil, err
			}
		}
	}
	return c.failed(ctx, len(v.config.Sources) > 1)
}

// bucketsAtATime is how many buckets one statement folds.
const bucketsAtATime = 500

// givenRow is a row that the rules give a bucket; valid during the call.
type givenRow struct {
	table, id, data string
	row             *scannedRow
}

// sum is what a bucket has more than the rules give.
type sum struct {
	rows int64
	hash uint64
}

// sums compares whole buckets by number and sum of their rows, and gives those
// that differ.
func (v *verifier) sums(ctx context.Context) (map[bucketKey]bool, error) {
	sums := map[bucketKey]*sum{}
	at := func(b bucketKey) (*sum, error) {
		s := sums[b]
		if s == nil {
			if len(sums) == maxVerifiedBuckets {
				return nil, fmt.Errorf("there are more than %d buckets: verify a sample of them, or one", maxVerifiedBuckets)
			}
			s = &sum{}
			sums[bucketKey{b.definition, strings.Clone(b.name)}] = s
		}
		return s, nil
	}
	err := v.look(ctx, "buckets", func(b bucketKey) bool { return v.chosen(b.name) },
		func(b bucketKey, r *heldRow) error {
			s, err := at(b)
			if err == nil {
				s.rows, s.hash = s.rows+1, s.hash+v.hash(r.table, r.id, r.data)
			}
			return err
		},
		func(b bucketKey, r *givenRow) error {
			s, err := at(b)
			if err == nil {
				s.rows, s.hash = s.rows-1, s.hash-v.hash(r.table, r.id, r.data)
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	suspects := map[bucketKey]bool{}
	for b, s := range sums {
		if s.rows != 0 || s.hash != 0 {
			suspects[b] = true
		}
	}
	return suspects, nil
}

func (v *verifier) hash(table, id, data string) uint64 {
	var h maphash.Hash
	h.SetSeed(v.seed)
	h.WriteString(table)
	h.WriteByte(0)
	h.WriteString(id)
	h.WriteByte(0)
	h.WriteString(data)
	return h.Sum64()
}

// clientRow is a row of a bucket as a client names it. Several source rows may
// give the same one.
type clientRow struct {
	bucket    bucketKey
	table, id string
}

// copies is what both sides have of a client row.
type copies struct {
	given, held uint64 // sums of hashes
	n, m        int    // numbers
	op          millrace.OpID
	source, key string
	want, have  string
}

func (c *copies) differ() bool { return c.n != c.m || c.given != c.held }

// sameAs tells whether nothing has moved between two looks.
func (c *copies) sameAs(o *copies) bool {
	return c.given == o.given && c.held == o.held && c.n == o.n && c.m == o.m && c.op == o.op
}

// settle looks at suspected buckets row by row until what differs stays.
func (v *verifier) settle(ctx context.Context, suspects map[bucketKey]bool) error {
	buckets, rows := v.out.Buckets, v.out.Rows
	if len(suspects) > maxLookedInto {
		v.out.More = true
		list := slices.SortedFunc(maps.Keys(suspects), compareBuckets)
		suspects = map[bucketKey]bool{}
		for _, b := range list[:maxLookedInto] {
			suspects[b] = true
		}
	}
	var before map[clientRow]*copies
	found := map[bucketKey]bool{}
	for look := 0; len(suspects) > 0 && look < maxLooks; look++ {
		now, err := v.differences(ctx, suspects, before)
		if err != nil {
			return err
		}
		if v.only != nil && look == 0 {
			buckets, rows = v.out.Buckets, v.out.Rows
		}
		// What was equal once is verified: only rows that have differed at every
		// look are still in question.
		suspects = map[bucketKey]bool{}
		for r, c := range now {
			switch b := before[r]; {
			case look > 0 && b == nil:
				delete(now, r)
			case b != nil && b.sameAs(c):
				delete(now, r)
				found[r.bucket] = true
				v.find(r, c)
			default:
				suspects[r.bucket] = true
			}
		}
		before = now
	}
	for r, c := range before {
		v.out.Unsettled = append(v.out.Unsettled, v.difference(r, c))
	}
	for _, list := range [][]Difference{v.out.Findings, v.out.Unsettled} {
		slices.SortFunc(list, func(a, b Difference) int {
			return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Row, b.Row))
		})
	}
	v.out.Differing = len(found)
	v.out.Buckets, v.out.Rows = max(buckets, v.out.Buckets), max(rows, v.out.Rows)
	return nil
}

func compareBuckets(a, b bucketKey) int {
	return cmp.Or(cmp.Compare(a.definition, b.definition), cmp.Compare(a.name, b.name))
}

// differences compares buckets row by row. The data of rows that differed
// before is kept.
func (v *verifier) differences(ctx context.Context, buckets map[bucketKey]bool, before map[clientRow]*copies) (map[clientRow]*copies, error) {
	all := map[clientRow]*copies{}
	at := func(b bucketKey, table, id string) (*copies, bool, error) {
		r := clientRow{b, table, id}
		c := all[r]
		if c == nil {
			if len(all) == maxLookedRows {
				return nil, false, fmt.Errorf("the buckets that differ have more than %d rows: verify them one by one (--bucket), the first is %s", maxLookedRows, v.wire(b))
			}
			c = &copies{}
			all[clientRow{bucketKey{b.definition, strings.Clone(b.name)}, strings.Clone(table), strings.Clone(id)}] = c
		}
		return c, before[r] != nil, nil
	}
	err := v.look(ctx, "rows", func(b bucketKey) bool { return buckets[b] },
		func(b bucketKey, r *heldRow) error {
			c, keep, err := at(b, r.table, r.id)
			if err != nil {
				return err
			}
			c.held, c.m, c.op = c.held+v.hash(r.table, r.id, r.data), c.m+1, max(c.op, r.op)
			if keep {
				c.have = strings.Clone(r.data)
			}
			return nil
		},
		func(b bucketKey, r *givenRow) error {
			c, keep, err := at(b, r.table, r.id)
			if err != nil {
				return err
			}
			c.given, c.n = c.given+v.hash(r.table, r.id, r.data), c.n+1
			if keep {
				c.want, c.source, c.key = strings.Clone(r.data), r.row.table.name, strings.Clone(r.row.key())
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(_ clientRow, c *copies) bool { return !c.differ() })
	return all, nil
}

// find notes a finding.
func (v *verifier) find(r clientRow, c *copies) {
	if len(v.out.Findings) == maxFindings {
		v.out.More = true
		return
	}
	v.out.Findings = append(v.out.Findings, v.difference(r, c))
}

func (v *verifier) difference(r clientRow, c *copies) Difference {
	d := Difference{Bucket: v.wire(r.bucket), Table: r.table, Row: r.id, OpID: c.op, Source: c.source, Key: c.key, Want: raw(c.want), Have: raw(c.have)}
	switch {
	case c.m == 0:
		d.Kind = "missing"
	case c.n == 0:
		d.Kind = "extra"
	default:
		d.Kind = "different"
	}
	return d
}

func raw(data string) json.RawMessage {
	if data == "" || !json.Valid([]byte(data)) {
		return nil
	}
	return json.RawMessage(data)
}

// wire is the name of a bucket on the wire.
func (v *verifier) wire(b bucketKey) string { return v.set.prefixes[b.definition] + "#" + b.name }

// heads reads a position of each source that is read, behind what is seen of it.
func (s *scanner) heads(ctx context.Context) (map[string]millrace.LSN, error) {
	heads := map[string]millrace.LSN{}
	for _, t := range s.tables {
		if _, known := heads[t.source]; known {
			continue
		}
		head, err := t.view.Head(ctx)
		if err != nil {
			return nil, err
		}
		heads[t.source] = head
	}
	if len(heads) == 0 {
		return nil, errors.New("no table of the rules in force can be read")
	}
	return heads, nil
}
