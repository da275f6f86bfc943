package syncrules

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// The SQLite-exact engine, switched on by unstable_sqlite_expression_engine:
// the same expressions compiled to functions whose results are SQLite's. What
// is not here, such as the functions of times and geometry, is common to both
// engines.

// compileExactUnary is compileUnary for the exact engine.
func compileExactUnary(x *expr, f evalFn) evalFn {
	switch x.op {
	case opNot:
		return func(e *env) millrace.Value {
			v := f(e)
			if v.IsNull() {
				return v
			}
			return millrace.Bool(!e.holds(v))
		}
	case opIsTrue, opIsFalse:
		want := x.op == opIsTrue
		return func(e *env) millrace.Value {
			v := f(e)
			return millrace.Bool(!v.IsNull() && e.holds(v) == want)
		}
	}
	return nil
}

// compileExactBinary is compileBinary for the exact engine; nil where both
// engines do the same.
func compileExactBinary(x *expr, l, r evalFn) evalFn {
	switch x.op {
	case opAnd, opOr:
		return exactLogic(x.op, l, r)
	case opEqual, opNotEqual, opLess, opLessEqual, opGreater, opGreaterEqual:
		op, aff := x.op, comparisonAffinity(x.args[0], x.args[1])
		return func(e *env) millrace.Value { return exactCompare(e, op, aff, l(e), r(e)) }
	case opSame:
		aff := comparisonAffinity(x.args[0], x.args[1])
		return func(e *env) millrace.Value {
			a, b := l(e), r(e)
			if a.IsNull() || b.IsNull() {
				return millrace.Bool(a.IsNull() && b.IsNull())
			}
			return exactCompare(e, opEqual, aff, a, b)
		}
	case opInArray:
		return func(e *env) millrace.Value { return exactInArray(e, l(e), r(e)) }
	}
	return nil
}

// exactLogic is AND and OR of three values. The right side is not evaluated
// where the left one decides.
func exactLogic(op opcode, l, r evalFn) evalFn {
	decides := op == opOr
	return func(e *env) millrace.Value {
		a := l(e)
		if !a.IsNull() && e.holds(a) == decides {
			return millrace.Bool(decides)
		}
		b := r(e)
		switch {
		case !b.IsNull() && e.holds(b) == decides:
			return millrace.Bool(decides)
		case a.IsNull() || b.IsNull():
			return millrace.Null
		}
		return millrace.Bool(!decides)
	}
}

// affinity is what SQLite converts a comparison's operands to.
type affinity uint8

const (
	affNone affinity = iota
	affBlob
	affText
	affNumeric
)

// affinityOf is the affinity of an expression: only casts have one, as columns
// of rows have no declared type.
func affinityOf(x *expr) affinity {
	if x.op != opCast {
		return affNone
	}
	switch x.name {
	case "text":
		return affText
	case "blob":
		return affBlob
	}
	return affNumeric
}

func comparisonAffinity(l, r *expr) affinity {
	a, b := affinityOf(l), affinityOf(r)
	switch {
	case a == affNone:
		return b
	case b == affNone:
		return a
	case a == affNumeric || b == affNumeric:
		return affNumeric
	}
	return affBlob
}

// apply converts one operand of a comparison.
func (aff affinity) apply(e *env, v millrace.Value) millrace.Value {
	switch {
	case aff == affNumeric && v.Kind() == millrace.KindText:
		prefix, isReal := numberPrefix(v.Str())
		if prefix == "" || strings.TrimRight(trimSpaces(v.Str())[len(prefix):], " \t\n\r\v\f") != "" {
			return v
		}
		if !isReal {
			if i, err := strconv.ParseInt(prefix, 10, 64); err == nil {
				return millrace.Integer(i)
			}
		}
		return millrace.Real(parseReal(prefix))
	case aff == affText && isNumber(v):
		return millrace.Text(e.text(v))
	}
	return v
}

// exactCompare compares two values: null if either is.
func exactCompare(e *env, op opcode, aff affinity, a, b millrace.Value) millrace.Value {
	if a.IsNull() || b.IsNull() {
		return millrace.Null
	}
	if aff >= affText && (a.Kind() == millrace.KindText || b.Kind() == millrace.KindText) {
		a, b = aff.apply(e, a), aff.apply(e, b)
	}
	c := exactOrder(a, b)
	switch op {
	case opEqual:
		return millrace.Bool(c == 0)
	case opNotEqual:
		return millrace.Bool(c != 0)
	case opLess:
		return millrace.Bool(c < 0)
	case opLessEqual:
		return millrace.Bool(c <= 0)
	case opGreater:
		return millrace.Bool(c > 0)
	}
	return millrace.Bool(c >= 0)
}

// exactOrder orders values that are not null; texts and blobs by their bytes.
func exactOrder(a, b millrace.Value) int {
	ra, rb := rank(a), rank(b)
	switch {
	case ra != rb:
		return order(ra < rb, ra > rb)
	case ra == 0:
		return compareNumbers(a, b)
	}
	return strings.Compare(a.Str(), b.Str())
}

func (c *compiler) compileExactBetween(x *expr) evalFn {
	v, lo, hi := c.compile(x.args[0]), c.compile(x.args[1]), c.compile(x.args[2])
	low, high := comparisonAffinity(x.args[0], x.args[1]), comparisonAffinity(x.args[0], x.args[2])
	return func(e *env) millrace.Value {
		v := v(e)
		above, below := exactCompare(e, opGreaterEqual, low, v, lo(e)), exactCompare(e, opLessEqual, high, v, hi(e))
		switch {
		case !above.IsNull() && above.Int() == 0, !below.IsNull() && below.Int() == 0:
			return millrace.Integer(0)
		case above.IsNull() || below.IsNull():
			return millrace.Null
		}
		return millrace.Integer(1)
	}
}

// exactCaseMatch is the comparison of CASE x WHEN value.
func exactCaseMatch(base, value *expr) func(e *env, v, w millrace.Value) bool {
	aff := comparisonAffinity(base, value)
	return func(e *env, v, w millrace.Value) bool {
		m := exactCompare(e, opEqual, aff, v, w)
		return !m.IsNull() && m.Int() != 0
	}
}

// exactInArray is x IN (SELECT value FROM json_each(array)).
func exactInArray(e *env, x, array millrace.Value) millrace.Value {
	if array.IsNull() {
		return millrace.Integer(0)
	}
	t := &e.json
	if msg := t.parseExact(e.text(array)); msg != "" {
		return e.fail("IN needs the text of a JSON array: %s", msg)
	}
	result := millrace.Integer(0)
	for it := eachElement(t); it.step(); {
		v := t.exactValue(e, it.node)
		switch {
		case x.IsNull() || v.IsNull():
			result = millrace.Null
		case exactOrder(x, v) == 0:
			return millrace.Integer(1)
		}
	}
	return result
}

// exactCast is SQLite's CAST of a value that is not null.
func exactCast(e *env, typ string, v millrace.Value) millrace.Value {
	switch typ {
	case "integer":
		if v.Kind() == millrace.KindReal {
			return millrace.Integer(clampInt(math.Trunc(v.Float())))
		}
		return millrace.Integer(exactInteger(e, v))
	case "real":
		if isNumber(v) {
			return millrace.Real(asFloat(v))
		}
		prefix, _ := numberPrefix(e.text(v))
		return millrace.Real(parseReal(prefix))
	case "numeric":
		if isNumber(v) {
			return v
		}
		n := exactNumeric(e, v)
		if n.Kind() == millrace.KindReal {
			// A real without fraction becomes an integer where none is lost.
			if f := n.Float(); f == math.Trunc(f) && math.Abs(f) < 1<<51 {
				return millrace.Integer(int64(f))
			}
		}
		return n
	}
	return cast(e, typ, v)
}

// exactInteger is the integer a value stands for, the nearest of 64 bits.
func exactInteger(e *env, v millrace.Value) int64 {
	switch v.Kind() {
	case millrace.KindInteger:
		return v.Int()
	case millrace.KindReal:
		return clampInt(math.Trunc(v.Float()))
	}
	return clampInteger(castInteger(e, v))
}

// exactNumeric is a value as arithmetic takes it.
func exactNumeric(e *env, v millrace.Value) millrace.Value {
	if isNumber(v) {
		return v
	}
	prefix, isReal := numberPrefix(e.text(v))
	if prefix == "" {
		return millrace.Integer(0)
	}
	if !isReal {
		if i, err := strconv.ParseInt(prefix, 10, 64); err == nil {
			return millrace.Integer(i)
		}
	}
	return millrace.Real(parseReal(prefix))
}

// appendExactReal appends a real as SQLite prints it (3.54; older releases
// never go beyond 15 digits), always with a point, with an exponent where it is below -4 or above 16.
func appendExactReal(b []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(b, "Inf"...)
	case math.IsInf(f, -1):
		return append(b, "-Inf"...)
	case f == 0:
		return append(b, "0.0"...)
	}
	if f < 0 {
		b = append(b, '-')
		f = -f
	}
	var space [32]byte
	digits, exp := exactDecimal(space[:0], f)
	start := len(b)
	switch {
	case exp < -4 || exp > 16:
		b = append(append(b, digits[0], '.'), digits[1:]...)
		b = trimZeros(b, start)
		sign := byte('+')
		if exp < 0 {
			sign, exp = '-', -exp
		}
		b = append(b, 'e', sign)
		if exp < 10 {
			b = append(b, '0')
		}
		return strconv.AppendInt(b, int64(exp), 10)
	case exp < 0:
		b = append(append(b, "0.0000"[:1-exp]...), digits...)
		return trimZeros(b, start)
	}
	for len(digits) < exp+1 {
		digits = append(digits, '0')
	}
	b = append(append(append(b, digits[:exp+1]...), '.'), digits[exp+1:]...)
	return trimZeros(b, start)
}

// exactDecimal gives the digits of a positive real and the exponent of the
// first: 17 digits, rounded from 18 or 19, or fewer where these end in a row of
// nines or zeros and the fewer give the number again.
func exactDecimal(b []byte, f float64) (digits []byte, exp int) {
	// SQLite counts digits from the power of ten below the power of two below
	// f, so that there is one more where f is beyond the next power of ten.
	power := math.Ilogb(f) * 78913 >> 18
	start := len(b)
	b = strconv.AppendFloat(b, f, 'e', 17, 64) // d.dddde±dd
	if e, err := strconv.Atoi(string(b[bytes.IndexByte(b, 'e')+1:])); err == nil && e > power {
		b = strconv.AppendFloat(b[:start], f, 'e', 18, 64)
	}
	mark := bytes.IndexByte(b, 'e')
	exp, err := strconv.Atoi(string(b[mark+1:]))
	if err != nil {
		return b[:1], 0
	}
	copy(b[1:], b[2:mark]) // without the point
	z := b[:mark-1]        // b starts empty
	n := 14
	switch {
	case z[14] == '9' && z[15] == '9':
		for n > 0 && z[n-1] == '9' {
			n--
		}
		short, carry := incremented(append([]byte{}, z[:n]...))
		if roundTrips(short, exp+carry, f) {
			return short, exp + carry
		}
	case z[13] == '0' && z[14] == '0' && z[15] == '0':
		for n > 1 && z[n-1] == '0' {
			n--
		}
		if roundTrips(z[:n], exp, f) {
			return z[:n], exp
		}
	}
	if z[17] < '5' {
		return z[:17], exp
	}
	digits, carry := incremented(z[:17])
	return digits, exp + carry
}

// incremented adds one to the last digit. carry is 1 if that gave a digit more,
// which takes the place of the others: all are zero.
func incremented(digits []byte) (sum []byte, carry int) {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] != '9' {
			digits[i]++
			return digits, 0
		}
		digits[i] = '0'
	}
	return []byte{'1'}, 1
}

// roundTrips tells whether d.ddd × 10^exp is f.
func roundTrips(digits []byte, exp int, f float64) bool {
	r, err := strconv.ParseFloat(string(digits)+"e"+strconv.Itoa(exp-len(digits)+1), 64)
	return err == nil && r == f
}

// trimZeros cuts the zeros at the end of the decimal that begins at start, but
// for the first behind the point, which is added if there is none.
func trimZeros(b []byte, start int) []byte {
	if bytes.IndexByte(b[start:], '.') < 0 {
		return append(b, ".0"...)
	}
	for b[len(b)-1] == '0' && b[len(b)-2] != '.' {
		b = b[:len(b)-1]
	}
	if b[len(b)-1] == '.' {
		b = append(b, '0')
	}
	return b
}
