package syncrules

import "slices"

// dataQuery compiles a data query of a bucket definition. names are the
// parameters in the order of the bucket name; known is false if they are not
// known because of other errors. nil means an error was reported.
func (b *builder) dataQuery(q *query, names []string, known bool) *dataQuery {
	before := q.rep.fatal
	sel := parseSelect(q, parseOptions{})
	if sel == nil {
		return nil
	}
	src, ok := bucketSource(sel)
	if !ok {
		return nil
	}
	if src == nil {
		sel.fatal("add FROM with a table", "a data query needs a table")
		return nil
	}
	if src.call != nil {
		src.at.fatal("", "a data query reads a table")
		return nil
	}
	p := pattern(*src, false)
	if p == nil {
		return nil
	}
	rel := b.relation(src.at, p)
	d := &dataQuery{rowQuery: rowQuery{rel: rel}, plainStar: true}
	scope := &bucketScope{b: b, rel: rel, name: src.name.name, data: true}
	switch {
	case src.alias != nil:
		scope.name, d.typeName = src.alias.name, src.alias.name
	case !p.namePrefix:
		d.typeName = src.name.name
	}
	l := b.bucketLowerer(scope)
	d.items = b.bucketItems(sel, scope, l)
	w := &whereCompiler{b: b, l: l, rel: rel, data: true}
	m := w.where(sel.where)
	if m == nil || q.rep.fatal != before {
		return nil
	}
	if !known {
		return d
	}
	return b.finishData(d, sel, m, names)
}

// finishData orders the keys and checks that they are the definition's
// parameters.
func (b *builder) finishData(d *dataQuery, sel *selectStmt, m *match, names []string) *dataQuery {
	for _, p := range m.sides {
		if !slices.Contains(names, p.name) {
			hint := didYouMean(p.name, names)
			if len(names) == 0 {
				hint = "the definition has no parameters"
			}
			sel.fatal(hint, "bucket.%s is not a parameter of this definition", p.name)
			return nil
		}
	}
	for _, n := range names {
		if m.side(n) == nil {
			sel.fatal("compare a column with bucket."+n+" in WHERE", "every data query must use every parameter; bucket.%s is missing", n)
			return nil
		}
	}
	for _, br := range m.branches {
		out := rowBranch{filter: conjoin(br.filters), expansions: br.expansions, keys: make([]keyPart, len(names))}
		for _, k := range br.keys {
			for i, n := range names {
				if n == k.side.name {
					out.keys[i] = append(out.keys[i], k.row)
				}
			}
		}
		d.branches = append(d.branches, out)
	}
	return d
}

// bucketItems compiles the select list of a data query.
func (b *builder) bucketItems(sel *selectStmt, scope *bucketScope, l *lowerer) []outputItem {
	var items []outputItem
	star, id := false, false
	for _, it := range sel.items {
		if it.star {
			if it.qual != nil && it.qual.name != scope.name {
				it.span.fatal(didYouMean(it.qual.name, []string{scope.name}), "unknown table %s", it.qual.text())
				continue
			}
			star = true
			items = append(items, outputItem{star: true})
			continue
		}
		e := l.expr(it.expr)
		e.walk(func(x *expr) {
			if x.op == opBucket {
				x.span.fatal("select the row's own column instead", "bucket.%s cannot be selected", x.name)
			}
		})
		name := it.name()
		if name == "" {
			it.span.fatal("add AS with a name", "the column has no name")
			continue
		}
		id = id || name == "id"
		items = append(items, outputItem{name: name, e: e})
	}
	if !star && !id && !scope.event {
		at := sel.span
		if len(sel.items) > 0 {
			at = sel.items[0].span
		}
		at.fatal("every synced row has an id: select a column as id", "the query does not select id")
	}
	return items
}
