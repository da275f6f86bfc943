package syncrules

import (
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// streamScope is the sources of a SELECT of a stream and what it can see of
// those around it.
type streamScope struct {
	c       *streamCompiler
	parent  *streamScope
	entries []*scopeEntry
	// broken: a source was refused, so that what is missing is no surprise.
	broken bool
}

// scopeEntry is a source: a relation, or columns over relations further in.
type scopeEntry struct {
	name    string
	src     *source
	rel     *relation
	derived *derivedTable
}

// derivedTable is a subquery or CTE that was taken apart.
type derivedTable struct {
	cols []derivedColumn
}

type derivedColumn struct {
	name string
	e    *expr
}

func (d *derivedTable) column(name string) *expr {
	for _, c := range d.cols {
		if c.name == name {
			return c.e
		}
	}
	return nil
}

func (d *derivedTable) names() []string {
	var list []string
	for _, c := range d.cols {
		list = append(list, c.name)
	}
	return list
}

// from adds the sources of a SELECT to the scope. It returns the conditions
// they come with: that there is a row at all, those of ON, and those inside.
func (c *streamCompiler) from(sel *selectStmt, sc *streamScope) []*cond {
	var conds []*cond
	for i := range sel.sources {
		ent, inner := c.source(&sel.sources[i], sc)
		conds = append(conds, inner...)
		if ent == nil {
			sc.broken = true
			continue
		}
		for _, other := range sc.entries {
			if other.name == ent.name {
				ent.src.span.fatal("give one of them an alias", "two sources are called %s", ent.name)
			}
		}
		sc.entries = append(sc.entries, ent)
	}
	for i := range sel.sources {
		if on := sel.sources[i].on; on != nil {
			conds = append(conds, c.condition(on, false, sc))
		}
	}
	return conds
}

func (c *streamCompiler) source(s *source, sc *streamScope) (*scopeEntry, []*cond) {
	ent := &scopeEntry{name: s.name.name, src: s}
	if s.alias != nil {
		ent.name = s.alias.name
	}
	switch {
	case s.call != nil:
		rel := c.tableFunction(s.call, sc)
		if rel == nil {
			return nil, nil
		}
		if s.alias == nil {
			ent.name = s.call.name.name
		}
		ent.rel = rel
		return ent, []*cond{{op: condExists, rel: rel, at: s.span}}
	case s.sub != nil:
		if s.alias == nil {
			s.span.fatal("add AS with a name", "a subquery in FROM needs a name")
			return nil, nil
		}
		d, conds := c.derived(s.sub, &streamScope{c: c, parent: sc.parent}, s.cols)
		if d == nil {
			return nil, nil
		}
		ent.derived = d
		return ent, conds
	case s.schema == nil:
		if cte := c.namedCTE(s.name); cte != nil {
			d, conds := c.cte(cte)
			if d == nil {
				return nil, nil
			}
			ent.derived = d
			return ent, conds
		}
	}
	p := pattern(*s, true)
	if p == nil {
		return nil, nil
	}
	rel := c.b.relation(s.at, p)
	switch {
	case s.alias != nil:
		rel.typeName = s.alias.name
	case !p.namePrefix:
		rel.typeName = s.name.name
	}
	ent.rel = rel
	return ent, []*cond{{op: condExists, rel: rel, at: s.span}}
}

// maxUses bounds how often a query uses common table expressions, counting those
// that they use themselves.
const maxUses = 100

// cte takes a common table expression apart, anew for each use. It sees those
// before it.
func (c *streamCompiler) cte(cte *cteConfig) (*derivedTable, []*cond) {
	cte.used = true
	c.depth++
	defer func() { c.depth-- }()
	if c.depth > maxSubqueries {
		cte.q.whole().fatal("", "common table expressions and subqueries are nested more than %d levels deep", maxSubqueries)
		return nil, nil
	}
	if c.b.uses++; c.b.uses > maxUses {
		if c.b.uses == maxUses+1 {
			cte.q.whole().fatal("split the query", "common table expressions are used more than %d times in one query", maxUses)
		}
		return nil, nil
	}
	sel := parseSelect(cte.q, parseOptions{streams: true})
	if sel == nil {
		return nil, nil
	}
	inner := *c
	inner.ctes, inner.inside = visibleCTEs(c.order[:max(0, slices.Index(c.order, cte))]), cte
	return inner.derived(sel, &streamScope{c: &inner}, nil)
}

// derived takes a subquery apart into its columns and conditions. nil means
// an error was reported.
func (c *streamCompiler) derived(sel *selectStmt, sc *streamScope, names []ident) (*derivedTable, []*cond) {
	if sel.distinct != nil {
		sel.distinct.warn("", "DISTINCT has no effect")
	}
	conds := c.from(sel, sc)
	l := c.lowerer(sc)
	d := &derivedTable{}
	for i, it := range sel.items {
		if it.star {
			it.span.fatal("name the columns", "* cannot be used here")
			return nil, nil
		}
		name := ""
		switch n, plain := it.expr.(*nameExpr); {
		case i < len(names):
			name = names[i].name
		case it.alias != nil:
			name = it.alias.name
		case plain:
			name = n.name.name
		default:
			it.span.fatal("add AS with a name", "the column has no name")
			return nil, nil
		}
		if d.column(name) != nil {
			it.span.fatal("", "two columns are called %s", name)
			return nil, nil
		}
		d.cols = append(d.cols, derivedColumn{name, l.expr(it.expr)})
	}
	if len(names) > len(sel.items) {
		names[len(sel.items)].fatal("", "the subquery has only %d columns", len(sel.items))
		return nil, nil
	}
	if sel.where != nil {
		conds = append(conds, c.condition(sel.where, false, sc))
	}
	return d, conds
}

// tableFunction resolves json_each in FROM. nil means an error was reported.
func (c *streamCompiler) tableFunction(call *callExpr, sc *streamScope) *relation {
	switch {
	case call.schema != nil || call.name.name != "json_each":
		hint := didYouMean(call.name.name, []string{"json_each"})
		if hint == "" {
			hint = "json_each(x) gives a row for each element of a JSON array"
		}
		call.fn.fatal(hint, "unknown table-valued function %s", call.fn.text())
		return nil
	case len(call.args) != 1:
		call.span.fatal("", "json_each takes 1 argument, not %d", len(call.args))
		return nil
	}
	return c.each(c.lowerer(sc).expr(call.args[0]), call.span)
}

// each is json_each over a value. nil means an error was reported.
func (c *streamCompiler) each(arg *expr, at span) *relation {
	if arg.isBad() {
		return nil
	}
	c.b.nextID++
	rel := &relation{id: c.b.nextID, arg: arg, span: at}
	ok := true
	arg.walk(func(x *expr) {
		switch {
		case !ok || x.rel == nil:
		case x.op == opElement:
			x.span.fatal("", "json_each cannot depend on another json_each")
			ok = false
		case rel.owner == nil:
			rel.owner = x.rel
		case rel.owner != x.rel:
			x.span.fatal("", "json_each depends on one table only")
			ok = false
		}
	})
	if ok && rel.owner != nil && arg.usesRequest() {
		at.fatal("", "json_each cannot mix the row and the request")
		ok = false
	}
	if !ok {
		return nil
	}
	return rel
}

func (c *streamCompiler) lowerer(sc *streamScope) *lowerer {
	return &lowerer{streams: true, legacyJSON: c.b.file.legacyJSON, exact: c.b.file.exact, language: c.b.rules.language, column: sc.column, call: sc.call, functions: streamFunctions}
}

// lookup finds a source by name, from the inside out.
func (sc *streamScope) lookup(name string) *scopeEntry {
	for s := sc; s != nil; s = s.parent {
		for _, e := range s.entries {
			if e.name == name {
				return e
			}
		}
	}
	return nil
}

func (sc *streamScope) names() []string {
	var list []string
	for s := sc; s != nil; s = s.parent {
		for _, e := range s.entries {
			list = append(list, e.name)
		}
	}
	return list
}

// tableHint names the sources there are.
func (sc *streamScope) tableHint(name string) string {
	if hint := didYouMean(name, sc.names()); hint != "" || len(sc.names()) == 0 {
		return hint
	}
	return "FROM has " + strings.Join(sc.names(), ", ")
}

func (sc *streamScope) column(n *nameExpr) *expr {
	var ent *scopeEntry
	if n.qual != nil {
		if ent = sc.lookup(n.qual.name); ent == nil {
			if !sc.broken {
				n.span.fatal(sc.tableHint(n.qual.name), "unknown table %s", n.qual.text())
			}
			return badExpr
		}
		if n.schema != nil && (ent.rel == nil || ent.rel.table == nil || ent.src.alias != nil || ent.rel.table.schema != n.schema.name) {
			n.span.fatal("qualify the column by its table only", "unknown table %s.%s", n.schema.text(), n.qual.text())
			return badExpr
		}
	} else {
		s := sc
		for len(s.entries) == 0 && s.parent != nil {
			s = s.parent
		}
		switch len(s.entries) {
		case 0:
			if sc.broken {
				return badExpr
			}
			n.span.fatal("add FROM with a table", "column %s without a table", n.name.text())
			return badExpr
		case 1:
			ent = s.entries[0]
		default:
			n.span.fatal("write it as "+s.entries[0].name+"."+n.name.text()+" or "+s.entries[1].name+"."+n.name.text(), "column %s must be qualified: the query has several sources", n.name.text())
			return badExpr
		}
	}
	name := n.name.name
	switch {
	case ent.derived != nil:
		e := ent.derived.column(name)
		if e == nil {
			hint := didYouMean(name, ent.derived.names())
			if hint == "" {
				hint = "it has " + strings.Join(ent.derived.names(), ", ")
			}
			n.span.fatal(hint, "%s has no column %s", ent.name, name)
			return badExpr
		}
		at := *e
		at.span = n.span
		return &at
	case ent.rel.table != nil:
		return &expr{op: opColumn, span: n.span, rel: ent.rel, name: name}
	case name != "key" && name != "value":
		n.span.fatal("json_each has the columns key and value", "unknown column %s", name)
		return badExpr
	}
	return &expr{op: opElement, span: n.span, rel: ent.rel, name: name}
}

// starEntry finds what * or t.* stands for; nil after an error.
func (sc *streamScope) starEntry(it selectItem) *scopeEntry {
	if it.qual != nil {
		for _, e := range sc.entries {
			if e.name == it.qual.name {
				return e
			}
		}
		it.span.fatal(didYouMean(it.qual.name, sc.names()), "unknown table %s", it.qual.text())
		return nil
	}
	if len(sc.entries) != 1 {
		if sc.broken {
			return nil
		}
		if len(sc.entries) > 1 {
			it.span.fatal("write "+sc.entries[0].name+".*", "* cannot be used with several sources")
		} else {
			it.span.fatal("add FROM with a table", "* without a table")
		}
		return nil
	}
	return sc.entries[0]
}

var streamFunctions = []string{"auth.user_id", "auth.parameter", "auth.parameters", "connection.parameter", "connection.parameters",
	"subscription.parameter", "subscription.parameters"}

// call resolves the functions of the request and of tables.
func (sc *streamScope) call(c *callExpr) *expr {
	if c.schema == nil {
		return nil
	}
	part, ok := map[string]string{"auth": "token", "connection": "connection", "subscription": "subscription"}[c.schema.name]
	if !ok || sc.lookup(c.schema.name) != nil {
		return sc.tableCall(c)
	}
	want := 0
	switch c.name.name {
	case "user_id":
		if part != "token" {
			return nil
		}
	case "parameters":
	case "parameter":
		want = 1
	default:
		return nil
	}
	if len(c.args) != want {
		c.span.fatal("", "%s takes %s, not %d", c.fn.text(), plural(want), len(c.args))
		return badExpr
	}
	switch c.name.name {
	case "user_id":
		return requestMember(c.span, part, "sub")
	case "parameters":
		return &expr{op: opRequest, span: c.span, name: part}
	}
	return requestParameter(c, part)
}

// tableCall resolves t.schema(), t.table_name(), t.table_suffix() and
// t.source_name().
func (sc *streamScope) tableCall(c *callExpr) *expr {
	switch c.name.name {
	case "schema", "table_name", "table_suffix", "source_name":
	default:
		return nil
	}
	ent := sc.lookup(c.schema.name)
	switch {
	case ent == nil:
		c.span.fatal(didYouMean(c.schema.name, sc.names()), "unknown table %s", c.schema.text())
		return badExpr
	case ent.rel == nil || ent.rel.table == nil:
		c.span.fatal("", "%s is not a table", c.schema.text())
		return badExpr
	case len(c.args) > 0:
		c.span.fatal("", "%s takes no arguments", c.fn.text())
		return badExpr
	}
	if c.name.name == "table_suffix" && !ent.rel.table.namePrefix {
		c.span.warn("", "table_suffix() is empty: the table's name has no %% at its end")
		return literal(c.span, millrace.Text(""))
	}
	return &expr{op: opMeta, span: c.span, rel: ent.rel, name: c.name.name}
}
