package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

// Position is a place in the rules file; lines and columns count from 1.
type Position struct {
	File         string
	Line, Column int
}

// String gives file:line:column.
func (p Position) String() string { return p.File + ":" + itoa(p.Line) + ":" + itoa(p.Column) }

func (s span) position() Position {
	if s.q == nil {
		return Position{}
	}
	start, _ := s.file()
	line, column := s.q.rep.position(start)
	return Position{s.q.rep.file, line, column}
}

// Condition is a part of a WHERE with what it came to. It belongs to the
// explanation that holds it and shares no memory with rows.
type Condition struct {
	At    Position
	Text  string // as in the file, negations spelled out
	Holds bool
	// Values are what was compared: the operands of a comparison, or the
	// columns and request values of other conditions.
	Values []NamedValue
	// Err says why the condition could not be evaluated; empty if it could.
	Err string
}

// NamedValue is a part of an expression with its value.
type NamedValue struct {
	Text  string
	Value millrace.Value
}

// String gives the part and its value, as in: state = "open".
func (v NamedValue) String() string { return v.Text + " = " + valueText(v.Value) }

// String gives the condition with its outcome and values, as in:
//
//	state = 'lost' is false (state = "open")
func (c Condition) String() string {
	var b strings.Builder
	b.WriteString(c.Text)
	switch {
	case c.Err != "":
		b.WriteString(" fails: " + c.Err)
	case c.Holds:
		b.WriteString(" is true")
	default:
		b.WriteString(" is false")
	}
	if len(c.Values) > 0 {
		list := make([]string, len(c.Values))
		for i, v := range c.Values {
			list[i] = v.String()
		}
		b.WriteString(" (" + strings.Join(list, ", ") + ")")
	}
	return b.String()
}

// maxShownBytes bounds a value in an explanation's text.
const maxShownBytes = 200

// valueText writes a value for people: JSON, except for null and blobs.
func valueText(v millrace.Value) string {
	switch v.Kind() {
	case millrace.KindNull:
		return "null"
	case millrace.KindBlob:
		return "a blob of " + itoa(len(v.Str())) + " bytes"
	case millrace.KindText:
		if len(v.Str()) > maxShownBytes {
			cut := strings.ToValidUTF8(v.Str()[:maxShownBytes], "")
			return string(millrace.AppendTextJSON(nil, cut)) + "… (" + itoa(len(v.Str())) + " bytes)"
		}
	}
	return string(v.AppendJSON(nil))
}

// kept is a value that shares no memory with buffers.
func kept(v millrace.Value) millrace.Value {
	switch v.Kind() {
	case millrace.KindText:
		return millrace.Text(strings.Clone(v.Str()))
	case millrace.KindBlob:
		return millrace.Blob(strings.Clone(v.Str()))
	}
	return v
}

// explainCondition evaluates one condition and its parts. The env's error is
// clear before and after.
func explainCondition(c *compiler, e *env, x *expr) Condition {
	out := Condition{At: x.position(), Text: describe(x)}
	out.Holds = e.holds(c.compile(x)(e)) && e.err == ""
	out.Err = e.err
	e.err = ""
	seen := map[string]bool{}
	for _, part := range comparedParts(x) {
		text := describe(part)
		if seen[text] || part.op == opLiteral {
			continue
		}
		seen[text] = true
		v := kept(c.compile(part)(e))
		if e.err == "" {
			out.Values = append(out.Values, NamedValue{text, v})
		}
		e.err = ""
	}
	return out
}

// comparedParts are the parts of a condition whose values explain its outcome:
// the operands of comparisons, whatever AND, OR and NOT make of them.
func comparedParts(x *expr) []*expr {
	switch x.op {
	case opAnd, opOr, opNot:
		var list []*expr
		for _, a := range x.args {
			list = append(list, comparedParts(a)...)
		}
		return list
	case opEqual, opNotEqual, opLess, opLessEqual, opGreater, opGreaterEqual, opBetween, opInList, opInArray, opOverlap, opOverlapList,
		opIsNull, opIsTrue, opIsFalse:
		return x.args
	}
	return []*expr{x}
}

// comparisons are the signs of operators that describe writes out.
var comparisons = map[opcode]string{
	opEqual: " = ", opNotEqual: " != ", opLess: " < ", opLessEqual: " <= ", opGreater: " > ", opGreaterEqual: " >= ",
}

// describe writes an expression as in the file, with the negations and
// equalities that the compiler made spelled out.
func describe(x *expr) string {
	switch x.op {
	case opNot:
		if y := x.args[0]; y.op == opEqual {
			return operand(y.args[0]) + " != " + operand(y.args[1])
		}
		return "NOT " + operand(x.args[0])
	case opAnd:
		return operand(x.args[0]) + " AND " + operand(x.args[1])
	case opOr:
		return operand(x.args[0]) + " OR " + operand(x.args[1])
	}
	if sign, ok := comparisons[x.op]; ok {
		return operand(x.args[0]) + sign + operand(x.args[1])
	}
	if x.op == opLiteral && x.span.q == nil {
		return valueText(x.val)
	}
	if x.span.q == nil {
		return ""
	}
	return strings.Join(strings.Fields(x.span.text()), " ")
}

// operand is describe, in parentheses where it would read wrong without.
func operand(x *expr) string {
	switch x.op {
	case opAnd, opOr, opNot, opEqual, opNotEqual, opLess, opLessEqual, opGreater, opGreaterEqual:
		return "(" + describe(x) + ")"
	}
	return describe(x)
}
