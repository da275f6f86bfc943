package syncrules

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// RowExplanation says what one query of a definition makes of a row.
type RowExplanation struct {
	// Definition is an index into Rules.Definitions. Of a bucket definition
	// Names are the logical names of the buckets the row is in, of a lookup
	// definition the keys under which the row is found, of an event the device
	// whose write checkpoint the row sets.
	Definition int
	At         Position // of the table in the query
	Names      []string
	Type       string // output table, of bucket definitions
	RowID      string
	// Outputs are what a match of each of Names yields, of lookup definitions;
	// of events the write checkpoint.
	Outputs []string
	// Branches are the alternatives of WHERE: the row is in the definition if
	// any of them matches. An unconditional query has one without conditions.
	Branches []BranchExplanation
	// Err says why the row could not be evaluated; empty if it could.
	Err string
}

// BranchExplanation is one alternative of a query's WHERE.
type BranchExplanation struct {
	Matches    bool
	Conditions []Condition
	// Keys are the row's values that stand in the bucket's name or the
	// lookup's key, and are compared with the request's. A null matches
	// nothing. For an element of an array the value is the array.
	Keys []NamedValue
}

// In tells whether the row is in the definition.
func (x RowExplanation) In() bool { return len(x.Names) > 0 }

// ExplainRow says for each query that reads the table whether the row is in
// its definition, and if not, which conditions were false for which values.
// It is slow: for questions people ask, not for replication.
func (r *Rules) ExplainRow(t Table, row []millrace.Value) []RowExplanation {
	var list []RowExplanation
	columns := map[string]int{}
	for i, c := range t.Columns {
		columns[c] = i
	}
	for i, d := range r.defs {
		explain := func(q *rowQuery, bind func(*binding)) {
			if !q.rel.table.matches(t.Tag, t.Schema, t.Name) {
				return
			}
			b := &binding{plan: &TablePlan{needed: make([]bool, len(t.Columns)), exact: r.exact}, table: t, columns: columns, shared: map[string]int{}}
			bind(b)
			list = append(list, explainQuery(b, i, q, row))
		}
		for _, q := range d.data {
			explain(&q.rowQuery, func(b *binding) { b.data(i, d, q) })
		}
		if d.lookup != nil {
			explain(&d.lookup.rowQuery, func(b *binding) { b.lookup(i, d.lookup) })
		}
		for _, q := range d.payloads {
			explain(&q.rowQuery, func(b *binding) { b.payload(i, q) })
		}
	}
	return list
}

func explainQuery(b *binding, def int, q *rowQuery, row []millrace.Value) RowExplanation {
	x := RowExplanation{Definition: def, At: q.rel.position()}
	var out Output
	b.plan.Evaluator().Eval(row, &out)
	for _, o := range out.Rows {
		x.Names = append(x.Names, o.Bucket)
		x.Type, x.RowID = o.Type, o.RowID
	}
	for _, l := range out.Lookups {
		x.Names = append(x.Names, l.Key)
		x.Outputs = append(x.Outputs, l.Outputs)
	}
	for _, m := range out.Marks {
		x.Names = append(x.Names, strings.Clone(m.User))
		x.Outputs = append(x.Outputs, strconv.FormatInt(m.Checkpoint, 10))
	}
	for _, e := range out.Errors {
		x.Err = e.Message
	}
	for _, br := range q.branches {
		x.Branches = append(x.Branches, explainBranch(b, q, br, row))
	}
	return x
}

// explainBranch evaluates the parts of an alternative one by one.
func explainBranch(b *binding, q *rowQuery, br rowBranch, row []millrace.Value) BranchExplanation {
	vars := map[*relation]int{}
	for i, x := range br.expansions {
		vars[x] = 2 * i
	}
	c := b.compilerFor(q.rel.table, vars)
	e := &env{row: row, vars: make([]millrace.Value, 2*len(br.expansions)), exact: b.plan.exact}
	x := BranchExplanation{Matches: true}
	add := func(cond Condition) {
		x.Conditions = append(x.Conditions, cond)
		x.Matches = x.Matches && cond.Holds
	}
	before, after := splitFilter(br.filter)
	if before != nil {
		for _, part := range conjuncts(before) {
			add(explainCondition(c, e, part))
		}
	}
	elements := func(visit func()) { visit() }
	for i := len(br.expansions) - 1; i >= 0; i-- {
		elements = b.eachOf(c, e, br.expansions[i], vars[br.expansions[i]], elements)
	}
	if len(br.expansions) > 0 {
		some := false
		elements(func() { some = true })
		cond := Condition{At: br.expansions[0].position(), Text: "an array has elements", Holds: some, Err: e.err}
		e.err = ""
		for _, r := range br.expansions {
			cond.Values = append(cond.Values, NamedValue{describe(r.arg), kept(c.compile(r.arg)(e))})
			e.err = ""
		}
		add(cond)
	}
	if after != nil {
		for _, part := range conjuncts(after) {
			add(explainElements(c, e, part, br.expansions, elements))
		}
	}
	for _, part := range br.keys {
		x.addKey(c, e, part, elements)
	}
	return x
}

// eachOf wraps a visit of inner expansions into one of all elements of r.
func (b *binding) eachOf(c *compiler, e *env, r *relation, base int, inner func(func())) func(func()) {
	return func(visit func()) {
		arg := c.compile(r.arg)(e)
		if arg.IsNull() || e.err != "" {
			return
		}
		var tape jsonTape
		ok, msg := openEach(e, &tape, arg, r.mode)
		if msg != "" {
			e.fail("%s", msg)
		}
		if !ok {
			return
		}
		for it := eachElement(&tape); it.next(e) && e.err == ""; {
			e.vars[base], e.vars[base+1] = it.key, it.value
			inner(visit)
		}
	}
}

// explainElements is explainCondition for a condition that must hold for some
// element of the row's arrays.
func explainElements(c *compiler, e *env, x *expr, expansions []*relation, elements func(func())) Condition {
	out := Condition{At: x.position(), Text: describe(x)}
	f := c.compile(x)
	elements(func() { out.Holds = out.Holds || e.holds(f(e)) })
	out.Err = e.err
	e.err = ""
	for _, r := range expansions {
		out.Values = append(out.Values, NamedValue{describe(r.arg), kept(c.compile(r.arg)(e))})
		e.err = ""
	}
	return out
}

// addKey explains a value of the key.
func (x *BranchExplanation) addKey(c *compiler, e *env, part keyPart, elements func(func())) {
	var fns []evalFn
	var texts []string
	for _, k := range part {
		fns = append(fns, c.compile(k))
		texts = append(texts, describe(k))
	}
	name := strings.Join(texts, " = ")
	if part[0].any(func(y *expr) bool { return y.op == opElement }) {
		array := millrace.Null
		part[0].walk(func(y *expr) {
			if y.op == opElement {
				array = kept(c.compile(y.rel.arg)(e))
				e.err = ""
			}
		})
		x.Keys = append(x.Keys, NamedValue{name, array})
		some := false
		elements(func() { some = some || matchable(fns[0](e)) })
		e.err = ""
		x.Matches = x.Matches && some
		return
	}
	first := kept(fns[0](e))
	x.Keys = append(x.Keys, NamedValue{name, first})
	same := matchable(first)
	for _, f := range fns[1:] {
		v := f(e)
		same = same && matchable(v) && equal(first, v)
	}
	if len(fns) > 1 || !same {
		cond := Condition{At: part[0].position(), Text: name, Holds: same, Err: e.err}
		if len(fns) == 1 {
			cond.Text = name + " can match (null and blobs never do)"
		}
		for i, f := range fns {
			cond.Values = append(cond.Values, NamedValue{texts[i], kept(f(e))})
		}
		x.Conditions = append(x.Conditions, cond)
	}
	e.err = ""
	x.Matches = x.Matches && same
}
