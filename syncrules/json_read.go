package syncrules

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// sqlValue turns a node into a SQL value; objects and arrays become JSON text in
// the env's buffer.
func (t *jsonTape) sqlValue(e *env, n int) millrace.Value {
	node := t.nodes[n]
	switch node.kind {
	case jsonTrue:
		return millrace.Integer(1)
	case jsonFalse:
		return millrace.Integer(0)
	case jsonInteger:
		if i, err := strconv.ParseInt(t.raw(n), 10, 64); err == nil {
			return millrace.Integer(i)
		}
		if e.exact {
			return millrace.Real(parseReal(t.raw(n)))
		}
		return millrace.BigInteger(t.raw(n))
	case jsonReal:
		return millrace.Real(parseReal(t.raw(n)))
	case jsonString:
		if !node.escaped {
			return millrace.Text(t.text[node.start+1 : node.end-1])
		}
		start := len(e.buf)
		e.buf = appendUnescaped(e.buf, t.text[node.start+1:node.end-1])
		return e.made(start)
	case jsonArray, jsonObject:
		return t.jsonText(e, n)
	}
	return millrace.Null
}

// jsonText is a node as JSON text.
func (t *jsonTape) jsonText(e *env, n int) millrace.Value {
	start := len(e.buf)
	e.buf = t.appendJSON(e.buf, n, false)
	return e.made(start)
}

// member finds a member of an object or an element of an array; -1 if there
// is none.
func (t *jsonTape) member(n int, key string) int {
	node := t.nodes[n]
	switch node.kind {
	case jsonObject:
		for k := n + 1; k < int(node.next); {
			v := int(t.nodes[k].next)
			if t.nodes[k].escaped && t.decode(k) == key || !t.nodes[k].escaped && t.text[t.nodes[k].start+1:t.nodes[k].end-1] == key {
				return v
			}
			k = int(t.nodes[v].next)
		}
	case jsonArray:
		if !isIndex(key) {
			return -1
		}
		want, err := strconv.Atoi(key)
		if err != nil {
			return -1
		}
		i := 0
		for c := n + 1; c < int(node.next); c = int(t.nodes[c].next) {
			if i == want {
				return c
			}
			i++
		}
	}
	return -1
}

// isIndex tells whether a text is an array index in its usual form.
func isIndex(s string) bool {
	return s != "" && len(s) <= 10 && countDigits(s) == len(s) && (s == "0" || s[0] != '0')
}

// pathMode says how the key of a JSON operator is read.
type pathMode uint8

const (
	pathKey    pathMode = iota // the name of one member
	pathDotted                 // names separated by dots
	pathDollar                 // the same behind a first part that is dropped
	pathExact                  // a path of SQLite
	// pathLegacyNull: JSON null is null through -> and the text 'null'
	// through ->>.
	pathLegacyNull pathMode = 1 << 4
)

// find follows a path from the root; -1 if it leads nowhere.
func (t *jsonTape) find(path string, mode pathMode) int {
	mode &^= pathLegacyNull
	if mode == pathKey {
		return t.member(0, path)
	}
	if mode == pathDollar {
		i := strings.IndexByte(path, '.')
		if i < 0 {
			return 0
		}
		path = path[i+1:]
	}
	at := 0
	for {
		key, rest, more := strings.Cut(path, ".")
		if at = t.member(at, key); at < 0 || !more {
			return at
		}
		path = rest
	}
}

// extract is x -> path, or x ->> path.
func extract(e *env, x millrace.Value, path string, mode pathMode, asText bool) millrace.Value {
	if x.IsNull() {
		return x
	}
	if msg := e.json.parse(e.text(x)); msg != "" {
		return e.fail("%s", msg)
	}
	n := e.json.find(path, mode)
	if n < 0 {
		return millrace.Null
	}
	if e.json.nodes[0].kind == jsonNull {
		return millrace.Null
	}
	if mode&pathLegacyNull != 0 && e.json.nodes[n].kind == jsonNull {
		if asText {
			return millrace.Text("null")
		}
		return millrace.Null
	}
	if asText {
		return e.json.sqlValue(e, n)
	}
	return e.json.jsonText(e, n)
}

// inArray is x IN array: null if either is null, else whether an element of
// the JSON array equals x.
func inArray(e *env, x, array millrace.Value) millrace.Value {
	if x.IsNull() || array.IsNull() {
		return millrace.Null
	}
	if !e.parseArray(&e.json, array, "IN") {
		return millrace.Null
	}
	return millrace.Bool(e.json.contains(e, x))
}

// contains tells whether the array at the root has an element equal to x.
func (t *jsonTape) contains(e *env, x millrace.Value) bool {
	for c := 1; c < len(t.nodes); c = int(t.nodes[c].next) {
		if v := t.sqlValue(e, c); !v.IsNull() && equal(x, v) {
			return true
		}
	}
	return false
}

func (e *env) parseArray(t *jsonTape, v millrace.Value, what string) bool {
	if v.Kind() != millrace.KindText {
		e.fail("%s needs the text of a JSON array, not %s", what, v.Kind())
		return false
	}
	if msg := t.parse(v.Str()); msg != "" {
		e.fail("%s needs the text of a JSON array: %s", what, msg)
		return false
	}
	if t.nodes[0].kind != jsonArray {
		e.fail("%s needs the text of a JSON array, not of another JSON value", what)
		return false
	}
	return true
}

// overlap is a && b: null if either is null, else whether two JSON arrays have
// an equal element.
func overlap(e *env, a, b millrace.Value) millrace.Value {
	if a.IsNull() || b.IsNull() {
		return millrace.Null
	}
	if !e.parseArray(&e.json, a, "&&") || !e.parseArray(&e.json2, b, "&&") {
		return millrace.Null
	}
	for c := 1; c < len(e.json.nodes); c = int(e.json.nodes[c].next) {
		if v := e.json.sqlValue(e, c); !v.IsNull() && e.json2.contains(e, v) {
			return millrace.Integer(1)
		}
	}
	return millrace.Integer(0)
}
