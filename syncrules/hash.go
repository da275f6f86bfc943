package syncrules

import (
	"crypto/sha256"
	"encoding/hex"
	"sort"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// hashFormat starts what is hashed: raise it when the serialisation itself
// changes.
const hashFormat = "millrace-definition/1"

// valueFormat is the version of the mapping of source values and of the JSON
// form of rows.
const valueFormat = "values/1"

// canon writes the meaning of definitions in a form that does not depend on
// how they were written. Every text is preceded by its length, so nothing is
// ambiguous.
type canon struct {
	b    strings.Builder
	rels map[*relation]string
}

func (c *canon) word(s string) {
	c.b.WriteString(strconv.Itoa(len(s)))
	c.b.WriteByte(':')
	c.b.WriteString(s)
}

func (c *canon) flag(v bool) { c.word(strconv.FormatBool(v)) }

func (c *canon) value(v millrace.Value) {
	c.word(v.Kind().String())
	switch v.Kind() {
	case millrace.KindInteger:
		c.word(strconv.FormatInt(v.Int(), 10))
	case millrace.KindReal:
		c.word(strconv.FormatFloat(v.Float(), 'g', -1, 64))
		if v.Str() != "" {
			c.word(v.Str())
		}
	default:
		c.word(v.Str())
	}
}

func (c *canon) relation(r *relation) {
	if name, ok := c.rels[r]; ok {
		c.word(name)
		return
	}
	c.b.WriteByte('<')
	if r.table != nil {
		c.pattern(r.table)
	}
	if r.arg != nil {
		c.word("json_each@1")
		c.word(itoa(int(r.mode)))
		c.flag(r.legacyNull)
		c.expr(r.arg)
	}
	c.b.WriteByte('>')
}

func (c *canon) pattern(p *tablePattern) {
	c.word(p.tag)
	c.word(p.schema)
	c.flag(p.schemaPrefix)
	c.word(p.name)
	c.flag(p.namePrefix)
}

func (c *canon) expr(e *expr) {
	if e == nil {
		c.word("none")
		return
	}
	c.b.WriteByte('(')
	c.word(opNames[e.op])
	switch e.op {
	case opLiteral:
		c.value(e.val)
	case opColumn, opElement, opMeta, opOutput:
		c.relation(e.rel)
		c.word(e.name)
	case opCall:
		c.word(e.fn.name + "@" + strconv.Itoa(e.fn.version))
	case opArrow, opArrowText:
		c.word(e.name)
		c.word(strconv.Itoa(int(e.path)))
	default:
		c.word(e.name)
		if !e.val.IsNull() {
			c.value(e.val)
		}
	}
	for _, a := range e.args {
		c.expr(a)
	}
	c.b.WriteByte(')')
}

// canonText is the meaning of an expression as a text; equal texts mean equal
// expressions over the same relations.
func canonText(e *expr, rels map[*relation]string) string {
	c := canon{rels: rels}
	c.expr(e)
	return c.b.String()
}

// identify is canonText within one query or file: relations are told apart by
// their number.
func identify(e *expr) string {
	rels := map[*relation]string{}
	e.walk(func(x *expr) {
		if x.rel != nil {
			rels[x.rel] = "#" + strconv.Itoa(x.rel.id)
		}
	})
	return canonText(e, rels)
}

func (c *canon) rowQuery(q *rowQuery) {
	c.pattern(q.rel.table)
	branches := make([]string, len(q.branches))
	for i, br := range q.branches {
		branches[i] = branchText(q.rel, br)
	}
	sort.Strings(branches)
	for _, br := range branches {
		c.word(br)
	}
}

// branchText writes a branch with its relations numbered by position.
func branchText(table *relation, br rowBranch) string {
	c := canon{rels: map[*relation]string{table: "t"}}
	for i, x := range br.expansions {
		c.word("expand")
		c.word(itoa(int(x.mode)))
		c.expr(x.arg)
		c.rels[x] = "e" + strconv.Itoa(i)
	}
	c.expr(br.filter)
	for _, k := range br.keys {
		c.b.WriteByte('[')
		for _, e := range k {
			c.expr(e)
		}
		c.b.WriteByte(']')
	}
	return c.b.String()
}

// dataText writes a data query.
func dataText(q *dataQuery) string {
	c := canon{rels: map[*relation]string{q.rel: "t"}}
	c.rowQuery(&q.rowQuery)
	c.word("as")
	c.word(q.typeName)
	c.flag(q.plainStar)
	for _, it := range q.items {
		if it.star {
			c.word("*")
			continue
		}
		c.word(it.name)
		c.expr(it.e)
	}
	return c.b.String()
}

func (b *builder) digest(kind string, parts ...string) string {
	var c canon
	c.word(hashFormat)
	c.word(valueFormat)
	o := b.rules.options
	c.flag(o.TimestampsISO8601)
	c.flag(o.CustomPostgresTypes)
	if o.TimestampsISO8601 {
		c.word(strconv.Itoa(o.TimestampPrecision))
	}
	if b.rules.exact {
		c.word("sqlite")
	}
	c.word(kind)
	for _, p := range parts {
		c.word(p)
	}
	sum := sha256.Sum256([]byte(c.b.String()))
	return hex.EncodeToString(sum[:])
}

// bucketHash covers the bucket names, which hold the prefix, and the data
// queries in any order. Parameter queries and priorities do not change what
// is in a bucket.
func (b *builder) bucketHash(d *definition) string {
	texts := dataTexts(d.data)
	return b.digest("bucket", append([]string{d.prefix}, texts...)...)
}

func dataTexts(queries []*dataQuery) []string {
	texts := make([]string, len(queries))
	for i, q := range queries {
		texts[i] = dataText(q)
	}
	sort.Strings(texts)
	return texts
}

// eventHash covers the event and its payload queries in any order.
func (b *builder) eventHash(d *definition) string {
	texts := make([]string, len(d.payloads))
	for i, q := range d.payloads {
		c := canon{rels: map[*relation]string{q.rel: "t"}}
		c.rowQuery(&q.rowQuery)
		for _, e := range q.columns {
			c.expr(e)
		}
		texts[i] = c.b.String()
	}
	sort.Strings(texts)
	return b.digest("event", append([]string{d.name}, texts...)...)
}

func (b *builder) lookupHash(q *lookupQuery) string {
	c := canon{rels: map[*relation]string{q.rel: "t"}}
	c.rowQuery(&q.rowQuery)
	for i, br := range q.branches {
		for j, x := range br.expansions {
			c.rels[x] = "b" + strconv.Itoa(i) + "e" + strconv.Itoa(j)
		}
	}
	c.word("outputs")
	for _, o := range q.outputs {
		c.expr(o)
	}
	return b.digest("lookup", c.b.String())
}
