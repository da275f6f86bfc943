package syncrules

import "github.com/millrace/millrace"

// match is what a WHERE of a bucket definition's query comes to.
type match struct {
	branches []matchBranch
	sides    []*matchSide // the distinct other sides, in order of appearance
}

// matchSide is what a row's value is compared with: a bucket parameter in
// data queries, an expression over the request in parameter queries.
type matchSide struct {
	name string // parameter, or the expression's identity
	e    *expr
	// each: the request's value is a JSON array whose elements are compared.
	each bool
}

type matchBranch struct {
	filters    []*expr
	expansions []*relation
	keys       []matchKey
}

type matchKey struct {
	row  *expr
	side *matchSide
}

func (m *match) side(name string) *matchSide {
	for _, s := range m.sides {
		if s.name == name {
			return s
		}
	}
	return nil
}

// whereCompiler takes a WHERE of a bucket definition's query apart. Its
// methods return nil after an error, which they report.
type whereCompiler struct {
	b    *builder
	l    *lowerer
	rel  *relation
	data bool
}

func (w *whereCompiler) where(a astExpr) *match {
	if a == nil {
		return &match{branches: []matchBranch{{}}}
	}
	return w.condition(a)
}

// other tells whether an expression depends on the side that is not the row.
func (w *whereCompiler) other(e *expr) bool {
	if w.data {
		return e.any(func(x *expr) bool { return x.op == opBucket })
	}
	return e.usesRequest()
}

func (w *whereCompiler) condition(a astExpr) *match {
	switch a := a.(type) {
	case *binExpr:
		switch a.op {
		case "and":
			return w.and(a)
		case "or":
			return w.or(a)
		case "=":
			return w.equality(a)
		}
	case *inExpr:
		if a.set != nil && !a.not && !a.overlap {
			return w.in(a)
		}
	}
	return w.single(a, w.l.expr(a))
}

// single is a condition on the row alone or on the request alone.
func (w *whereCompiler) single(a astExpr, e *expr) *match {
	if e.isBad() {
		return nil
	}
	if !w.other(e) {
		return &match{branches: []matchBranch{{filters: []*expr{e}}}}
	}
	if e.usesRow() || w.data && e.op != opBucket {
		w.mixed(e)
		return nil
	}
	if w.data {
		return w.key(literal(e.span, millrace.Integer(1)), e, false)
	}
	one, null := literal(e.span, millrace.Integer(1)), literal(e.span, millrace.Null)
	return w.key(one, &expr{op: opCase, span: e.span, args: []*expr{e, one, null}}, false)
}

// mixed reports an expression that has values of both sides where it cannot.
func (w *whereCompiler) mixed(e *expr) {
	at := span{}
	row := span{}
	e.walk(func(x *expr) {
		switch x.op {
		case opBucket, opRequest, opLegacyClaims:
			if at.q == nil {
				at = x.span
			}
		case opColumn, opMeta:
			if row.q == nil {
				row = x.span
			}
		}
	})
	if row.q != nil && row.start > at.start {
		at = row
	}
	if w.data {
		at.fatal("write column = bucket.parameter or bucket.parameter IN column", "a bucket parameter cannot be used this way")
		return
	}
	at.fatal("compare a column with a value of the request by = or IN", "one expression cannot mix the row and the request")
}

// key is a match of a row's value with the other side.
func (w *whereCompiler) key(row, other *expr, each bool) *match {
	name := other.name
	if !w.data {
		name = identify(other)
		if each {
			name = "each " + name
		}
	}
	side := &matchSide{name: name, e: other, each: each}
	return &match{branches: []matchBranch{{keys: []matchKey{{row, side}}}}, sides: []*matchSide{side}}
}

func (w *whereCompiler) equality(a *binExpr) *match {
	l, r := w.l.expr(a.l), w.l.expr(a.r)
	if l.isBad() || r.isBad() {
		return nil
	}
	whole := &expr{op: opEqual, span: a.span, args: []*expr{l, r}}
	lo, ro := w.other(l), w.other(r)
	switch {
	case lo && ro:
		if w.data {
			a.span.fatal("compare with a column of the row", "two bucket parameters cannot be compared")
			return nil
		}
		return w.single(a, whole)
	case !lo && !ro:
		return w.single(a, whole)
	case lo:
		l, r = r, l
	}
	// l is the row's side, r the other one.
	if r.usesRow() || w.data && r.op != opBucket {
		w.mixed(whole)
		return nil
	}
	if !w.data && !l.usesRow() {
		return w.single(a, whole)
	}
	return w.key(l, r, false)
}

func (w *whereCompiler) in(a *inExpr) *match {
	if sub, ok := a.set.(*subExpr); ok {
		sub.sel.fatal("use a stream for subqueries", "a query of a bucket definition cannot have a subquery")
		return nil
	}
	x, set := w.l.expr(a.x), w.l.expr(a.set)
	if x.isBad() || set.isBad() {
		return nil
	}
	whole := &expr{op: opInArray, span: a.span, args: []*expr{x, set}}
	xo, so := w.other(x), w.other(set)
	switch {
	case xo == so, !w.data && !x.usesRow() && !set.usesRow():
		return w.single(a, whole)
	case so:
		if set.usesRow() || w.data || x.usesRow() && w.other(x) {
			w.mixed(whole)
			return nil
		}
		return w.key(x, set, true)
	case x.usesRow() || w.data && x.op != opBucket:
		w.mixed(whole)
		return nil
	}
	// other IN row: one key for each element of the row's array.
	w.b.nextID++
	rel := &relation{id: w.b.nextID, arg: set, owner: w.rel, span: set.span, mode: eachArray}
	m := w.key(&expr{op: opElement, span: set.span, rel: rel, name: "value"}, x, false)
	m.branches[0].expansions = []*relation{rel}
	return m
}

// pure tells whether a match has no keys, so that it is a plain condition.
func (m *match) pure() bool { return len(m.sides) == 0 }

func (w *whereCompiler) and(a *binExpr) *match {
	l, r := w.condition(a.l), w.condition(a.r)
	if l == nil || r == nil {
		return nil
	}
	m := &match{sides: append([]*matchSide{}, l.sides...)}
	for _, s := range r.sides {
		if m.side(s.name) == nil {
			m.sides = append(m.sides, s)
		}
	}
	if len(l.branches)*len(r.branches) > maxBranches {
		a.span.fatal("split the query", "the condition has more than %d alternatives", maxBranches)
		return nil
	}
	for _, x := range l.branches {
		for _, y := range r.branches {
			if len(x.expansions)+len(y.expansions) > 1 {
				a.span.fatal("", "only one condition of this form (… IN column) can be used in an AND")
				return nil
			}
			m.branches = append(m.branches, matchBranch{
				filters:    append(append([]*expr{}, x.filters...), y.filters...),
				expansions: append(append([]*relation{}, x.expansions...), y.expansions...),
				keys:       append(append([]matchKey{}, x.keys...), y.keys...),
			})
		}
	}
	if eachSides(m) > 1 {
		a.span.fatal("", "only one condition of this form (column IN request value) can be used in an AND")
		return nil
	}
	return m
}

func eachSides(m *match) int {
	n := 0
	for _, s := range m.sides {
		if s.each {
			n++
		}
	}
	return n
}

func (w *whereCompiler) or(a *binExpr) *match {
	l, r := w.condition(a.l), w.condition(a.r)
	if l == nil || r == nil {
		return nil
	}
	if l.pure() && r.pure() {
		return w.single(a, &expr{op: opOr, span: a.span, args: []*expr{
			conjoin(l.branches[0].filters), conjoin(r.branches[0].filters)}})
	}
	if !w.data && w.requestOnly(l) && w.requestOnly(r) {
		return w.single(a, w.l.expr(a))
	}
	if len(l.sides) != len(r.sides) {
		w.uneven(a)
		return nil
	}
	for _, s := range l.sides {
		if r.side(s.name) == nil {
			w.uneven(a)
			return nil
		}
	}
	m := &match{sides: l.sides, branches: append(append([]matchBranch{}, l.branches...), r.branches...)}
	if len(m.branches) > maxBranches {
		a.span.fatal("split the query", "the condition has more than %d alternatives", maxBranches)
		return nil
	}
	return m
}

// requestOnly tells whether a match says nothing of the row.
func (w *whereCompiler) requestOnly(m *match) bool {
	if len(m.branches) != 1 || len(m.branches[0].filters) > 0 {
		return false
	}
	for _, k := range m.branches[0].keys {
		if k.row.op != opLiteral {
			return false
		}
	}
	return true
}

func (w *whereCompiler) uneven(a *binExpr) {
	if w.data {
		a.span.fatal("write two data queries", "both sides of OR must use the same bucket parameters")
		return
	}
	a.span.fatal("write two parameter queries", "both sides of OR must use the same values of the request")
}

// maxBranches bounds the alternatives that AND and OR may multiply to.
const maxBranches = 100
