package syncrules

import (
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// ClientTable is a table as devices have it.
type ClientTable struct {
	Name string
	// Columns without id, which every table has, as text. In the order of the
	// rules, then of the source's columns.
	Columns []ClientColumn
}

// ClientColumn is a column of a ClientTable.
type ClientColumn struct {
	Name string
	// Kind is text, integer or real: what the values are, or text where they may
	// be of several kinds. Values of any other kind are cast to it on reading.
	Kind millrace.ValueKind
	// From is the PostgreSQL type of the source's column, if the column is one and
	// its type is known.
	From string
}

// ClientTables lists what devices get of the given source tables, sorted by name.
// Columns that cannot reach a device (bytea) are left out. A table of several
// queries has the columns of all of them; one whose queries disagree about a
// kind has text, or real where they are all numbers.
func (r *Rules) ClientTables(tables []Table) []ClientTable {
	byName := map[string]*clientShape{}
	for _, d := range r.defs {
		for _, q := range d.data {
			for i := range tables {
				t := &tables[i]
				if !q.rel.table.matches(t.Tag, t.Schema, t.Name) {
					continue
				}
				name := q.typeName
				if name == "" {
					name = t.Name
				}
				s := byName[name]
				if s == nil {
					s = &clientShape{columns: map[string]*clientShapeColumn{}}
					byName[name] = s
				}
				s.query(q, t)
			}
		}
	}
	var list []ClientTable
	for name, s := range byName {
		list = append(list, ClientTable{name, s.list()})
	}
	slices.SortFunc(list, func(a, b ClientTable) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// clientShape is what is known of a client's table so far.
type clientShape struct {
	order   []string
	columns map[string]*clientShapeColumn
}

type clientShapeColumn struct {
	kind kind
	from string
}

// kind is what values an expression has.
type kind uint8

const (
	kindNull kind = iota // none but null
	kindInteger
	kindReal
	kindText
	kindBlob
	kindMixed // several, or unknown
)

// or is the kind of values of which some are of one kind, some of another.
func (k kind) or(o kind) kind {
	number := func(k kind) bool { return k == kindInteger || k == kindReal }
	switch {
	case k == o || o == kindNull:
		return k
	case k == kindNull:
		return o
	case number(k) && number(o):
		return kindReal
	}
	return kindMixed
}

// query adds the columns of a query over a table. As in a row, a later column of
// a name replaces an earlier one, but for the star of bucket definitions.
func (s *clientShape) query(q *dataQuery, t *Table) {
	var order []string
	columns := map[string]clientShapeColumn{}
	set := func(name string, c clientShapeColumn) {
		if _, ok := columns[name]; !ok {
			order = append(order, name)
		}
		columns[name] = c
	}
	for _, it := range q.items {
		if !it.star {
			if it.e.op == opColumn && !slices.Contains(t.Columns, it.e.name) {
				continue // a column the table does not have is left out
			}
			c := clientShapeColumn{kind: t.kindOf(it.e)}
			if it.e.op == opColumn {
				c.from = t.typeOf(it.e.name)
			}
			set(it.name, c)
			continue
		}
		for _, name := range t.Columns {
			if q.plainStar && strings.HasPrefix(name, "_") {
				continue
			}
			c := clientShapeColumn{columnKind(t.typeOf(name)), t.typeOf(name)}
			if before, ok := columns[name]; ok && q.plainStar {
				c = clientShapeColumn{kind: before.kind.or(c.kind)} // where that one is null
			}
			set(name, c)
		}
	}
	for _, name := range order {
		c := columns[name]
		known := s.columns[name]
		if known == nil {
			s.order = append(s.order, name)
			s.columns[name] = &c
			continue
		}
		known.kind = known.kind.or(c.kind)
		if known.from != c.from {
			known.from = ""
		}
	}
}

func (s *clientShape) list() (list []ClientColumn) {
	for _, name := range s.order {
		c := s.columns[name]
		if strings.EqualFold(name, "id") || c.kind == kindBlob {
			continue
		}
		column := ClientColumn{Name: name, Kind: millrace.KindText, From: c.from}
		switch c.kind {
		case kindInteger:
			column.Kind = millrace.KindInteger
		case kindReal:
			column.Kind = millrace.KindReal
		case kindNull, kindText, kindBlob, kindMixed:
		}
		list = append(list, column)
	}
	return list
}

// typeOf is the type of a column; empty if it is not known.
func (t *Table) typeOf(column string) string {
	if i := slices.Index(t.Columns, column); i >= 0 && i < len(t.Types) {
		return t.Types[i]
	}
	return ""
}

// columnKind is what values of a PostgreSQL type become.
func columnKind(typ string) kind {
	switch base := baseType(typ); {
	case base == "float4" || base == "real" || base == "float8" || base == "double precision":
		return kindReal
	case slices.Contains(numberTypes, base):
		return kindInteger
	case base == "bytea":
		return kindBlob
	}
	return kindText
}

// kindOf infers what values an expression over a table's rows has.
func (t *Table) kindOf(e *expr) kind {
	switch e.op {
	case opLiteral:
		return valueKind(e.val)
	case opColumn:
		return columnKind(t.typeOf(e.name))
	case opMeta, opConcat, opArrow, opRequest, opLegacyClaims:
		return kindText
	case opNot, opAnd, opOr, opEqual, opNotEqual, opLess, opLessEqual, opGreater, opGreaterEqual, opSame, opLike,
		opIsNull, opIsTrue, opIsFalse, opBetween, opInList, opInArray, opOverlap, opOverlapList,
		opBitAnd, opBitOr, opShiftLeft, opShiftRight:
		return kindInteger
	case opAdd, opSubtract, opMultiply, opDivide, opModulo, opNegate:
		return t.arithmetic(e.args)
	case opCast:
		switch e.name {
		case "integer":
			return kindInteger
		case "real":
			return kindReal
		case "text":
			return kindText
		case "blob":
			return kindBlob
		case "numeric":
			return t.arithmetic(e.args)
		}
	case opCase, opCaseOf:
		return t.caseKind(e)
	case opCall:
		return t.callKind(e)
	case opBad, opOutput, opElement, opBucket, opArrowText:
	}
	return kindMixed
}

func valueKind(v millrace.Value) kind {
	switch v.Kind() {
	case millrace.KindNull:
		return kindNull
	case millrace.KindInteger:
		return kindInteger
	case millrace.KindReal:
		return kindReal
	case millrace.KindText:
		return kindText
	case millrace.KindBlob:
		return kindBlob
	}
	return kindMixed
}

// arithmetic is an integer if all operands are; what is text is computed with
// as the number it begins with, which may be a real.
func (t *Table) arithmetic(args []*expr) kind {
	for _, a := range args {
		if k := t.kindOf(a); k != kindInteger && k != kindNull {
			return kindReal
		}
	}
	return kindInteger
}

// caseKind is the kind of the alternatives. The arguments are pairs of a
// condition and a value, with a base before them or not, and maybe an else.
func (t *Table) caseKind(e *expr) kind {
	args := e.args
	if e.op == opCaseOf {
		args = args[1:]
	}
	k := kindNull
	for i, a := range args {
		if i%2 == 1 || i == len(args)-1 && len(args)%2 == 1 {
			k = k.or(t.kindOf(a))
		}
	}
	return k
}

// callKinds are the kinds of functions whose values are always of one.
var callKinds = map[string]kind{
	"upper": kindText, "lower": kindText, "hex": kindText, "base64": kindText, "typeof": kindText,
	"json_keys": kindText, "trim": kindText, "ltrim": kindText, "rtrim": kindText, "replace": kindText, "datetime": kindText,
	"st_asgeojson": kindText, "st_astext": kindText,
	"length": kindInteger, "instr": kindInteger, "json_array_length": kindInteger, "json_valid": kindInteger,
	"st_x": kindReal, "st_y": kindReal, "round": kindReal,
	"uuid_blob": kindBlob,
}

func (t *Table) callKind(e *expr) kind {
	if k, ok := callKinds[e.fn.name]; ok {
		return k
	}
	args := e.args
	switch e.fn.name {
	case "substring", "substr":
		if k := t.kindOf(args[0]); k != kindBlob && k != kindMixed {
			return kindText
		}
		return kindMixed // a part of a blob may be one
	case "abs":
		return t.arithmetic(args)
	case "unixepoch":
		if slices.ContainsFunc(args, func(a *expr) bool {
			return a.op != opLiteral || strings.HasPrefix(strings.ToLower(a.val.Str()), "subsec")
		}) && len(args) > 1 {
			return kindReal // with 'subsec'
		}
		return kindInteger
	case "nullif":
		return t.kindOf(args[0])
	case "iif":
		args = args[1:]
	case "ifnull", "coalesce":
	default:
		return kindMixed
	}
	k := kindNull
	for _, a := range args {
		k = k.or(t.kindOf(a))
	}
	return k
}
