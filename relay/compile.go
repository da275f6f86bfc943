package relay

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/syncrules"
)

// CompileRules compiles a stored rule set with syncrules, with the meaning that it
// had when it was deployed.
func CompileRules(set *millrace.RuleSet) (Rules, error) {
	compiled, diagnostics, err := syncrules.CompileDeployed(fmt.Sprintf("rule set %d", set.ID), []byte(set.Content), set.Hashes())
	if err != nil {
		return nil, err
	}
	if compiled == nil {
		var b strings.Builder
		diagnostics.Render(&b, []byte(set.Content))
		return nil, fmt.Errorf("%s", strings.TrimSpace(b.String()))
	}
	r := &fileRules{rules: compiled, defaults: compiled.Defaults(), known: map[string]bool{}}
	for _, d := range compiled.Definitions() {
		r.keys = append(r.keys, d.Key)
	}
	for _, name := range compiled.Streams() {
		r.known[name] = true
	}
	return r, nil
}

// fileRules are the rules of a file.
type fileRules struct {
	rules    *syncrules.Rules
	keys     []string
	defaults []string        // what comes without a subscription
	known    map[string]bool // streams
}

func (r *fileRules) Definitions() []string { return r.keys }

func (r *fileRules) Resolve(req RulesRequest) Resolution {
	q := syncrules.Request{Claims: req.Claims, Parameters: req.Parameters, IncludeDefaults: req.Streams.IncludeDefaults}
	for i := range req.Streams.Subscriptions {
		s := &req.Streams.Subscriptions[i]
		sub := syncrules.Subscription{Stream: s.Stream, Parameters: s.Parameters}
		if sub.Parameters == nil {
			sub.Parameters = []byte("{}") // on the wire, absent and null mean empty
		}
		if s.Priority != protocol.DefaultPriority {
			sub.Priority = &s.Priority
		}
		q.Subscriptions = append(q.Subscriptions, sub)
	}
	inner, err := r.rules.Resolve(q)
	return &fileResolution{rules: r, request: req, inner: inner, err: err}
}

type fileResolution struct {
	rules   *fileRules
	request RulesRequest
	inner   *syncrules.Resolution
	err     error
	pending []syncrules.LookupKey
}

func (r *fileResolution) Pending() []RulesLookup {
	if r.err != nil {
		return nil
	}
	r.pending = r.inner.Pending()
	list := make([]RulesLookup, len(r.pending))
	for i, k := range r.pending {
		list[i] = RulesLookup{Definition: k.Definition, Key: k.Key}
	}
	return list
}

func (r *fileResolution) Feed(results [][]string) {
	fed := make([]syncrules.LookupResult, len(results))
	for i, outputs := range results {
		fed[i] = syncrules.LookupResult{LookupKey: r.pending[i], Outputs: outputs}
	}
	r.inner.Feed(fed)
}

func (r *fileResolution) Result() (Resolved, error) {
	if r.err != nil {
		return Resolved{}, r.err
	}
	buckets, errs := r.inner.Buckets()
	for _, e := range errs {
		if e.TooMany {
			return Resolved{}, ending{code: protocol.CodeTooMany, status: http.StatusInternalServerError, close: protocol.CloseTooLarge,
				text: fmt.Sprintf("%s alone comes to %s: far beyond the limit of buckets (relay.max_buckets_per_user)", e.Source, e.Message)}
		}
	}
	out := Resolved{Streams: r.streams(errs)}
	index := make(map[string]int, len(out.Streams))
	for i := range out.Streams {
		index[out.Streams[i].Name] = i
	}
	for _, b := range buckets {
		rb := ResolvedBucket{Definition: b.Definition, Name: b.Name, Priority: b.Priority}
		for _, why := range b.Reasons {
			if why == syncrules.ByDefault {
				rb.Reasons = append(rb.Reasons, protocol.Reason{Default: true, Index: index[b.Source]})
			} else {
				rb.Reasons = append(rb.Reasons, protocol.Reason{Index: int(why)})
			}
		}
		out.Buckets = append(out.Buckets, rb)
	}
	return out, nil
}

// streams lists what is in force: the defaults, then what is subscribed to
// besides. A subscription to a stream that does not exist is not listed.
func (r *fileResolution) streams(errs []syncrules.ResolveError) []protocol.Stream {
	var list []protocol.Stream
	index := map[string]int{}
	isDefault := map[string]bool{}
	for _, name := range r.rules.defaults {
		isDefault[name] = true
		if r.request.Streams.IncludeDefaults {
			index[name] = len(list)
			list = append(list, protocol.Stream{Name: name, IsDefault: true})
		}
	}
	for _, s := range r.request.Streams.Subscriptions {
		if _, listed := index[s.Stream]; !listed && r.rules.known[s.Stream] {
			index[s.Stream] = len(list)
			list = append(list, protocol.Stream{Name: s.Stream, IsDefault: isDefault[s.Stream]})
		}
	}
	for _, e := range errs {
		i, listed := index[e.Source]
		if !listed {
			continue
		}
		issue := protocol.StreamIssue{Subscription: protocol.DefaultSubscription, Message: e.Message}
		if e.Reason != syncrules.ByDefault {
			issue.Subscription = int(e.Reason)
		}
		list[i].Errors = append(list[i].Errors, issue)
	}
	return list
}
