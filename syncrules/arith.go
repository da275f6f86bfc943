package syncrules

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// arithmetic is + - * / on two values that are not null. What is no number,
// such as infinity minus infinity, is null.
func arithmetic(e *env, op opcode, a, b millrace.Value) millrace.Value {
	a, b = e.number(a), e.number(b)
	if a.Kind() == millrace.KindInteger && b.Kind() == millrace.KindInteger {
		if v, ok := integerArithmetic(op, a.Int(), b.Int()); ok {
			return v
		}
	}
	x, y := asFloat(a), asFloat(b)
	var r float64
	switch op {
	case opAdd:
		r = x + y
	case opSubtract:
		r = x - y
	case opMultiply:
		r = x * y
	default:
		if y == 0 {
			return millrace.Null
		}
		r = x / y
	}
	if math.IsNaN(r) {
		return millrace.Null
	}
	return millrace.Real(r)
}

// integerArithmetic fails on overflow; the caller goes on with reals.
func integerArithmetic(op opcode, x, y int64) (millrace.Value, bool) {
	switch op {
	case opAdd:
		s := x + y
		return millrace.Integer(s), (s > x) == (y > 0)
	case opSubtract:
		d := x - y
		return millrace.Integer(d), (d < x) == (y > 0)
	case opMultiply:
		hi, lo := bits.Mul64(magnitude(x), magnitude(y))
		neg := (x < 0) != (y < 0)
		if hi != 0 || lo > 1<<63 || lo == 1<<63 && !neg {
			return millrace.Null, false
		}
		return millrace.Integer(x * y), true
	}
	switch {
	case y == 0:
		return millrace.Null, true
	case x == math.MinInt64 && y == -1:
		return millrace.Null, false
	}
	return millrace.Integer(x / y), true
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

// integerOperator is % & | << >> on two values that are not null.
func integerOperator(e *env, op opcode, a, b millrace.Value) millrace.Value {
	na, nb := e.number(a), e.number(b)
	x, y := integerOperand(e, a), integerOperand(e, b)
	switch op {
	case opModulo:
		if y == 0 {
			return millrace.Null
		}
		r := int64(0)
		if y != -1 {
			r = x % y
		}
		if na.Kind() == millrace.KindReal || nb.Kind() == millrace.KindReal {
			return millrace.Real(float64(r))
		}
		return millrace.Integer(r)
	case opBitAnd:
		return millrace.Integer(x & y)
	case opBitOr:
		return millrace.Integer(x | y)
	case opShiftRight:
		if y == math.MinInt64 {
			return millrace.Integer(0)
		}
		y = -y
	}
	switch {
	case y <= -64:
		return millrace.Integer(x >> 63)
	case y < 0:
		return millrace.Integer(x >> uint(-y))
	case y >= 64:
		return millrace.Integer(0)
	}
	return millrace.Integer(x << uint(y))
}

func asFloat(v millrace.Value) float64 {
	if v.Kind() == millrace.KindInteger {
		return float64(v.Int())
	}
	return v.Float()
}

// integerOperand is a number cut towards zero and to 64 bits, or the integer
// a text starts with.
func integerOperand(e *env, v millrace.Value) int64 {
	if v.Kind() == millrace.KindReal {
		return clampInt(math.Trunc(v.Float()))
	}
	return clampInteger(castInteger(e, v))
}

// clampInteger is a whole number as the nearest one of 64 bits.
func clampInteger(v millrace.Value) int64 {
	if v.Kind() == millrace.KindReal {
		return clampInt(v.Float())
	}
	return v.Int()
}

func clampInt(f float64) int64 {
	switch {
	case math.IsNaN(f):
		return 0
	case f >= 1<<63:
		return math.MaxInt64
	case f < -1<<63:
		return math.MinInt64
	}
	return int64(f)
}

// number is what arithmetic takes a value that is not null for.
func (e *env) number(v millrace.Value) millrace.Value {
	if e.exact {
		return exactNumeric(e, v)
	}
	return numeric(e, v)
}

// numeric is the cast to numeric of a value that is not null.
func numeric(e *env, v millrace.Value) millrace.Value {
	if isNumber(v) {
		return v
	}
	prefix, isReal := numberPrefix(e.text(v))
	if prefix == "" {
		return millrace.Integer(0)
	}
	if !isReal {
		return integerValue(prefix)
	}
	return millrace.Real(parseReal(prefix))
}

// parseReal parses what numberPrefix found; too large a number is infinite.
func parseReal(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && f == 0 {
		return 0
	}
	return f
}

// numberPrefix is the longest start of s, after white space, of the form
// [sign]digits[.digits][e[sign]digits], and whether it has a point or an
// exponent.
func numberPrefix(s string) (prefix string, isReal bool) {
	s = trimSpaces(s)
	i := 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	digits := countDigits(s[i:])
	i += digits
	if i < len(s) && s[i] == '.' {
		n := countDigits(s[i+1:])
		if n > 0 || digits > 0 {
			digits += n
			i += 1 + n
			isReal = true
		}
	}
	if digits == 0 {
		return "", false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		if n := countDigits(s[j:]); n > 0 {
			i = j + n
			isReal = true
		}
	}
	return s[:i], isReal
}

func trimSpaces(s string) string { return strings.TrimLeft(s, " \t\n\r\v\f") }

func countDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// cast converts a value to a type of castTypes. Null stays null.
func cast(e *env, typ string, v millrace.Value) millrace.Value {
	if v.IsNull() {
		return v
	}
	switch typ {
	case "text":
		return millrace.Text(e.text(v))
	case "integer":
		return castInteger(e, v)
	case "real":
		if isNumber(v) {
			return millrace.Real(asFloat(v))
		}
		return millrace.Real(textReal(e.text(v)))
	case "numeric":
		return numeric(e, v)
	}
	if v.Kind() == millrace.KindBlob {
		return v
	}
	return millrace.Blob(e.text(v))
}

func castInteger(e *env, v millrace.Value) millrace.Value {
	switch v.Kind() {
	case millrace.KindInteger:
		return v
	case millrace.KindReal:
		return wholeNumber(math.Floor(v.Float()))
	}
	s := trimSpaces(e.text(v))
	sign := 0
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign = 1
	}
	n := countDigits(s[sign:])
	if n == 0 {
		return millrace.Integer(0)
	}
	return integerValue(s[:sign+n])
}

// integerValue is the integer of digits behind an optional sign.
func integerValue(digits string) millrace.Value {
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return millrace.Integer(i)
	}
	sign, rest := "", strings.TrimPrefix(digits, "+")
	if strings.HasPrefix(rest, "-") {
		sign, rest = "-", rest[1:]
	}
	return millrace.BigInteger(sign + strings.TrimLeft(rest, "0"))
}

// wholeNumber is a real without fraction as an integer; what is no number is 0
// and an infinity the nearest integer of 64 bits.
func wholeNumber(f float64) millrace.Value {
	if math.IsInf(f, 0) || math.IsNaN(f) || f >= -1<<63 && f < 1<<63 {
		return millrace.Integer(clampInt(f))
	}
	return millrace.BigInteger(strconv.FormatFloat(f, 'f', 0, 64))
}

func textReal(s string) float64 {
	trimmed := trimSpaces(s)
	sign, rest := 1.0, trimmed
	if rest != "" && (rest[0] == '+' || rest[0] == '-') {
		if rest[0] == '-' {
			sign = -1
		}
		rest = rest[1:]
	}
	if strings.HasPrefix(rest, "Infinity") {
		return math.Inf(int(sign))
	}
	prefix, _ := numberPrefix(trimmed)
	return parseReal(prefix)
}
