package syncrules

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// maxJSONDepth bounds the nesting of JSON texts that expressions read.
const maxJSONDepth = 500

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonTrue
	jsonFalse
	jsonInteger // a number without point and exponent
	jsonReal
	jsonString
	jsonArray
	jsonObject
)

// jsonNode is a value, or the key of an object's member (then the value
// follows).
type jsonNode struct {
	kind    jsonKind
	escaped bool // a string that has escapes
	// start and end are where the node stands in the text; next is the index
	// of the node behind it and everything inside it.
	start, end, next int32
}

// jsonTape is a JSON text taken apart into nodes in document order. It is
// reused from text to text.
type jsonTape struct {
	text  string
	nodes []jsonNode
	depth int
	// repeats says that an object has a key twice, with equal values.
	repeats bool
	// duplicates allows keys that stand twice; the first one counts.
	duplicates bool
}

// parse reads strict JSON. The error says what is wrong; empty if nothing.
func (t *jsonTape) parse(text string) string {
	t.text, t.nodes, t.depth, t.repeats = text, t.nodes[:0], 0, false
	if len(text) > 1<<30 {
		return "text is too long to be read as JSON"
	}
	i, err := t.value(t.space(0))
	if err != "" {
		return err
	}
	if t.space(i) != len(text) {
		return "invalid JSON"
	}
	return ""
}

func (t *jsonTape) space(i int) int {
	for i < len(t.text) && (t.text[i] == ' ' || t.text[i] == '\n' || t.text[i] == '\t' || t.text[i] == '\r') {
		i++
	}
	return i
}

func (t *jsonTape) value(i int) (int, string) {
	if i >= len(t.text) {
		return i, "invalid JSON"
	}
	at := len(t.nodes)
	t.nodes = append(t.nodes, jsonNode{start: int32(i)})
	var err string
	var kind jsonKind
	end := i
	switch c := t.text[i]; {
	case c == '{':
		kind = jsonObject
		end, err = t.object(i, at)
	case c == '[':
		kind = jsonArray
		end, err = t.array(i)
	case c == '"':
		kind = jsonString
		end, t.nodes[at].escaped, err = t.str(i)
	case c == '-' || c >= '0' && c <= '9':
		end, kind, err = t.number(i)
	default:
		end, kind, err = t.word(i)
	}
	if err != "" {
		return end, err
	}
	n := &t.nodes[at]
	n.kind, n.end, n.next = kind, int32(end), int32(len(t.nodes))
	return end, ""
}

func (t *jsonTape) word(i int) (int, jsonKind, string) {
	rest := t.text[i:]
	switch {
	case strings.HasPrefix(rest, "null"):
		return i + 4, jsonNull, ""
	case strings.HasPrefix(rest, "true"):
		return i + 4, jsonTrue, ""
	case strings.HasPrefix(rest, "false"):
		return i + 5, jsonFalse, ""
	}
	return i, jsonNull, "invalid JSON"
}

func (t *jsonTape) number(i int) (int, jsonKind, string) {
	s, kind := t.text, jsonInteger
	if s[i] == '-' {
		i++
	}
	n := countDigits(s[i:])
	if n == 0 || n > 1 && s[i] == '0' {
		return i, kind, "invalid JSON"
	}
	i += n
	if i < len(s) && s[i] == '.' {
		n := countDigits(s[i+1:])
		if n == 0 {
			return i, kind, "invalid JSON"
		}
		i += 1 + n
		kind = jsonReal
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		n := countDigits(s[i:])
		if n == 0 {
			return i, kind, "invalid JSON"
		}
		i += n
		kind = jsonReal
	}
	return i, kind, ""
}

func (t *jsonTape) str(i int) (end int, escaped bool, err string) {
	s := t.text
	for i++; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1, escaped, ""
		case c < 0x20:
			return i, escaped, "invalid JSON"
		case c == '\\':
			escaped = true
			i++
			if i >= len(s) {
				return i, escaped, "invalid JSON"
			}
			if s[i] == 'u' {
				if i+4 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) || !isHex(s[i+3]) || !isHex(s[i+4]) {
					return i, escaped, "invalid JSON"
				}
				i += 4
			} else if strings.IndexByte(`"\/bfnrt`, s[i]) < 0 {
				return i, escaped, "invalid JSON"
			}
		}
	}
	return i, escaped, "invalid JSON"
}

func (t *jsonTape) array(i int) (int, string) {
	if t.depth++; t.depth > maxJSONDepth {
		return i, "JSON is nested too deep"
	}
	i = t.space(i + 1)
	if i < len(t.text) && t.text[i] == ']' {
		t.depth--
		return i + 1, ""
	}
	for {
		end, err := t.value(i)
		if err != "" {
			return end, err
		}
		i = t.space(end)
		if i >= len(t.text) {
			return i, "invalid JSON"
		}
		switch t.text[i] {
		case ']':
			t.depth--
			return i + 1, ""
		case ',':
			i = t.space(i + 1)
		default:
			return i, "invalid JSON"
		}
	}
}

func (t *jsonTape) object(i, at int) (int, string) {
	if t.depth++; t.depth > maxJSONDepth {
		return i, "JSON is nested too deep"
	}
	i = t.space(i + 1)
	if i < len(t.text) && t.text[i] == '}' {
		t.depth--
		return i + 1, ""
	}
	members := 0
	for {
		if i >= len(t.text) || t.text[i] != '"' {
			return i, "invalid JSON"
		}
		key := len(t.nodes)
		end, err := t.value(i)
		if err != "" {
			return end, err
		}
		i = t.space(end)
		if i >= len(t.text) || t.text[i] != ':' {
			return i, "invalid JSON"
		}
		if end, err = t.value(t.space(i + 1)); err != "" {
			return end, err
		}
		members++
		if members <= 64 && !t.duplicates {
			if msg := t.checkDuplicate(at, key); msg != "" {
				return end, msg
			}
		}
		i = t.space(end)
		if i >= len(t.text) {
			return i, "invalid JSON"
		}
		switch t.text[i] {
		case '}':
			t.depth--
			if members > 64 && !t.duplicates {
				return i + 1, t.checkDuplicates(at, len(t.nodes))
			}
			return i + 1, ""
		case ',':
			i = t.space(i + 1)
		default:
			return i, "invalid JSON"
		}
	}
}

const duplicateKey = "JSON object has a key twice with different values"

// checkDuplicate compares the newest member, whose key is node key, with the
// ones before it in the object at node at.
func (t *jsonTape) checkDuplicate(at, key int) string {
	for k := at + 1; k < key; {
		v := int(t.nodes[k].next)
		if t.sameString(k, key) {
			if t.raw(v) != t.raw(key+1) && t.normal(v) != t.normal(key+1) {
				return duplicateKey
			}
			t.repeats = true
		}
		k = int(t.nodes[v].next)
	}
	return ""
}

// checkDuplicates compares all members of a large object.
func (t *jsonTape) checkDuplicates(at, end int) string {
	seen := map[string]int{}
	for k := at + 1; k < end; {
		v := int(t.nodes[k].next)
		key := t.decode(k)
		if old, ok := seen[key]; ok {
			if t.normal(old) != t.normal(v) {
				return duplicateKey
			}
			t.repeats = true
		}
		seen[key] = v
		k = int(t.nodes[v].next)
	}
	return ""
}

func (t *jsonTape) sameString(a, b int) bool {
	if !t.nodes[a].escaped && !t.nodes[b].escaped {
		return t.raw(a) == t.raw(b)
	}
	return t.decode(a) == t.decode(b)
}

func (t *jsonTape) raw(n int) string { return t.text[t.nodes[n].start:t.nodes[n].end] }

// normal is the node written again in normal form.
func (t *jsonTape) normal(n int) string { return string(t.appendJSON(nil, n, false)) }

// decode is the text of a string node.
func (t *jsonTape) decode(n int) string {
	node := t.nodes[n]
	s := t.text[node.start+1 : node.end-1]
	if !node.escaped {
		return s
	}
	return view(appendUnescaped(nil, s))
}

func appendUnescaped(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hexRune(s[i+1 : i+5])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					low = utf16.DecodeRune(r, hexRune(s[i+3:i+7]))
				}
				if low != utf8.RuneError {
					i += 6
				}
				r = low
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, c)
		}
	}
	return b
}

func hexRune(s string) rune {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// appendJSON writes a node in normal form: no spaces, reals recognisable as
// such, integers with all their digits, or as reals if asReals is set.
func (t *jsonTape) appendJSON(b []byte, n int, asReals bool) []byte {
	node := t.nodes[n]
	switch node.kind {
	case jsonInteger:
		if asReals {
			return millrace.AppendRealJSON(b, parseReal(t.raw(n)))
		}
		if raw := t.raw(n); raw != "-0" {
			return append(b, raw...)
		}
		return append(b, '0')
	case jsonReal:
		return millrace.AppendRealJSON(b, parseReal(t.raw(n)))
	case jsonString:
		if !node.escaped {
			return append(b, t.raw(n)...)
		}
		return millrace.AppendTextJSON(b, t.decode(n))
	case jsonArray:
		b = append(b, '[')
		for c := n + 1; c < int(node.next); c = int(t.nodes[c].next) {
			if c > n+1 {
				b = append(b, ',')
			}
			b = t.appendJSON(b, c, asReals)
		}
		return append(b, ']')
	case jsonObject:
		return t.appendObject(b, n, asReals)
	}
	return append(b, t.raw(n)...)
}

// appendObject writes an object. Keys that look like array indexes come
// first.
func (t *jsonTape) appendObject(b []byte, n int, asReals bool) []byte {
	type member struct{ key, value int }
	var few [16]member
	members := few[:0]
	index := false
	for k := n + 1; k < int(t.nodes[n].next); k = int(t.nodes[t.nodes[k].next].next) {
		index = index || t.text[t.nodes[k].start+1]-'0' < 10
		members = append(members, member{k, int(t.nodes[k].next)})
	}
	if t.repeats {
		members = slices.DeleteFunc(members, func(m member) bool {
			return slices.ContainsFunc(members, func(o member) bool { return o.key < m.key && t.sameString(o.key, m.key) })
		})
	}
	if index {
		sortIndexesFirst(members, func(m member) string { return t.decode(m.key) })
	}
	b = append(b, '{')
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = t.appendJSON(b, m.key, asReals)
		b = append(b, ':')
		b = t.appendJSON(b, m.value, asReals)
	}
	return append(b, '}')
}
