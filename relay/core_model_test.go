package relay

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/bson"
)

// worldBucket is a bucket of the model sidecar: its whole history, and what
// compaction made of it.
type worldBucket struct {
	ref   *bucketRef
	id    millrace.BucketID
	full  []millrace.Op
	ops   []millrace.Op
	floor millrace.OpID
}

func (b *worldBucket) totals() bucketState {
	s := bucketState{id: b.id, ops: int64(len(b.ops))}
	if len(b.full) > 0 {
		s.last = b.full[len(b.full)-1].ID
	}
	for _, op := range b.full {
		s.checksum += op.Checksum
	}
	return s
}

func (b *worldBucket) at(c millrace.OpID) millrace.Reduced {
	var r millrace.Reduced
	for _, op := range b.full {
		if op.ID <= c {
			r.Reduce(op)
		}
	}
	return r
}

// compact rewrites the ops at or below m: superseded ones become MOVE, then the
// leading run without a PUT becomes one CLEAR.
func (b *worldBucket) compact(m millrace.OpID) {
	ops := slices.Clone(b.ops)
	seen := map[millrace.RowIdentity]millrace.OpID{}
	for i := len(ops) - 1; i >= 0; i-- {
		op := &ops[i]
		if op.ID > m || op.Kind != millrace.OpPut && op.Kind != millrace.OpRemove {
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
	for run < len(ops) && ops[run].ID <= m && ops[run].Kind != millrace.OpPut {
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

// modelClient folds lines the way a client does and checks them.
type modelClient struct {
	t        *rapid.T
	buckets  map[string]*millrace.Reduced
	target   map[string]protocol.Bucket
	at       millrace.OpID
	write    int64
	started  bool
	complete bool
}

func (c *modelClient) connect() []protocol.BucketPosition {
	c.started, c.complete, c.target = false, false, nil
	var ps []protocol.BucketPosition
	for _, name := range slices.Sorted(maps.Keys(c.buckets)) {
		ps = append(ps, protocol.BucketPosition{Name: name, After: c.buckets[name].Last})
	}
	return ps
}

func (c *modelClient) take(w *world, o *output) {
	var text []byte
	for _, ch := range o.chunks {
		text = append(text, ch.text...)
	}
	for len(text) > 0 {
		var l protocol.Line
		var err error
		var line []byte
		if n, ok := bson.Length(text); o.as == protocol.BSON && ok {
			line, text = text[:n], text[n:]
			l, err = protocol.DecodeLineBSON(line)
		} else {
			line, text, _ = bytes.Cut(text, []byte("\n"))
			l, err = protocol.DecodeLine(line)
		}
		if err != nil {
			c.t.Fatalf("line %q: %v", line, err)
		}
		switch l := l.(type) {
		case *protocol.Checkpoint:
			c.started = true
			c.begin(l.LastOpID, l.WriteCheckpoint)
			c.target = map[string]protocol.Bucket{}
			for _, b := range l.Buckets {
				c.target[b.Name] = b
			}
			for name := range c.buckets {
				if _, listed := c.target[name]; !listed {
					delete(c.buckets, name)
				}
			}
		case *protocol.CheckpointDiff:
			if !c.started {
				c.t.Fatal("diff before any checkpoint")
			}
			c.begin(l.LastOpID, l.WriteCheckpoint)
			for _, b := range l.UpdatedBuckets {
				c.target[b.Name] = b
			}
			for _, name := range l.RemovedBuckets {
				if _, listed := c.target[name]; !listed {
					c.t.Fatalf("removed bucket %s was not listed", name)
				}
				delete(c.target, name)
				delete(c.buckets, name)
			}
		case *protocol.Data:
			if _, listed := c.target[l.Bucket]; !listed {
				c.t.Fatalf("data of bucket %s, which is not in the checkpoint", l.Bucket)
			}
			r := c.buckets[l.Bucket]
			if r == nil {
				r = &millrace.Reduced{}
				c.buckets[l.Bucket] = r
			}
			for _, op := range l.Ops {
				if op.ID <= r.Last {
					c.t.Fatalf("op %d of %s after %d", op.ID, l.Bucket, r.Last)
				}
				if op.ID > c.at {
					c.t.Fatalf("op %d beyond checkpoint %d", op.ID, c.at)
				}
				r.Reduce(op)
			}
		case protocol.PartialCheckpointComplete:
			c.verify(w, l.LastOpID, l.Priority)
		case protocol.CheckpointComplete:
			c.verify(w, l.LastOpID, 3)
			if c.complete {
				c.t.Fatal("completed twice")
			}
			c.complete = true
			for name := range c.target {
				if c.buckets[name] == nil {
					c.buckets[name] = &millrace.Reduced{}
				}
				c.buckets[name].Last = c.at
			}
		default:
			c.t.Fatalf("unexpected line %s", line)
		}
	}
}

func (c *modelClient) begin(at millrace.OpID, write int64) {
	if at < c.at {
		c.t.Fatalf("checkpoint %d after %d", at, c.at)
	}
	if write < c.write {
		c.t.Fatalf("write checkpoint %d after %d", write, c.write)
	}
	c.at, c.write, c.complete = at, write, false
}

// verify compares every bucket of the priority and more urgent ones with the
// world at the checkpoint.
func (c *modelClient) verify(w *world, at millrace.OpID, priority int) {
	if at != c.at {
		c.t.Fatalf("completion of %d while at %d", at, c.at)
	}
	for name, b := range c.target {
		if b.Priority > priority {
			continue
		}
		got := c.buckets[name]
		if got == nil {
			got = &millrace.Reduced{}
		}
		want := w.byWire[name].at(at)
		if got.Checksum != want.Checksum || got.Checksum != b.Checksum {
			c.t.Fatalf("%s at %d: sum %d, told %d, true %d", name, at, got.Checksum, b.Checksum, want.Checksum)
		}
		if len(got.Rows) != len(want.Rows) {
			c.t.Fatalf("%s at %d: %d rows, want %d", name, at, len(got.Rows), len(want.Rows))
		}
		for id, op := range want.Rows {
			if got.Rows[id].Data != op.Data {
				c.t.Fatalf("%s at %d: row %v is %q, want %q", name, at, id, got.Rows[id].Data, op.Data)
			}
		}
	}
}

// world drives one core against a model sidecar and a model client.
type world struct {
	t       *rapid.T
	buckets []*worldBucket
	byWire  map[string]*worldBucket
	granted map[*worldBucket]int // priority
	head    millrace.OpID
	ruleSet millrace.RuleSetID
	acked   int64
	toldAck int64

	core   *core
	client *modelClient
	mail   []delivery
	asked  bool  // a view is under way
	read   *page // a page was read and not delivered yet
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, byWire: map[string]*worldBucket{}, granted: map[*worldBucket]int{}, ruleSet: 1}
	for i := range 5 {
		name := fmt.Sprintf("b[%d]", i)
		b := &worldBucket{ref: &bucketRef{name: millrace.BucketName{Definition: 1, Name: name}, wire: "x#" + name}, id: millrace.BucketID(i + 1)}
		w.buckets = append(w.buckets, b)
		w.byWire[b.ref.wire] = b
	}
	w.client = &modelClient{t: t, buckets: map[string]*millrace.Reduced{}}
	w.connect()
	return w
}

func (w *world) connect() {
	positions := w.client.connect()
	w.core = newCore(positions, rapid.SampledFrom([]protocol.Encoding{protocol.JSON, protocol.NestedJSON, protocol.BSON}).Draw(w.t, "encoding"))
	w.client.at = 0
	w.client.write = 0
	w.mail, w.asked, w.read = nil, true, nil
}

func (w *world) view() *view {
	v := &view{at: w.head, ruleSet: w.ruleSet, write: w.acked}
	for _, b := range w.buckets {
		if p, ok := w.granted[b]; ok {
			v.buckets = append(v.buckets, viewBucket{ref: b.ref, state: b.totals(), priority: p})
		}
	}
	return v
}

func (w *world) feed(f func(*output)) {
	o := output{as: w.core.as}
	f(&o)
	w.client.take(w, &o)
}

// commit writes random ops and publishes them as one node.
func (w *world) commit(t *rapid.T) {
	from := w.head
	touched := map[*worldBucket]int{}
	for range rapid.IntRange(1, 6).Draw(t, "ops") {
		b := rapid.SampledFrom(w.buckets).Draw(t, "bucket")
		w.head++
		op := millrace.Op{ID: w.head, Kind: millrace.OpPut, Type: "t", RowID: rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "row")}
		op.Checksum = millrace.Checksum(uint32(w.head) * 2654435761)
		if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
			op.Kind = millrace.OpRemove
		} else {
			op.Data = fmt.Sprintf(`{"n":%d}`, w.head)
		}
		if _, ok := touched[b]; !ok {
			touched[b] = len(b.ops)
		}
		b.full = append(b.full, op)
		b.ops = append(b.ops, op)
	}
	big := rapid.IntRange(0, 4).Draw(t, "big") == 0
	n := &node{from: from, to: w.head, changes: map[*bucketRef]*change{}}
	mine := false
	for b, first := range touched {
		if _, follows := w.granted[b]; follows {
			mine = true
		}
		ch := &change{state: b.totals()}
		if !big {
			d := protocol.Data{Bucket: b.ref.wire, After: from, NextAfter: w.head, Ops: b.ops[first:]}
			ch.lines.Store(&dataLines{text: append(d.AppendLine(nil), '\n'), ops: len(d.Ops)})
		}
		n.changes[b.ref] = ch
	}
	d := delivery{node: n}
	if rapid.IntRange(0, 3).Draw(t, "ack") == 0 {
		w.acked++
		d.write = w.acked
		mine = true
	}
	if mine {
		w.deliver(d)
	}
}

func (w *world) deliver(d delivery) {
	if len(w.mail) == 2 {
		w.core.missed()
		w.mail = nil
		return
	}
	w.mail = append(w.mail, d)
}

// step lets the session do what it can do next; false if nothing.
func (w *world) step() bool {
	if len(w.mail) > 0 && (w.core.ready() || w.core.interrupts(w.mail)) {
		w.feed(func(o *output) { w.core.nodes(w.mail, rapid.SampledFrom([]int{0, 200, 1 << 20}).Draw(w.t, "room"), o) })
		w.mail = nil
		return true
	}
	switch w.core.next() {
	case wantView:
		if w.asked {
			return false
		}
		w.asked = true
		return true
	case wantPage:
		if w.read != nil {
			w.feed(func(o *output) { w.core.page(w.read, o) })
			w.read = nil
		} else {
			w.read = w.readPage(w.core.pageRequest(rapid.SampledFrom([]int{1, 2, roomForAll}).Draw(w.t, "lines")))
		}
		return true
	}
	return false
}

func (w *world) readPage(r *pageRequest) *page {
	p := &page{request: r}
	left := 3
	for i, ref := range r.refs {
		if left == 0 {
			break
		}
		b := w.byWire[ref.wire]
		part := pagePart{done: true, floor: b.floor}
		var d protocol.Data
		for _, op := range b.ops {
			if op.ID <= r.ranges[i].After || op.ID > r.upto {
				continue
			}
			if left == 0 {
				part.done = false
				break
			}
			left--
			d.Ops = append(d.Ops, op)
			part.last = op.ID
		}
		if len(d.Ops) > 0 {
			d.Bucket, d.After, d.NextAfter, d.HasMore = ref.wire, r.ranges[i].After, part.last, !part.done
			part.lines = &dataLines{text: r.as.AppendLine(nil, &d), as: r.as, ops: len(d.Ops)}
		}
		p.parts = append(p.parts, part)
	}
	return p
}

func (w *world) giveView() {
	if !w.asked {
		return
	}
	w.asked, w.mail = false, nil
	w.feed(func(o *output) { w.core.view(w.view(), o) })
}

func TestCoreModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		resolveAgain := func() {
			w.core.stale()
			w.asked, w.mail = true, nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": w.commit,
			"step":   func(*rapid.T) { w.step() },
			"steps": func(*rapid.T) {
				for range 5 {
					w.step()
				}
			},
			"view": func(*rapid.T) { w.giveView() },
			"grant": func(t *rapid.T) {
				w.granted[rapid.SampledFrom(w.buckets).Draw(t, "bucket")] = rapid.IntRange(0, 3).Draw(t, "priority")
				resolveAgain()
			},
			"revoke": func(t *rapid.T) {
				delete(w.granted, rapid.SampledFrom(w.buckets).Draw(t, "bucket"))
				resolveAgain()
			},
			"activate": func(*rapid.T) {
				w.head++
				w.ruleSet++
				resolveAgain()
			},
			"compact": func(t *rapid.T) {
				rapid.SampledFrom(w.buckets).Draw(t, "bucket").compact(w.head)
			},
			"evict": func(*rapid.T) {
				for _, d := range w.mail {
					for _, ch := range d.node.changes {
						ch.lines.Store(nil)
					}
				}
			},
			"reconnect": func(*rapid.T) { w.connect() },
		})
		// Left alone, it converges.
		for range 1000 {
			w.giveView()
			if !w.step() && !w.asked {
				break
			}
		}
		if !w.client.complete {
			t.Fatalf("not complete at the end: %+v", w.core)
		}
		for b := range w.granted {
			got, want := w.client.buckets[b.ref.wire], b.at(w.head)
			if got == nil || got.Checksum != want.Checksum || len(got.Rows) != len(want.Rows) {
				t.Fatalf("%s differs at the end", b.ref.wire)
			}
		}
		if len(w.client.buckets) != len(w.granted) {
			t.Fatalf("client holds %d buckets, granted are %d", len(w.client.buckets), len(w.granted))
		}
		if w.client.write != w.acked {
			t.Fatalf("client was told write checkpoint %d, acknowledged is %d", w.client.write, w.acked)
		}
	})
}
