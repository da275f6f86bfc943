package syncrules

import (
	"sort"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// Table is a source table with its columns as rows will have them. An empty
// Tag is the default connection. Source is the name of the source the table is
// in, which several sources with one tag are told apart by.
type Table struct {
	Tag, Schema, Name string
	Source            string
	Columns           []string
	// Types are the columns' PostgreSQL types, as format_type or the catalog
	// name them ("numeric(10,2)", "int8"). Only Check looks at them; nil if
	// they are not known.
	Types []string
}

// TablePlan evaluates the rows of one table with one list of columns. It is
// immutable and safe for concurrent use.
type TablePlan struct {
	defs        []int
	needed      []bool
	queries     []*boundQuery
	projections []*projection
	vars        int // most variables any branch has
	exact       bool
}

// boundQuery is a data or lookup query with its columns found.
type boundQuery struct {
	def      int
	branches []boundBranch
	// apart: alternatives are evaluated on their own, so that one that fails
	// for a row leaves the others.
	apart bool
	// Of data queries.
	prefix     []byte // bucket name up to the values
	typeName   string
	single     bool
	projection int // -1 for other queries
	// Of lookup queries.
	outputs []evalFn
	// Of payload queries: what gives each of markColumns. Nil for others.
	mark *[len(markColumns)]evalFn
}

type boundBranch struct {
	before     evalFn // condition on the row; nil if there is none
	expansions []boundExpansion
	after      evalFn // condition on the row and its elements; nil if there is none
	keys       [][]evalFn
}

// boundExpansion is json_each over a value of the row: its elements go into
// two variables.
type boundExpansion struct {
	arg      evalFn
	key, val int
	mode     eachMode
}

// Bind prepares the evaluation of a table's rows: call it once for a table
// and its columns. nil means that no definition uses the table.
func (r *Rules) Bind(t Table) *TablePlan {
	b := &binding{plan: &TablePlan{needed: make([]bool, len(t.Columns)), exact: r.exact}, table: t, columns: map[string]int{}, shared: map[string]int{}}
	for i, c := range t.Columns {
		b.columns[c] = i
	}
	for i, d := range r.defs {
		uses := false
		for _, q := range d.data {
			if q.rel.table.matches(t.Tag, t.Schema, t.Name) {
				b.data(i, d, q)
				uses = true
			}
		}
		if d.lookup != nil && d.lookup.rel.table.matches(t.Tag, t.Schema, t.Name) {
			b.lookup(i, d.lookup)
			uses = true
		}
		for _, q := range d.payloads {
			if q.rel.table.matches(t.Tag, t.Schema, t.Name) {
				b.payload(i, q)
				uses = true
			}
		}
		if uses {
			b.plan.defs = append(b.plan.defs, i)
		}
	}
	if b.plan.defs == nil {
		return nil
	}
	return b.plan
}

// Definitions lists, ascending, the definitions that read the table.
func (p *TablePlan) Definitions() []int { return p.defs }

// NeededColumns tells for each column whether evaluation looks at it.
func (p *TablePlan) NeededColumns() []bool { return p.needed }

// binding is the state of one Bind.
type binding struct {
	plan    *TablePlan
	table   Table
	columns map[string]int
	shared  map[string]int // projections by meaning
}

// compilerFor finds values of a query's table, with the elements of the given
// expansions in variables.
func (b *binding) compilerFor(table *tablePattern, vars map[*relation]int) *compiler {
	return &compiler{
		exact: b.plan.exact,
		slot: func(e *expr) (int, bool, bool) {
			if e.op == opElement {
				i, ok := vars[e.rel]
				if e.name == "value" {
					i++
				}
				return i, false, ok
			}
			i, ok := b.columns[e.name]
			if ok {
				b.plan.needed[i] = true
			}
			return i, true, ok
		},
		meta: func(e *expr) string {
			switch e.name {
			case "schema":
				return b.table.Schema
			case "table_name":
				return b.table.Name
			case "source_name":
				return b.table.Source
			}
			return strings.TrimPrefix(b.table.Name, table.name)
		},
	}
}

func (b *binding) branches(q *rowQuery) (list []boundBranch, vars map[*relation]int) {
	vars = map[*relation]int{}
	for _, br := range q.branches {
		n := 0
		for _, x := range br.expansions {
			vars[x] = n
			n += 2
		}
		b.plan.vars = max(b.plan.vars, n)
		c := b.compilerFor(q.rel.table, vars)
		bound := boundBranch{}
		before, after := splitFilter(br.filter)
		if before != nil {
			bound.before = c.compile(before)
		}
		if after != nil {
			bound.after = c.compile(after)
		}
		for _, x := range br.expansions {
			bound.expansions = append(bound.expansions, boundExpansion{c.compile(x.arg), vars[x], vars[x] + 1, x.mode})
		}
		for _, k := range br.keys {
			var fns []evalFn
			for _, e := range k {
				fns = append(fns, c.compile(e))
			}
			bound.keys = append(bound.keys, fns)
		}
		list = append(list, bound)
	}
	return list, vars
}

// splitFilter parts a conjunction into what depends on the row alone and what
// needs its elements.
func splitFilter(e *expr) (before, after *expr) {
	if e == nil {
		return nil, nil
	}
	var first, rest []*expr
	for _, part := range conjuncts(e) {
		if part.any(func(x *expr) bool { return x.op == opElement }) {
			rest = append(rest, part)
		} else {
			first = append(first, part)
		}
	}
	return conjoin(first), conjoin(rest)
}

// conjuncts are the parts of an AND, in order.
func conjuncts(e *expr) []*expr {
	if e.op != opAnd {
		return []*expr{e}
	}
	return append(conjuncts(e.args[0]), conjuncts(e.args[1])...)
}

func (b *binding) data(def int, d *definition, q *dataQuery) {
	bound := &boundQuery{def: def, apart: !q.plainStar, prefix: []byte(d.prefix + "["), typeName: q.typeName, single: d.singleTable(q)}
	if bound.typeName == "" {
		bound.typeName = b.table.Name
	}
	bound.branches, _ = b.branches(&q.rowQuery)
	key := b.projectionKey(q)
	i, ok := b.shared[key]
	if !ok {
		i = len(b.plan.projections)
		b.plan.projections = append(b.plan.projections, b.projection(q))
		b.shared[key] = i
	}
	bound.projection = i
	b.plan.queries = append(b.plan.queries, bound)
}

func (b *binding) lookup(def int, q *lookupQuery) {
	bound := &boundQuery{def: def, projection: -1}
	branches, vars := b.branches(&q.rowQuery)
	bound.branches = branches
	c := b.compilerFor(q.rel.table, vars)
	for _, o := range q.outputs {
		bound.outputs = append(bound.outputs, c.compile(o))
	}
	b.plan.queries = append(b.plan.queries, bound)
}

// projection writes the JSON object of a row.
type projection struct {
	columns []projectedColumn
	id      int // index of the column named id, -1 if there is none
}

type projectedColumn struct {
	name string
	key  []byte // "name":
	col  int    // column of the row, or -1
	fn   evalFn // if col is -1
	// fallback is a column of the row that is taken where fn or col gives
	// null; -1 if there is none.
	fallback int
}

// projectionKey is equal for queries that select the same from the table.
func (b *binding) projectionKey(q *dataQuery) string {
	c := canon{rels: map[*relation]string{q.rel: "t"}}
	c.flag(q.plainStar)
	c.pattern(q.rel.table)
	for _, it := range q.items {
		c.flag(it.star)
		c.word(it.name)
		if it.e != nil {
			c.expr(it.e)
		}
	}
	return c.b.String()
}

func (b *binding) projection(q *dataQuery) *projection {
	p := &projection{id: -1}
	index := map[string]int{}
	c := b.compilerFor(q.rel.table, nil)
	set := func(col projectedColumn) {
		if i, ok := index[col.name]; ok {
			p.columns[i] = col
			return
		}
		index[col.name] = len(p.columns)
		p.columns = append(p.columns, col)
	}
	for _, it := range q.items {
		if !it.star {
			col := projectedColumn{name: it.name, col: -1, fallback: -1}
			if it.e.op == opColumn {
				i, _, ok := c.slot(it.e)
				if !ok && c.exact {
					col.fn = c.compile(it.e) // which fails
					set(col)
					continue
				}
				if !ok {
					continue // a column the row does not have is left out
				}
				col.col = i
			} else {
				col.fn = c.compile(it.e)
			}
			set(col)
			continue
		}
		for i, name := range b.table.Columns {
			if q.plainStar && strings.HasPrefix(name, "_") {
				continue
			}
			b.plan.needed[i] = true
			if at, ok := index[name]; ok && q.plainStar {
				p.columns[at].fallback = i
				continue
			}
			set(projectedColumn{name: name, col: i, fallback: -1})
		}
	}
	sortIndexesFirst(p.columns, func(c projectedColumn) string { return c.name })
	for i := range p.columns {
		col := &p.columns[i]
		col.key = append(millrace.AppendTextJSON(nil, col.name), ':')
		if col.name == "id" {
			p.id = i
		}
	}
	return p
}

// sortIndexesFirst puts names that look like array indexes before the others,
// ascending, as JavaScript objects have them; the rest keeps its order.
func sortIndexesFirst[T any](list []T, name func(T) string) {
	index := func(t T) (int64, bool) {
		s := name(t)
		if !isIndex(s) {
			return 0, false
		}
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && n < 1<<32-1
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, aok := index(list[i])
		b, bok := index(list[j])
		if aok != bok {
			return aok
		}
		return aok && a < b
	})
}
