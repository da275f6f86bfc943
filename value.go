package millrace

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// ValueKind is one of the five SQLite storage classes.
type ValueKind uint8

// The storage classes. The zero Value is null.
const (
	KindNull ValueKind = iota
	KindInteger
	KindReal
	KindText
	KindBlob
)

// String gives SQLite's typeof name.
func (k ValueKind) String() string {
	return [...]string{"null", "integer", "real", "text", "blob"}[k]
}

// Value is a SQLite value: null, int64, float64, text or blob. There is no
// boolean (1/0), no date and no JSON type (text). Values are immutable; a text
// or blob may share memory with the buffer it was decoded from, so whoever
// reuses that buffer must have no Value left that points into it.
type Value struct {
	text string
	num  uint64
	kind ValueKind
}

// Null is the SQL null.
var Null Value

// Integer returns an integer value.
func Integer(i int64) Value { return Value{kind: KindInteger, num: uint64(i)} }

// Real returns a floating point value.
func Real(f float64) Value { return Value{kind: KindReal, num: math.Float64bits(f)} }

// BigInteger returns a whole number beyond 64 bits, given its digits with an
// optional minus. It is a real in all computations, but its JSON and its text
// keep the digits.
func BigInteger(digits string) Value {
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil && !math.IsInf(f, 0) {
		return Null
	}
	return Value{kind: KindReal, num: math.Float64bits(f), text: digits}
}

// Text returns a text value.
func Text(s string) Value { return Value{kind: KindText, text: s} }

// Blob returns a blob of the bytes of s.
func Blob(s string) Value { return Value{kind: KindBlob, text: s} }

// Bool returns 1 or 0.
func Bool(b bool) Value {
	if b {
		return Integer(1)
	}
	return Integer(0)
}

// Kind tells the storage class.
func (v Value) Kind() ValueKind { return v.kind }

// IsNull tells whether v is null.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Int is the integer of a KindInteger value.
func (v Value) Int() int64 { return int64(v.num) }

// Float is the number of a KindReal value.
func (v Value) Float() float64 { return math.Float64frombits(v.num) }

// Str is the text of a KindText value, the bytes of a KindBlob value, or the
// digits of a BigInteger; empty for other numbers.
func (v Value) Str() string { return v.text }

// AppendJSON appends the JSON form row data has: integers with full precision,
// reals as the shortest round-trip decimal that is always recognisable as a
// real (1.0, 1e+21), non-finite reals as null, text escaped only where JSON
// demands it. A blob has no JSON form; it is written as null, and callers
// leave blob columns out.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case KindInteger:
		return strconv.AppendInt(b, int64(v.num), 10)
	case KindReal:
		if v.text != "" {
			return append(b, v.text...)
		}
		return AppendRealJSON(b, math.Float64frombits(v.num))
	case KindText:
		return AppendTextJSON(b, v.text)
	}
	return append(b, "null"...)
}

// AppendRealJSON appends a real as JavaScript prints it, with ".0" added when
// the result has neither point nor exponent; -0 gives 0.0, NaN and infinities
// give null.
func AppendRealJSON(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	start := len(b)
	b = AppendRealText(b, f)
	for _, c := range b[start:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, '.', '0')
}

// AppendRealText appends a real as JavaScript's Number.prototype.toString
// prints it: exponent form when the decimal exponent is ≥ 21 or ≤ -7, digits
// otherwise, no ".0"; -0 gives 0.
func AppendRealText(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "NaN"...)
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	case f == 0:
		return append(b, '0')
	}
	if abs := math.Abs(f); abs >= 1e21 || abs < 1e-6 {
		start := len(b)
		b = strconv.AppendFloat(b, f, 'e', -1, 64)
		// Go writes at least two exponent digits, JavaScript as few as possible.
		for i := len(b) - 1; i > start; i-- {
			if b[i] == '+' || b[i] == '-' {
				if i+2 < len(b) && b[i+1] == '0' {
					b = append(b[:i+1], b[i+2:]...)
				}
				break
			}
		}
		return b
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

const hexDigits = "0123456789abcdef"

// AppendTextJSON appends s as a JSON string. Only the quote, the backslash and
// control characters are escaped; all else stays raw. Invalid UTF-8 becomes
// U+FFFD.
func AppendTextJSON(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			b = append(append(b, s[start:i]...), "\uFFFD"...)
			i++
			start = i
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
