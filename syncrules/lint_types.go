package syncrules

import (
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// baseType is a PostgreSQL type without its modifiers, under the catalog's
// name.
func baseType(t string) string {
	t = strings.ToLower(strings.TrimSpace(t))
	if i := strings.IndexByte(t, '('); i >= 0 {
		if j := strings.IndexByte(t[i:], ')'); j >= 0 {
			t = strings.TrimSpace(t[:i]) + t[i+j+1:]
		}
	}
	if long, ok := map[string]string{
		"bigint": "int8", "timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp",
		"time without time zone": "time", "decimal": "numeric",
	}[t]; ok {
		return long
	}
	return t
}

// columnType is the type of a column in the first matching table that has it;
// empty if it is not known.
func (l *linter) columnType(rel *relation, name string) string {
	for _, t := range l.matching(rel) {
		if i := slices.Index(t.Columns, name); i >= 0 && i < len(t.Types) {
			return baseType(t.Types[i])
		}
	}
	return ""
}

// types warns of what a data query selects or computes from columns whose
// type does not pass unchanged.
func (l *linter) types(q *dataQuery) {
	var exprs []*expr
	var named []string
	for _, it := range q.items {
		if it.star {
			continue
		}
		named = append(named, it.name)
		exprs = append(exprs, it.e)
		if it.e.op == opColumn {
			l.selected(q, it.e.span, it.e.name)
		}
	}
	for _, it := range q.items {
		if !it.star {
			continue
		}
		for _, t := range l.matching(q.rel) {
			for _, c := range t.Columns {
				if !slices.Contains(named, c) && (!q.plainStar || !strings.HasPrefix(c, "_")) {
					l.selected(q, q.rel.span, c)
				}
			}
		}
	}
	l.numbers(&q.rowQuery, exprs)
}

// selected warns of a column that reaches clients.
func (l *linter) selected(q *dataQuery, at span, column string) {
	switch typ := l.columnType(q.rel, column); typ {
	case "bytea":
		l.warn(at, "select base64("+column+") AS "+column, "column "+column+" is binary (bytea) and is left out of the row")
	case "bytea[]":
		l.warn(at, "keep each in a row of its own and select base64()", "column "+column+" is an array of binary values (bytea), which all become null")
	case "int8":
		if full := q.rel.table.name + "." + column; !slices.Contains(l.large, full) {
			if l.large = append(l.large, full); len(l.large) == 1 {
				l.largeAt = at
			}
		}
	case "timestamp", "timestamptz", "time":
		if digits := l.options.TimestampPrecision; l.options.TimestampsISO8601 && digits < 6 {
			l.warn(at, "leave timestamp_max_precision out to keep microseconds",
				"column "+column+" ("+typ+") is cut to "+itoa(digits)+" fractional digits by timestamp_max_precision")
		}
	}
}

// largeIntegers warns, once, of the 64-bit columns that clients get.
func (l *linter) largeIntegers() {
	if len(l.large) == 0 {
		return
	}
	const shown = 5
	list := strings.Join(l.large[:min(shown, len(l.large))], ", ")
	if n := len(l.large) - shown; n > 0 {
		list += " and " + itoa(n) + " more"
	}
	l.warn(l.largeAt, "where values may be larger, select CAST(column AS text) AS column",
		"JavaScript clients read integers beyond 2^53 inexactly; of type bigint are "+list)
}

// numbers warns of numeric columns, which are text here, in places where a
// number is expected.
func (l *linter) numbers(q *rowQuery, exprs []*expr) {
	for _, br := range q.branches {
		if br.filter != nil {
			exprs = append(exprs, br.filter)
		}
		for _, k := range br.keys {
			exprs = append(exprs, k...)
		}
	}
	isNumeric := func(x *expr) bool { return x.op == opColumn && l.columnType(x.rel, x.name) == "numeric" }
	for _, e := range exprs {
		e.walk(func(x *expr) {
			switch x.op {
			case opAdd, opSubtract, opMultiply, opDivide, opModulo, opNegate:
				for _, a := range x.args {
					if isNumeric(a) {
						l.warn(a.span, "", "numeric column "+a.name+" is computed with as an integer or double: digits beyond the 15th may be lost")
					}
				}
			case opCast:
				if isNumeric(x.args[0]) && x.name != "text" && x.name != "blob" {
					l.warn(x.span, "", "casting numeric column "+x.args[0].name+" to "+x.name+" may lose digits: a double holds 15")
				}
			case opEqual, opNotEqual, opLess, opLessEqual, opGreater, opGreaterEqual, opBetween, opInList:
				l.neverEqual(x)
				for i, a := range x.args {
					if !isNumeric(a) {
						continue
					}
					for j, o := range x.args {
						if j != i && o.op == opLiteral && isNumber(o.val) {
							l.warn(a.span, "compare CAST("+a.name+" AS real), or cast the column in the source",
								"numeric column "+a.name+" is text here, which never equals a number and is greater than all of them")
							return
						}
					}
				}
			}
		})
	}
}

// Types whose values are numbers, and some whose values are texts: what people
// compare with literals.
var (
	numberTypes = []string{"int2", "smallint", "int4", "integer", "int8", "oid", "bool", "boolean", "float4", "real", "float8", "double precision"}
	textTypes   = []string{"text", "character varying", "varchar", "character", "bpchar", "citext", "name", "uuid", "date", "timestamp", "timestamptz", "json", "jsonb"}
)

// neverEqual warns of a column in a comparison with a literal of a kind that its
// values never have: there is no conversion.
func (l *linter) neverEqual(x *expr) {
	for i, a := range x.args {
		if a.op != opColumn {
			continue
		}
		typ := l.columnType(a.rel, a.name)
		for j, o := range x.args {
			if j == i || o.op != opLiteral {
				continue
			}
			switch {
			case slices.Contains(numberTypes, typ) && o.val.Kind() == millrace.KindText:
				hint := "write the number without quotes"
				if typ == "bool" || typ == "boolean" {
					hint = "write TRUE or FALSE without quotes"
				}
				l.warn(o.span, hint, "column "+a.name+" ("+typ+") is a number here, which never equals a text and is less than every one")
				return
			case slices.Contains(textTypes, typ) && isNumber(o.val):
				l.warn(o.span, "write it in quotes", "column "+a.name+" ("+typ+") is text here, which never equals a number and is greater than every one")
				return
			}
		}
	}
}
