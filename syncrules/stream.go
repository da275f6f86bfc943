package syncrules

import (
	"sort"
	"strings"

	"github.com/millrace/millrace"
)

// maxShapes bounds the bucket shapes of one stream.
const maxShapes = 100

// shape is what the branches of a stream's queries with the same resolver
// have in common: one kind of bucket.
type shape struct {
	resolver *resolver
	text     string // meaning of the resolver
	data     []*dataQuery
	at       span
}

// streamDefinitions compiles the streams of the file.
func (b *builder) streamDefinitions() {
	shared := map[string]int{} // bucket definitions by their data
	for _, s := range b.file.streams {
		b.rules.streams[s.name] = true
		c := &streamCompiler{b: b, cfg: s}
		c.order = append(append(c.order, b.file.with...), s.with...)
		c.ctes = visibleCTEs(c.order)
		for _, q := range s.queries {
			c.query(q)
		}
		if len(c.shapes) > maxShapes {
			c.shapes[maxShapes].at.fatal("split the stream", "stream %s needs more than %d kinds of buckets", s.name, maxShapes)
		}
		for _, sh := range c.shapes {
			b.addShape(s, sh, shared)
		}
	}
	b.rules.ctes = append(b.rules.ctes, b.file.with...)
	for _, s := range b.file.streams {
		b.checkUnused(s.with, b.file.with)
		b.rules.ctes = append(b.rules.ctes, s.with...)
	}
	b.checkUnused(b.file.with, nil)
}

// visibleCTEs are common table expressions by lower-case name; later ones hide
// earlier ones of their name.
func visibleCTEs(order []*cteConfig) map[string]*cteConfig {
	ctes := map[string]*cteConfig{}
	for _, c := range order {
		ctes[strings.ToLower(c.name)] = c
	}
	return ctes
}

// checkUnused warns of common table expressions that nothing uses, and still
// reports what is wrong with them. before are those they see besides.
func (b *builder) checkUnused(ctes, before []*cteConfig) {
	for _, c := range ctes {
		if c.used {
			continue
		}
		c.key.warn("", "common table expression "+quote(c.name)+" is not used")
		b.uses = 0
		check := streamCompiler{b: b, cfg: &streamConfig{}, order: append(append([]*cteConfig{}, before...), ctes...)}
		check.cte(c)
	}
}

// addShape gives a shape its bucket definition. Shapes with the same data
// share one, under the name of the first.
func (b *builder) addShape(s *streamConfig, sh *shape, shared map[string]int) {
	text := strings.Join(dataTexts(sh.data), "\x00")
	def, ok := shared[text]
	if !ok {
		name := b.shapeName(s.name)
		def = len(b.rules.defs)
		b.rules.defs = append(b.rules.defs, &definition{kind: millrace.BucketDefinition, key: "bucket:" + name, name: s.name, prefix: name, data: sh.data})
		shared[text] = def
	}
	r := sh.resolver
	r.def, r.name, r.stream, r.auto, r.priority = def, s.name, true, s.auto, s.priority
	r.at, r.accept = sh.at, s.accept
	b.rules.resolvers = append(b.rules.resolvers, r)
}

// shapeName is the next free name for buckets of a stream. A bucket definition
// may have such a name too.
func (b *builder) shapeName(stream string) string {
	for {
		name := stream + "|" + itoa(b.number("bucket "+stream))
		taken := false
		for _, c := range b.file.buckets {
			taken = taken || c.name == name
		}
		if !taken {
			return name
		}
	}
}

// streamCompiler compiles the queries of one stream.
type streamCompiler struct {
	b     *builder
	cfg   *streamConfig
	order []*cteConfig // global ones, then the stream's
	ctes  map[string]*cteConfig
	// inside is the common table expression that is being compiled; nil in
	// the stream's own queries.
	inside *cteConfig
	shapes []*shape
	depth  int // of subqueries
}

func (c *streamCompiler) query(q *query) {
	before := q.rep.fatal
	c.b.uses = 0
	sel := parseSelect(q, parseOptions{streams: true})
	if sel == nil {
		return
	}
	if sel.distinct != nil {
		sel.distinct.warn("rows are synced once per bucket anyway", "DISTINCT has no effect")
	}
	sc := &streamScope{c: c}
	conds := c.from(sel, sc)
	d := c.items(sel, sc)
	if sel.where != nil {
		conds = append(conds, c.condition(sel.where, false, sc))
	}
	if d == nil || q.rep.fatal != before {
		return
	}
	branches := expandBranches(&cond{op: condAnd, kids: conds, at: sel.span})
	if branches == nil {
		return
	}
	dangerous := false
	for _, br := range mergeRowBranches(d.rel, branches) {
		p := &planner{c: c, primary: d.rel, sel: sel}
		if !p.plan(br) {
			return
		}
		dangerous = c.warnDangerous(p, dangerous)
		c.addBranch(d, p)
	}
}

// addBranch puts a planned branch into the shape with the same resolver.
func (c *streamCompiler) addBranch(d *dataQuery, p *planner) {
	text := p.resolverText()
	var sh *shape
	for _, s := range c.shapes {
		if s.text == text {
			sh = s
		}
	}
	if sh == nil {
		sh = &shape{resolver: p.resolver, text: text, at: p.sel.span}
		c.shapes = append(c.shapes, sh)
	}
	for _, have := range sh.data {
		if have.rel == d.rel {
			have.branches = append(have.branches, p.row)
			return
		}
	}
	one := *d
	one.branches = []rowBranch{p.row}
	sh.data = append(sh.data, &one)
}

// warnDangerous warns, once per query, of a branch that a client can choose.
func (c *streamCompiler) warnDangerous(p *planner, warned bool) bool {
	if warned || c.cfg.accept {
		return warned
	}
	r := p.resolver
	var chain []*expr
	for _, part := range r.values {
		chain = append(chain, part...)
	}
	for _, st := range r.stages {
		for _, part := range st.keys {
			chain = append(chain, part...)
		}
		if st.filter != nil {
			chain = append(chain, st.filter)
		}
		if st.rel.arg != nil {
			chain = append(chain, st.rel.arg)
		}
	}
	if len(r.values) == 0 && r.filter != nil {
		chain = append(chain, r.filter)
	}
	var at *expr
	for _, e := range chain {
		if usesPart(e, "token") {
			return false
		}
		e.walk(func(x *expr) {
			if x.op == opArrowText && len(x.args) == 1 && x.args[0].op == opRequest && at == nil && x.args[0].name != "token" {
				at = x
			} else if x.op == opRequest && x.name != "token" && at == nil {
				at = x
			}
		})
	}
	if at == nil {
		return false
	}
	at.span.warn("compare with a value of the token too, or set accept_potentially_dangerous_queries: true",
		"any client can choose these rows: they depend on parameters the client sends only")
	return true
}

// resolverText is the meaning of the planned resolver.
func (p *planner) resolverText() string {
	c := canon{rels: map[*relation]string{}}
	r := p.resolver
	c.expr(r.filter)
	for i, st := range r.stages {
		c.rels[st.rel] = "s" + itoa(i)
		c.word(itoa(st.lookup))
		if st.lookup < 0 {
			c.expr(st.rel.arg)
		}
		c.parts(st.keys)
		c.expr(st.filter)
	}
	c.word("values")
	c.parts(r.values)
	return c.b.String()
}

func (c *canon) parts(parts []keyPart) {
	for _, part := range parts {
		c.b.WriteByte('[')
		for _, e := range part {
			c.expr(e)
		}
		c.b.WriteByte(']')
	}
}

// items compiles the select list and finds the primary table. nil means an
// error was reported.
func (c *streamCompiler) items(sel *selectStmt, sc *streamScope) *dataQuery {
	d := &dataQuery{}
	l := c.lowerer(sc)
	hasID, failed := false, false
	see := func(e *expr, at span) {
		if e.isBad() {
			failed = true
			return
		}
		if e.usesRequest() {
			at.fatal("select the row's own columns", "values of the request cannot be selected")
			failed = true
			return
		}
		e.walk(func(x *expr) {
			switch {
			case x.op == opElement:
				at.fatal("select columns of the table", "columns of json_each cannot be selected")
				failed = true
			case x.op != opColumn && x.op != opMeta || failed:
			case d.rel == nil:
				d.rel = x.rel
			case d.rel != x.rel:
				x.span.fatal("write a query for each table", "a row holds columns of one table only")
				failed = true
			}
		})
	}
	for i, it := range sel.items {
		if !it.star {
			e := l.expr(it.expr)
			see(e, it.span)
			name := it.name()
			if name == "" {
				name = it.expr.at().text()
				it.span.warn("add AS with a name", "the column has no name; it is called %s", name)
			}
			hasID = hasID || name == "id"
			d.items = append(d.items, outputItem{name: name, e: e})
			continue
		}
		ent := sc.starEntry(it)
		if ent == nil {
			failed = true
			continue
		}
		for _, before := range sel.items[:i] {
			if !before.star {
				it.span.warn("put * first", "* comes after other columns and replaces those of the same name")
				break
			}
		}
		hasID = true
		switch {
		case ent.derived != nil:
			hasID = hasID && ent.derived.column("id") != nil
			for _, col := range ent.derived.cols {
				see(col.e, it.span)
				d.items = append(d.items, outputItem{name: col.name, e: col.e})
			}
		case ent.rel.table == nil:
			it.span.fatal("select columns of a table", "columns of json_each cannot be selected")
			failed = true
		default:
			see(&expr{op: opMeta, span: it.span, rel: ent.rel, name: "schema"}, it.span)
			d.items = append(d.items, outputItem{star: true})
		}
	}
	switch {
	case failed:
		return nil
	case d.rel == nil:
		sel.fatal("select columns of a table", "the query selects nothing from a table")
		return nil
	case !hasID && c.b.file.edition < 3:
		sel.items[0].span.fatal("select a column as id", "the query does not select id")
		return nil
	case !hasID:
		sel.items[0].span.warn("select a column as id: rows without one replace each other", "the query does not select id")
	}
	d.typeName = d.rel.typeName
	d.plainStar = c.b.file.edition < 3
	for _, ent := range sc.entries {
		if ent.rel == d.rel && ent.src.alias != nil && !ent.src.alias.quoted && len(sc.entries) > 1 {
			ent.src.at.warn("put the alias in double quotes if that is meant", "the alias renames the synced table to %s", d.typeName)
		}
	}
	return d
}

// sortParts orders value parts, and what belongs to them, by meaning.
func sortParts(parts []keyPart, texts []string, with []keyPart) {
	index := make([]int, len(parts))
	for i := range index {
		index[i] = i
	}
	sort.SliceStable(index, func(a, b int) bool { return texts[index[a]] < texts[index[b]] })
	p, w := append([]keyPart{}, parts...), append([]keyPart{}, with...)
	for to, from := range index {
		parts[to], with[to] = p[from], w[from]
	}
}
