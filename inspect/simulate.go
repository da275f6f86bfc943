package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/syncrules"
)

// Simulate tells what a request would get if the rules were deployed: buckets,
// rows of each table, and the lookups that grant the buckets. It reads each
// source at one snapshot, whole tables, once for each step of lookups and once
// for the rows, and keeps none of them. An error means that there is no answer;
// what would keep rows from the user is listed among the problems.
func Simulate(ctx context.Context, c SimulationConfig) (*Simulation, error) {
	if c.MaxBuckets <= 0 {
		c.MaxBuckets = defaultMaxBuckets
	}
	if c.maxLookupResults == 0 {
		c.maxLookupResults = maxLookupResults
	}
	resolution, err := c.Rules.Resolve(c.Request)
	if err != nil {
		return nil, err
	}
	scan, err := openScanner(ctx, &c)
	if err != nil {
		return nil, err
	}
	defer scan.close()
	s := &simulator{config: &c, scanner: scan, definitions: c.Rules.Definitions(), seed: maphash.MakeSeed(), problems: map[problemKey]*SimulationProblem{}}
	s.out.User = subject(c.Request.Claims)
	s.out.Problems = append(s.out.Problems, scan.skipped...)
	for pending := resolution.Pending(); len(pending) > 0; pending = resolution.Pending() {
		results, err := s.lookups(ctx, pending)
		if err != nil {
			return nil, err
		}
		resolution.Feed(results)
	}
	buckets, failed := resolution.Buckets()
	for _, e := range failed {
		s.out.Problems = append(s.out.Problems, SimulationProblem{Object: e.Source, Message: e.Message})
	}
	for _, x := range resolution.Explain() {
		if why := x.Refusal(); why != "" && x.Err == "" {
			s.out.Refusals = append(s.out.Refusals, SimulationRefusal{Source: x.Source, At: x.At.String(), Why: why})
		}
	}
	if err := s.rows(ctx, buckets); err != nil {
		return nil, err
	}
	s.finish()
	return &s.out, nil
}

// subject is the claim sub.
func subject(claims []byte) string {
	var c struct {
		Sub string `json:"sub"`
	}
	if json.Unmarshal(claims, &c) != nil {
		return ""
	}
	return c.Sub
}

// simulator is the state of one simulation.
type simulator struct {
	config      *SimulationConfig
	scanner     *scanner
	definitions []syncrules.Definition
	results     int // of all lookups
	problems    map[problemKey]*SimulationProblem
	out         Simulation

	seed   maphash.Seed
	seen   map[uint64]struct{}        // client rows counted
	tables map[string]*SimulatedTable // by output table
}

type problemKey struct{ object, message string }

// title is the name of a definition for people.
func (s *simulator) title(definition int) string {
	key := s.definitions[definition].Key
	if _, name, ok := strings.Cut(key, ":"); ok {
		return name
	}
	return key
}

// rowProblem counts a problem of a row. Beyond maxProblems different ones the
// rest is counted together.
func (s *simulator) rowProblem(object, message, hint string, r *scannedRow) {
	k := problemKey{object, message}
	p := s.problems[k]
	if p == nil && len(s.problems) >= maxProblems {
		k = problemKey{"other rows", "have further problems"}
		p = s.problems[k]
	}
	if p == nil {
		p = &SimulationProblem{Object: k.object, Message: k.message, Hint: hint, Row: r.key()}
		s.problems[k] = p
	}
	p.Rows++
}

// evaluationProblems notes what went wrong with a row in wanted definitions.
func (s *simulator) evaluationProblems(r *scannedRow, wanted func(int) bool) {
	if r.err != nil {
		s.rowProblem(r.table.name, r.err.Error(), "", r)
	}
	for _, e := range r.out.Errors {
		if wanted(e.Definition) {
			s.rowProblem(r.table.name+" in "+s.title(e.Definition), e.Message, "", r)
		}
	}
}

// pendingLookup collects what a lookup gives for a key.
type pendingLookup struct {
	outputs map[string]struct{}
	rows    []string
	tables  []string
}

// lookups answers pending lookups by evaluating the tables they read.
func (s *simulator) lookups(ctx context.Context, pending []syncrules.LookupKey) ([]syncrules.LookupResult, error) {
	asked := make(map[syncrules.LookupKey]*pendingLookup, len(pending))
	definitions := map[int]bool{}
	for _, k := range pending {
		asked[k] = &pendingLookup{outputs: map[string]struct{}{}}
		definitions[k.Definition] = true
	}
	wanted := func(d int) bool { return definitions[d] }
	err := s.scanner.scan(ctx, "lookups", wanted, func(r *scannedRow) error {
		s.evaluationProblems(r, wanted)
		for _, l := range r.out.Lookups {
			p := asked[syncrules.LookupKey{Definition: l.Definition, Key: l.Key}]
			if p == nil {
				continue
			}
			if !slices.Contains(p.tables, r.table.name) {
				p.tables = append(p.tables, r.table.name)
			}
			if len(p.rows) < shownOutputs {
				if key := r.key(); key != "" && !slices.Contains(p.rows, key) {
					p.rows = append(p.rows, key)
				}
			}
			if _, known := p.outputs[l.Outputs]; known {
				continue
			}
			if s.results++; s.results > s.config.maxLookupResults {
				return fmt.Errorf("lookups give more than %d different results, the last of %s: no user can have that many buckets; narrow the parameter queries", s.config.maxLookupResults, s.title(l.Definition))
			}
			p.outputs[strings.Clone(l.Outputs)] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	results := make([]syncrules.LookupResult, 0, len(pending))
	for _, k := range pending {
		p := asked[k]
		outputs := slices.Sorted(maps.Keys(p.outputs))
		results = append(results, syncrules.LookupResult{LookupKey: k, Outputs: outputs})
		shown := SimulatedLookup{Definition: s.title(k.Definition), Tables: p.tables, Key: k.Key, Results: len(outputs), Rows: p.rows}
		if shown.Tables == nil {
			shown.Tables = s.scanner.reads(k.Definition)
		}
		for _, o := range outputs[:min(len(outputs), shownOutputs)] {
			shown.Outputs = append(shown.Outputs, json.RawMessage(o))
		}
		s.out.Lookups = append(s.out.Lookups, shown)
	}
	return results, nil
}

type bucketKey struct {
	definition int
	name       string
}

// rows counts the rows of the buckets.
func (s *simulator) rows(ctx context.Context, buckets []syncrules.ResolvedBucket) error {
	s.overLimit(buckets)
	index := make(map[bucketKey]int, len(buckets))
	definitions := map[int]bool{}
	for _, b := range buckets {
		index[bucketKey{b.Definition, b.Name}] = len(s.out.Buckets)
		definitions[b.Definition] = true
		shown := SimulatedBucket{Name: b.Name, Definition: s.title(b.Definition), Source: b.Source, Priority: b.Priority}
		for _, why := range b.Reasons {
			if why == syncrules.ByDefault {
				shown.Default = true
			} else {
				shown.Subscriptions = append(shown.Subscriptions, int(why))
			}
		}
		s.out.Buckets = append(s.out.Buckets, shown)
	}
	if len(buckets) == 0 {
		return nil
	}
	s.seen, s.tables = map[uint64]struct{}{}, map[string]*SimulatedTable{}
	wanted := func(d int) bool { return definitions[d] }
	var own []uint64 // client rows this source row gave already
	var row scannedRow
	return s.scanner.scan(ctx, "rows", wanted, func(r *scannedRow) error {
		s.evaluationProblems(r, wanted)
		if row.table != r.table || row.n != r.n {
			own, row = own[:0], *r
		}
		for i := range r.out.Rows {
			o := &r.out.Rows[i]
			at, ok := index[bucketKey{o.Definition, o.Bucket}]
			if !ok {
				continue
			}
			b := &s.out.Buckets[at]
			b.Rows++
			b.Bytes += int64(len(o.Data))
			own = s.clientRow(r, o, own)
		}
		return nil
	})
}

// clientRow counts a row of the client's tables. own are the rows that the same
// source row gave before; the list is given back with this one.
func (s *simulator) clientRow(r *scannedRow, o *syncrules.OutputRow, own []uint64) []uint64 {
	t := s.tables[o.Type]
	if t == nil {
		t = &SimulatedTable{Table: strings.Clone(o.Type)}
		s.tables[t.Table] = t
	}
	if !slices.Contains(t.Sources, r.table.name) {
		t.Sources = append(t.Sources, r.table.name)
	}
	if o.RowID == "" {
		s.rowProblem(r.table.name+" in "+s.title(o.Definition), "the id is null or empty: of such rows a client keeps one", "select a column or expression that is never null AS id", r)
	}
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.WriteString(o.Type)
	h.WriteByte(0)
	h.WriteString(o.RowID)
	sum := h.Sum64()
	if slices.Contains(own, sum) {
		t.Copies++
		return own
	}
	if len(own) < 1000 { // a row in thousands of buckets has few ids
		own = append(own, sum)
	}
	if _, known := s.seen[sum]; known {
		t.Copies++
		if o.RowID != "" {
			s.rowProblem("table "+t.Table, "rows of different source rows have the same id: they replace each other on the client",
				"make ids differ, as in SELECT 'kind-' || id AS id", r)
		}
		return own
	}
	if len(s.seen) < maxDistinctRows {
		s.seen[sum] = struct{}{}
	}
	t.Rows++
	t.Bytes += int64(len(o.Data))
	return own
}

// overLimit notes a user who would be refused.
func (s *simulator) overLimit(buckets []syncrules.ResolvedBucket) {
	if len(buckets) <= s.config.MaxBuckets {
		return
	}
	counts := map[string]int{}
	for _, b := range buckets {
		counts[s.definitions[b.Definition].Name]++
	}
	names := slices.Collect(maps.Keys(counts))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	for i, n := range names {
		names[i] = fmt.Sprintf("%s (%d)", n, counts[n])
	}
	s.out.Problems = append(s.out.Problems, SimulationProblem{
		Object:  "user " + s.out.User,
		Message: fmt.Sprintf("PSYNC_S2305: %d buckets, the limit is %d: the user would be refused; most come from %s", len(buckets), s.config.MaxBuckets, strings.Join(names[:min(len(names), 10)], ", ")),
		Hint:    "put more rows into one bucket, for example one per team instead of one per item, or raise relay.max_buckets_per_user",
	})
}

// finish sums up.
func (s *simulator) finish() {
	// Empty lists, not null, for machines.
	s.out.Buckets = append([]SimulatedBucket{}, s.out.Buckets...)
	s.out.Lookups = append([]SimulatedLookup{}, s.out.Lookups...)
	s.out.Refusals = append([]SimulationRefusal{}, s.out.Refusals...)
	s.out.Problems = append([]SimulationProblem{}, s.out.Problems...)
	s.out.Definitions, s.out.Tables = []SimulatedDefinition{}, []SimulatedTable{}
	type group struct {
		definition string
		priority   int
	}
	sums := map[group]*SimulatedDefinition{}
	for _, b := range s.out.Buckets {
		g := group{b.Definition, b.Priority}
		d := sums[g]
		if d == nil {
			d = &SimulatedDefinition{Definition: b.Definition, Priority: b.Priority}
			sums[g] = d
		}
		d.Buckets++
		d.Rows += b.Rows
		d.Bytes += b.Bytes
	}
	for _, g := range slices.SortedFunc(maps.Keys(sums), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.definition, b.definition), cmp.Compare(a.priority, b.priority))
	}) {
		s.out.Definitions = append(s.out.Definitions, *sums[g])
	}
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		s.out.Tables = append(s.out.Tables, *s.tables[name])
	}
	for _, p := range slices.SortedFunc(maps.Values(s.problems), func(a, b *SimulationProblem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	}) {
		s.out.Problems = append(s.out.Problems, *p)
	}
}
