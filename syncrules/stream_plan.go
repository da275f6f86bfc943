package syncrules

import "strings"

// planner turns one branch of a stream's condition into a resolver and a
// branch of the data query.
type planner struct {
	c       *streamCompiler
	primary *relation
	sel     *selectStmt
	// The result.
	resolver *resolver
	row      rowBranch

	rels    []*relation // all but the primary: tables and functions on their own
	filters map[*relation][]*expr
	edges   []edge
	chosen  map[*relation]bool
	outputs map[*relation]*lookupOutputs
	// moved are functions with a constant argument that were given to the
	// table they are compared with.
	moved map[*relation]*relation
	// expansions of each table, in order.
	expansions map[*relation][]*relation
}

// edge is an equality between two relations, or, with b nil, between one and
// the request.
type edge struct {
	a, b   *relation
	ea, eb *expr
}

// lookupOutputs are what other relations need of a table.
type lookupOutputs struct {
	exprs []*expr
	texts []string
}

func (o *lookupOutputs) add(e *expr) int {
	text := identify(e)
	for i, t := range o.texts {
		if t == text {
			return i
		}
	}
	o.exprs, o.texts = append(o.exprs, e), append(o.texts, text)
	return len(o.exprs) - 1
}

// plan reports what cannot be done and then returns false.
func (p *planner) plan(br branch) bool {
	p.resolver = &resolver{}
	p.filters, p.chosen = map[*relation][]*expr{}, map[*relation]bool{}
	p.outputs, p.moved = map[*relation]*lookupOutputs{}, map[*relation]*relation{}
	p.expansions = map[*relation][]*relation{}
	p.moveConstants(&br)
	p.collect(br)
	var request []*expr
	for _, e := range br.atoms {
		if !p.classify(e, &request) {
			return false
		}
	}
	p.resolver.filter = conjoin(request)
	for _, r := range p.order() {
		p.stage(r)
	}
	p.partition()
	return true
}

// moveConstants gives each function with a constant argument to the table it
// is compared with.
func (p *planner) moveConstants(br *branch) {
	for _, r := range br.rels {
		if !r.constant() || r.apart {
			continue
		}
		for _, e := range br.atoms {
			d := dependencies(e)
			if !d.has(r) || len(d.rels) != 2 || d.request {
				continue
			}
			other := d.rels[0]
			if other == r {
				other = d.rels[1]
			}
			if other.table != nil {
				owned := *r
				owned.owner = other
				p.moved[r] = &owned
				break
			}
		}
	}
	if len(p.moved) == 0 {
		return
	}
	out := branch{}
	for _, r := range br.rels {
		if m := p.moved[r]; m != nil {
			r = m
		}
		out.rels = append(out.rels, r)
	}
	for _, e := range br.atoms {
		out.atoms = append(out.atoms, p.replace(e))
	}
	*br = out
}

func (p *planner) replace(e *expr) *expr {
	m := p.moved[e.rel]
	changed := m != nil
	args := make([]*expr, len(e.args))
	for i, a := range e.args {
		args[i] = p.replace(a)
		changed = changed || args[i] != a
	}
	if !changed {
		return e
	}
	out := *e
	out.args = args
	if m != nil {
		out.rel = m
	}
	return &out
}

// collect lists the branch's relations.
func (p *planner) collect(br branch) {
	seen := map[*relation]bool{p.primary: true}
	var add func(r *relation)
	add = func(r *relation) {
		if seen[r] {
			return
		}
		seen[r] = true
		if r.owner != nil {
			add(r.owner)
			p.expansions[r.owner] = append(p.expansions[r.owner], r)
			return
		}
		p.rels = append(p.rels, r)
	}
	for _, r := range br.rels {
		add(r)
	}
	for _, e := range br.atoms {
		e.walk(func(x *expr) {
			if x.rel != nil {
				add(x.rel)
			}
		})
	}
}

// classify sorts an atom into filters and edges.
func (p *planner) classify(e *expr, request *[]*expr) bool {
	d := dependencies(e)
	switch {
	case len(d.rels) == 0:
		*request = append(*request, e)
		return true
	case len(d.rels) == 1 && (!d.request || d.rels[0].table == nil):
		p.filters[d.rels[0]] = append(p.filters[d.rels[0]], e)
		return true
	}
	if e.op == opEqual && p.edge(e) {
		return true
	}
	p.cannot(e)
	return false
}

// edge takes an equality whose sides stand on one relation each, or one of
// them on the request.
func (p *planner) edge(e *expr) bool {
	l, r := e.args[0], e.args[1]
	dl, dr := dependencies(l), dependencies(r)
	if len(dl.rels) == 0 {
		l, r, dl, dr = r, l, dr, dl
	}
	if len(dl.rels) != 1 || dl.request && dl.rels[0].table != nil || len(dr.rels) > 1 {
		return false
	}
	ed := edge{a: dl.rels[0], ea: l, eb: r}
	if len(dr.rels) == 1 {
		if dr.request && dr.rels[0].table != nil {
			return false
		}
		ed.b = dr.rels[0]
		if ed.b == p.primary {
			ed.a, ed.b, ed.ea, ed.eb = ed.b, ed.a, ed.eb, ed.ea
		}
	}
	p.edges = append(p.edges, ed)
	return true
}

// cannot reports an atom that is neither a filter nor an equality, at the
// later of the two things it mixes.
func (p *planner) cannot(e *expr) {
	var first *relation
	at := e.span
	found := false
	request := false
	e.walk(func(x *expr) {
		if found {
			return
		}
		switch x.op {
		case opArrowText, opArrow:
			if len(x.args) == 1 && x.args[0].op == opRequest {
				request = true
				if first != nil {
					at, found = x.span, true
				}
			}
		case opRequest:
			request = true
			if first != nil {
				at, found = x.span, true
			}
		case opColumn, opMeta, opElement:
			b := x.rel.base()
			if first == nil {
				first = b
			}
			if b != first || request {
				at, found = x.span, true
			}
		}
	})
	if !request {
		at.fatal("join them with =, and write other conditions on each table alone", "two tables can only be compared by = or IN")
		return
	}
	hint := "write other conditions on the row alone or on the request alone"
	if e.op == opNot {
		hint = "select what is wanted instead of leaving out what is not"
	}
	at.fatal(hint, "a row and the request can only be compared by = or IN")
}

// order lists the relations so that each is keyed by what came before it:
// values of the request first, then tables that are bound by most equalities.
func (p *planner) order() []*relation {
	distance := p.distances()
	var list []*relation
	for _, r := range p.rels {
		if r.table == nil {
			list = append(list, r)
			p.chosen[r] = true
		}
	}
	for {
		var best *relation
		bestBound, bestDistance := -1, -1
		for _, r := range p.rels {
			if p.chosen[r] {
				continue
			}
			bound := 0
			for _, e := range p.edges {
				if e.a == r && (e.b == nil || p.chosen[e.b]) || e.b == r && p.chosen[e.a] {
					bound++
				}
			}
			if bound > bestBound || bound == bestBound && distance[r] > bestDistance {
				best, bestBound, bestDistance = r, bound, distance[r]
			}
		}
		if best == nil {
			clear(p.chosen)
			return list
		}
		p.chosen[best] = true
		list = append(list, best)
	}
}

// distances is how many equalities lie between each relation and the primary.
func (p *planner) distances() map[*relation]int {
	dist := map[*relation]int{p.primary: 0}
	for again := true; again; {
		again = false
		for _, e := range p.edges {
			if e.b == nil {
				continue
			}
			for _, pair := range [2][2]*relation{{e.a, e.b}, {e.b, e.a}} {
				d, ok := dist[pair[0]]
				if have, known := dist[pair[1]]; ok && (!known || have > d+1) {
					dist[pair[1]] = d + 1
					again = true
				}
			}
		}
	}
	return dist
}

// bound lists r's equalities with the request and with relations chosen
// before: r's side and the other one as a value at hand.
func (p *planner) bound(r *relation) (own, other []*expr) {
	for _, e := range p.edges {
		switch {
		case e.a == r && e.b == nil:
			own, other = append(own, e.ea), append(other, e.eb)
		case e.a == r && p.chosen[e.b]:
			own, other = append(own, e.ea), append(other, p.available(e.b, e.eb))
		case e.b == r && p.chosen[e.a]:
			own, other = append(own, e.eb), append(other, p.available(e.a, e.ea))
		}
	}
	return own, other
}

// available is a value of a chosen relation in later stages.
func (p *planner) available(r *relation, e *expr) *expr {
	if r.table == nil {
		return e
	}
	return output(e.span, r, p.outputs[r].add(e))
}

// group puts together the other sides of equal own sides.
func group(own, other []*expr) (keys []*expr, parts []keyPart) {
	index := map[string]int{}
	for i, e := range own {
		text := identify(e)
		at, ok := index[text]
		if !ok {
			at = len(keys)
			index[text] = at
			keys = append(keys, e)
			parts = append(parts, nil)
		}
		parts[at] = append(parts[at], other[i])
	}
	return keys, parts
}

// stage adds the stage of a relation.
func (p *planner) stage(r *relation) {
	own, other := p.bound(r)
	p.chosen[r] = true
	if r.table == nil {
		conds := p.filters[r]
		for i := range own {
			conds = append(conds, &expr{op: opEqual, span: own[i].span, args: []*expr{own[i], other[i]}})
		}
		p.resolver.stages = append(p.resolver.stages, stage{rel: r, lookup: -1, filter: conjoin(conds)})
		return
	}
	keys, parts := group(own, other)
	q := &lookupQuery{rowQuery: rowQuery{rel: r}}
	br := rowBranch{expansions: p.expansions[r], filter: conjoin(p.filters[r])}
	for _, k := range keys {
		br.keys = append(br.keys, keyPart{k})
	}
	q.branches = []rowBranch{br}
	outs := &lookupOutputs{}
	p.outputs[r] = outs
	for _, e := range p.edges {
		switch {
		case e.a == r && e.b != nil && !p.chosen[e.b]:
			outs.add(e.ea)
		case e.b == r && !p.chosen[e.a]:
			outs.add(e.eb)
		}
	}
	q.outputs = outs.exprs
	name := p.c.cfg.name
	def := p.c.b.lookup(func() string { return "lookup:" + name + "/" + itoa(p.c.b.number("lookup "+name)) }, name, q)
	p.resolver.stages = append(p.resolver.stages, stage{rel: r, lookup: def, keys: parts, outputs: len(outs.exprs)})
}

// partition makes the bucket's values of the primary's equalities.
func (p *planner) partition() {
	own, other := p.bound(p.primary)
	keys, parts := group(own, other)
	rowKeys := make([]keyPart, len(keys))
	texts := make([]string, len(keys))
	names := map[*relation]string{}
	for i, st := range p.resolver.stages {
		names[st.rel] = "s" + itoa(i)
	}
	for i, k := range keys {
		rowKeys[i] = keyPart{k}
		list := make([]string, len(parts[i]))
		for j, e := range parts[i] {
			list[j] = canonText(e, names)
		}
		texts[i] = strings.Join(list, " ")
	}
	sortParts(parts, texts, rowKeys)
	p.resolver.values = parts
	p.row = rowBranch{expansions: p.expansions[p.primary], filter: conjoin(p.filters[p.primary]), keys: rowKeys}
}
