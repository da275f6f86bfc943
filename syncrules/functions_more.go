package syncrules

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// Functions that PowerSync does not have, with SQLite's meaning.
func init() {
	register(&function{name: "coalesce", version: 1, min: 2, max: -1, eval: coalesce})
	register(&function{name: "nullif", version: 1, min: 2, max: 2, eval: nullIf})
	register(&function{name: "substr", version: 1, min: 2, max: 3, eval: substring})
	register(&function{name: "trim", version: 1, min: 1, max: 2, eval: trimBoth})
	register(&function{name: "ltrim", version: 1, min: 1, max: 2, eval: trimLeft})
	register(&function{name: "rtrim", version: 1, min: 1, max: 2, eval: trimRight})
	register(&function{name: "replace", version: 1, min: 3, max: 3, eval: replaceText})
	register(&function{name: "abs", version: 1, min: 1, max: 1, eval: absolute})
	register(&function{name: "round", version: 1, min: 1, max: 2, eval: round})
}

func coalesce(_ *env, args []millrace.Value) millrace.Value {
	for _, v := range args {
		if !v.IsNull() {
			return v
		}
	}
	return millrace.Null
}

func nullIf(_ *env, args []millrace.Value) millrace.Value {
	if !args[0].IsNull() && !args[1].IsNull() && equal(args[0], args[1]) {
		return millrace.Null
	}
	return args[0]
}

func trimBoth(e *env, args []millrace.Value) millrace.Value {
	return trimText(e, args, strings.Trim)
}

func trimLeft(e *env, args []millrace.Value) millrace.Value {
	return trimText(e, args, strings.TrimLeft)
}

func trimRight(e *env, args []millrace.Value) millrace.Value {
	return trimText(e, args, strings.TrimRight)
}

func trimText(e *env, args []millrace.Value, trim func(s, set string) string) millrace.Value {
	set := " "
	switch {
	case args[0].IsNull() || len(args) > 1 && args[1].IsNull():
		return millrace.Null
	case len(args) > 1:
		set = e.text(args[1])
	}
	return millrace.Text(trim(e.text(args[0]), set))
}

func replaceText(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() || args[1].IsNull() {
		return millrace.Null
	}
	s, old := e.text(args[0]), e.text(args[1])
	switch {
	case old == "":
		return millrace.Text(s)
	case args[2].IsNull():
		return millrace.Null
	}
	by := e.text(args[2])
	if n := strings.Count(s, old); len(s)+n*(len(by)-len(old)) > maxRowBytes {
		return e.fail("replace: the result would be larger than a row may be")
	}
	return millrace.Text(strings.ReplaceAll(s, old, by))
}

// absolute fails, as in SQLite, for the one integer that has no positive.
func absolute(e *env, args []millrace.Value) millrace.Value {
	v := args[0]
	switch v.Kind() {
	case millrace.KindNull:
		return v
	case millrace.KindInteger:
		if v.Int() == math.MinInt64 {
			return e.fail("abs: integer overflow")
		}
		return millrace.Integer(max(v.Int(), -v.Int()))
	case millrace.KindReal:
		return millrace.Real(math.Abs(v.Float()))
	}
	prefix, _ := numberPrefix(e.text(v))
	return millrace.Real(math.Abs(parseReal(prefix)))
}

// round rounds half away from zero to at most 30 decimals; the result is a
// real.
func round(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() || len(args) > 1 && args[1].IsNull() {
		return millrace.Null
	}
	digits := int64(0)
	if len(args) > 1 {
		digits = min(max(exactInteger(e, args[1]), 0), 30)
	}
	f := asFloat(cast(e, "real", args[0]))
	switch {
	case math.IsNaN(f) || math.Abs(f) >= 1<<52:
		return millrace.Real(f)
	case digits == 0:
		return millrace.Real(math.Trunc(f + math.Copysign(0.5, f)))
	}
	return millrace.Real(roundDecimal(f, int(digits)))
}

// roundDecimal rounds the decimal form of f, of 15 digits, half away from
// zero.
func roundDecimal(f float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', digits, 64), 64)
	if err != nil {
		return f
	}
	return r
}

// like is x LIKE pattern: % is any text, _ any character, and letters of ASCII
// match in either case. A blob is like nothing.
func like(e *env, x, pattern millrace.Value) millrace.Value {
	if x.Kind() == millrace.KindBlob || pattern.Kind() == millrace.KindBlob {
		return millrace.Integer(0)
	}
	if x.IsNull() || pattern.IsNull() {
		return millrace.Null
	}
	s, p := e.text(x), e.text(pattern)
	if len(p) > maxLikePattern {
		return e.fail("LIKE: pattern is longer than %d bytes", maxLikePattern)
	}
	return millrace.Bool(matchLike(s, p))
}

const maxLikePattern = 50_000

// matchLike remembers the last % and goes back to it, which is enough since a
// later % can take over whatever an earlier one left.
func matchLike(s, p string) bool {
	i, j := 0, 0
	star, from := -1, 0
	for i < len(s) {
		if j < len(p) {
			pr, pn := utf8.DecodeRuneInString(p[j:])
			sr, sn := utf8.DecodeRuneInString(s[i:])
			switch {
			case pr == '%':
				star, from = j, i
				j++
				continue
			case pr == '_' || foldASCII(pr) == foldASCII(sr):
				i, j = i+sn, j+pn
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, sn := utf8.DecodeRuneInString(s[from:])
		from += sn
		i, j = from, star+1
	}
	for j < len(p) && p[j] == '%' {
		j++
	}
	return j == len(p)
}

func foldASCII(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}
