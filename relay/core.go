package relay

import (
	"cmp"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// bucketRef is the identity of a bucket in this relay, shared by all sessions
// that follow it. Immutable.
type bucketRef struct {
	name millrace.BucketName
	wire string
}

// bucketState is what a checkpoint line says of a bucket, and where its ops
// are.
type bucketState struct {
	id       millrace.BucketID // 0 while the bucket has no history
	last     millrace.OpID
	ops      int64
	checksum millrace.Checksum
}

// view is everything a session needs to know at one checkpoint: the buckets its
// request resolves to, each as of that checkpoint.
type view struct {
	at      millrace.OpID
	ruleSet millrace.RuleSetID
	buckets []viewBucket
	streams []protocol.Stream
	// streamsVersion is the version of the subscription list that was resolved.
	streamsVersion int64
	write          int64 // the user's acknowledged write checkpoint, 0 for none
}

type viewBucket struct {
	ref      *bucketRef
	state    bucketState
	priority int
	reasons  []protocol.Reason
}

// node is one published checkpoint: what changed after from, up to and
// including to, in buckets that some session follows. A node is never modified
// once published.
type node struct {
	from, to millrace.OpID
	changes  map[*bucketRef]*change
	size     int // bytes of its lines; the publisher's
	fan      *fanOut
}

// change is one bucket's part of a node.
type change struct {
	state bucketState // at the node's end
	// lines are the finished data lines of all ops in (from, to]; nil if the
	// node was too large to carry them. The publisher drops them when the node
	// leaves the ring, and never changes them otherwise.
	lines atomic.Pointer[dataLines]
	// told is dropped with lines.
	told atomic.Pointer[told]
}

// delivery is a node handed to one session.
type delivery struct {
	node  *node
	write int64 // the user's new write checkpoint, 0 if it has not changed
}

// pageRequest asks for the next ops of buckets that are behind, in this order,
// all of one priority.
type pageRequest struct {
	upto    millrace.OpID
	refs    []*bucketRef
	ranges  []millrace.BucketRange
	wires   []string
	as      protocol.Encoding
	maxOps  int
	maxSize int
}

// page answers a pageRequest; parts[i] belongs to refs[i], there may be fewer.
type page struct {
	request *pageRequest
	parts   []pagePart
}

// pagePart is what was read of one bucket.
type pagePart struct {
	lines *dataLines    // nil if there was nothing
	last  millrace.OpID // id of the last op in lines
	done  bool          // nothing more at or below the requested checkpoint
	// floor is how far compaction has rewritten the bucket, and gone that its
	// history was dropped, in the snapshot the ops were read in.
	floor millrace.OpID
	gone  bool
}

// want is what a session needs to go on.
type want uint8

const (
	wantNothing want = iota // it is complete, or waits for a view that is asked for
	wantPage
	wantView // a newer view: the checkpoint being sent cannot be completed
)

// heldBucket is one bucket of the current checkpoint.
type heldBucket struct {
	ref      *bucketRef
	state    bucketState
	pos      millrace.OpID // the client has everything up to here
	priority int
	reasons  []protocol.Reason
}

func (h *heldBucket) behind() bool { return h.pos < h.state.last }

// core is the state machine of one session: it takes views, nodes and pages and
// says which lines to send and what to read next. It does no I/O and knows no
// time. Its promises:
//   - a checkpoint is completed only after every op at or below it was sent or
//     was held by the client before, and with no bucket's floor above it (I2);
//   - per bucket, op ids ascend, without gap, and never twice;
//   - between stale and the next view nothing is sent (I9).
type core struct {
	as      protocol.Encoding        // of the lines to send
	initial map[string]millrace.OpID // positions of the request, until the first view

	started  bool
	at       millrace.OpID // checkpoint of the last checkpoint line
	write    int64
	ruleSet  millrace.RuleSetID
	streams  []protocol.Stream
	version  int64
	held     map[*bucketRef]*heldBucket
	todo     []*heldBucket // behind, most urgent first
	complete bool          // at was completed
	isStale  bool
	blocked  bool // at cannot be completed
	lost     bool // nodes were missed
}

// newCore begins a session whose client holds the given buckets.
func newCore(positions []protocol.BucketPosition, as protocol.Encoding) *core {
	c := &core{as: as, initial: make(map[string]millrace.OpID, len(positions))}
	for _, p := range positions {
		if at, dup := c.initial[p.Name]; !dup || p.After < at {
			c.initial[p.Name] = p.After
		}
	}
	return c
}

// ahead is the greatest position the client claims.
func (c *core) ahead() (max millrace.OpID) {
	for _, after := range c.initial {
		if after > max {
			max = after
		}
	}
	return max
}

// stale says that what the client may see must be resolved again: nothing is
// sent until the next view.
func (c *core) stale() { c.isStale = true }

// missed says that nodes were not delivered; a view must make up for them.
func (c *core) missed() { c.lost = true }

// view moves to the checkpoint of v.
func (c *core) view(v *view, out *output) {
	if c.started && v.at < c.at {
		return // never back; a newer one follows
	}
	reset := !c.started && c.claimsBeyond(v)
	held := make(map[*bucketRef]*heldBucket, len(v.buckets))
	var updated []protocol.Bucket
	for i := range v.buckets {
		b := &v.buckets[i]
		h := &heldBucket{ref: b.ref, state: b.state, priority: b.priority, reasons: b.reasons}
		before := c.held[b.ref]
		switch {
		case before != nil:
			h.pos = before.pos
		case !c.started && !reset:
			h.pos = c.initial[b.ref.wire]
		}
		held[b.ref] = h
		if before == nil || before.differs(h) {
			updated = append(updated, h.wire())
		}
	}
	var removed []string
	for ref := range c.held {
		if held[ref] == nil {
			removed = append(removed, ref.wire)
		}
	}
	slices.Sort(removed)

	full := !c.started || v.ruleSet != c.ruleSet || v.streamsVersion != c.version || !sameStreams(v.streams, c.streams)
	quiet := !full && c.complete && len(updated) == 0 && len(removed) == 0 && v.write == c.write
	c.started, c.isStale, c.blocked, c.lost, c.initial = true, false, false, false, nil
	c.at, c.write, c.ruleSet, c.streams, c.version = v.at, v.write, v.ruleSet, v.streams, v.streamsVersion
	c.held = held
	if quiet {
		return
	}
	switch {
	case reset:
		// The client drops what it claims to hold before it gets it anew.
		out.line(&protocol.Checkpoint{LastOpID: c.at, WriteCheckpoint: c.write, Streams: c.streams, StreamsVersion: c.version})
		out.line(&protocol.CheckpointDiff{LastOpID: c.at, WriteCheckpoint: c.write, UpdatedBuckets: updated})
	case full:
		all := make([]protocol.Bucket, len(v.buckets))
		for i := range v.buckets {
			all[i] = held[v.buckets[i].ref].wire()
		}
		out.line(&protocol.Checkpoint{LastOpID: c.at, WriteCheckpoint: c.write, Buckets: all, Streams: c.streams, StreamsVersion: c.version})
	default:
		out.line(&protocol.CheckpointDiff{LastOpID: c.at, WriteCheckpoint: c.write, UpdatedBuckets: updated, RemovedBuckets: removed})
	}
	c.plan()
	c.finish(out)
}

// claimsBeyond tells whether the client claims ops that do not exist. Its
// history is then another one (a restored sidecar, another environment), so
// nothing it holds is of use.
func (c *core) claimsBeyond(v *view) bool {
	for i := range v.buckets {
		if c.initial[v.buckets[i].ref.wire] > v.at {
			return true
		}
	}
	return false
}

func (h *heldBucket) differs(o *heldBucket) bool {
	return h.state.checksum != o.state.checksum || h.state.last != o.state.last || h.priority != o.priority ||
		!slices.Equal(h.reasons, o.reasons)
}

func (h *heldBucket) wire() protocol.Bucket {
	return protocol.Bucket{Name: h.ref.wire, Checksum: h.state.checksum, Count: h.state.ops, Priority: h.priority, Subscriptions: h.reasons}
}

func sameStreams(a, b []protocol.Stream) bool {
	return slices.EqualFunc(a, b, func(x, y protocol.Stream) bool {
		return x.Name == y.Name && x.IsDefault == y.IsDefault && slices.Equal(x.Errors, y.Errors)
	})
}

// plan lists what is behind the current checkpoint.
func (c *core) plan() {
	c.complete = false
	c.todo = c.todo[:0]
	for _, h := range c.held {
		if h.behind() {
			c.todo = append(c.todo, h)
		}
	}
	slices.SortFunc(c.todo, func(a, b *heldBucket) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.ref.wire, b.ref.wire))
	})
}

// finish ends the current checkpoint if nothing is left to send.
func (c *core) finish(out *output) {
	if len(c.todo) == 0 && !c.blocked && !c.complete {
		out.line(protocol.CheckpointComplete{LastOpID: c.at})
		out.completed = true
		c.complete = true
	}
}

// ready tells whether nodes can be taken now.
func (c *core) ready() bool { return c.started && c.complete && !c.isStale && !c.lost }

// interrupts tells whether the deliveries hold something more urgent than what
// is being sent: then the session moves on before the checkpoint is complete.
func (c *core) interrupts(ds []delivery) bool {
	if !c.started || c.complete || c.isStale || c.lost || c.blocked || len(c.todo) == 0 {
		return false
	}
	for _, d := range ds {
		for h := range c.touched(d.node) {
			if h.priority < c.todo[0].priority {
				return true
			}
		}
	}
	return false
}

// touched gives the held buckets a node changes.
func (c *core) touched(n *node) iter.Seq[*heldBucket] {
	return func(yield func(*heldBucket) bool) {
		if len(n.changes) < len(c.held) {
			for ref := range n.changes {
				if h := c.held[ref]; h != nil && !yield(h) {
					return
				}
			}
			return
		}
		for ref, h := range c.held {
			if n.changes[ref] != nil && !yield(h) {
				return
			}
		}
	}
}

// nodes moves to the end of the last delivery, wholly. The deliveries are
// consecutive for this session: no node in between changes its buckets. At most
// room bytes of the nodes' lines are sent; the rest goes by pages.
func (c *core) nodes(ds []delivery, room int, out *output) {
	only := c.only(ds, room)
	if only != nil && c.retell(ds[0], only, out) {
		return
	}
	c.tell(ds, room, out)
	if only != nil {
		ds[0].node.changes[only.ref].keep(only, c.write, out)
	}
}

func (c *core) tell(ds []delivery, room int, out *output) {
	type news struct {
		h      *heldBucket
		state  bucketState
		lines  []*dataLines
		bytes  int
		inline bool
	}
	var list []*news
	index := map[*heldBucket]*news{}
	write, at := c.write, c.at
	for _, d := range ds {
		if d.write != 0 {
			write = d.write
		}
		if d.node.to <= c.at {
			continue
		}
		at = d.node.to
		for h := range c.touched(d.node) {
			n := index[h]
			if n == nil {
				// What is behind, or less urgent than what is, waits for pages.
				inline := !h.behind() && (c.complete || len(c.todo) == 0 || h.priority < c.todo[0].priority)
				n = &news{h: h, inline: inline}
				index[h] = n
				list = append(list, n)
			}
			ch := d.node.changes[h.ref]
			n.state = ch.state
			lines := ch.lines.Load().in(c.as) // once: it may go any time
			n.inline = n.inline && lines != nil
			if n.inline {
				n.lines = append(n.lines, lines)
				n.bytes += len(lines.text)
			}
		}
	}
	if len(list) == 0 && write == c.write && c.complete {
		c.at = at
		return
	}
	slices.SortFunc(list, func(a, b *news) int {
		return cmp.Or(cmp.Compare(a.h.priority, b.h.priority), cmp.Compare(a.h.ref.wire, b.h.ref.wire))
	})
	diff := &protocol.CheckpointDiff{LastOpID: at, WriteCheckpoint: write}
	for _, n := range list {
		n.h.state = n.state
		diff.UpdatedBuckets = append(diff.UpdatedBuckets, n.h.wire())
	}
	c.at, c.write = at, write
	out.line(diff)
	urgent := false
	for _, n := range list {
		if !n.inline || n.bytes > room {
			continue
		}
		room -= n.bytes
		for _, l := range n.lines {
			if len(l.text) > 0 {
				out.data(l)
			}
		}
		n.h.pos = at
		urgent = urgent || n.h.priority == 0
	}
	c.plan()
	if urgent && (len(c.todo) == 0 || c.todo[0].priority > 0) {
		out.line(protocol.PartialCheckpointComplete{LastOpID: c.at, Priority: 0})
	}
	c.finish(out)
}

// next says what is needed to go on.
func (c *core) next() want {
	switch {
	case !c.started || c.isStale:
		return wantNothing // the view is under way
	case c.blocked || c.complete && c.lost:
		return wantView
	case len(c.todo) > 0:
		return wantPage
	}
	return wantNothing
}

// Limits of a page: enough to be worth a round trip, little enough to hold in
// memory for a slow client.
const (
	pageOps     = 1000
	pageBytes   = 1 << 20
	pageBuckets = 1000
)

// pageRequest gives the next read, of the most urgent priority that is behind
// and of at most so many buckets, for each of which a line is sent.
func (c *core) pageRequest(buckets int) *pageRequest {
	buckets = max(min(buckets, pageBuckets), 1)
	r := &pageRequest{upto: c.at, as: c.as, maxOps: pageOps, maxSize: pageBytes}
	for _, h := range c.todo {
		if len(r.refs) == buckets || h.priority != c.todo[0].priority {
			break
		}
		r.refs = append(r.refs, h.ref)
		r.wires = append(r.wires, h.ref.wire)
		r.ranges = append(r.ranges, millrace.BucketRange{Definition: h.ref.name.Definition, Bucket: h.state.id, After: h.pos})
	}
	return r
}

// page sends what was read. Parts of buckets that are no longer held, or whose
// position has moved since, are dropped.
func (c *core) page(p *page, out *output) {
	if c.isStale || c.complete || len(c.todo) == 0 {
		return
	}
	level := c.todo[0].priority
	for i := range p.parts {
		part, h := &p.parts[i], c.held[p.request.refs[i]]
		if h == nil || h.pos != p.request.ranges[i].After {
			continue
		}
		if part.gone || part.floor > c.at {
			c.blocked = true
		}
		if part.gone {
			continue
		}
		if part.done && part.lines == nil && h.behind() && h.state.last <= p.request.upto {
			// The newest op of a bucket is always there: its history was dropped
			// after this snapshot was opened.
			c.blocked = true
			continue
		}
		if part.lines != nil {
			out.data(part.lines)
			h.pos = part.last
		}
		if part.done {
			h.pos = max(h.pos, p.request.upto)
			if h.behind() && p.request.upto == c.at {
				c.blocked = true // ops that the totals count are not there
			}
		}
	}
	c.todo = slices.DeleteFunc(c.todo, func(h *heldBucket) bool { return !h.behind() })
	if c.blocked {
		return
	}
	// A level that is finished is published, but for the last one, which the
	// completion publishes; priority 0 always, since only a partial completion
	// passes the client's upload gate.
	if finished := len(c.todo) == 0 || c.todo[0].priority > level; finished && (len(c.todo) > 0 || level == 0) {
		out.line(protocol.PartialCheckpointComplete{LastOpID: c.at, Priority: level})
	}
	c.finish(out)
}
