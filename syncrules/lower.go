package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

// lowerer turns parsed expressions into resolved ones. What is wrong with
// them it reports; the result is then bad.
type lowerer struct {
	streams    bool
	legacyJSON bool // fixed_json_extract is off
	exact      bool // unstable_sqlite_expression_engine
	language   int
	// column resolves a name, call a function with a schema, or returns nil
	// if it does not know the function.
	column func(*nameExpr) *expr
	call   func(*callExpr) *expr
	// functions are names call knows, for hints.
	functions []string
}

var castTypes = []string{"text", "integer", "real", "numeric", "blob"}

// castAliases are PostgreSQL's names of the types, in streams.
var castAliases = map[string]string{
	"int": "integer", "smallint": "integer", "bigint": "integer", "int2": "integer", "int4": "integer", "int8": "integer",
	"varchar": "text", "float": "real", "float4": "real", "float8": "real", "decimal": "numeric", "bytea": "blob",
}

var binaryOps = map[string]opcode{
	"=": opEqual, "<": opLess, "<=": opLessEqual, ">": opGreater, ">=": opGreaterEqual,
	"+": opAdd, "-": opSubtract, "*": opMultiply, "/": opDivide, "%": opModulo,
	"&": opBitAnd, "|": opBitOr, "<<": opShiftLeft, ">>": opShiftRight, "||": opConcat,
	"and": opAnd, "or": opOr, "like": opLike, "same": opSame,
}

func (l *lowerer) expr(a astExpr) *expr {
	switch a := a.(type) {
	case *litExpr:
		if a.bad {
			return badExpr
		}
		if l.exact && a.val.Kind() == millrace.KindReal {
			return literal(a.span, millrace.Real(a.val.Float())) // without the digits of a large integer
		}
		return literal(a.span, a.val)
	case *nameExpr:
		return l.column(a)
	case *callExpr:
		return l.callExpr(a)
	case *unaryExpr:
		return l.unary(a)
	case *binExpr:
		return l.binary(a)
	case *castExpr:
		return l.cast(a)
	case *caseExpr:
		return l.caseExpr(a)
	case *betweenExpr:
		e := &expr{op: opBetween, span: a.span, args: []*expr{l.expr(a.x), l.expr(a.lo), l.expr(a.hi)}}
		return negateIf(a.not, e)
	case *inExpr:
		return l.in(a)
	case *isExpr:
		op := map[string]opcode{"null": opIsNull, "true": opIsTrue, "false": opIsFalse}[a.what]
		return negateIf(a.not, &expr{op: op, span: a.span, args: []*expr{l.expr(a.x)}})
	case *subExpr:
		a.sel.fatal("a subquery can only stand after IN in WHERE", "a subquery cannot be used here")
		return badExpr
	}
	a.at().fatal("", "this expression is not supported")
	return badExpr
}

func negateIf(neg bool, e *expr) *expr {
	if neg {
		return not(e)
	}
	return e
}

func (l *lowerer) unary(a *unaryExpr) *expr {
	x := l.expr(a.x)
	switch a.op {
	case "not":
		return &expr{op: opNot, span: a.span, args: []*expr{x}}
	case "-":
		return &expr{op: opNegate, span: a.span, args: []*expr{x}}
	}
	return x // unary plus does nothing
}

func (l *lowerer) binary(a *binExpr) *expr {
	switch a.op {
	case "->", "->>":
		return l.arrow(a)
	case "!=":
		args := []*expr{l.expr(a.l), l.expr(a.r)}
		if l.streams {
			return not(&expr{op: opEqual, span: a.span, args: args})
		}
		return &expr{op: opNotEqual, span: a.span, args: args}
	}
	return &expr{op: binaryOps[a.op], span: a.span, args: []*expr{l.expr(a.l), l.expr(a.r)}}
}

func (l *lowerer) arrow(a *binExpr) *expr {
	e := &expr{op: opArrow, span: a.span, args: []*expr{l.expr(a.l)}}
	if a.op == "->>" {
		e.op = opArrowText
	}
	key, ok := a.r.(*litExpr)
	if !ok || key.bad || key.val.Kind() != millrace.KindText && key.val.Kind() != millrace.KindInteger {
		a.r.at().fatal("write the key as a text in single quotes", "the key of %s must be a literal", a.op)
		return badExpr
	}
	if key.val.Kind() == millrace.KindInteger {
		e.name = key.span.text()
	} else {
		e.name = key.val.Str()
	}
	e.path = pathKey
	if l.exact {
		e.name, e.path = exactPath(e.name, key.val.Kind() == millrace.KindInteger), pathExact
		return e
	}
	if strings.HasPrefix(e.name, "$") {
		e.path = pathDollar
	} else if l.legacyJSON {
		e.path = pathDotted
	}
	if l.legacyJSON {
		e.path |= pathLegacyNull
	}
	return e
}

func (l *lowerer) cast(a *castExpr) *expr {
	x := l.expr(a.x)
	typ := strings.ToLower(a.typ.name)
	if short, ok := castAliases[typ]; ok && l.streams {
		typ = short
	}
	for _, t := range castTypes {
		if t == typ {
			return &expr{op: opCast, span: a.span, args: []*expr{x}, name: typ}
		}
	}
	a.typ.fatal("types are text, integer, real, numeric and blob", "cannot cast to %s", a.typ.text())
	return badExpr
}

func (l *lowerer) caseExpr(a *caseExpr) *expr {
	e := &expr{op: opCase, span: a.span}
	if a.base != nil {
		e.op = opCaseOf
		e.args = append(e.args, l.expr(a.base))
	}
	for _, w := range a.whens {
		e.args = append(e.args, l.expr(w.cond), l.expr(w.then))
	}
	if a.other != nil {
		e.args = append(e.args, l.expr(a.other))
	} else {
		e.args = append(e.args, literal(a.span, millrace.Null))
	}
	return e
}

// in lowers IN and && as operators over values.
func (l *lowerer) in(a *inExpr) *expr {
	x := l.expr(a.x)
	e := &expr{span: a.span, args: []*expr{x}}
	if a.isList {
		e.op = opInList
		if a.overlap {
			e.op = opOverlapList
		}
		for _, m := range a.list {
			e.args = append(e.args, l.expr(m))
		}
		return negateIf(a.not, e)
	}
	e.op = opInArray
	if a.overlap {
		e.op = opOverlap
	}
	e.args = append(e.args, l.expr(a.set))
	return negateIf(a.not, e)
}

func (l *lowerer) callExpr(a *callExpr) *expr {
	if e := l.call(a); e != nil {
		return e
	}
	if a.schema != nil {
		l.unknownFunction(a)
		return badExpr
	}
	fn := functions[a.name.name]
	if fn == nil {
		l.unknownFunction(a)
		return badExpr
	}
	if exact := exactFunctions[fn.name]; l.exact && exact != nil {
		fn = exact
	}
	fn = fn.in(l.language)
	e := &expr{op: opCall, span: a.span, fn: fn}
	for _, arg := range a.args {
		e.args = append(e.args, l.expr(arg))
	}
	if l.streams {
		if len(a.args) < fn.min || fn.max >= 0 && len(a.args) > fn.max {
			a.span.fatal("", "%s takes %s, not %d", fn.name, argumentCount(fn.min, fn.max), len(a.args))
			return badExpr
		}
	} else {
		for len(e.args) < fn.min {
			e.args = append(e.args, literal(a.span, millrace.Null))
		}
		if fn.max >= 0 && len(e.args) > fn.max {
			e.args = e.args[:fn.max]
		}
	}
	if fn.legacy != nil && l.legacyJSON {
		e.fn = fn.legacy.in(l.language)
	}
	return e
}

// refusedFunctions are well known but cannot be had, with the reason.
var refusedFunctions = map[string]string{
	"now": "rules cannot depend on the time", "random": "rules must be deterministic", "date": "use datetime()", "strftime": "use datetime()",
	"count": "rows are synced one by one: no aggregates", "sum": "rows are synced one by one: no aggregates",
	"min": "rows are synced one by one: no aggregates", "max": "rows are synced one by one: no aggregates",
	"avg": "rows are synced one by one: no aggregates", "concat": "use the operator ||", "printf": "use the operator ||",
}

func (l *lowerer) unknownFunction(a *callExpr) {
	name := a.fn.text()
	hint := refusedFunctions[a.name.name]
	if a.schema != nil {
		hint = l.schemaHint(a)
	}
	if hint == "" {
		var known []string
		for n := range functions {
			known = append(known, n)
		}
		hint = didYouMean(strings.ToLower(name), append(known, l.functions...))
	}
	a.fn.fatal(hint, "unknown function %s", name)
}

// schemaHint names what a function of the request may have meant.
func (l *lowerer) schemaHint(a *callExpr) string {
	schema, other := a.schema.name, map[string]string{
		"request.user_id": "auth.user_id()", "request.jwt": "auth.parameters()", "request.parameters": "connection.parameters()", "request.parameter": "connection.parameter('key')",
	}
	if !l.streams {
		other = map[string]string{
			"auth.user_id": "request.user_id()", "auth.parameters": "request.jwt()", "auth.parameter": "request.jwt() ->> 'key'",
			"connection.parameters": "request.parameters()", "connection.parameter": "request.parameter('key')",
		}
	}
	if o := other[schema+"."+a.name.name]; o != "" {
		return "write " + o + " here"
	}
	var have []string
	for _, f := range l.functions {
		if rest, ok := strings.CutPrefix(f, schema+"."); ok {
			have = append(have, rest)
		}
	}
	if len(have) == 0 {
		return ""
	}
	if near := closest(a.name.name, have); near != "" {
		return "did you mean " + quote(schema+"."+near) + "?"
	}
	return schema + " has " + strings.Join(have, ", ")
}

func argumentCount(low, high int) string {
	switch {
	case high < 0:
		return "at least " + plural(low)
	case low == high:
		return plural(low)
	}
	return itoa(low) + " to " + plural(high)
}

func plural(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return itoa(n) + " arguments"
}
