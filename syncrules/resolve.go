package syncrules

import (
	"fmt"
	"sort"

	"github.com/millrace/millrace"
)

// Request is what a client asks with. The texts are JSON objects; nil is an
// empty one.
type Request struct {
	Claims          []byte // payload of the verified token
	Parameters      []byte // connection parameters
	Subscriptions   []Subscription
	IncludeDefaults bool // bucket definitions and streams with auto_subscribe
}

// Subscription is an explicit subscription to a stream.
type Subscription struct {
	Stream string
	// Parameters is a JSON object. nil means that the subscription has none
	// at all: subscription parameters are null then, and it takes the place
	// of the stream's default subscription.
	Parameters []byte
	Priority   *int // replaces the stream's
}

// ByDefault is the Reason of buckets that come without a subscription.
const ByDefault Reason = -1

// Reason says why a client has a bucket: the index of a subscription in the
// request, or ByDefault.
type Reason int

// ResolvedBucket is a bucket a request has.
type ResolvedBucket struct {
	Definition int
	Name       string // logical name
	Source     string // bucket definition or stream that gives the bucket
	Priority   int    // 0 to 3, smaller first
	Reasons    []Reason
}

// ResolveError says that a bucket definition or stream could not be evaluated
// for the request; the others still hold.
type ResolveError struct {
	Source string
	// Reason is the subscription that failed, or ByDefault; the stream's others
	// still hold.
	Reason  Reason
	Message string
	// TooMany: the request comes to more different results than any limit of
	// buckets allows.
	TooMany bool
}

// LookupKey names what a lookup definition is asked for.
type LookupKey struct {
	Definition int
	Key        string
}

// LookupResult is what a lookup definition has for a key: the Outputs of all
// entries in force, in any order, none if there are none.
type LookupResult struct {
	LookupKey
	Outputs []string
}

// maxBindings bounds the intermediate results of one definition.
const maxBindings = 100_000

// Resolution is the way from a request to its buckets. While Pending is not
// empty, the caller reads those lookups and hands them to Feed. It belongs to
// one goroutine.
type Resolution struct {
	rules   *Rules
	runs    []*run
	results map[LookupKey][]string
	pending []LookupKey
	asked   map[LookupKey]bool
	env     env
	tape    jsonTape
}

// run is the evaluation of one resolver for one subscription or the defaults.
type run struct {
	*resolver
	req      *requestData
	reason   Reason
	priority int
	stage    int
	bindings [][]millrace.Value
	done     bool
	err      string
	tooMany  bool // err is for a limit
}

// Resolve begins to resolve a request. The error says that claims or
// parameters are not JSON objects.
func (r *Rules) Resolve(q Request) (*Resolution, error) {
	base := requestData{}
	var err error
	if base.token, err = normalJSON("claims", q.Claims); err != nil {
		return nil, err
	}
	if base.connection, err = normalJSON("connection parameters", q.Parameters); err != nil {
		return nil, err
	}
	s := &Resolution{rules: r, results: map[LookupKey][]string{}, asked: map[LookupKey]bool{}}
	s.env.exact = r.exact
	instead := map[string]bool{} // streams whose defaults a subscription replaces
	for i, sub := range q.Subscriptions {
		if !r.streams[sub.Stream] {
			continue
		}
		req := base
		if sub.Parameters == nil {
			instead[sub.Stream] = true
		} else if req.subscription, err = normalJSON("parameters of subscription to "+sub.Stream, sub.Parameters); err != nil {
			return nil, err
		}
		for _, res := range r.resolvers {
			if res.stream && res.name == sub.Stream {
				s.start(res, &req, Reason(i), sub.Priority)
			}
		}
	}
	if q.IncludeDefaults {
		for _, res := range r.resolvers {
			if res.auto && !(res.stream && instead[res.name]) {
				s.start(res, &base, ByDefault, nil)
			}
		}
	}
	s.advance()
	return s, nil
}

func (s *Resolution) start(res *resolver, req *requestData, reason Reason, priority *int) {
	run := &run{resolver: res, req: req, reason: reason, priority: res.priority}
	if priority != nil {
		run.priority = *priority
	}
	s.env.req = req
	s.env.err = ""
	if f := res.program.filter; f == nil || s.env.holds(f(&s.env)) {
		run.bindings = [][]millrace.Value{make([]millrace.Value, res.program.vars)}
	}
	run.err = s.env.err
	s.runs = append(s.runs, run)
}

// Pending lists lookups whose results are needed; empty when the resolution
// is complete.
func (s *Resolution) Pending() []LookupKey { return s.pending }

// Feed takes results of pending lookups and goes on as far as they reach.
// Keys may come in any order and number; the rest stays pending.
func (s *Resolution) Feed(results []LookupResult) {
	for _, r := range results {
		s.results[r.LookupKey] = r.Outputs
	}
	s.advance()
}

// advance runs every definition up to its next unknown lookup.
func (s *Resolution) advance() {
	s.pending = nil
	clear(s.asked)
	for _, r := range s.runs {
		for !r.done && r.err == "" {
			if r.stage == len(r.program.stages) || len(r.bindings) == 0 {
				r.done = true
				break
			}
			s.env.req, s.env.err = r.req, ""
			if !s.step(r, &r.program.stages[r.stage]) {
				break
			}
			r.err = s.env.err
			r.stage++
		}
	}
}

// step runs one stage. It returns false if lookups are missing, which are
// pending then.
func (s *Resolution) step(r *run, st *stageProgram) bool {
	var next [][]millrace.Value
	seen := map[string]bool{}
	emit := func(binding []millrace.Value, set func(vars []millrace.Value)) {
		vars := append([]millrace.Value{}, binding...)
		set(vars)
		s.env.vars = vars
		if st.filter != nil && !s.env.holds(st.filter(&s.env)) || s.env.err != "" {
			return
		}
		var key []byte
		for i := range vars {
			if !st.live[i] {
				vars[i] = millrace.Null
			}
			key = append(appendMatch(key, vars[i]), ',')
		}
		if seen[string(key)] {
			return
		}
		seen[string(key)] = true
		if next = append(next, vars); len(next) > maxBindings {
			s.env.fail("more than %d intermediate results", maxBindings)
			r.tooMany = true
		}
	}
	if st.lookup >= 0 && !s.known(r, st) {
		return false
	}
	for _, b := range r.bindings {
		if s.env.err != "" {
			break
		}
		s.env.vars = b
		if st.lookup < 0 {
			s.each(st, b, emit)
			continue
		}
		key, ok := s.key(st.keys, "")
		if !ok {
			continue
		}
		for _, outputs := range s.results[LookupKey{st.lookup, key}] {
			if msg := s.tape.parse(outputs); msg != "" || s.tape.nodes[0].kind != jsonArray {
				s.env.fail("outputs of a lookup cannot be read")
				break
			}
			emit(b, func(vars []millrace.Value) {
				i := st.base
				for n := 1; n < len(s.tape.nodes) && i < st.base+st.outputs; n = int(s.tape.nodes[n].next) {
					vars[i] = s.tape.sqlValue(&s.env, n)
					i++
				}
			})
		}
	}
	r.bindings = next
	return true
}

// known tells whether all lookups of a stage have been answered, and asks for
// the others.
func (s *Resolution) known(r *run, st *stageProgram) bool {
	known := true
	for _, b := range r.bindings {
		s.env.vars = b
		key, ok := s.key(st.keys, "")
		if !ok {
			continue
		}
		k := LookupKey{st.lookup, key}
		if _, ok := s.results[k]; ok {
			continue
		}
		known = false
		if !s.asked[k] {
			s.asked[k] = true
			s.pending = append(s.pending, k)
		}
	}
	return known
}

// each runs json_each over a value of the request.
func (s *Resolution) each(st *stageProgram, binding []millrace.Value, emit func([]millrace.Value, func([]millrace.Value))) {
	arg := st.arg(&s.env)
	if s.env.err != "" {
		return
	}
	ok, msg := openEach(&s.env, &s.tape, arg, st.mode)
	if msg != "" {
		s.env.fail("%s", msg)
	}
	if !ok {
		return
	}
	for it := eachElement(&s.tape); it.next(&s.env); {
		if it.value.IsNull() {
			it.value = st.nulls
		}
		emit(binding, func(vars []millrace.Value) { vars[st.base], vars[st.base+1] = it.key, it.value })
	}
}

// key writes prefix and the JSON array of a key's values. ok is false if one
// of them cannot match.
func (s *Resolution) key(parts [][]evalFn, prefix string) (key string, ok bool) {
	b := append([]byte(prefix), '[')
	for i, part := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		v := part[0](&s.env)
		if !matchable(v) {
			return "", false
		}
		for _, f := range part[1:] {
			if w := f(&s.env); !matchable(w) || !equal(v, w) {
				return "", false
			}
		}
		b = appendMatch(b, v)
	}
	b = append(b, ']')
	// No row has a longer name or key.
	return string(b), len(b) <= maxNameBytes
}

// failure is what fails as a whole: what a definition gives for one reason.
type failure struct {
	source string
	reason Reason
}

// Buckets lists the buckets, by name, and the definitions that failed. It is
// complete once nothing is pending.
func (s *Resolution) Buckets() ([]ResolvedBucket, []ResolveError) {
	var errs []ResolveError
	failed := map[failure]bool{}
	list := s.collectAll(failed, &errs)
	if len(errs) > 0 {
		list = s.collectAll(failed, &errs) // without what failed
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Name != list[j].Name {
			return list[i].Name < list[j].Name
		}
		return list[i].Definition < list[j].Definition
	})
	return list, errs
}

// collectAll gives the buckets of everything that has not failed, and adds what
// fails now.
func (s *Resolution) collectAll(failed map[failure]bool, errs *[]ResolveError) (list []ResolvedBucket) {
	index := map[LookupKey]int{}
	for _, r := range s.runs {
		group := failure{r.name, r.reason}
		if failed[group] {
			continue
		}
		if r.done && r.err == "" {
			s.env.req, s.env.err = r.req, ""
			list = s.collect(r, list, index)
			r.err = s.env.err
		}
		if r.err != "" {
			failed[group] = true
			*errs = append(*errs, ResolveError{Source: r.name, Reason: r.reason, Message: r.err, TooMany: r.tooMany})
		}
	}
	return list
}

func (s *Resolution) collect(r *run, list []ResolvedBucket, index map[LookupKey]int) []ResolvedBucket {
	prefix := s.rules.defs[r.def].prefix
	for _, b := range r.bindings {
		s.env.vars = b
		name, ok := s.key(r.program.values, prefix)
		if !ok {
			continue
		}
		k := LookupKey{r.def, name}
		i, ok := index[k]
		if !ok {
			i = len(list)
			index[k] = i
			list = append(list, ResolvedBucket{Definition: r.def, Name: name, Source: r.name, Priority: r.priority})
		}
		have := &list[i]
		have.Priority = min(have.Priority, r.priority)
		if !containsReason(have.Reasons, r.reason) {
			have.Reasons = append(have.Reasons, r.reason)
		}
	}
	return list
}

func containsReason(list []Reason, r Reason) bool {
	for _, x := range list {
		if x == r {
			return true
		}
	}
	return false
}

// Error gives the source and the message.
func (e ResolveError) Error() string { return fmt.Sprintf("%s: %s", e.Source, e.Message) }
