package syncrules

import (
	"slices"
	"strings"
)

// Check compares the rules with the tables of a source: names that match
// nothing and, where Types are given, columns whose values lose something on
// their way to clients. All findings are warnings, in the form of Compile's:
// the rules work without them, and a table may come later. tags, if given, are
// the connections that the tables are of: tables of others are not missed.
func (r *Rules) Check(tables []Table, tags ...string) Diagnostics {
	if r.rep == nil {
		return nil
	}
	rep := newReporter(r.rep.file, r.rep.src)
	l := &linter{rep: rep, tables: tables, tags: tags, options: r.options, seen: map[*relation]bool{}}
	for _, d := range r.defs {
		for _, q := range d.data {
			l.query(&q.rowQuery)
			l.types(q)
			for _, it := range q.items {
				if it.star {
					l.star(q)
				} else {
					l.expr(it.e)
				}
			}
		}
		if d.lookup != nil {
			l.query(&d.lookup.rowQuery)
			l.numbers(&d.lookup.rowQuery, d.lookup.outputs)
			for _, o := range d.lookup.outputs {
				l.expr(o)
			}
		}
		for _, q := range d.payloads {
			l.query(&q.rowQuery)
			for _, e := range q.columns {
				if e != nil {
					l.expr(e)
				}
			}
		}
	}
	for _, c := range r.ctes {
		for _, t := range tables {
			if strings.EqualFold(t.Name, c.name) && t.Schema == defaultSchema {
				rep.add(Warning, c.key.start, c.key.end, "give it another name", "common table expression "+quote(c.name)+" hides the table of that name")
				break
			}
		}
	}
	l.largeIntegers()
	return rep.sorted()
}

// linter is the state of one Check.
type linter struct {
	rep     *reporter
	tables  []Table
	tags    []string // looked at; empty for all
	options ValueOptions
	seen    map[*relation]bool
	large   []string // bigint columns that clients get
	largeAt span     // where the first is selected
}

func (l *linter) warn(at span, hint, message string) {
	start, end := at.file()
	l.rep.add(Warning, start, end, hint, message)
}

// matching are the source tables a relation reads.
func (l *linter) matching(rel *relation) []Table {
	var list []Table
	for _, t := range l.tables {
		if rel.table.matches(t.Tag, t.Schema, t.Name) {
			list = append(list, t)
		}
	}
	return list
}

func (l *linter) query(q *rowQuery) {
	l.relation(q.rel)
	for _, br := range q.branches {
		if br.filter != nil {
			l.expr(br.filter)
		}
		for _, x := range br.expansions {
			l.expr(x.arg)
		}
		for _, k := range br.keys {
			for _, e := range k {
				l.expr(e)
			}
		}
	}
}

// relation warns of a table that does not exist.
func (l *linter) relation(rel *relation) {
	if l.seen[rel] {
		return
	}
	l.seen[rel] = true
	if len(l.tags) > 0 && !slices.Contains(l.tags, rel.table.tag) || len(l.matching(rel)) > 0 {
		return
	}
	var names []string
	for _, t := range l.tables {
		if t.Schema == rel.table.schema {
			names = append(names, t.Name)
		}
	}
	if rel.table.wildcard() {
		l.warn(rel.span, "", "no table of the source matches "+rel.span.text())
		return
	}
	l.warn(rel.span, didYouMean(rel.table.name, names), "the source has no table "+rel.table.schema+"."+rel.table.name)
}

// expr warns of columns that none of the matching tables has.
func (l *linter) expr(e *expr) {
	e.walk(func(x *expr) {
		if x.op == opElement && x.rel.arg != nil && x.rel.owner != nil {
			l.expr(x.rel.arg)
		}
		if x.op != opColumn {
			return
		}
		tables := l.matching(x.rel)
		var columns []string
		for _, t := range tables {
			if slices.Contains(t.Columns, x.name) {
				return
			}
			columns = append(columns, t.Columns...)
		}
		if len(tables) > 0 {
			l.warn(x.span, didYouMean(x.name, columns), "table "+tables[0].Name+" has no column "+x.name)
		}
	})
}

// star warns of * on a table without the column id.
func (l *linter) star(q *dataQuery) {
	for _, it := range q.items {
		if it.name == "id" {
			return
		}
	}
	for _, t := range l.matching(q.rel) {
		if !slices.Contains(t.Columns, "id") {
			l.warn(q.rel.span, "select a column AS id", "table "+t.Name+" has no column id")
		}
	}
}
