package clientsdk

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// simServer is a model of the whole server side, in memory: buckets with a
// history that can be compacted, one client's grants, write checkpoints with a
// replication lag, and sessions that send lines one at a time.
type simServer struct {
	op      millrace.OpID
	buckets map[string]*simBucket
	// granted lists the client's buckets.
	granted map[string]bool
	// lag holds uploads the backend has accepted and replication has not seen.
	lag []simEffect
	// A write checkpoint is the newest number and how many effects must have
	// been replicated for it.
	writeCheckpoint, needs, accepted, replicated int64
	moves                                        int // compactions so far: sessions must move on after one
}

type simBucket struct {
	name     string
	priority int
	ops      []millrace.Op
}

// simEffect is an uploaded row; apply is what the backend made of it.
type simEffect struct{ apply func() }

func newSimServer() *simServer {
	return &simServer{buckets: map[string]*simBucket{}, granted: map[string]bool{}}
}

func (s *simServer) put(bucket, typ, id, subkey, data string) {
	s.op++
	b := s.buckets[bucket]
	b.ops = append(b.ops, millrace.Op{ID: s.op, Kind: millrace.OpPut, Type: typ, RowID: id, Subkey: subkey, Data: data,
		Checksum: millrace.PutChecksum(typ, id, subkey, data)})
}

func (s *simServer) remove(bucket, typ, id, subkey string) {
	s.op++
	b := s.buckets[bucket]
	b.ops = append(b.ops, millrace.Op{ID: s.op, Kind: millrace.OpRemove, Type: typ, RowID: id, Subkey: subkey,
		Checksum: millrace.RemoveChecksum(typ, id, subkey)})
}

// compact replaces superseded ops by MOVEs, then a leading run of ops that hold
// no row by one CLEAR.
func (s *simServer) compact(bucket string, withClear bool) {
	b := s.buckets[bucket]
	s.moves++
	last := map[millrace.RowIdentity]bool{}
	for i := len(b.ops) - 1; i >= 0; i-- {
		op := &b.ops[i]
		if op.Kind == millrace.OpClear {
			break
		}
		if op.Kind == millrace.OpMove {
			continue
		}
		id := millrace.RowIdentity{Type: op.Type, RowID: op.RowID, Subkey: op.Subkey}
		if last[id] {
			*op = millrace.Op{ID: op.ID, Kind: millrace.OpMove, Checksum: op.Checksum}
		}
		last[id] = true
	}
	if !withClear {
		return
	}
	n, sum := 0, millrace.Checksum(0)
	for n < len(b.ops) && b.ops[n].Kind != millrace.OpPut {
		if b.ops[n].Kind == millrace.OpClear {
			sum = 0
		}
		sum += b.ops[n].Checksum
		n++
	}
	if n > 0 {
		b.ops = append([]millrace.Op{{ID: b.ops[n-1].ID, Kind: millrace.OpClear, Checksum: sum}}, b.ops[n:]...)
	}
}

// at folds a bucket's ops up to an op id.
func (b *simBucket) at(c millrace.OpID) (r millrace.Reduced) {
	for _, op := range b.ops {
		if op.ID > c {
			break
		}
		r.Reduce(op)
	}
	return r
}

// replicate lets the oldest accepted upload become ops.
func (s *simServer) replicate() {
	if len(s.lag) > 0 {
		s.lag[0].apply()
		s.lag = s.lag[1:]
		s.replicated++
	}
}

// requestCheckpoint is GET /write-checkpoint2.json.
func (s *simServer) requestCheckpoint() int64 {
	s.writeCheckpoint++
	s.needs = s.accepted
	return s.writeCheckpoint
}

func (s *simServer) acknowledged() int64 {
	if s.replicated >= s.needs {
		return s.writeCheckpoint
	}
	return 0
}

// simSession is one connection.
type simSession struct {
	srv       *simServer
	positions map[string]millrace.OpID
	sent      map[string]protocol.Bucket // as of the last checkpoint line
	target    millrace.OpID
	wc        int64
	moves     int
	first     bool
	done      bool // the target was completed
	partials  map[int]bool
}

func (s *simServer) connect(at []position) *simSession {
	x := &simSession{srv: s, positions: map[string]millrace.OpID{}, sent: map[string]protocol.Bucket{}, first: true}
	for _, p := range at {
		x.positions[p.name] = p.after
	}
	return x
}

// move sends the newest checkpoint, whole or as a diff; nil if nothing changed.
func (x *simSession) move(whole bool) protocol.Line {
	now := map[string]protocol.Bucket{}
	for name := range x.srv.granted {
		b := x.srv.buckets[name]
		now[name] = protocol.Bucket{Name: name, Checksum: b.at(x.srv.op).Checksum, Count: int64(len(b.ops)), Priority: b.priority}
	}
	var updated []protocol.Bucket
	var removed []string
	for name, b := range now {
		old, ok := x.sent[name]
		if !ok || old.Checksum != b.Checksum || old.Count != b.Count || old.Priority != b.Priority {
			updated = append(updated, b)
		}
		if !ok && !x.first {
			x.positions[name] = 0
		}
	}
	for name := range x.sent {
		if _, ok := now[name]; !ok {
			removed = append(removed, name)
			delete(x.positions, name)
		}
	}
	wc := x.srv.acknowledged()
	if !x.first && !whole && len(updated) == 0 && len(removed) == 0 && wc == x.wc && x.done {
		return nil
	}
	sort.Slice(updated, func(i, j int) bool { return updated[i].Name < updated[j].Name })
	sort.Strings(removed)
	x.sent, x.target, x.wc, x.done, x.moves, x.partials = now, x.srv.op, wc, false, x.srv.moves, map[int]bool{}
	if x.first || whole {
		x.first = false
		all := slices.SortedFunc(maps.Values(now), func(a, b protocol.Bucket) int { return compareText(a.Name, b.Name) })
		return &protocol.Checkpoint{LastOpID: x.target, WriteCheckpoint: wc, Buckets: all}
	}
	return &protocol.CheckpointDiff{LastOpID: x.target, WriteCheckpoint: wc, UpdatedBuckets: updated, RemovedBuckets: removed}
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// next sends the next line towards the target: data by priority, partial
// completions if the server likes them, the completion. nil if done.
func (x *simSession) next(atMost int, partials bool) protocol.Line {
	if x.done {
		return nil
	}
	var names []string
	for name := range x.sent {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := x.sent[names[i]], x.sent[names[j]]
		if a.Priority != b.Priority {
			return a.Priority < b.Priority
		}
		return names[i] < names[j]
	})
	for i, name := range names {
		if d := x.page(name, atMost); d != nil {
			if partials && i > 0 {
				before := x.sent[names[i-1]].Priority
				if before < x.sent[name].Priority && !x.partials[before] {
					x.partials[before] = true
					return protocol.PartialCheckpointComplete{LastOpID: x.target, Priority: before}
				}
			}
			x.positions[name] = d.NextAfter
			return d
		}
	}
	x.done = true
	for _, name := range names {
		x.positions[name] = max(x.positions[name], x.target)
	}
	return protocol.CheckpointComplete{LastOpID: x.target}
}

func (x *simSession) page(name string, atMost int) *protocol.Data {
	after := x.positions[name]
	d := &protocol.Data{Bucket: name, After: after, NextAfter: after}
	for _, op := range x.srv.buckets[name].ops {
		if op.ID <= after || op.ID > x.target {
			continue
		}
		if len(d.Ops) == atMost {
			d.HasMore = true
			break
		}
		d.Ops = append(d.Ops, op)
		d.NextAfter = op.ID
	}
	if len(d.Ops) == 0 {
		return nil
	}
	return d
}

// stale tells that compaction changed ops below the target's successors: the
// session may not complete its target any more.
func (x *simSession) stale() bool { return !x.first && x.moves != x.srv.moves }

func (x *simSession) String() string {
	return fmt.Sprintf("session to %d (wc %d) at %v", x.target, x.wc, x.positions)
}
