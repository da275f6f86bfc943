package syncrules

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	"github.com/millrace/millrace"
)

// function is a scalar function of the language.
type function struct {
	name string
	// version enters definition hashes: raise it with every change of results.
	version  int
	min, max int // argument counts; max is -1 for any number
	eval     func(e *env, args []millrace.Value) millrace.Value
	legacy   *function // stands in while fixed_json_extract is off
	since    int       // the language it belongs to; 0: the first
	before   *function // what it was in the language before since
}

// functions are all scalar functions by name.
var functions = map[string]*function{}

func register(f *function) { functions[f.name] = f }

func init() {
	register(&function{name: "upper", version: 1, min: 1, max: 1, eval: upper})
	register(&function{name: "lower", version: 1, min: 1, max: 1, eval: lower})
	register(&function{name: "length", version: 1, min: 1, max: 1, eval: length})
	register(&function{name: "substring", version: 1, min: 2, max: 3, eval: substring})
	register(&function{name: "instr", version: 1, min: 2, max: 2, eval: instr})
	register(&function{name: "hex", version: 1, min: 1, max: 1, eval: hexText})
	register(&function{name: "base64", version: 1, min: 1, max: 1, eval: base64Text})
	register(&function{name: "uuid_blob", version: 1, min: 1, max: 1, eval: uuidBlob})
	register(&function{name: "typeof", version: 1, min: 1, max: 1, eval: typeOf})
	register(&function{name: "ifnull", version: 1, min: 2, max: -1, eval: ifNull})
	register(&function{name: "iif", version: 1, min: 2, max: 3, eval: iif})
	register(&function{name: "json_extract", version: 2, min: 2, max: -1, eval: jsonExtract,
		legacy: &function{name: "json_extract_legacy", version: 2, min: 2, max: -1, eval: jsonExtractLegacy}})
	register(&function{name: "json_array_length", version: 1, min: 1, max: 2, eval: jsonArrayLength})
	register(&function{name: "json_keys", version: 1, min: 1, max: 1, eval: jsonKeys})
	register(&function{name: "json_valid", version: 1, min: 1, max: 1, eval: jsonValid})
}

// Casers keep state while they work, so each use takes one for itself.
var (
	upperCasers = sync.Pool{New: func() any { c := cases.Upper(language.Und); return &c }}
	lowerCasers = sync.Pool{New: func() any { c := cases.Lower(language.Und); return &c }}
)

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func upper(e *env, args []millrace.Value) millrace.Value {
	return changeCase(e, args[0], 'a', &upperCasers)
}

func lower(e *env, args []millrace.Value) millrace.Value {
	return changeCase(e, args[0], 'A', &lowerCasers)
}

// changeCase flips the ASCII letters from first on, or leaves the work to a
// caser where there are others.
func changeCase(e *env, x millrace.Value, first byte, pool *sync.Pool) millrace.Value {
	if x.IsNull() {
		return x
	}
	s := e.text(x)
	if !isASCII(s) {
		c := pool.Get().(*cases.Caser)
		defer pool.Put(c)
		return millrace.Text(c.String(s))
	}
	start := len(e.buf)
	e.buf = append(e.buf, s...)
	for i, c := range e.buf[start:] {
		if c >= first && c < first+26 {
			e.buf[start+i] = c ^ 0x20
		}
	}
	return e.made(start)
}

// units is the length of s in UTF-16 code units.
func units(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r > 0xFFFF {
			n++
		}
	}
	return n
}

func length(e *env, args []millrace.Value) millrace.Value {
	x := args[0]
	switch x.Kind() {
	case millrace.KindNull:
		return x
	case millrace.KindBlob:
		return millrace.Integer(int64(len(x.Str())))
	}
	return millrace.Integer(int64(units(e.text(x))))
}

// substring is SQLite's substr on UTF-16 units, with a start before the
// beginning moved to the beginning without shortening the length.
func substring(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() || args[1].IsNull() || len(args) > 2 && args[2].IsNull() {
		return millrace.Null
	}
	s := e.text(args[0])
	total := int64(units(s))
	start := truncatedCast(e, args[1])
	count := total + 1
	if len(args) > 2 {
		count = truncatedCast(e, args[2])
	}
	count = min(max(count, -total-1), total+1)
	switch {
	case start > 0:
		start = min(start-1, total)
	case start == 0:
		if count > 0 {
			count--
		}
	default:
		start = max(start+total, 0)
		if -start > total {
			start = 0
		}
	}
	if count < 0 {
		from := max(start+count, 0)
		count = start - from
		start = from
	}
	end := min(start+count, total)
	return millrace.Text(sliceUnits(s, int(start), int(end)))
}

func truncatedCast(e *env, v millrace.Value) int64 { return clampInteger(cast(e, "integer", v)) }

// sliceUnits cuts s between two positions counted in UTF-16 units. A
// character cut in half becomes U+FFFD.
func sliceUnits(s string, start, end int) string {
	if start >= end {
		return ""
	}
	if isASCII(s) {
		return s[start:end]
	}
	var b strings.Builder
	n := 0
	for _, r := range s {
		width := 1
		if r > 0xFFFF {
			width = 2
		}
		switch {
		case n >= start && n+width <= end:
			b.WriteRune(r)
		case n < end && n+width > start:
			b.WriteRune(utf8.RuneError)
		}
		n += width
	}
	return b.String()
}

func instr(e *env, args []millrace.Value) millrace.Value {
	return instrCounted(e, args, units)
}

// instrCounted is where args[1] first stands in args[0], from 1, or 0. Positions in
// text are counted by count, those in blobs in bytes.
func instrCounted(e *env, args []millrace.Value, count func(string) int) millrace.Value {
	x, y := args[0], args[1]
	if x.IsNull() || y.IsNull() {
		return millrace.Null
	}
	if x.Kind() == millrace.KindBlob && y.Kind() == millrace.KindBlob {
		return millrace.Integer(int64(strings.Index(x.Str(), y.Str()) + 1))
	}
	s := e.text(x)
	i := strings.Index(s, e.text(y))
	if i < 0 {
		return millrace.Integer(0)
	}
	return millrace.Integer(int64(count(s[:i]) + 1))
}

const upperHex = "0123456789ABCDEF"

func hexText(e *env, args []millrace.Value) millrace.Value {
	s := bytesOf(e, args[0])
	start := len(e.buf)
	for i := 0; i < len(s); i++ {
		e.buf = append(e.buf, upperHex[s[i]>>4], upperHex[s[i]&15])
	}
	return e.made(start)
}

func bytesOf(e *env, v millrace.Value) string {
	if v.Kind() == millrace.KindBlob {
		return v.Str()
	}
	return e.text(v)
}

func base64Text(e *env, args []millrace.Value) millrace.Value {
	s := bytesOf(e, args[0])
	start := len(e.buf)
	e.buf = base64.StdEncoding.AppendEncode(e.buf, []byte(s))
	return e.made(start)
}

func uuidBlob(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Null
	}
	s := e.text(args[0])
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return e.fail("uuid_blob: not a UUID")
	}
	b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return e.fail("uuid_blob: not a UUID")
	}
	return millrace.Blob(string(b))
}

func typeOf(_ *env, args []millrace.Value) millrace.Value {
	if args[0].Kind() == millrace.KindReal && args[0].Str() != "" {
		return millrace.Text(millrace.KindInteger.String()) // beyond 64 bits
	}
	return millrace.Text(args[0].Kind().String())
}

func ifNull(_ *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return args[1]
	}
	return args[0]
}

func iif(e *env, args []millrace.Value) millrace.Value {
	switch {
	case e.holds(args[0]):
		return args[1]
	case len(args) < 3:
		return millrace.Null
	}
	return args[2]
}
