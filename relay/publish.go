package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// publisher reads the sidecar, once for all sessions, and hands each one what
// concerns it. Each round is one snapshot: what is new since the last one
// becomes a node, then sessions that join or must be resolved again get a view
// of the same checkpoint. So nothing is subtracted and nothing raced: a session
// that got a view gets every later node that touches its buckets.
type publisher struct {
	source  Source
	compile func(*millrace.RuleSet) (Rules, error)
	limits  Limits
	log     *slog.Logger
	meters  *meters
	now     func() time.Time
	tracer  millrace.Tracer

	wake chan struct{} // capacity 1

	mu    sync.Mutex
	queue []*session // want attention: new, asking for a view, or gone

	// Below: the publisher's goroutine only.
	head       millrace.Head
	begun      bool
	lastBucket millrace.BucketID
	index      *index
	waiting    []*session              // for a view
	events     []millrace.DefinitionID // of the rule set in force
	rules      map[millrace.RuleSetID]*ruleSet
	ring       []*node
	ringBytes  int
	dispatched int // sessions reached by the last round
	lineBuf    []byte

	statusMu sync.Mutex
	status   publisherStatus
}

// publisherStatus is what probes and reports tell.
type publisherStatus struct {
	head   millrace.Head
	begun  bool
	events []millrace.DefinitionID
	err    error // of the last round
	rules  error // why the rules in force cannot be served; it may quote them
	at     time.Time
}

// published is the publisher's part of a session.
type published struct {
	known    bool // in the index
	waiting  bool // in publisher.waiting
	resolve  bool // the buckets must be resolved, not only looked up again
	gone     bool
	buckets  []*followed
	lookups  []millrace.LookupKey
	resolved *resolvedRequest
	node     *node // last dispatched
	since    time.Time
}

func newPublisher(source Source, compile func(*millrace.RuleSet) (Rules, error), limits Limits, log *slog.Logger, m *meters) *publisher {
	return &publisher{
		source: source, compile: compile, limits: limits, log: log, meters: m, now: time.Now,
		wake:  make(chan struct{}, 1),
		index: newIndex(),
		rules: map[millrace.RuleSetID]*ruleSet{},
	}
}

// nudge asks for a round.
func (p *publisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// attend asks for a round that looks at the session.
func (p *publisher) attend(s *session) {
	p.mu.Lock()
	if !s.queued {
		s.queued = true
		p.queue = append(p.queue, s)
	}
	p.mu.Unlock()
	p.nudge()
}

// run works until ctx ends.
func (p *publisher) run(ctx context.Context) error {
	watched := make(chan error, 1)
	go func() { watched <- p.source.Watch(ctx, p.nudge) }()
	defer func() { <-watched }()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		p.takeQueue()
		err := p.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.setStatus(err)
		pause := min(time.Duration(p.dispatched)*20*time.Microsecond, 50*time.Millisecond)
		if err != nil {
			if failures++; failures == 1 || failures%60 == 0 {
				p.log.Warn("reading the sidecar", "error", err, "failures", failures)
			}
			pause = min(100*time.Millisecond<<min(failures, 5), time.Second)
			p.nudge()
		} else if failures > 0 {
			p.log.Info("the sidecar can be read again", "failures", failures)
			failures = 0
		}
		if len(p.waiting) > 0 {
			p.nudge()
			pause = max(pause, time.Millisecond)
		}
		if pause > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
	}
}

func (p *publisher) setStatus(err error) {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	p.status = publisherStatus{head: p.head, begun: p.begun, events: p.events, err: err, at: p.now()}
	if set := p.rules[p.head.RuleSet]; set != nil {
		p.status.rules = set.err
	}
}

func (p *publisher) currentStatus() publisherStatus {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	return p.status
}

// queued is how many sessions wait for a round.
func (p *publisher) queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// takeQueue moves what asked for attention into the publisher's own state.
func (p *publisher) takeQueue() {
	p.mu.Lock()
	queue := p.queue
	p.queue = nil
	for _, s := range queue {
		s.queued = false
	}
	p.mu.Unlock()
	for _, s := range queue {
		left, resolve, refresh := s.takeAsked()
		switch {
		case left:
			s.pub.gone = true
			if s.pub.known {
				p.index.remove(s)
				s.pub.known = false
			}
			continue
		case !s.pub.known && !s.pub.gone:
			s.pub.known = true
			s.pub.since = p.now()
			add(p.index.users, s.user, s)
		}
		if resolve || refresh {
			p.await(s, resolve)
		}
	}
}

// await puts the session on the list of those to get a view.
func (p *publisher) await(s *session, resolve bool) {
	s.pub.resolve = s.pub.resolve || resolve
	if !s.pub.waiting && !s.pub.gone {
		s.pub.waiting = true
		p.waiting = append(p.waiting, s)
	}
}

// roundTimeout bounds a round, in case the sidecar stops answering.
const roundTimeout = time.Minute

// round reads one snapshot and hands out what is new in it. After an error
// nothing was handed out that is not whole, and the next round makes it good.
func (p *publisher) round(ctx context.Context) error {
	p.dispatched = 0
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	snap, err := p.source.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snap.Close()
	head := snap.Head()
	switch {
	case !p.begun:
		if p.lastBucket, err = snap.LastBucket(ctx); err != nil {
			return err
		}
		if p.events, err = snap.Events(ctx); err != nil {
			return err
		}
		p.head, p.begun = head, true
	case head.Seq < p.head.Seq || head.OpID < p.head.OpID:
		if head.Replica {
			return nil // another, slower replica answered
		}
		p.restart()
		return fmt.Errorf("the sidecar went back from checkpoint %d to %d: it was restored or another server answers; clients reconnect", p.head.Seq, head.Seq)
	case head.Renewed != p.head.Renewed:
		p.restart()
		return errors.New("all buckets of the sidecar have new names, since it had gone back in time; clients reconnect")
	case head.Seq > p.head.Seq:
		if err := p.publish(ctx, snap, head); err != nil {
			return err
		}
	}
	return p.views(ctx, snap)
}

// restart drops everything known, after the sidecar became another one.
func (p *publisher) restart() {
	for _, set := range p.index.users {
		for s := range set {
			s.finish(ending{code: protocol.CodeRestarting, status: http.StatusServiceUnavailable, close: protocol.CloseRestarting, text: "the server's data was restored"})
			s.pub.known, s.pub.gone, s.pub.waiting = false, true, false
		}
	}
	p.index, p.waiting = newIndex(), nil
	p.begun = false
	p.rules = map[millrace.RuleSetID]*ruleSet{}
}

// publish makes the node from the last head to this one and hands it out.
func (p *publisher) publish(ctx context.Context, snap Snapshot, head millrace.Head) error {
	began := p.now()
	changes, err := snap.Changes(ctx, p.head.Seq)
	if err != nil {
		return err
	}
	states, lastBucket, err := p.changedStates(ctx, snap, changes)
	if err != nil {
		return err
	}
	stale, err := p.staleSessions(ctx, snap, head, changes)
	if err != nil {
		return err
	}
	events := p.events
	if head.RuleSet != p.head.RuleSet {
		if events, err = snap.Events(ctx); err != nil {
			return err
		}
	}
	acks, err := p.acknowledged(ctx, snap, events)
	if err != nil {
		return err
	}
	n := &node{from: p.head.OpID, to: head.OpID, changes: make(map[*bucketRef]*change, len(states))}
	for f, s := range states {
		// Compaction changes the number of ops only: nothing to tell.
		if s.last != f.state.last || s.checksum != f.state.checksum {
			n.changes[&f.bucketRef] = &change{state: s}
		}
	}
	size, err := p.fill(ctx, snap, n)
	if err != nil {
		return err
	}
	// From here on nothing fails.
	if len(n.changes)+len(stale)+len(acks) > 0 {
		p.trace(n, began)
	}
	for f, s := range states {
		p.index.setState(f, s)
	}
	p.head, p.lastBucket, p.events = head, lastBucket, events
	p.remember(n, size)
	for s := range stale {
		s.markStale()
		p.await(s, true)
	}
	for f := range states {
		if n.changes[&f.bucketRef] == nil {
			continue
		}
		for s := range f.sessions {
			p.hand(s, n, acks[s.user])
		}
	}
	for user, id := range acks {
		for s := range p.index.users[user] {
			p.hand(s, n, id)
		}
	}
	p.meters.node(p.dispatched, changes.Published, p.now())
	p.endTrace(n, len(stale), len(acks), size, changes.Published)
	return nil
}

// hand gives the node to a session, once.
func (p *publisher) hand(s *session, n *node, write int64) {
	if s.pub.node == n || s.pub.waiting {
		return // a view will tell
	}
	s.pub.node = n
	if n.fan != nil {
		n.fan.left.Add(1)
	}
	s.push(delivery{node: n, write: write})
	p.dispatched++
}

// changedStates reads the followed buckets that differ from what is known.
func (p *publisher) changedStates(ctx context.Context, snap Snapshot, changes millrace.Changes) (map[*followed]bucketState, millrace.BucketID, error) {
	states := map[*followed]bucketState{}
	lastBucket := p.lastBucket
	if len(changes.Buckets) > 0 || changes.BucketsUnknown {
		var err error
		if lastBucket, err = snap.LastBucket(ctx); err != nil {
			return nil, 0, err
		}
	}
	if lastBucket > p.lastBucket && len(p.index.unborn) > 0 {
		if err := p.born(ctx, snap, int(lastBucket-p.lastBucket), states); err != nil {
			return nil, 0, err
		}
	}
	var ids []millrace.BucketID
	if changes.BucketsUnknown {
		for id := range p.index.byID {
			ids = append(ids, id)
		}
	} else {
		for _, id := range changes.Buckets {
			if p.index.byID[id] != nil {
				ids = append(ids, id)
			}
		}
	}
	for chunk := range slices.Chunk(ids, 10_000) {
		totals, err := snap.Totals(ctx, chunk)
		if err != nil {
			return nil, 0, err
		}
		for i, t := range totals {
			f := p.index.byID[chunk[i]]
			if s := stateOf(t); t.ID != 0 && s != f.state {
				states[f] = s
			}
		}
	}
	return states, lastBucket, nil
}

// born finds followed buckets that have got their first op.
func (p *publisher) born(ctx context.Context, snap Snapshot, fresh int, states map[*followed]bucketState) error {
	var names []millrace.BucketName
	if fresh < len(p.index.unborn) {
		for after := p.lastBucket; ; {
			list, err := snap.BucketsAfter(ctx, after, 10_000)
			if err != nil {
				return err
			}
			for _, b := range list {
				after = b.ID
				if p.index.unborn[b.BucketName] != nil {
					names = append(names, b.BucketName)
				}
			}
			if len(list) < 10_000 {
				break
			}
		}
	} else {
		for name := range p.index.unborn {
			names = append(names, name)
		}
	}
	for chunk := range slices.Chunk(names, 10_000) {
		totals, err := snap.Buckets(ctx, chunk)
		if err != nil {
			return err
		}
		for i, t := range totals {
			if t.ID != 0 {
				states[p.index.unborn[chunk[i]]] = stateOf(t)
			}
		}
	}
	return nil
}

func stateOf(t millrace.BucketTotals) bucketState {
	return bucketState{id: t.ID, last: t.Last, ops: t.Ops, checksum: t.Checksum}
}

// changedLookupsMax is how many changed keys are read one by one; above it
// every session with a lookup is resolved again.
const changedLookupsMax = 100_000

// staleSessions lists those whose buckets must be resolved again.
func (p *publisher) staleSessions(ctx context.Context, snap Snapshot, head millrace.Head, changes millrace.Changes) (map[*session]struct{}, error) {
	stale := map[*session]struct{}{}
	if head.RuleSet != p.head.RuleSet || head.ActiveFrom != p.head.ActiveFrom {
		for _, set := range p.index.users {
			for s := range set {
				stale[s] = struct{}{}
			}
		}
		return stale, nil
	}
	// Of those that are being built, nobody asks anything.
	var definitions []millrace.DefinitionID
	for d := range p.index.asked {
		if changes.LookupsUnknown || slices.Contains(changes.Lookups, d) {
			definitions = append(definitions, d)
		}
	}
	if len(definitions) == 0 {
		return stale, nil
	}
	keys, ok, err := snap.ChangedLookups(ctx, definitions, p.head.OpID, changedLookupsMax)
	if err != nil {
		return nil, err
	}
	if !ok {
		for k, set := range p.index.lookups {
			if !slices.Contains(definitions, k.Definition) {
				continue
			}
			for s := range set {
				stale[s] = struct{}{}
			}
		}
		return stale, nil
	}
	for _, k := range keys {
		for s := range p.index.lookups[k] {
			stale[s] = struct{}{}
		}
	}
	return stale, nil
}

// acknowledged lists connected users with a newly acknowledged write checkpoint.
func (p *publisher) acknowledged(ctx context.Context, snap Snapshot, events []millrace.DefinitionID) (map[string]int64, error) {
	acks := map[string]int64{}
	if len(p.index.users) == 0 {
		return acks, nil
	}
	list, ok, err := snap.AcknowledgedAfter(ctx, events, p.head.Seq, 100_000)
	if err != nil {
		return nil, err
	}
	if !ok {
		users := make([]string, 0, len(p.index.users))
		for u := range p.index.users {
			users = append(users, u)
		}
		list = nil
		for chunk := range slices.Chunk(users, 10_000) {
			part, err := snap.WriteCheckpoints(ctx, events, chunk)
			if err != nil {
				return nil, err
			}
			list = append(list, part...)
		}
	}
	for _, w := range list {
		if p.index.users[w.User] != nil && w.Acknowledged != 0 {
			acks[w.User] = w.Acknowledged
		}
	}
	return acks, nil
}

// fill reads the ops of the node's buckets and encodes their data lines, unless
// they are more than the limit: then the node carries none and sessions read
// pages.
func (p *publisher) fill(ctx context.Context, snap Snapshot, n *node) (int, error) {
	var refs []*bucketRef
	for ref, ch := range n.changes {
		if ch.state.last > n.from {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return 0, nil
	}
	slices.SortFunc(refs, func(a, b *bucketRef) int {
		return cmp.Or(cmp.Compare(a.name.Definition, b.name.Definition), cmp.Compare(n.changes[a].state.id, n.changes[b].state.id))
	})
	ranges := make([]millrace.BucketRange, len(refs))
	for i, ref := range refs {
		ranges[i] = millrace.BucketRange{Definition: ref.name.Definition, Bucket: n.changes[ref].state.id, After: n.from}
	}
	e := encoder{wires: func(i int) string { return refs[i].wire }, after: func(int) millrace.OpID { return n.from }, buf: p.lineBuf}
	size := 0
	lines := make([]*dataLines, len(refs))
	flush := func(i int, part []byte, ops int) {
		lines[i] = &dataLines{text: append([]byte(nil), part...), ops: ops}
		size += len(part)
	}
	// By pages: one that turns out too large is not read to its end.
	for first := 0; ; {
		read, at, tooLarge := 0, first, false
		var last millrace.OpID
		err := snap.Ops(ctx, ranges[first:], n.to, fillPage, func(i int, op *millrace.Op) bool {
			e.op(first+i, op, flush)
			read, at, last = read+1, first+i, op.ID
			tooLarge = size+e.size() > p.limits.NodeBytes
			return !tooLarge
		})
		if err != nil {
			return 0, err
		}
		if tooLarge {
			return 0, nil
		}
		if read < fillPage {
			break
		}
		first = at
		ranges[at].After = last
	}
	e.end(flush)
	p.lineBuf = e.buf
	for i, l := range lines {
		if l != nil {
			n.changes[refs[i]].lines.Store(l)
		}
	}
	return size, nil
}

// fillPage is how many ops are read at a time for a node.
const fillPage = 1000

// remember counts the node's bytes and drops those of the oldest above the
// bound; sessions that have not taken them yet read pages instead.
func (p *publisher) remember(n *node, size int) {
	if size == 0 {
		return
	}
	n.size = size
	p.ring = append(p.ring, n)
	p.ringBytes += size
	for p.ringBytes > p.limits.RingBytes && len(p.ring) > 1 {
		old := p.ring[0]
		for _, ch := range old.changes {
			ch.lines.Store(nil)
			ch.told.Store(nil)
		}
		p.ringBytes -= old.size
		p.ring[0] = nil
		p.ring = p.ring[1:]
	}
}
