package syncrules

import (
	"github.com/millrace/millrace"
)

// definition is a bucket, lookup or event definition.
type definition struct {
	kind            millrace.DefinitionKind
	key, name, hash string
	prefix          string // of bucket names
	data            []*dataQuery
	lookup          *lookupQuery
	payloads        []*payloadQuery // of an event
}

// rowQuery is the part common to data and lookup queries: which rows of a
// table, and under which keys.
type rowQuery struct {
	rel      *relation
	branches []rowBranch
}

// rowBranch is one way for a row to match. A row that matches in several ways
// is put under the keys of each.
type rowBranch struct {
	expansions []*relation // arrays of the row, one after the other
	filter     *expr       // nil if every row matches
	keys       []keyPart
}

// keyPart is a value of a key: expressions that must all give the same.
type keyPart []*expr

// dataQuery puts rows of a table into the buckets of a definition.
type dataQuery struct {
	rowQuery
	typeName string // output table; empty for the name of the source table
	items    []outputItem
	// plainStar is how bucket definitions read *: without columns that begin
	// with an underscore, and not over columns that came before it.
	plainStar bool
}

// outputItem is a column of the output, or all of the table's columns.
type outputItem struct {
	star bool
	name string
	e    *expr
}

// lookupQuery makes the entries of a parameter index.
type lookupQuery struct {
	rowQuery
	outputs []*expr
}

// builder collects what the queries of a file define.
type builder struct {
	rules  *Rules
	file   *rulesFile
	byHash map[string]int // definitions that may be shared
	counts map[string]int
	nextID int
	// uses counts how often the query at hand uses common table expressions,
	// which multiply where they use each other.
	uses int
}

// number counts, from 0, what has the same name.
func (b *builder) number(name string) int {
	n := b.counts[name]
	b.counts[name]++
	return n
}

func (b *builder) relation(at span, p *tablePattern) *relation {
	b.nextID++
	return &relation{id: b.nextID, table: p, span: at}
}

// lookup adds a lookup definition, whose key it asks for, or finds the one
// that means the same.
func (b *builder) lookup(key func() string, name string, q *lookupQuery) int {
	hash := b.lookupHash(q)
	if i, ok := b.byHash[hash]; ok {
		return i
	}
	b.rules.defs = append(b.rules.defs, &definition{kind: millrace.LookupDefinition, key: key(), name: name, hash: hash, lookup: q})
	i := len(b.rules.defs) - 1
	b.byHash[hash] = i
	return i
}

// finish computes what needs all queries: hashes of bucket definitions and
// the list of tables.
func (b *builder) finish() {
	r := b.rules
	for _, res := range r.resolvers {
		res.program = compileResolver(res, r.exact)
	}
	for _, d := range r.defs {
		switch {
		case d.kind == millrace.EventDefinition:
			d.hash = b.eventHash(d)
		case d.hash == "":
			d.hash = b.bucketHash(d)
		}
		for _, q := range d.data {
			r.addTable(q.rel.table)
		}
		if d.lookup != nil {
			r.addTable(d.lookup.rel.table)
		}
		for _, q := range d.payloads {
			r.addTable(q.rel.table)
		}
	}
}

func (r *Rules) addTable(p *tablePattern) {
	for _, o := range r.tables {
		if o.same(p) {
			return
		}
	}
	r.tables = append(r.tables, p)
}

// singleTable tells whether the output type of a query is fed by that query's
// table alone, and by that table under one name.
func (d *definition) singleTable(q *dataQuery) bool {
	if q.rel.table.wildcard() {
		return false
	}
	for _, o := range d.data {
		feeds := o.typeName == q.typeName || o.typeName == "" && o.rel.table.namePrefix
		if feeds && !o.rel.table.same(q.rel.table) {
			return false
		}
	}
	return true
}
