package pgvalue

import (
	"encoding/json"
	"strconv"

	"github.com/millrace/millrace"
)

// An element appends the JSON form that a value has inside arrays, composites
// and ranges. It tells whether the text had the structure of its type.
type element func(b, text []byte) ([]byte, bool)

// structured gives the converter of a type with parts. A text whose structure
// is not the expected one is the value itself.
func structured(t *Type, o Options) Converter { return appended(elementOf(t, o, 0)) }

// maxDepth bounds the nesting of types and array dimensions.
const maxDepth = 16

func elementOf(t *Type, o Options, depth int) element {
	if depth > maxDepth {
		return textElement
	}
	switch t.Kind {
	case Array:
		return arrayElement(t, elementOf(t.Element, o, depth+1))
	case Domain:
		return elementOf(t.Element, o, depth+1)
	case Composite:
		return compositeElement(t, o, depth)
	case Range:
		bound := elementOf(t.Element, o, depth+1)
		return func(b, text []byte) ([]byte, bool) {
			b, rest, ok := appendRange(b, text, bound)
			return b, ok && len(rest) == 0
		}
	case Multirange:
		return multirangeElement(elementOf(t.Element, o, depth+1))
	case Enum:
		return textElement
	}
	switch t.OID {
	case oidInt2, oidInt4, oidInt8, oidOID:
		return integerElement
	case oidBool:
		return boolElement
	case oidFloat4, oidFloat8:
		return realElement
	case oidBytea:
		return func(b, _ []byte) ([]byte, bool) { return append(b, "null"...), true }
	case oidJSON, oidJSONB:
		return jsonElement
	case oidLSN:
		return func(b, text []byte) ([]byte, bool) {
			b, ok := appendLSN(append(b, '"'), text)
			return append(b, '"'), ok
		}
	case oidTimestamp, oidTimestamptz, oidDate, oidTime:
		return clockElement(newClock(t.OID, o))
	}
	return textElement
}

func textElement(b, text []byte) ([]byte, bool) { return millrace.AppendTextJSON(b, view(text)), true }

func integerElement(b, text []byte) ([]byte, bool) {
	n, err := strconv.ParseInt(view(text), 10, 64)
	return strconv.AppendInt(b, n, 10), err == nil
}

func boolElement(b, text []byte) ([]byte, bool) {
	switch view(text) {
	case "t":
		return append(b, '1'), true
	case "f":
		return append(b, '0'), true
	}
	return b, false
}

func realElement(b, text []byte) ([]byte, bool) {
	f, err := strconv.ParseFloat(view(text), 64)
	return millrace.AppendRealJSON(b, f), err == nil
}

func jsonElement(b, text []byte) ([]byte, bool) {
	// Postgres has checked it; a text that is not JSON must not break the whole.
	return append(b, text...), json.Valid(text)
}

func clockElement(c clock) element {
	return func(b, text []byte) ([]byte, bool) {
		start := len(b)
		b, out := c.append(append(b, '"'), text)
		switch out {
		case made:
			return append(b, '"'), true
		case null:
			return append(b[:start], "null"...), true
		}
		return millrace.AppendTextJSON(b[:start], view(text)), true
	}
}

func compositeElement(t *Type, o Options, depth int) element {
	fields := make([]element, len(t.Fields))
	names := make([][]byte, len(t.Fields))
	for i, f := range t.Fields {
		fields[i] = elementOf(f.Type, o, depth+1)
		names[i] = append(millrace.AppendTextJSON(nil, f.Name), ':')
	}
	return func(b, text []byte) ([]byte, bool) {
		if len(text) < 2 || text[0] != '(' || text[len(text)-1] != ')' {
			return b, false
		}
		p := parts{text: text[1 : len(text)-1]}
		b = append(b, '{')
		for i, field := range fields {
			if i > 0 {
				if !p.take(',') {
					return b, false
				}
				b = append(b, ',')
			}
			b = append(b, names[i]...)
			value, isNull, ok := p.value(",")
			if !ok {
				return b, false
			}
			if b, ok = appendPart(b, value, isNull, field); !ok {
				return b, false
			}
		}
		return append(b, '}'), p.end()
	}
}

// appendRange reads one range from the front of text and gives the rest.
func appendRange(b, text []byte, bound element) (_, rest []byte, ok bool) {
	const empty = "empty"
	if len(text) >= len(empty) && view(text[:len(empty)]) == empty {
		return append(b, `"empty"`...), text[len(empty):], true
	}
	if len(text) < 3 || (text[0] != '[' && text[0] != '(') {
		return b, nil, false
	}
	p := parts{text: text[1:]}
	b = append(b, `{"lower":`...)
	lower, isNull, ok := p.value(",")
	if !ok {
		return b, nil, false
	}
	if b, ok = appendPart(b, lower, isNull, bound); !ok || !p.take(',') {
		return b, nil, false
	}
	b = append(b, `,"upper":`...)
	upper, isNull, ok := p.value(")]")
	if !ok {
		return b, nil, false
	}
	if b, ok = appendPart(b, upper, isNull, bound); !ok || p.end() {
		return b, nil, false
	}
	b = append(b, `,"lower_exclusive":`...)
	b = append(b, flag(text[0] == '('), ',')
	b = append(b, `"upper_exclusive":`...)
	b = append(b, flag(p.text[p.at] == ')'), '}')
	return b, p.text[p.at+1:], true
}

func flag(set bool) byte {
	if set {
		return '1'
	}
	return '0'
}

func multirangeElement(bound element) element {
	return func(b, text []byte) ([]byte, bool) {
		if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
			return b, false
		}
		text = text[1 : len(text)-1]
		b = append(b, '[')
		for first := true; len(text) > 0; first = false {
			if !first {
				if text[0] != ',' {
					return b, false
				}
				text = text[1:]
				b = append(b, ',')
			}
			var ok bool
			if b, text, ok = appendRange(b, text, bound); !ok {
				return b, false
			}
		}
		return append(b, ']'), true
	}
}

func appendPart(b, value []byte, isNull bool, f element) ([]byte, bool) {
	if isNull {
		return append(b, "null"...), true
	}
	return f(b, value)
}

// parts reads the parts of a composite or a range.
type parts struct {
	text []byte
	at   int
}

func (p *parts) end() bool { return p.at == len(p.text) }

func (p *parts) take(c byte) bool {
	if p.end() || p.text[p.at] != c {
		return false
	}
	p.at++
	return true
}

// value reads up to one of the stop bytes or the end. Nothing at all is null;
// a quoted part may double its quotes or escape with a backslash.
func (p *parts) value(stop string) (value []byte, isNull, ok bool) {
	start := p.at
	plain := true
	for quoted := false; ; p.at++ {
		if p.end() {
			if quoted {
				return nil, false, false
			}
			break
		}
		c := p.text[p.at]
		switch {
		case c == '"':
			quoted = !quoted
			plain = false
		case c == '\\':
			plain = false
			if p.at++; p.end() {
				return nil, false, false
			}
		case !quoted && (c == stop[0] || (len(stop) > 1 && c == stop[1])):
			return p.unquote(start, plain)
		}
	}
	return p.unquote(start, plain)
}

func (p *parts) unquote(start int, plain bool) (value []byte, isNull, ok bool) {
	text := p.text[start:p.at]
	if plain {
		return text, len(text) == 0, true
	}
	out := make([]byte, 0, len(text))
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
			out = append(out, text[i])
		case c == '"' && quoted && i+1 < len(text) && text[i+1] == '"':
			i++
			out = append(out, '"')
		case c == '"':
			quoted = !quoted
		default:
			out = append(out, c)
		}
	}
	return out, false, true
}

func arrayElement(t *Type, f element) element {
	delimiter := t.Element.Delimiter
	if delimiter == 0 {
		delimiter = ','
	}
	return func(b, text []byte) ([]byte, bool) {
		p := array{text: text, delimiter: delimiter, element: f}
		p.skipBounds()
		b, ok := p.append(b, 0)
		return b, ok && p.at == len(text)
	}
}

// array reads an array text.
type array struct {
	text      []byte
	at        int
	delimiter byte
	element   element
}

// skipBounds passes a "[0:1]=" prefix.
func (p *array) skipBounds() {
	if len(p.text) == 0 || p.text[0] != '[' {
		return
	}
	for i, c := range p.text {
		if c == '=' {
			p.at = i + 1
			return
		}
	}
}

func (p *array) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *array) append(b []byte, depth int) ([]byte, bool) {
	if p.peek() != '{' || depth > maxDepth {
		return b, false
	}
	p.at++
	b = append(b, '[')
	if p.peek() == '}' {
		p.at++
		return append(b, ']'), true
	}
	for {
		var ok bool
		if p.peek() == '{' {
			b, ok = p.append(b, depth+1)
		} else {
			b, ok = p.value(b)
		}
		if !ok {
			return b, false
		}
		switch p.peek() {
		case p.delimiter:
			p.at++
			b = append(b, ',')
		case '}':
			p.at++
			return append(b, ']'), true
		default:
			return b, false
		}
	}
}

func (p *array) value(b []byte) ([]byte, bool) {
	if p.peek() == '"' {
		return p.quoted(b)
	}
	start := p.at
	for p.at < len(p.text) && p.text[p.at] != p.delimiter && p.text[p.at] != '}' {
		if c := p.text[p.at]; c == '"' || c == '{' || c == '\\' {
			return b, false
		}
		p.at++
	}
	text := p.text[start:p.at]
	if len(text) == 0 || p.at == len(p.text) {
		return b, false
	}
	return appendPart(b, text, view(text) == "NULL", p.element)
}

func (p *array) quoted(b []byte) ([]byte, bool) {
	p.at++
	start := p.at
	var out []byte // set once something was escaped
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; c {
		case '"':
			text := p.text[start:p.at]
			if out != nil {
				text = append(out, text...)
			}
			p.at++
			return p.element(b, text)
		case '\\':
			out = append(out, p.text[start:p.at]...)
			if p.at++; p.at == len(p.text) {
				return b, false
			}
			out = append(out, p.text[p.at])
			start = p.at + 1
		}
	}
	return b, false
}
