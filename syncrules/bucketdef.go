package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

// bucketDefinition compiles an entry of bucket_definitions.
func (b *builder) bucketDefinition(c *bucketConfig) {
	def := &definition{kind: millrace.BucketDefinition, key: "bucket:" + c.name, name: c.name, prefix: c.name}
	b.rules.defs = append(b.rules.defs, def)
	index := len(b.rules.defs) - 1
	priority := 3
	if c.priority != nil {
		priority = *c.priority
	}
	var names []string
	known := c.ok
	if c.static {
		b.rules.resolvers = append(b.rules.resolvers, &resolver{def: index, name: c.name, auto: true, accept: c.accept, at: c.at, priority: priority})
	}
	for i, q := range c.params {
		if q == nil {
			continue
		}
		p := b.parameterQuery(c, q, i+1)
		if p == nil {
			known = false
			continue
		}
		r := &resolver{def: index, name: c.name, auto: true, accept: c.accept, at: p.at, priority: priority, filter: p.filter, stages: p.stages}
		if p.priority != nil {
			r.priority = *p.priority
		}
		if i == 0 {
			names = p.names
		}
		if !b.orderValues(r, p, names, known) {
			known = false
			continue
		}
		b.rules.resolvers = append(b.rules.resolvers, r)
	}
	for _, q := range c.data {
		if d := b.dataQuery(q, names, known); d != nil {
			def.data = append(def.data, d)
		}
	}
}

// orderValues puts the values of a parameter query in the order of the
// definition's first one. Both must name the same.
func (b *builder) orderValues(r *resolver, p *parameterQuery, names []string, known bool) bool {
	if !known {
		return false
	}
	for _, n := range names {
		for i, have := range p.names {
			if have == n {
				r.values = append(r.values, keyPart{p.values[i]})
			}
		}
	}
	if len(r.values) != len(names) || len(p.names) != len(names) {
		p.at.fatal("all parameter queries of a definition name the same parameters: "+strings.Join(names, ", "),
			"parameters differ from those of the first query")
		return false
	}
	return true
}

// bucketScope resolves names in a query of a bucket definition.
type bucketScope struct {
	b *builder
	// rel is the table or json_each of the query; nil if it has none.
	rel   *relation
	name  string // what the table is called in the query
	data  bool   // a data query, else a parameter query
	event bool   // a payload of an event definition
}

func (b *builder) bucketLowerer(s *bucketScope) *lowerer {
	return &lowerer{legacyJSON: b.file.legacyJSON, exact: b.file.exact, language: b.rules.language, column: s.column, call: s.call, functions: requestFunctions}
}

func (s *bucketScope) column(n *nameExpr) *expr {
	switch {
	case n.qual == nil || s.rel != nil && n.qual.name == s.name:
		if s.rel == nil {
			n.span.fatal("add FROM with a table", "column %s without a table", n.name.text())
			return badExpr
		}
		return s.relationColumn(n)
	case n.qual.name == "bucket" && s.data && !s.event:
		return &expr{op: opBucket, span: n.span, name: n.name.name}
	case n.qual.name == "token_parameters" && !s.data:
		return &expr{op: opLegacyClaims, span: n.span, name: "token", val: millrace.Text(n.name.name)}
	case n.qual.name == "user_parameters" && !s.data:
		return &expr{op: opLegacyClaims, span: n.span, name: "connection", val: millrace.Text(n.name.name)}
	case n.qual.name == "bucket":
		n.span.fatal("bucket parameters can be used in data queries only", "bucket.%s cannot be used here", n.name.name)
		return badExpr
	}
	hint := didYouMean(n.qual.name, []string{s.name, "bucket"})
	n.span.fatal(hint, "unknown table %s", n.qual.text())
	return badExpr
}

func (s *bucketScope) relationColumn(n *nameExpr) *expr {
	if s.rel.table == nil {
		if n.name.name != "key" && n.name.name != "value" {
			n.span.fatal("json_each has the columns key and value", "unknown column %s", n.name.text())
			return badExpr
		}
		return &expr{op: opElement, span: n.span, rel: s.rel, name: n.name.name}
	}
	if n.name.name == "_table_suffix" && s.rel.table.namePrefix {
		return &expr{op: opMeta, span: n.span, rel: s.rel, name: "table_suffix"}
	}
	if n.name.name == "_source_name" {
		return &expr{op: opMeta, span: n.span, rel: s.rel, name: "source_name"}
	}
	return &expr{op: opColumn, span: n.span, rel: s.rel, name: n.name.name}
}

var requestFunctions = []string{"request.user_id", "request.jwt", "request.parameters", "request.parameter"}

// call resolves the functions of the request.
func (s *bucketScope) call(c *callExpr) *expr {
	if c.schema == nil || c.schema.name != "request" {
		return nil
	}
	counts := map[string]int{"user_id": 0, "jwt": 0, "parameters": 0, "parameter": 1}
	want, ok := counts[c.name.name]
	switch {
	case !ok:
		return nil
	case s.data:
		c.span.fatal("select the value in a parameter query and use bucket.…", "request functions are not available in data queries")
		return badExpr
	case len(c.args) != want:
		c.span.fatal("", "%s takes %s, not %d", c.fn.text(), plural(want), len(c.args))
		return badExpr
	}
	switch c.name.name {
	case "user_id":
		return requestMember(c.span, "token", "sub")
	case "jwt":
		return &expr{op: opRequest, span: c.span, name: "token"}
	case "parameters":
		return &expr{op: opRequest, span: c.span, name: "connection"}
	}
	return requestParameter(c, "connection")
}

// requestMember is one member of a part of the request.
func requestMember(at span, part, key string) *expr {
	mode := pathKey
	if strings.HasPrefix(key, "$") {
		mode = pathDollar
	}
	return &expr{op: opArrowText, span: at, name: key, path: mode, args: []*expr{{op: opRequest, span: at, name: part}}}
}

// requestParameter is x.parameter('key').
func requestParameter(c *callExpr, part string) *expr {
	key, ok := c.args[0].(*litExpr)
	if !ok || key.bad || key.val.Kind() != millrace.KindText {
		c.args[0].at().fatal("write the name as a text in single quotes", "the parameter's name must be a literal")
		return badExpr
	}
	return requestMember(c.span, part, key.val.Str())
}

// bucketSource checks that a query reads at most one plain table.
func bucketSource(sel *selectStmt) (s *source, ok bool) {
	if sel.distinct != nil {
		sel.distinct.fatal("", "DISTINCT cannot be used")
		return nil, false
	}
	switch {
	case len(sel.sources) == 0:
		return nil, true
	case len(sel.sources) > 1:
		at := sel.sources[0].at.to(sel.sources[len(sel.sources)-1].span)
		at.fatal("use a stream for joins", "a query of a bucket definition reads one table")
		return nil, false
	case sel.sources[0].sub != nil:
		sel.sources[0].span.fatal("use a stream for subqueries", "a query of a bucket definition reads a table, not a subquery")
		return nil, false
	}
	return &sel.sources[0], true
}
