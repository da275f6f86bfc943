package relaytest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/millrace/millrace"
)

// snapshot reads one committed state.
type snapshot struct {
	st     *state
	side   *Sidecar
	closed bool
}

func (s *snapshot) Head() millrace.Head { return s.st.head }

func (s *snapshot) Close() {
	if s.closed {
		return
	}
	s.closed = true
	s.side.mu.Lock()
	s.side.open--
	s.side.mu.Unlock()
}

func (s *snapshot) Changes(_ context.Context, seq int64) (millrace.Changes, error) {
	var c millrace.Changes
	buckets := map[millrace.BucketID]bool{}
	lookups := map[millrace.DefinitionID]bool{}
	for _, r := range s.after(seq) {
		for _, b := range r.buckets {
			if !buckets[b] {
				buckets[b] = true
				c.Buckets = append(c.Buckets, b)
			}
		}
		for _, k := range r.lookups {
			if !lookups[k.Definition] {
				lookups[k.Definition] = true
				c.Lookups = append(c.Lookups, k.Definition)
			}
		}
	}
	return c, nil
}

func (s *snapshot) after(seq int64) []record {
	i := sort.Search(len(s.st.changes), func(i int) bool { return s.st.changes[i].seq > seq })
	return s.st.changes[i:]
}

func (b *bucket) totals() millrace.BucketTotals {
	t := millrace.BucketTotals{ID: b.id, Ops: int64(len(b.ops)), Checksum: b.sum, Floor: b.floor}
	if n := len(b.ops); n > 0 {
		t.Last = b.ops[n-1].ID
	}
	return t
}

func (s *snapshot) Buckets(_ context.Context, names []millrace.BucketName) ([]millrace.BucketTotals, error) {
	out := make([]millrace.BucketTotals, len(names))
	for i, n := range names {
		if b := s.st.buckets[n]; b != nil {
			out[i] = b.totals()
		}
	}
	return out, nil
}

func (s *snapshot) Totals(_ context.Context, ids []millrace.BucketID) ([]millrace.BucketTotals, error) {
	out := make([]millrace.BucketTotals, len(ids))
	for i, id := range ids {
		if b := s.st.byID[id]; b != nil {
			out[i] = b.totals()
		}
	}
	return out, nil
}

func (s *snapshot) BucketsAfter(_ context.Context, after millrace.BucketID, limit int) ([]millrace.NamedBucket, error) {
	var out []millrace.NamedBucket
	for id := after + 1; int(id) <= len(s.st.buckets) && len(out) < limit; id++ {
		out = append(out, millrace.NamedBucket{ID: id, BucketName: s.st.byID[id].name})
	}
	return out, nil
}

func (s *snapshot) LastBucket(context.Context) (millrace.BucketID, error) {
	return millrace.BucketID(len(s.st.buckets)), nil
}

func (s *snapshot) Ops(_ context.Context, ranges []millrace.BucketRange, upto millrace.OpID, limit int, visit func(int, *millrace.Op) bool) error {
	for i, r := range ranges {
		b := s.st.byID[r.Bucket]
		if b == nil {
			continue
		}
		for n := sort.Search(len(b.ops), func(n int) bool { return b.ops[n].ID > r.After }); n < len(b.ops) && b.ops[n].ID <= upto; n++ {
			if limit == 0 {
				return nil
			}
			limit--
			op := b.ops[n]
			if !visit(i, &op) {
				return nil
			}
		}
	}
	return nil
}

func (s *snapshot) RuleSet(_ context.Context, id millrace.RuleSetID) (*millrace.RuleSet, error) {
	set := s.st.sets[id]
	if set == nil {
		return nil, fmt.Errorf("rule set %d does not exist", id)
	}
	return set, nil
}

func (s *snapshot) Lookups(_ context.Context, keys []millrace.LookupKey) ([][]string, error) {
	out := make([][]string, len(keys))
	for i, k := range keys {
		out[i] = s.st.lookups[k]
	}
	return out, nil
}

func (s *snapshot) ChangedLookups(_ context.Context, definitions []millrace.DefinitionID, after millrace.OpID, limit int) ([]millrace.LookupKey, bool, error) {
	var out []millrace.LookupKey
	for _, r := range s.st.changes {
		if r.op <= after {
			continue
		}
		for _, k := range r.lookups {
			if slices.Contains(definitions, k.Definition) {
				out = append(out, k)
			}
		}
	}
	return out, len(out) <= limit, nil
}

func (s *snapshot) Events(context.Context) (events []millrace.DefinitionID, err error) {
	for _, d := range s.st.sets[s.st.head.RuleSet].Definitions {
		if d.Kind == millrace.EventDefinition {
			events = append(events, d.ID)
		}
	}
	return events, nil
}

// counter is what a user has: with custom write checkpoints the greatest of its
// mark and the number it gave itself.
func (s *snapshot) counter(custom bool, user string) (millrace.WriteCheckpoint, bool) {
	w, ok := s.st.counters[user]
	if !custom {
		return w, ok
	}
	m, marked := s.st.marks[user]
	if !ok || s.st.managed[user] {
		return m, marked
	}
	w.ID, w.Acknowledged, w.Seq = max(w.ID, m.ID), max(w.Acknowledged, m.Acknowledged), max(w.Seq, m.Seq)
	return w, true
}

func (s *snapshot) WriteCheckpoints(_ context.Context, events []millrace.DefinitionID, users []string) ([]millrace.WriteCheckpoint, error) {
	var out []millrace.WriteCheckpoint
	for _, u := range users {
		if w, ok := s.counter(len(events) > 0, u); ok {
			out = append(out, w)
		}
	}
	return out, nil
}

func (s *snapshot) AcknowledgedAfter(_ context.Context, events []millrace.DefinitionID, seq int64, limit int) ([]millrace.WriteCheckpoint, bool, error) {
	var out []millrace.WriteCheckpoint
	users := maps.Clone(s.st.counters)
	if len(events) > 0 {
		maps.Copy(users, s.st.marks)
	}
	for u := range users {
		if w, ok := s.counter(len(events) > 0, u); ok && w.Seq > seq {
			out = append(out, w)
		}
	}
	return out, len(out) <= limit, nil
}
