package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

// RequestExplanation says how one way to a definition's buckets went for a
// request: a parameter query of a bucket definition or an alternative of a
// stream.
type RequestExplanation struct {
	Source     string // bucket definition or stream
	Definition int    // whose buckets these are
	At         Position
	// Asked is false for a stream that the request neither subscribes to nor
	// gets by default; nothing else is told of it then.
	Asked  bool
	Reason Reason
	// Conditions on the request alone. If one is false, no step was taken.
	Conditions []Condition
	Steps      []Step
	// Values are the bucket's values, of the last combination that gave no
	// bucket because one of them is null; empty if there was none.
	Values  []NamedValue
	Buckets []string // logical names that are granted this way
	Err     string   // why it failed; empty if it did not
}

// Granted tells whether the request has buckets this way.
func (x RequestExplanation) Granted() bool { return len(x.Buckets) > 0 }

// Refusal says in one line why there are no buckets; empty if there are some.
func (x RequestExplanation) Refusal() string {
	switch {
	case x.Granted():
		return ""
	case x.Err != "":
		return "it failed: " + x.Err
	case !x.Asked:
		return "the request does not subscribe to stream " + x.Source
	}
	for _, c := range x.Conditions {
		if !c.Holds {
			return c.String()
		}
	}
	for _, s := range x.Steps {
		if s.Remaining > 0 {
			continue
		}
		if s.Table == "" {
			return s.Text + " has no elements that meet the conditions"
		}
		if len(s.Keys) == 0 {
			return "no value to look up in table " + s.Table
		}
		keys := make([]string, 0, len(s.Keys))
		for _, k := range s.Keys {
			keys = append(keys, k.String())
		}
		return "no row of table " + s.Table + " has " + strings.Join(keys, ", nor ")
	}
	for _, v := range x.Values {
		if !matchable(v.Value) {
			return v.String() + " matches nothing"
		}
	}
	return "no values remain"
}

// Step is a lookup in a table, or the elements of an array of the request.
type Step struct {
	At         Position
	Definition int    // lookup definition; -1 for elements of an array
	Table      string // schema.name of the table looked up; empty for an array
	Text       string // the array
	// Keys are what was looked up, at most maxExplainedKeys; More how many
	// there were beyond.
	Keys []StepKey
	More int
	// Conditions on the elements. Each holds if it held for some element.
	Conditions []Condition
	// Remaining is how many combinations of values were left after the step.
	Remaining int
}

// StepKey is a key that was looked up.
type StepKey struct {
	Key    string       // as stored; empty if a value was null, which matches nothing
	Values []NamedValue // expressions of the key, in its order
	// Columns are the table's expressions the values were compared with.
	Columns []string
	Found   int // entries
}

// String writes the key as column = value, ….
func (k StepKey) String() string {
	if len(k.Values) == 0 {
		return "any row"
	}
	list := make([]string, len(k.Values))
	for i, v := range k.Values {
		name := v.Text
		if i < len(k.Columns) {
			name = k.Columns[i]
		}
		list[i] = name + " = " + valueText(v.Value)
	}
	return strings.Join(list, " and ")
}

const maxExplainedKeys = 100

// Explain says for each way to a definition why the request gets its buckets
// or not. Call it when nothing is pending.
func (s *Resolution) Explain() []RequestExplanation {
	var list []RequestExplanation
	asked := map[*resolver]bool{}
	for _, r := range s.runs {
		asked[r.resolver] = true
		list = append(list, s.explainRun(r))
	}
	for _, res := range s.rules.resolvers {
		if !asked[res] {
			list = append(list, RequestExplanation{Source: res.name, Definition: res.def, At: res.at.position(), Reason: ByDefault})
		}
	}
	return list
}

// explainRun repeats a run step by step, from the results it was fed.
func (s *Resolution) explainRun(r *run) RequestExplanation {
	x := RequestExplanation{Source: r.name, Definition: r.def, At: r.at.position(), Asked: true, Reason: r.reason}
	again := &Resolution{rules: s.rules, results: s.results, asked: map[LookupKey]bool{}}
	again.env.exact = s.rules.exact
	again.start(r.resolver, r.req, r.reason, nil)
	one := again.runs[0]
	e := &again.env
	c, _ := resolverCompiler(r.resolver, s.rules.exact)
	if r.filter != nil {
		for _, part := range conjuncts(r.filter) {
			e.err = ""
			x.Conditions = append(x.Conditions, explainCondition(c, e, part))
		}
	}
	for i := range r.program.stages {
		if len(one.bindings) == 0 || one.err != "" {
			break
		}
		e.req, e.err = r.req, ""
		step := again.explainStep(c, r.stages[i], &r.program.stages[i], one)
		e.req, e.err = r.req, ""
		if !again.step(one, &r.program.stages[i]) {
			break
		}
		one.err = e.err
		step.Remaining = len(one.bindings)
		x.Steps = append(x.Steps, step)
	}
	x.Err = one.err
	if one.err == "" {
		again.explainBuckets(c, one, &x)
	}
	return x
}

func (s *Resolution) explainBuckets(c *compiler, r *run, x *RequestExplanation) {
	prefix := s.rules.defs[r.def].prefix
	seen := map[string]bool{}
	for _, b := range r.bindings {
		s.env.req, s.env.err, s.env.vars = r.req, "", b
		name, ok := s.key(r.program.values, prefix)
		switch {
		case s.env.err != "":
			x.Err = s.env.err
			return
		case !ok:
			x.Values = s.keyValues(c, r.values)
		case !seen[name]:
			seen[name] = true
			x.Buckets = append(x.Buckets, name)
		}
	}
}

// keyValues evaluates the parts of a key for the binding at hand.
func (s *Resolution) keyValues(c *compiler, parts []keyPart) []NamedValue {
	var list []NamedValue
	for _, part := range parts {
		for _, p := range part {
			list = append(list, NamedValue{describe(p), kept(c.compile(p)(&s.env))})
		}
	}
	s.env.err = ""
	return list
}

func (s *Resolution) explainStep(c *compiler, st stage, p *stageProgram, r *run) Step {
	x := Step{At: st.rel.position(), Definition: st.lookup}
	if st.lookup < 0 {
		s.env.vars = r.bindings[0]
		x.Text = describe(st.rel.arg)
		x.Conditions = s.explainEach(c, st, p, r)
		return x
	}
	q := s.rules.defs[st.lookup].lookup
	x.Table = q.rel.table.schema + "." + q.rel.table.name
	if q.rel.table.namePrefix {
		x.Table += "%"
	}
	var columns []string
	for _, k := range q.branches[0].keys {
		columns = append(columns, describe(k[0]))
	}
	seen := map[string]bool{}
	for _, b := range r.bindings {
		s.env.vars, s.env.err = b, ""
		key, ok := s.key(p.keys, "")
		if seen[key] && ok {
			continue
		}
		seen[key] = true
		if len(x.Keys) == maxExplainedKeys {
			x.More++
			continue
		}
		k := StepKey{Values: s.keyValues(c, st.keys), Columns: columns}
		if ok {
			k.Key = key
			k.Found = len(s.results[LookupKey{st.lookup, key}])
		}
		x.Keys = append(x.Keys, k)
	}
	s.env.err = ""
	return x
}

// explainEach evaluates the conditions on the elements of an array of the
// request.
func (s *Resolution) explainEach(c *compiler, st stage, p *stageProgram, r *run) []Condition {
	array := NamedValue{describe(st.rel.arg), kept(p.arg(&s.env))}
	list := []Condition{{At: st.rel.position(), Text: "an array has elements", Err: s.env.err, Values: []NamedValue{array}}}
	s.env.err = ""
	var parts []*expr
	if st.filter != nil {
		parts = conjuncts(st.filter)
	}
	for _, part := range parts {
		list = append(list, Condition{At: part.position(), Text: describe(part), Values: []NamedValue{array}})
	}
	for _, b := range r.bindings {
		s.env.vars = b
		s.each(p, b, func(binding []millrace.Value, set func([]millrace.Value)) {
			vars := append([]millrace.Value{}, binding...)
			set(vars)
			s.env.vars = vars
			list[0].Holds = true
			for i, part := range parts {
				if s.env.holds(c.compile(part)(&s.env)) && s.env.err == "" {
					list[i+1].Holds = true
				}
				if s.env.err != "" {
					list[i+1].Err, s.env.err = s.env.err, ""
				}
			}
		})
	}
	s.env.err = ""
	return list
}
