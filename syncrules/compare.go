package syncrules

import (
	"math"
	"strings"

	"github.com/millrace/millrace"
)

// holds is what a condition makes of a value.
func (e *env) holds(v millrace.Value) bool {
	switch v.Kind() {
	case millrace.KindInteger:
		return v.Int() != 0
	case millrace.KindReal:
		return v.Float() != 0
	case millrace.KindText, millrace.KindBlob:
		if e.exact {
			prefix, _ := numberPrefix(v.Str())
			return parseReal(prefix) != 0
		}
		return v.Kind() == millrace.KindText && textTruth(v.Str())
	}
	return false
}

// textTruth tells whether the integer a text starts with, decimal or 0x
// hexadecimal, is there and not zero.
func textTruth(s string) bool {
	s = strings.TrimLeft(s, " \t\n\r\v\f\u00a0\ufeff")
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	hex := len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X')
	if hex {
		s = s[2:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '0':
		case c >= '1' && c <= '9', hex && isHex(c):
			return true
		default:
			return false
		}
	}
	return false
}

func isNumber(v millrace.Value) bool {
	return v.Kind() == millrace.KindInteger || v.Kind() == millrace.KindReal
}

// equal tells whether two values that are not null are equal: numbers by
// mathematical value, no conversion between types.
func equal(a, b millrace.Value) bool {
	if a.Kind() == millrace.KindText && b.Kind() == millrace.KindText {
		return a.Str() == b.Str()
	}
	if isNumber(a) && isNumber(b) {
		return compareNumbers(a, b) == 0
	}
	return a.Kind() == b.Kind() && a.Str() == b.Str()
}

// compare orders two values that are not null: numbers, then text, then
// blobs. The result is -1, 0, 1 or unordered.
func compare(a, b millrace.Value) int {
	ra, rb := rank(a), rank(b)
	switch {
	case ra != rb:
		return order(ra < rb, ra > rb)
	case ra == 0:
		return compareNumbers(a, b)
	case ra == 1:
		return compareUTF16(a.Str(), b.Str())
	}
	return strings.Compare(a.Str(), b.Str())
}

func rank(v millrace.Value) int {
	switch v.Kind() {
	case millrace.KindText:
		return 1
	case millrace.KindBlob:
		return 2
	}
	return 0
}

// unordered is the result of compareNumbers where one is NaN.
const unordered = 2

func compareNumbers(a, b millrace.Value) int {
	if a.Kind() == millrace.KindInteger {
		if b.Kind() == millrace.KindInteger {
			return order(a.Int() < b.Int(), a.Int() > b.Int())
		}
		return compareIntReal(a.Int(), b.Float())
	}
	if b.Kind() == millrace.KindInteger {
		c := compareIntReal(b.Int(), a.Float())
		if c == unordered {
			return c
		}
		return -c
	}
	if math.IsNaN(a.Float()) || math.IsNaN(b.Float()) {
		return unordered
	}
	return order(a.Float() < b.Float(), a.Float() > b.Float())
}

func order(less, greater bool) int {
	switch {
	case less:
		return -1
	case greater:
		return 1
	}
	return 0
}

// compareIntReal compares without rounding the integer.
func compareIntReal(i int64, f float64) int {
	switch {
	case math.IsNaN(f):
		return unordered
	case f >= 1<<63:
		return -1
	case f < -1<<63:
		return 1
	}
	whole := int64(f)
	if i != whole {
		return order(i < whole, i > whole)
	}
	frac := f - float64(whole)
	return order(frac > 0, frac < 0)
}

// compareUTF16 orders texts by UTF-16 code unit, which differs from byte
// order only where one has a character beyond U+FFFF and the other one from
// U+E000 to U+FFFF.
func compareUTF16(a, b string) int {
	n := min(len(a), len(b))
	for i := 0; i < n; i++ {
		if x, y := a[i], b[i]; x != y {
			astralX, astralY := x >= 0xF0, y >= 0xF0
			if astralX != astralY && x >= 0xEE && y >= 0xEE {
				return order(astralX, astralY)
			}
			return order(x < y, x > y)
		}
	}
	return order(len(a) < len(b), len(a) > len(b))
}
