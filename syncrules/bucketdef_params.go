package syncrules

import (
	"slices"

	"github.com/millrace/millrace"
)

// parameterQuery is a compiled parameter query of a bucket definition.
type parameterQuery struct {
	at       span
	names    []string
	values   []*expr // over the request and the stages
	filter   *expr
	stages   []stage
	priority *int
}

// parameterQuery compiles the query with the given number, from 1. nil means
// an error was reported.
func (b *builder) parameterQuery(c *bucketConfig, q *query, number int) *parameterQuery {
	before := q.rep.fatal
	sel := parseSelect(q, parseOptions{})
	if sel == nil {
		return nil
	}
	src, ok := bucketSource(sel)
	if !ok {
		return nil
	}
	p := &parameterQuery{at: sel.span}
	switch {
	case src == nil:
		b.staticParameters(c, sel, p)
	case src.call != nil:
		b.eachParameters(c, sel, src, p)
	default:
		b.tableParameters(c, sel, src, p, number)
	}
	if q.rep.fatal != before {
		return nil
	}
	return p
}

func (b *builder) staticParameters(c *bucketConfig, sel *selectStmt, p *parameterQuery) {
	l := b.bucketLowerer(&bucketScope{b: b})
	items := b.parameterItems(c, sel, l, p)
	if sel.where != nil {
		p.filter = l.expr(sel.where)
	}
	p.values = items
	b.warnDangerous(c, sel, items, p.filter, nil)
}

func (b *builder) eachParameters(c *bucketConfig, sel *selectStmt, src *source, p *parameterQuery) {
	call := src.call
	switch {
	case call.schema != nil || call.name.name != "json_each":
		call.fn.fatal(didYouMean(call.name.name, []string{"json_each"}), "unknown table-valued function %s", call.fn.text())
		return
	case len(call.args) != 1:
		call.span.fatal("", "json_each takes 1 argument, not %d", len(call.args))
		return
	}
	arg := b.bucketLowerer(&bucketScope{b: b}).expr(call.args[0])
	b.nextID++
	rel := &relation{id: b.nextID, arg: arg, span: src.at, legacyNull: b.file.legacyJSON}
	name := "json_each"
	if src.alias != nil {
		name = src.alias.name
	}
	l := b.bucketLowerer(&bucketScope{b: b, rel: rel, name: name})
	p.values = b.parameterItems(c, sel, l, p)
	st := stage{rel: rel, lookup: -1}
	if sel.where != nil {
		st.filter = l.expr(sel.where)
	}
	p.stages = []stage{st}
	b.warnDangerous(c, sel, p.values, st.filter, []*expr{arg})
}

func (b *builder) tableParameters(c *bucketConfig, sel *selectStmt, src *source, p *parameterQuery, number int) {
	if src.alias != nil {
		src.span.fatal("use the table's own name", "the table of a parameter query cannot have an alias")
		return
	}
	table := pattern(*src, false)
	if table == nil {
		return
	}
	rel := b.relation(src.at, table)
	l := b.bucketLowerer(&bucketScope{b: b, rel: rel, name: src.name.name})
	items := b.parameterItems(c, sel, l, p)
	w := &whereCompiler{b: b, l: l, rel: rel}
	m := w.where(sel.where)
	if m == nil {
		return
	}
	q := &lookupQuery{rowQuery: rowQuery{rel: rel}}
	st := stage{rel: rel}
	for _, e := range items {
		switch {
		case e.op == opColumn:
			p.values = append(p.values, output(e.span, rel, len(q.outputs)))
			q.outputs = append(q.outputs, e)
		case e.usesRow():
			e.span.fatal("select a plain column, and compute in the data query", "a parameter is a plain column or a value of the request")
			return
		default:
			p.values = append(p.values, e)
		}
	}
	for _, br := range m.branches {
		out := rowBranch{filter: conjoin(br.filters), expansions: br.expansions, keys: make([]keyPart, len(m.sides))}
		for _, k := range br.keys {
			for i, s := range m.sides {
				if s.name == k.side.name {
					out.keys[i] = append(out.keys[i], k.row)
				}
			}
		}
		q.branches = append(q.branches, out)
	}
	var keyed []*expr
	for _, s := range m.sides {
		keyed = append(keyed, s.e)
		if !s.each {
			st.keys = append(st.keys, keyPart{s.e})
			continue
		}
		b.nextID++
		each := &relation{id: b.nextID, arg: s.e, mode: eachLenient, span: s.e.span}
		p.stages = append(p.stages, stage{rel: each, lookup: -1})
		st.keys = append(st.keys, keyPart{{op: opElement, span: s.e.span, rel: each, name: "value"}})
	}
	st.outputs = len(q.outputs)
	b.warnDangerous(c, sel, items, nil, keyed)
	if sel.q.rep.fatal > 0 {
		return
	}
	st.lookup = b.lookup(func() string { return "lookup:" + c.name + "/" + itoa(number) }, c.name, q)
	p.stages = append(p.stages, st)
}

// parameterItems compiles the select list of a parameter query.
func (b *builder) parameterItems(c *bucketConfig, sel *selectStmt, l *lowerer, p *parameterQuery) []*expr {
	var list []*expr
	for _, it := range sel.items {
		if it.star {
			it.span.fatal("name the columns", "* cannot be used in a parameter query")
			continue
		}
		name := it.name()
		if name == "" {
			it.span.fatal("add AS with a name", "the parameter has no name")
			continue
		}
		if name == "_priority" {
			b.queryPriority(c, it, p)
			continue
		}
		if slices.Contains(p.names, name) {
			it.span.fatal("", "parameter %s is selected twice", name)
			continue
		}
		p.names = append(p.names, name)
		list = append(list, l.expr(it.expr))
	}
	return list
}

// queryPriority reads "2 AS _priority".
func (b *builder) queryPriority(c *bucketConfig, it selectItem, p *parameterQuery) {
	lit, ok := it.expr.(*litExpr)
	switch {
	case !ok || lit.val.Kind() != millrace.KindInteger || lit.val.Int() < 0 || lit.val.Int() > 3:
		it.span.fatal("", "_priority must be one of 0, 1, 2, 3")
	case c.priority != nil:
		it.span.fatal("remove one of them", "the definition has a priority already")
	default:
		n := int(lit.val.Int())
		p.priority = &n
	}
}

// usesPart tells whether e reads a part of the request.
func usesPart(e *expr, part string) bool {
	return e != nil && e.any(func(x *expr) bool {
		return (x.op == opRequest || x.op == opLegacyClaims) && x.name == part ||
			x.op == opElement && x.rel.owner == nil && usesPart(x.rel.arg, part)
	})
}

// warnDangerous warns of a query whose buckets a client can choose freely.
// keyed are the values of the request that rows are matched with.
func (b *builder) warnDangerous(c *bucketConfig, sel *selectStmt, items []*expr, filter *expr, keyed []*expr) {
	chosen := usesPart(filter, "connection")
	for _, e := range append(append([]*expr{}, items...), keyed...) {
		if usesPart(e, "token") {
			return
		}
		chosen = chosen || usesPart(e, "connection")
	}
	if chosen && !c.accept {
		sel.warn("compare with a value of the token, or set accept_potentially_dangerous_queries: true",
			"any client can choose these buckets: they depend on connection parameters only")
	}
}
