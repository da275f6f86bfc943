package relay

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// ruleSet is a compiled rule set with the definitions it maps to.
type ruleSet struct {
	id    millrace.RuleSetID
	rules Rules
	defs  []millrace.Definition // by index of Rules.Definitions
	err   error                 // why it cannot be served by this relay
}

// resolvedRequest is what a session's request resolved to.
type resolvedRequest struct {
	set     millrace.RuleSetID
	version int64
	result  Resolved
}

// viewsPerRound bounds how long nodes wait for sessions that join.
const viewsPerRound = 256

// lookupSteps bounds the depth of nested lookups.
const lookupSteps = 32

// views gives a view of the snapshot to sessions that wait for one.
func (p *publisher) views(ctx context.Context, snap Snapshot) error {
	defer func() {
		p.waiting = slices.DeleteFunc(p.waiting, func(s *session) bool { return !s.pub.waiting })
	}()
	set, err := p.ruleSet(ctx, snap) // also without sessions: probes tell whether any could be served
	if err != nil {
		return err
	}
	batch := p.pickWaiting(ctx)
	if len(batch) == 0 {
		return nil
	}
	if set == nil || set.err != nil {
		end := ending{code: protocol.CodeNoRules, status: http.StatusInternalServerError, close: protocol.CloseOverloaded,
			text: "no sync rules are active yet: the first copy of the source may still be running"}
		if set != nil {
			end.close, end.text = protocol.CloseRules, "this relay cannot serve the active sync rules"
		}
		for _, s := range batch {
			p.settle(s)
			s.finish(end)
		}
		return nil
	}
	span := millrace.BeginTrace(p.tracer, "relay.resolve_batch")
	resolutions, err := p.resolve(ctx, snap, set, batch)
	if err == nil && span.On() {
		traceResolutions(span, resolutions)
	}
	span.End(err)
	if err != nil {
		return err
	}
	if err := p.know(ctx, snap, set, resolutions); err != nil {
		return err
	}
	users := make([]string, len(batch))
	for i, s := range batch {
		users[i] = s.user
	}
	slices.Sort(users)
	counters, err := snap.WriteCheckpoints(ctx, p.events, slices.Compact(users))
	if err != nil {
		return err
	}
	writes := make(map[string]int64, len(counters))
	for _, w := range counters {
		writes[w.User] = w.Acknowledged
	}
	for _, r := range resolutions {
		p.give(set, r, writes[r.s.user])
	}
	return nil
}

// pickWaiting lists the next sessions to get a view; they stay on the list until
// they are settled, so that an error repeats them. Those that claim to be ahead
// of a replica are left for a while: it may only be behind.
func (p *publisher) pickWaiting(ctx context.Context) (batch []*session) {
	var late []*session
	for _, s := range p.waiting {
		switch {
		case s.pub.gone:
			s.pub.waiting = false
		case len(batch) == viewsPerRound:
		case !p.head.Replica || s.ahead <= p.head.OpID:
			batch = append(batch, s)
		case p.now().Sub(s.pub.since) >= replicaWait:
			late = append(late, s)
		}
	}
	if len(late) == 0 {
		return batch
	}
	// A replica this far behind proves nothing: the primary knows.
	primary, err := p.source.PrimaryHead(ctx)
	for _, s := range late {
		if err == nil && s.ahead > primary {
			batch = append(batch, s) // ahead of everything: reset
			continue
		}
		p.settle(s)
		s.finish(ending{code: protocol.CodeRestarting, status: http.StatusServiceUnavailable, close: protocol.CloseRestarting,
			text: "this relay reads a replica that is behind what the client has; try again"})
	}
	return batch
}

// replicaWait is how long a client that is ahead of a replica is waited for.
const replicaWait = 5 * time.Second

// settle says that the session has got its view, or its end.
func (p *publisher) settle(s *session) { s.pub.waiting, s.pub.resolve = false, false }

// ruleSet compiles the rule set in force, once; nil if there is none. A set that
// does not compile here is remembered with its error.
func (p *publisher) ruleSet(ctx context.Context, snap Snapshot) (*ruleSet, error) {
	id := p.head.RuleSet
	if id == 0 {
		return nil, nil
	}
	if set := p.rules[id]; set != nil {
		return set, nil
	}
	stored, err := snap.RuleSet(ctx, id)
	if err != nil {
		return nil, err
	}
	set := &ruleSet{id: id}
	if set.err = set.bind(stored, p.compile); set.err != nil {
		p.log.Error("the active sync rules cannot be served", "rule_set", id, "error", set.err)
	}
	clear(p.rules) // one at a time is in force
	p.rules[id] = set
	return set, nil
}

// bind compiles the set and finds the definitions it maps to.
func (set *ruleSet) bind(stored *millrace.RuleSet, compile func(*millrace.RuleSet) (Rules, error)) error {
	const cure = "this relay is probably of another version than the decoder that deployed them"
	var err error
	if set.rules, err = compile(stored); err != nil {
		return fmt.Errorf("compile rule set %d: %w; %s", set.id, err, cure)
	}
	byKey := make(map[string]millrace.Definition, len(stored.Definitions))
	for _, d := range stored.Definitions {
		byKey[d.Key] = d
	}
	for _, key := range set.rules.Definitions() {
		d, ok := byKey[key]
		if !ok {
			return fmt.Errorf("rule set %d maps no definition to %q; %s", set.id, key, cure)
		}
		set.defs = append(set.defs, d)
	}
	return nil
}

// resolving is a session on its way to a view.
type resolving struct {
	s       *session
	request resolveRequest
	again   bool // resolution is nil: the result known holds
	res     Resolution
	keys    []millrace.LookupKey
	result  Resolved
	err     error
}

// resolve resolves the requests of the batch, reading the lookups of all of
// them together.
func (p *publisher) resolve(ctx context.Context, snap Snapshot, set *ruleSet, batch []*session) ([]*resolving, error) {
	list := make([]*resolving, len(batch))
	for i, s := range batch {
		r := &resolving{s: s, request: s.currentRequest()}
		list[i] = r
		if known := s.pub.resolved; known != nil && !s.pub.resolve && known.set == set.id && known.version == r.request.version {
			r.again, r.result, r.keys = true, known.result, s.pub.lookups
			continue
		}
		r.res = set.rules.Resolve(r.request.rules)
	}
	results := map[millrace.LookupKey][]string{}
	for step := 0; ; step++ {
		var missing []millrace.LookupKey
		asked := map[millrace.LookupKey]struct{}{}
		pending := map[*resolving][]millrace.LookupKey{}
		for _, r := range list {
			if r.res == nil {
				continue
			}
			for _, l := range r.res.Pending() {
				k := millrace.LookupKey{Definition: set.defs[l.Definition].ID, Key: l.Key}
				pending[r] = append(pending[r], k)
				if _, known := results[k]; known {
					continue
				}
				if _, dup := asked[k]; !dup {
					asked[k] = struct{}{}
					missing = append(missing, k)
				}
			}
		}
		if len(pending) == 0 {
			break
		}
		if step == lookupSteps {
			return nil, fmt.Errorf("lookups nest deeper than %d steps", lookupSteps)
		}
		for chunk := range slices.Chunk(missing, 10_000) {
			outputs, err := snap.Lookups(ctx, chunk)
			if err != nil {
				return nil, err
			}
			for i, k := range chunk {
				results[k] = outputs[i]
			}
		}
		for r, keys := range pending {
			fed := make([][]string, len(keys))
			for i, k := range keys {
				fed[i] = results[k]
			}
			r.keys = append(r.keys, keys...)
			r.res.Feed(fed)
		}
	}
	for _, r := range list {
		if r.res != nil {
			r.result, r.err = r.res.Result()
		}
	}
	return list, nil
}

// know makes the states of all buckets of the batch known.
func (p *publisher) know(ctx context.Context, snap Snapshot, set *ruleSet, list []*resolving) error {
	states := map[millrace.BucketName]bucketState{}
	var names []millrace.BucketName
	for _, r := range list {
		if r.err == nil {
			r.err = p.overLimit(set, r)
		}
		if r.err != nil {
			continue
		}
		for _, b := range r.result.Buckets {
			name := millrace.BucketName{Definition: set.defs[b.Definition].ID, Name: b.Name}
			// A bucket that is followed has its state; it is kept, since its last
			// follower may leave it in this batch before another one joins.
			if f := p.index.buckets[name]; f != nil {
				states[name] = f.state
				continue
			}
			if _, dup := states[name]; !dup {
				states[name] = bucketState{}
				names = append(names, name)
			}
		}
	}
	for chunk := range slices.Chunk(names, 10_000) {
		totals, err := snap.Buckets(ctx, chunk)
		if err != nil {
			return err
		}
		for i, t := range totals {
			states[chunk[i]] = stateOf(t)
		}
	}
	for _, r := range list {
		if r.err != nil {
			continue
		}
		follow := make([]*followed, len(r.result.Buckets))
		for i, b := range r.result.Buckets {
			def := &set.defs[b.Definition]
			name := millrace.BucketName{Definition: def.ID, Name: b.Name}
			follow[i] = p.index.bucket(name, millrace.WireBucketName(def.WirePrefix, b.Name), func() bucketState { return states[name] })
		}
		p.index.follow(r.s, follow, r.keys)
	}
	return nil
}

// overLimit refuses what would take too much memory.
func (p *publisher) overLimit(set *ruleSet, r *resolving) error {
	n := len(r.result.Buckets)
	if n > p.limits.BucketsPerUser {
		return ending{code: protocol.CodeTooMany, status: http.StatusInternalServerError, close: protocol.CloseTooLarge,
			text: fmt.Sprintf("%d buckets, the limit is %d (relay.max_buckets_per_user); most come from %s", n, p.limits.BucketsPerUser, breakdown(set, r.result.Buckets))}
	}
	if p.index.follows-len(r.s.pub.buckets)+n > p.limits.Followed {
		return ending{code: protocol.CodeTooMany, status: http.StatusServiceUnavailable, close: protocol.CloseOverloaded,
			text: "this relay follows as many buckets as it may (relay.max_followed)"}
	}
	return nil
}

// breakdown names the definitions with most buckets.
func breakdown(set *ruleSet, buckets []ResolvedBucket) string {
	counts := map[string]int{}
	for _, b := range buckets {
		counts[set.defs[b.Definition].Name]++
	}
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := counts[b] - counts[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%d)", name, counts[name])
	}
	return strings.Join(names[:min(len(names), 10)], ", ")
}

// give hands a session its view, or ends it.
func (p *publisher) give(set *ruleSet, r *resolving, write int64) {
	p.settle(r.s)
	if r.err != nil {
		p.index.follow(r.s, nil, nil)
		end, ok := r.err.(ending)
		if !ok {
			end = ending{code: protocol.CodeInvalid, status: http.StatusInternalServerError, close: protocol.CloseOverloaded, text: r.err.Error()}
		}
		r.s.finish(end)
		return
	}
	r.s.pub.resolved = &resolvedRequest{set: set.id, version: r.request.version, result: r.result}
	v := &view{at: p.head.OpID, ruleSet: set.id, streams: r.result.Streams, streamsVersion: r.request.streamsVersion, write: write}
	v.buckets = make([]viewBucket, len(r.s.pub.buckets))
	for i, f := range r.s.pub.buckets {
		b := &r.result.Buckets[i]
		v.buckets[i] = viewBucket{ref: &f.bucketRef, state: f.state, priority: b.Priority, reasons: b.Reasons}
	}
	r.s.giveView(v)
	p.dispatched++
}
