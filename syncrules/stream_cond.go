package syncrules

import "strings"

// condOp is the kind of a cond.
type condOp uint8

const (
	condAtom   condOp = iota // e is true
	condExists               // rel has a row
	condAnd
	condOr
)

// cond is a condition of a stream, negations already pushed into its atoms.
type cond struct {
	op   condOp
	kids []*cond
	e    *expr
	rel  *relation
	at   span
}

func atom(e *expr, negated bool) *cond {
	if negated {
		e = not(e)
	}
	return &cond{op: condAtom, e: e, at: e.span}
}

// condition takes a WHERE or ON apart.
func (c *streamCompiler) condition(a astExpr, negated bool, sc *streamScope) *cond {
	switch a := a.(type) {
	case *binExpr:
		op := condOp(0)
		switch a.op {
		case "and":
			op = condAnd
		case "or":
			op = condOr
		case "!=":
			equal := *a
			equal.op = "="
			return atom(c.lowerer(sc).expr(&equal), !negated)
		default:
			return atom(c.lowerer(sc).expr(a), negated)
		}
		if negated {
			op = condAnd + condOr - op
		}
		kids := []*cond{c.condition(a.l, negated, sc), c.condition(a.r, negated, sc)}
		return &cond{op: op, kids: kids, at: a.span}
	case *unaryExpr:
		if a.op == "not" {
			return c.condition(a.x, !negated, sc)
		}
	case *inExpr:
		if a.overlap {
			return c.overlap(a, negated, sc)
		}
		return c.in(a, negated != a.not, sc)
	case *betweenExpr:
		if a.not {
			plain := *a
			plain.not = false
			return atom(c.lowerer(sc).expr(&plain), !negated)
		}
	}
	return atom(c.lowerer(sc).expr(a), negated)
}

// in is x IN set.
func (c *streamCompiler) in(a *inExpr, negated bool, sc *streamScope) *cond {
	x := c.lowerer(sc).expr(a.x)
	if negated {
		return c.notIn(a, x, sc)
	}
	if a.isList {
		return c.inList(a, x, sc)
	}
	e, conds := c.set(a.set, sc)
	if e == nil || x.isBad() {
		return &cond{op: condAnd, at: a.span}
	}
	if e.op == opElement && e.rel.constant() && e.rel.implicit && !x.usesRequest() {
		e = &expr{op: opInArray, span: a.span, args: []*expr{x, e.rel.arg}}
		return atom(e, false)
	}
	equal := &expr{op: opEqual, span: a.span, args: []*expr{x, e}}
	return &cond{op: condAnd, kids: append([]*cond{atom(equal, false)}, conds...), at: a.span}
}

// notIn is NOT IN, which only works on values at hand.
func (c *streamCompiler) notIn(a *inExpr, x *expr, sc *streamScope) *cond {
	sub, isSub := a.set.(*subExpr)
	if isSub {
		sub.sel.fatal("sync what is wanted instead of leaving out what is not", "NOT IN cannot be used with a subquery")
		return &cond{op: condAnd, at: a.span}
	}
	if n, ok := a.set.(*nameExpr); ok && n.qual == nil && c.namedCTE(n.name) != nil {
		n.span.fatal("sync what is wanted instead of leaving out what is not", "NOT IN cannot be used with a common table expression")
		return &cond{op: condAnd, at: a.span}
	}
	plain := *a
	plain.not = false
	return atom(c.lowerer(sc).in(&plain), true)
}

// inList is x IN (a, b, …): a filter, or one equality for each member where
// row and request are compared.
func (c *streamCompiler) inList(a *inExpr, x *expr, sc *streamScope) *cond {
	whole := c.lowerer(sc).in(a)
	if deps := dependencies(whole); deps.count() <= 1 {
		return atom(whole, false)
	}
	or := &cond{op: condOr, at: a.span}
	for _, m := range whole.args[1:] {
		or.kids = append(or.kids, atom(&expr{op: opEqual, span: a.span, args: []*expr{x, m}}, false))
	}
	return or
}

// overlap is a && b.
func (c *streamCompiler) overlap(a *inExpr, negated bool, sc *streamScope) *cond {
	_, isSub := a.set.(*subExpr)
	if negated || a.isList {
		if isSub {
			a.span.fatal("sync what is wanted instead of leaving out what is not", "NOT cannot be used with a subquery")
			return &cond{op: condAnd, at: a.span}
		}
		return atom(c.lowerer(sc).in(a), negated)
	}
	l, lconds := c.set(a.x, sc)
	r, rconds := c.set(a.set, sc)
	if l == nil || r == nil {
		return &cond{op: condAnd, at: a.span}
	}
	for _, e := range []*expr{l, r} {
		if e.op == opElement {
			e.rel.implicit = false // a constant array is looked through for each request
			e.rel.apart = true
		}
	}
	kids := []*cond{atom(&expr{op: opEqual, span: a.span, args: []*expr{l, r}}, false)}
	return &cond{op: condAnd, kids: append(append(kids, lconds...), rconds...), at: a.span}
}

// namedCTE is the common table expression a bare name stands for; nil if it is
// none.
func (c *streamCompiler) namedCTE(name ident) *cteConfig {
	cte := c.ctes[strings.ToLower(name.name)]
	if cte != nil && c.inside != nil {
		// Other engines of this language read a table here.
		name.warn("write "+defaultSchema+"."+name.text()+" if the table is meant", "%s is read as the common table expression, not as a table", name.text())
	}
	return cte
}

// set reads the right side of IN, or a side of &&: an expression that runs
// through the members, and the conditions it comes with. nil means an error
// was reported.
func (c *streamCompiler) set(a astExpr, sc *streamScope) (*expr, []*cond) {
	switch a := a.(type) {
	case *subExpr:
		return c.subquery(a, sc)
	case *nameExpr:
		if a.qual != nil {
			break
		}
		cte := c.namedCTE(a.name)
		if cte == nil {
			break
		}
		d, conds := c.cte(cte)
		if d == nil {
			return nil, nil
		}
		if len(d.cols) != 1 {
			a.span.fatal("write IN (SELECT column FROM "+a.name.text()+")", "%s has %d columns, not one", a.name.text(), len(d.cols))
			return nil, nil
		}
		return d.cols[0].e, conds
	}
	e := c.lowerer(sc).expr(a)
	rel := c.each(e, a.at())
	if rel == nil {
		return nil, nil
	}
	rel.implicit = true
	return &expr{op: opElement, span: a.at(), rel: rel, name: "value"}, []*cond{{op: condExists, rel: rel, at: a.at()}}
}

func (c *streamCompiler) subquery(a *subExpr, sc *streamScope) (*expr, []*cond) {
	if len(a.sel.items) != 1 || a.sel.items[0].star {
		a.sel.fatal("select one column", "a subquery after IN has one column")
		return nil, nil
	}
	c.depth++
	defer func() { c.depth-- }()
	if c.depth > maxSubqueries {
		a.sel.fatal("", "subqueries are nested more than %d levels deep", maxSubqueries)
		return nil, nil
	}
	if c.b.file.edition < 3 && !c.oldSubquery(a) {
		return nil, nil
	}
	inner := &streamScope{c: c, parent: sc}
	conds := c.from(a.sel, inner)
	e := c.lowerer(inner).expr(a.sel.items[0].expr)
	if a.sel.where != nil {
		conds = append(conds, c.condition(a.sel.where, false, inner))
	}
	if e.isBad() {
		return nil, nil
	}
	return e, conds
}

const maxSubqueries = 30

// oldSubquery checks what edition 2 asks of a subquery.
func (c *streamCompiler) oldSubquery(a *subExpr) bool {
	text := strings.ToLower(a.sel.text())
	switch {
	case c.depth > 1:
		a.sel.fatal("use edition: 3", "subqueries cannot be nested in edition 2")
		return false
	case !strings.Contains(text, "auth.") && !strings.Contains(text, "connection.") && !strings.Contains(text, "subscription."):
		a.sel.fatal("use edition: 3", "a subquery depends on the request in edition 2")
		return false
	}
	return true
}

// constant tells whether a table function has a constant argument.
func (r *relation) constant() bool {
	return r.table == nil && r.owner == nil && !r.arg.usesRequest()
}

// branch is an alternative of a condition: all of its atoms hold and its
// relations have rows.
type branch struct {
	atoms []*expr
	rels  []*relation
}

// maxAlternatives bounds OR.
const maxAlternatives = 1000

// expandBranches brings a condition into disjunctive normal form. nil means an error was
// reported.
func expandBranches(c *cond) []branch {
	switch c.op {
	case condAtom:
		return []branch{{atoms: []*expr{c.e}}}
	case condExists:
		return []branch{{rels: []*relation{c.rel}}}
	case condOr:
		var all []branch
		for _, k := range c.kids {
			list := expandBranches(k)
			if list == nil {
				return nil
			}
			if all = append(all, list...); len(all) > maxAlternatives {
				c.at.fatal("split the query", "the condition has more than %d alternatives", maxAlternatives)
				return nil
			}
		}
		return all
	}
	all := []branch{{}}
	for _, k := range c.kids {
		list := expandBranches(k)
		if list == nil {
			return nil
		}
		if len(all) > 1 && len(list) > 1 && len(all)*len(list) > maxBranches {
			c.at.fatal("split the query", "the condition has more than %d alternatives", maxBranches)
			return nil
		}
		product := make([]branch, 0, len(all)*len(list))
		for _, x := range all {
			for _, y := range list {
				product = append(product, branch{
					atoms: append(append([]*expr{}, x.atoms...), y.atoms...),
					rels:  append(append([]*relation{}, x.rels...), y.rels...),
				})
			}
		}
		all = product
	}
	return all
}

// mergeRowBranches joins, by OR, the alternatives that only say something of
// the primary table's row.
func mergeRowBranches(primary *relation, list []branch) []branch {
	var out []branch
	var row []*expr
	at := -1
	for _, br := range list {
		if !rowOnly(primary, br) {
			out = append(out, br)
			continue
		}
		if at < 0 {
			at = len(out)
			out = append(out, branch{rels: br.rels})
		}
		row = append(row, conjoin(br.atoms))
	}
	if at < 0 {
		return out
	}
	or := row[0]
	for _, e := range row[1:] {
		or = &expr{op: opOr, span: e.span, args: []*expr{or, e}}
	}
	out[at].atoms = []*expr{or}
	return out
}

func rowOnly(primary *relation, br branch) bool {
	if len(br.atoms) == 0 {
		return false
	}
	for _, r := range br.rels {
		if r != primary {
			return false
		}
	}
	for _, e := range br.atoms {
		d := dependencies(e)
		if len(d.rels) != 1 || d.rels[0] != primary || d.request || d.elements {
			return false
		}
	}
	return true
}

// deps is what an expression depends on.
type deps struct {
	rels     []*relation // tables, and table functions that belong to none
	request  bool
	elements bool // some of it is an element of a table function
}

// count is on how many sides the expression stands.
func (d deps) count() int {
	n := len(d.rels)
	if d.request {
		n++
	}
	return n
}

func (d deps) has(r *relation) bool {
	for _, x := range d.rels {
		if x == r {
			return true
		}
	}
	return false
}

func dependencies(e *expr) deps {
	var d deps
	e.walk(func(x *expr) {
		switch x.op {
		case opColumn, opMeta, opElement:
			if x.op == opElement {
				d.elements = true
			}
			if b := x.rel.base(); !d.has(b) {
				d.rels = append(d.rels, b)
			}
		case opRequest:
			d.request = true
		}
	})
	return d
}
