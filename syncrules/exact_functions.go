package syncrules

import (
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// exactFunctions stand in for the functions of their name in the exact engine.
var exactFunctions = map[string]*function{}

func registerExact(f *function) { exactFunctions[f.name] = f }

func init() {
	registerExact(&function{name: "length", version: 1, min: 1, max: 1, eval: exactLength})
	registerExact(&function{name: "substring", version: 1, min: 2, max: 3, eval: exactSubstring})
	registerExact(&function{name: "substr", version: 1, min: 2, max: 3, eval: exactSubstring})
	registerExact(&function{name: "instr", version: 1, min: 2, max: 2, eval: exactInstr})
	registerExact(&function{name: "json_extract", version: 1, min: 2, max: -1, eval: exactJSONExtract})
	registerExact(&function{name: "json_array_length", version: 1, min: 1, max: 2, eval: exactArrayLength})
	registerExact(&function{name: "json_valid", version: 1, min: 1, max: 1, eval: exactJSONValid})
	registerExact(&function{name: "nullif", version: 1, min: 2, max: 2, eval: exactNullIf})
}

// untilNul is a text up to its first zero byte, where SQLite stops counting.
func untilNul(s string) string {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return s[:i]
	}
	return s
}

func exactLength(e *env, args []millrace.Value) millrace.Value {
	x := args[0]
	switch x.Kind() {
	case millrace.KindNull:
		return x
	case millrace.KindBlob:
		return millrace.Integer(int64(len(x.Str())))
	}
	return millrace.Integer(int64(utf8.RuneCountInString(untilNul(e.text(x)))))
}

func exactSubstring(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() || args[1].IsNull() || len(args) > 2 && args[2].IsNull() {
		return millrace.Null
	}
	blob := args[0].Kind() == millrace.KindBlob
	s := args[0].Str()
	var total int64
	if blob {
		if s == "" {
			return millrace.Null // as SQLite
		}
		total = int64(len(s))
	} else {
		s = e.text(args[0])
		total = int64(utf8.RuneCountInString(s))
	}
	const far, all = 1 << 40, 1_000_000_000 // further than any position; SQLite's longest text
	bound := func(n int64) int64 { return min(max(n, -far), far) }
	start, count, before := bound(exactInteger(e, args[1])), int64(all), false
	if len(args) > 2 {
		count = bound(exactInteger(e, args[2]))
		if before = count < 0; before {
			count = -count
		}
	}
	switch {
	case start < 0:
		if start += total; start < 0 {
			count = max(count+start, 0)
			start = 0
		}
	case start > 0:
		start--
	case count > 0:
		count--
	}
	if before {
		if start -= count; start < 0 {
			count += start
			start = 0
		}
	}
	start = min(start, total)
	end := min(start+max(count, 0), total)
	if blob {
		return millrace.Blob(s[start:end])
	}
	return millrace.Text(sliceRunes(s, int(start), int(end)))
}

// sliceRunes cuts s between two positions counted in characters.
func sliceRunes(s string, start, end int) string {
	n, from := 0, len(s)
	for i := range s {
		if n == start {
			from = i
		}
		if n == end {
			return s[min(from, i):i]
		}
		n++
	}
	return s[from:]
}

func exactInstr(e *env, args []millrace.Value) millrace.Value {
	return instrCounted(e, args, utf8.RuneCountInString)
}

func exactNullIf(_ *env, args []millrace.Value) millrace.Value {
	x, y := args[0], args[1]
	if !x.IsNull() && !y.IsNull() && exactOrder(x, y) == 0 {
		return millrace.Null
	}
	return x
}
