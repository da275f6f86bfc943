package relaytest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/relay"
)

// Sidecar is a sidecar in memory: it satisfies relay.Source. Safe for
// concurrent use.
type Sidecar struct {
	mu      sync.Mutex
	state   *state
	changed chan struct{} // closed and replaced with every commit
	holding bool
	down    error
	reports []millrace.RelayReport
	reads   int
	open    int // snapshots
	most    int // that were open at a time
}

// state is one committed state; never modified once published.
type state struct {
	head     millrace.Head
	sets     map[millrace.RuleSetID]*millrace.RuleSet
	buckets  map[millrace.BucketName]*bucket
	byID     map[millrace.BucketID]*bucket
	lookups  map[millrace.LookupKey][]string
	changes  []record
	counters map[string]millrace.WriteCheckpoint // asked for
	managed  map[string]bool                     // the server gave the number
	marks    map[string]millrace.WriteCheckpoint // custom ones
	next     int64
}

type bucket struct {
	id    millrace.BucketID
	name  millrace.BucketName
	ops   []millrace.Op
	sum   millrace.Checksum
	floor millrace.OpID
}

type record struct {
	seq     int64
	op      millrace.OpID
	buckets []millrace.BucketID
	lookups []millrace.LookupKey
}

// NewSidecar is an empty sidecar whose rules are active.
func NewSidecar() *Sidecar {
	s := &Sidecar{changed: make(chan struct{}), state: &state{
		sets:     map[millrace.RuleSetID]*millrace.RuleSet{},
		buckets:  map[millrace.BucketName]*bucket{},
		byID:     map[millrace.BucketID]*bucket{},
		lookups:  map[millrace.LookupKey][]string{},
		counters: map[string]millrace.WriteCheckpoint{},
		managed:  map[string]bool{},
		marks:    map[string]millrace.WriteCheckpoint{},
		next:     time.Now().UnixMicro(),
	}}
	s.Activate("")
	return s
}

// Tx is one commit being made. It becomes visible as a whole.
type Tx struct {
	st      *state
	touched map[millrace.BucketID]struct{}
	lookups []millrace.LookupKey
}

// Commit makes one checkpoint of what f does.
func (s *Sidecar) Commit(f func(tx *Tx)) millrace.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := &Tx{st: s.state.clone(), touched: map[millrace.BucketID]struct{}{}}
	f(tx)
	return s.publish(tx)
}

func (st *state) clone() *state {
	c := *st
	c.buckets, c.byID = maps.Clone(st.buckets), maps.Clone(st.byID)
	c.lookups, c.counters, c.sets = maps.Clone(st.lookups), maps.Clone(st.counters), maps.Clone(st.sets)
	c.managed, c.marks = maps.Clone(st.managed), maps.Clone(st.marks)
	return &c
}

func (s *Sidecar) publish(tx *Tx) millrace.Checkpoint {
	st := tx.st
	st.head.Seq++
	st.head.At = time.Now()
	st.changes = append(st.changes, record{
		seq: st.head.Seq, op: st.head.OpID, buckets: slices.Sorted(maps.Keys(tx.touched)), lookups: tx.lookups})
	if !s.holding {
		acknowledge(st)
	}
	s.state = st
	close(s.changed)
	s.changed = make(chan struct{})
	return st.head.Checkpoint
}

func acknowledge(st *state) {
	for user, w := range st.counters {
		if w.Acknowledged < w.ID {
			w.Acknowledged, w.Seq = w.ID, st.head.Seq
			st.counters[user] = w
		}
	}
}

func (tx *Tx) bucket(definition, key string) *bucket {
	def, ok := definitions[definition]
	if !ok {
		panic("relaytest: no definition " + definition)
	}
	name := millrace.BucketName{Definition: def.ID, Name: bucketName(definition, key)}
	b := &bucket{id: millrace.BucketID(len(tx.st.buckets) + 1), name: name}
	if old := tx.st.buckets[name]; old != nil {
		*b = *old
	}
	tx.st.buckets[name], tx.st.byID[b.id] = b, b
	tx.touched[b.id] = struct{}{}
	return b
}

func (tx *Tx) add(b *bucket, op millrace.Op) millrace.OpID {
	tx.st.head.OpID++
	op.ID = tx.st.head.OpID
	// Older states share the array, but see only their part of it.
	b.ops = append(b.ops, op)
	b.sum += op.Checksum
	return op.ID
}

// Put writes a row into a bucket; data is its JSON object.
func (tx *Tx) Put(definition, key, table, id, data string) millrace.OpID {
	return tx.PutSubkey(definition, key, table, id, "", data)
}

// PutSubkey is Put for a row with a subkey.
func (tx *Tx) PutSubkey(definition, key, table, id, subkey, data string) millrace.OpID {
	return tx.add(tx.bucket(definition, key), millrace.Op{Kind: millrace.OpPut, Type: table, RowID: id, Subkey: subkey, Data: data,
		Checksum: millrace.PutChecksum(table, id, subkey, data)})
}

// Remove removes a row from a bucket.
func (tx *Tx) Remove(definition, key, table, id string) millrace.OpID {
	return tx.add(tx.bucket(definition, key), millrace.Op{Kind: millrace.OpRemove, Type: table, RowID: id,
		Checksum: millrace.RemoveChecksum(table, id, "")})
}

// Raw appends any op, its id replaced: for histories a decoder does not write,
// such as one with a wrong checksum.
func (tx *Tx) Raw(definition, key string, op millrace.Op) millrace.OpID {
	return tx.add(tx.bucket(definition, key), op)
}

// Grant gives a user the buckets of lists.
func (tx *Tx) Grant(sub string, lists ...string) {
	k := grantKey(sub)
	outputs := slices.Clone(tx.st.lookups[k])
	held := make(map[string]struct{}, len(outputs))
	for _, out := range outputs {
		held[out] = struct{}{}
	}
	for _, list := range lists {
		out, _ := json.Marshal([]string{list})
		if _, dup := held[string(out)]; !dup {
			held[string(out)] = struct{}{}
			outputs = append(outputs, string(out))
		}
	}
	if len(outputs) > len(tx.st.lookups[k]) {
		tx.setLookup(k, outputs)
	}
}

// Revoke takes it away again.
func (tx *Tx) Revoke(sub, list string) {
	k := grantKey(sub)
	out, _ := json.Marshal([]string{list})
	tx.setLookup(k, slices.DeleteFunc(slices.Clone(tx.st.lookups[k]), func(o string) bool { return o == string(out) }))
}

func (tx *Tx) setLookup(k millrace.LookupKey, outputs []string) {
	tx.st.head.OpID++
	tx.st.lookups[k] = outputs
	tx.lookups = append(tx.lookups, k)
}

// Mark writes a custom write checkpoint: it comes with this commit.
func (tx *Tx) Mark(user string, id int64) {
	if tx.st.marks[user].ID < id {
		tx.st.marks[user] = millrace.WriteCheckpoint{User: user, ID: id, Acknowledged: id, Seq: tx.st.head.Seq + 1}
	}
}

// Activate puts a rule set in force, with a number of its own. Content "none"
// resolves to no bucket at all; with "custom", write checkpoints are custom.
func (s *Sidecar) Activate(content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := &Tx{st: s.state.clone()}
	st := tx.st
	st.head.OpID++
	st.head.RuleSet++
	st.head.ActiveFrom = st.head.OpID
	set := &millrace.RuleSet{ID: st.head.RuleSet, Content: content, State: millrace.RuleSetActive, ActiveFrom: st.head.OpID}
	for _, key := range definitionKeys {
		set.Definitions = append(set.Definitions, definitions[key])
	}
	if content == "custom" {
		set.Definitions = append(set.Definitions, marksDefinition)
	}
	st.sets[set.ID] = set
	s.publish(tx)
}

// Compact rewrites a bucket's history up to the present, as compaction does:
// superseded ops become MOVE, leading ones without a PUT one CLEAR.
func (s *Sidecar) Compact(definition, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state.clone()
	name := millrace.BucketName{Definition: definitions[definition].ID, Name: bucketName(definition, key)}
	old := st.buckets[name]
	if old == nil {
		return
	}
	b := *old
	b.compact()
	st.buckets[name], st.byID[b.id] = &b, &b
	s.state = st
}

func (b *bucket) compact() {
	ops := slices.Clone(b.ops)
	seen := map[millrace.RowIdentity]millrace.OpID{}
	for i := len(ops) - 1; i >= 0; i-- {
		op := &ops[i]
		if op.Kind != millrace.OpPut && op.Kind != millrace.OpRemove {
			continue
		}
		id := millrace.RowIdentity{Type: op.Type, RowID: op.RowID, Subkey: op.Subkey}
		if newer, dup := seen[id]; dup {
			*op = millrace.Op{ID: op.ID, Kind: millrace.OpMove, Checksum: op.Checksum}
			b.floor = max(b.floor, newer)
			continue
		}
		seen[id] = op.ID
	}
	run := 0
	for run < len(ops) && ops[run].Kind != millrace.OpPut {
		run++
	}
	if run > 1 {
		clear := millrace.Op{ID: ops[run-1].ID, Kind: millrace.OpClear}
		for _, op := range ops[:run] {
			clear.Checksum += op.Checksum
		}
		ops = append([]millrace.Op{clear}, ops[run:]...)
		b.floor = max(b.floor, clear.ID)
	}
	b.ops = ops
}

// Hold keeps write checkpoints pending until Release.
func (s *Sidecar) Hold() {
	s.mu.Lock()
	s.holding = true
	s.mu.Unlock()
}

// Release acknowledges what Hold kept pending, in a checkpoint of its own.
func (s *Sidecar) Release() {
	s.mu.Lock()
	s.holding = false
	s.mu.Unlock()
	s.Commit(func(*Tx) {})
}

// Break makes every access fail with err, wrapped in relay.ErrUnavailable, until
// it is called with nil.
func (s *Sidecar) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = nil
	if err != nil {
		s.down = fmt.Errorf("%w: %w", relay.ErrUnavailable, err)
	}
}

// Bucket gives the reduced content of a bucket: what every client that has it
// must end with.
func (s *Sidecar) Bucket(definition, key string) millrace.Reduced {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r millrace.Reduced
	r.Reduce()
	if b := s.state.buckets[millrace.BucketName{Definition: definitions[definition].ID, Name: bucketName(definition, key)}]; b != nil {
		r.Reduce(b.ops...)
	}
	return r
}

// Head is the newest checkpoint.
func (s *Sidecar) Head() millrace.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.head
}

// Snapshots counts the snapshots opened so far.
func (s *Sidecar) Snapshots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// OpenSnapshots tells how many snapshots are open, and how many were at most.
func (s *Sidecar) OpenSnapshots() (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.most
}

// History gives the ops of a bucket, oldest first.
func (s *Sidecar) History(definition, key string) []millrace.Op {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.state.buckets[millrace.BucketName{Definition: definitions[definition].ID, Name: bucketName(definition, key)}]; b != nil {
		return slices.Clone(b.ops)
	}
	return nil
}

// Reports are the reports relays made, newest last.
func (s *Sidecar) Reports() []millrace.RelayReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reports)
}

// PrimaryHead implements relay.Source.
func (s *Sidecar) PrimaryHead(context.Context) (millrace.OpID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.head.OpID, s.down
}

// Watch implements relay.Source.
func (s *Sidecar) Watch(ctx context.Context, changed func()) error {
	for {
		s.mu.Lock()
		next := s.changed
		s.mu.Unlock()
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

// RequestWriteCheckpoints implements relay.Source. Unless held, the numbers are
// acknowledged by the checkpoint it makes.
func (s *Sidecar) RequestWriteCheckpoints(_ context.Context, requests []millrace.WriteRequest) ([]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	tx := &Tx{st: s.state.clone()}
	ids := make([]int64, len(requests))
	for i, r := range requests {
		w := tx.st.counters[r.User]
		w.User = r.User
		if r.ID == 0 {
			tx.st.next++
			w.ID = max(w.ID+1, tx.st.next)
			tx.st.managed[r.User] = true
		} else {
			if r.ID >= w.ID {
				tx.st.managed[r.User] = false
			}
			w.ID = max(w.ID, r.ID)
		}
		tx.st.counters[r.User] = w
		ids[i] = w.ID
	}
	s.publish(tx)
	return ids, nil
}

// Report implements relay.Source.
func (s *Sidecar) Report(_ context.Context, r millrace.RelayReport) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
	return s.down
}

// Snapshot implements relay.Source.
func (s *Sidecar) Snapshot(context.Context) (relay.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	s.reads++
	s.open++
	s.most = max(s.most, s.open)
	return &snapshot{st: s.state, side: s}, nil
}

// Backup is a state to come back to.
type Backup struct{ state *state }

// Backup keeps the present state.
func (s *Sidecar) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Backup{s.state}
}

// Restore brings an earlier state back, as restoring a database from a backup
// does: op ids given since are given again.
func (s *Sidecar) Restore(b Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := b.state.clone()
	// The arrays of ops are shared with the states since.
	for name, old := range st.buckets {
		fresh := *old
		fresh.ops = slices.Clone(old.ops)
		st.buckets[name], st.byID[fresh.id] = &fresh, &fresh
	}
	st.changes = slices.Clone(st.changes)
	s.state = st
	close(s.changed)
	s.changed = make(chan struct{})
}
