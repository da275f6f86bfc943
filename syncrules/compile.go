package syncrules

import (
	"github.com/millrace/millrace"
)

// compiler turns expressions into functions, given where values are found.
type compiler struct {
	// slot finds a column, an element of an expanded array, or what a lookup
	// yields: in env.row if inRow is set, else in env.vars. ok is false if
	// there is no such value; it is null then.
	slot func(*expr) (index int, inRow, ok bool)
	meta func(*expr) string // value of opMeta
	// exact: expressions follow SQLite.
	exact bool
}

func (c *compiler) compile(e *expr) evalFn {
	switch e.op {
	case opLiteral:
		v := e.val
		return func(*env) millrace.Value { return v }
	case opColumn, opElement, opOutput:
		return c.reference(e)
	case opMeta:
		v := millrace.Text(c.meta(e))
		return func(*env) millrace.Value { return v }
	case opRequest, opLegacyClaims:
		return compileRequest(e)
	case opCase, opCaseOf:
		return c.compileCase(e)
	case opInList, opOverlapList:
		return c.compileList(e)
	case opCall:
		return c.compileCall(e)
	case opArrow, opArrowText:
		x, path, mode, asText := c.compile(e.args[0]), e.name, e.path, e.op == opArrowText
		if mode == pathExact {
			return func(e *env) millrace.Value { return exactExtract(e, x(e), path, asText) }
		}
		return func(e *env) millrace.Value { return extract(e, x(e), path, mode, asText) }
	case opBetween:
		if c.exact {
			return c.compileExactBetween(e)
		}
		return c.compileBetween(e)
	}
	switch len(e.args) {
	case 1:
		x := c.compile(e.args[0])
		if c.exact {
			if f := compileExactUnary(e, x); f != nil {
				return f
			}
		}
		return compileUnary(e, x)
	case 2:
		l, r := c.compile(e.args[0]), c.compile(e.args[1])
		if c.exact {
			if f := compileExactBinary(e, l, r); f != nil {
				return f
			}
		}
		return compileBinary(e.op, l, r)
	}
	return func(e *env) millrace.Value { return e.fail("expression cannot be evaluated") }
}

func (c *compiler) reference(e *expr) evalFn {
	i, inRow, ok := c.slot(e)
	switch {
	case !ok && c.exact && e.op == opColumn:
		name := e.name
		return func(e *env) millrace.Value { return e.fail("no such column: %s", name) }
	case !ok:
		return func(*env) millrace.Value { return millrace.Null }
	case inRow:
		return func(e *env) millrace.Value { return e.row[i] }
	}
	return func(e *env) millrace.Value { return e.vars[i] }
}

func compileUnary(x *expr, f evalFn) evalFn {
	switch x.op {
	case opNot:
		return func(e *env) millrace.Value { return millrace.Bool(!e.holds(f(e))) }
	case opIsNull:
		return func(e *env) millrace.Value { return millrace.Bool(f(e).IsNull()) }
	case opIsTrue, opIsFalse:
		want := millrace.Bool(x.op == opIsTrue)
		return func(e *env) millrace.Value {
			v := f(e)
			return millrace.Bool(!v.IsNull() && equal(v, want))
		}
	case opNegate:
		return func(e *env) millrace.Value {
			v := f(e)
			if v.IsNull() {
				return v
			}
			return arithmetic(e, opSubtract, millrace.Integer(0), v)
		}
	case opCast:
		typ := x.name
		return func(e *env) millrace.Value {
			v := f(e)
			if e.exact && !v.IsNull() {
				return exactCast(e, typ, v)
			}
			return cast(e, typ, v)
		}
	}
	return func(e *env) millrace.Value { return e.fail("expression cannot be evaluated") }
}

func compileBinary(op opcode, l, r evalFn) evalFn {
	switch op {
	case opAnd:
		return func(e *env) millrace.Value { return millrace.Bool(e.holds(l(e)) && e.holds(r(e))) }
	case opOr:
		return func(e *env) millrace.Value { return millrace.Bool(e.holds(l(e)) || e.holds(r(e))) }
	case opEqual, opNotEqual:
		want := op == opEqual
		return func(e *env) millrace.Value {
			a, b := l(e), r(e)
			if a.IsNull() || b.IsNull() {
				return millrace.Null
			}
			if a.Kind() == millrace.KindBlob && b.Kind() == millrace.KindBlob {
				return e.fail("two blobs cannot be compared")
			}
			return millrace.Bool(equal(a, b) == want)
		}
	case opLess, opLessEqual, opGreater, opGreaterEqual:
		return func(e *env) millrace.Value { return less(e, op, l(e), r(e)) }
	case opConcat:
		return func(e *env) millrace.Value {
			a, b := l(e), r(e)
			if a.IsNull() || b.IsNull() {
				return millrace.Null
			}
			s, t := e.text(a), e.text(b)
			start := len(e.buf)
			e.buf = append(append(e.buf, s...), t...)
			return e.made(start)
		}
	case opSame:
		return func(e *env) millrace.Value {
			a, b := l(e), r(e)
			return millrace.Bool(a.IsNull() && b.IsNull() || !a.IsNull() && !b.IsNull() && equal(a, b))
		}
	case opLike:
		return func(e *env) millrace.Value { return like(e, l(e), r(e)) }
	case opInArray:
		return func(e *env) millrace.Value { return inArray(e, l(e), r(e)) }
	case opOverlap:
		return func(e *env) millrace.Value { return overlap(e, l(e), r(e)) }
	}
	f := arithmetic
	switch op {
	case opModulo, opBitAnd, opBitOr, opShiftLeft, opShiftRight:
		f = integerOperator
	}
	return func(e *env) millrace.Value {
		a, b := l(e), r(e)
		if a.IsNull() || b.IsNull() {
			return millrace.Null
		}
		return f(e, op, a, b)
	}
}

// less is < <= > >=.
func less(e *env, op opcode, a, b millrace.Value) millrace.Value {
	if a.IsNull() || b.IsNull() {
		return millrace.Null
	}
	if a.Kind() == millrace.KindBlob && b.Kind() == millrace.KindBlob {
		return e.fail("two blobs cannot be compared")
	}
	c := compare(a, b)
	if c == unordered {
		return millrace.Integer(0)
	}
	switch op {
	case opLess:
		return millrace.Bool(c < 0)
	case opLessEqual:
		return millrace.Bool(c <= 0)
	case opGreater:
		return millrace.Bool(c > 0)
	}
	return millrace.Bool(c >= 0)
}

func (c *compiler) compileBetween(x *expr) evalFn {
	v, lo, hi := c.compile(x.args[0]), c.compile(x.args[1]), c.compile(x.args[2])
	return func(e *env) millrace.Value {
		v := v(e)
		above, below := less(e, opGreaterEqual, v, lo(e)), less(e, opLessEqual, v, hi(e))
		if above.IsNull() || below.IsNull() {
			return millrace.Null
		}
		return millrace.Bool(e.holds(above) && e.holds(below))
	}
}

func (c *compiler) compileCase(x *expr) evalFn {
	var base evalFn
	args := x.args
	if x.op == opCaseOf {
		base, args = c.compile(args[0]), args[1:]
	}
	parts := make([]evalFn, len(args))
	matches := make([]func(*env, millrace.Value, millrace.Value) bool, len(args))
	for i, a := range args {
		parts[i] = c.compile(a)
		matches[i] = func(_ *env, v, w millrace.Value) bool { return !v.IsNull() && !w.IsNull() && equal(v, w) }
		if c.exact && base != nil {
			matches[i] = exactCaseMatch(x.args[0], a)
		}
	}
	other := parts[len(parts)-1]
	return func(e *env) millrace.Value {
		var v millrace.Value
		if base != nil {
			v = base(e)
		}
		for i := 0; i+1 < len(parts); i += 2 {
			w := parts[i](e)
			if base == nil && e.holds(w) || base != nil && matches[i](e, v, w) {
				return parts[i+1](e)
			}
		}
		return other(e)
	}
}

// compileList is x IN (members…), or JSON array && (members…).
func (c *compiler) compileList(x *expr) evalFn {
	v := c.compile(x.args[0])
	members := make([]evalFn, len(x.args)-1)
	for i, a := range x.args[1:] {
		members[i] = c.compile(a)
	}
	same := func(_ *env, v, w millrace.Value) bool { return equal(v, w) }
	if c.exact {
		aff := affinityOf(x.args[0])
		same = func(e *env, v, w millrace.Value) bool { return exactCompare(e, opEqual, aff, v, w).Int() != 0 }
	}
	inList := func(e *env, v millrace.Value) millrace.Value {
		if v.IsNull() {
			if e.exact && len(members) == 0 {
				return millrace.Integer(0)
			}
			return v
		}
		result := millrace.Integer(0)
		for _, m := range members {
			w := m(e)
			if w.IsNull() {
				result = millrace.Null
			} else if same(e, v, w) {
				return millrace.Integer(1)
			}
		}
		return result
	}
	if x.op == opInList {
		return func(e *env) millrace.Value { return inList(e, v(e)) }
	}
	return func(e *env) millrace.Value {
		array := v(e)
		if array.IsNull() || !e.parseArray(&e.json2, array, "&&") {
			return millrace.Null
		}
		for n := 1; n < len(e.json2.nodes); n = int(e.json2.nodes[n].next) {
			if e.holds(inList(e, e.json2.sqlValue(e, n))) {
				return millrace.Integer(1)
			}
		}
		return millrace.Integer(0)
	}
}

func (c *compiler) compileCall(x *expr) evalFn {
	args := make([]evalFn, len(x.args))
	for i, a := range x.args {
		args[i] = c.compile(a)
	}
	if f := c.lazyCall(x.fn.name, args); f != nil {
		return f
	}
	f := x.fn.eval
	return func(e *env) millrace.Value {
		base := len(e.stack)
		for _, a := range args {
			v := a(e)
			e.stack = append(e.stack, v)
		}
		v := f(e, e.stack[base:])
		e.stack = e.stack[:base]
		return v
	}
}

// lazyCall compiles functions that do not evaluate all arguments; nil for
// others.
func (c *compiler) lazyCall(name string, args []evalFn) evalFn {
	switch {
	case name == "coalesce", name == "ifnull" && c.exact:
		return func(e *env) millrace.Value {
			for _, a := range args {
				if v := a(e); !v.IsNull() {
					return v
				}
			}
			return millrace.Null
		}
	case name == "iif" && c.exact:
		return func(e *env) millrace.Value {
			switch {
			case e.holds(args[0](e)):
				return args[1](e)
			case len(args) > 2:
				return args[2](e)
			}
			return millrace.Null
		}
	}
	return nil
}
