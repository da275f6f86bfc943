package syncrules

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"github.com/millrace/millrace"
)

// env is what a compiled expression runs in. It belongs to one goroutine and
// is reused from row to row; reset keeps its memory.
type env struct {
	row  []millrace.Value // the row's columns, as bound
	vars []millrace.Value // elements of expanded arrays, or what earlier lookups yielded
	req  *requestData     // nil while rows are evaluated

	buf   []byte           // texts made by functions
	stack []millrace.Value // arguments of calls under way
	json  jsonTape
	json2 jsonTape // for the operators that read two texts
	err   string   // first failure since the last reset; empty if none
	// exact: expressions follow SQLite.
	exact bool
}

// evalFn is a compiled expression. After a failure its result means nothing.
type evalFn func(*env) millrace.Value

// reset forgets everything about the last row. Values made before are invalid.
func (e *env) reset() {
	e.buf = e.buf[:0]
	e.stack = e.stack[:0]
	e.err = ""
}

func (e *env) fail(format string, args ...any) millrace.Value {
	if e.err == "" {
		e.err = fmt.Sprintf(format, args...)
	}
	return millrace.Null
}

// view is the bytes of b as a string without a copy. The caller never writes
// to these bytes again as long as the string is in use: the buffers here only
// grow between resets.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// made is the text appended to buf since start.
func (e *env) made(start int) millrace.Value { return millrace.Text(view(e.buf[start:])) }

// text is the cast to text of a value that is not null.
func (e *env) text(v millrace.Value) string {
	switch v.Kind() {
	case millrace.KindText:
		return v.Str()
	case millrace.KindBlob:
		return strings.ToValidUTF8(v.Str(), "\uFFFD")
	case millrace.KindInteger:
		start := len(e.buf)
		e.buf = strconv.AppendInt(e.buf, v.Int(), 10)
		return view(e.buf[start:])
	case millrace.KindReal:
		if v.Str() != "" {
			return v.Str()
		}
		start := len(e.buf)
		if e.exact {
			e.buf = appendExactReal(e.buf, v.Float())
		} else {
			e.buf = millrace.AppendRealText(e.buf, v.Float())
		}
		return view(e.buf[start:])
	}
	return ""
}

func itoa(n int) string { return strconv.Itoa(n) }
