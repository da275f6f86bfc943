package syncrules

import "github.com/millrace/millrace"

// opcode is what an expr does with its arguments.
type opcode uint8

// The opcodes. Their names enter definition hashes: see opNames.
const (
	opBad          opcode = iota // refused, already reported
	opLiteral                    // val
	opColumn                     // column name of table rel
	opOutput                     // number name of the values a lookup stage yields
	opElement                    // "key" or "value" of table function rel
	opMeta                       // "schema", "table_name", "table_suffix" or "source_name" of table rel
	opRequest                    // whole JSON text of "token", "connection" or "subscription"
	opLegacyClaims               // claims as the token_parameters and user_parameters tables showed them
	opBucket                     // bucket parameter name
	opNot
	opAnd
	opOr
	opEqual
	opNotEqual
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opSame // x IS NOT DISTINCT FROM y
	opLike // x LIKE pattern
	opIsNull
	opIsTrue
	opIsFalse
	opAdd
	opSubtract
	opMultiply
	opDivide
	opModulo
	opBitAnd
	opBitOr
	opShiftLeft
	opShiftRight
	opConcat
	opNegate
	opCast        // to type name
	opArrow       // args[0] -> path
	opArrowText   // args[0] ->> path
	opCase        // [cond, then]… [else]; pairs first
	opCaseOf      // base, [value, then]… [else]
	opBetween     // x, lo, hi
	opInList      // x, members…
	opInArray     // x, JSON array text
	opOverlap     // JSON array text, JSON array text
	opOverlapList // JSON array text, members…
	opCall        // fn
)

// opNames are the opcodes as they are written into definition hashes. The
// number behind the @ is the version of the behaviour: raise it with every
// change of an operator's results, so that definitions using it get a new
// hash.
var opNames = [...]string{
	opBad: "bad@0", opLiteral: "literal@1", opColumn: "column@1", opElement: "element@1", opOutput: "output@1", opMeta: "meta@1",
	opRequest: "request@1", opLegacyClaims: "claims@1", opBucket: "bucket@1",
	opNot: "not@1", opAnd: "and@1", opOr: "or@1", opEqual: "eq@1", opNotEqual: "ne@1", opLess: "lt@1", opLessEqual: "le@1",
	opGreater: "gt@1", opGreaterEqual: "ge@1", opSame: "same@1", opLike: "like@1", opIsNull: "isnull@1", opIsTrue: "istrue@1", opIsFalse: "isfalse@1",
	opAdd: "add@1", opSubtract: "sub@1", opMultiply: "mul@1", opDivide: "div@1", opModulo: "mod@1",
	opBitAnd: "bitand@1", opBitOr: "bitor@1", opShiftLeft: "shl@1", opShiftRight: "shr@1", opConcat: "concat@1",
	opNegate: "neg@1", opCast: "cast@2", opArrow: "arrow@1", opArrowText: "arrowtext@2", opCase: "case@1", opCaseOf: "caseof@1",
	opBetween: "between@1", opInList: "inlist@1", opInArray: "inarray@1", opOverlap: "overlap@1", opOverlapList: "overlaplist@1", opCall: "call@1",
}

// expr is an expression with its names resolved. It is immutable once built
// and independent of how it was written.
type expr struct {
	op opcode
	span
	args []*expr
	val  millrace.Value
	name string    // see the opcodes; the key of a JSON operator
	path pathMode  // how name is read by a JSON operator
	rel  *relation // of opColumn, opElement, opMeta
	fn   *function // of opCall
}

// relation is one use of a table or of a table-valued function in a query.
type relation struct {
	id    int
	table *tablePattern // nil for a function
	// arg is the argument of json_each; owner the table whose rows it depends
	// on, nil if it depends on the request or on nothing.
	arg   *expr
	owner *relation
	mode  eachMode
	// legacyNull: an element that is JSON null is the text null.
	legacyNull bool
	// implicit: made by IN over a constant array, apart: by &&.
	implicit, apart bool
	typeName        string // output table of a table's rows; empty for its own name
	span
}

// eachMode says what json_each makes of an argument that is not an array.
type eachMode uint8

const (
	eachAny     eachMode = iota // objects and scalars have rows too; no JSON fails
	eachArray                   // fails
	eachLenient                 // no rows
)

// base is the relation whose rows a relation is made from.
func (r *relation) base() *relation {
	if r.owner != nil {
		return r.owner
	}
	return r
}

var badExpr = &expr{op: opBad}

// walk calls f for e and everything below it.
func (e *expr) walk(f func(*expr)) {
	f(e)
	for _, a := range e.args {
		a.walk(f)
	}
}

// any tells whether f holds for e or anything below it.
func (e *expr) any(f func(*expr) bool) bool {
	if f(e) {
		return true
	}
	for _, a := range e.args {
		if a.any(f) {
			return true
		}
	}
	return false
}

func (e *expr) isBad() bool { return e.any(func(x *expr) bool { return x.op == opBad }) }

// usesRequest tells whether e depends on the request.
func (e *expr) usesRequest() bool {
	return e.any(func(x *expr) bool {
		return x.op == opRequest || x.op == opLegacyClaims || x.op == opElement && x.rel.owner == nil && x.rel.arg.usesRequest()
	})
}

// usesRow tells whether e depends on a table's rows.
func (e *expr) usesRow() bool {
	return e.any(func(x *expr) bool {
		return x.op == opColumn || x.op == opMeta || x.op == opElement && x.rel.owner != nil
	})
}

func literal(at span, v millrace.Value) *expr { return &expr{op: opLiteral, span: at, val: v} }

func not(e *expr) *expr { return &expr{op: opNot, span: e.span, args: []*expr{e}} }

// conjoin makes one expression of several that must all hold; nil if there
// are none.
func conjoin(list []*expr) *expr {
	var all *expr
	for _, e := range list {
		if all == nil {
			all = e
		} else {
			all = &expr{op: opAnd, span: all.span, args: []*expr{all, e}}
		}
	}
	return all
}
