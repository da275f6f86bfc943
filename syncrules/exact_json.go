package syncrules

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// exactPath is the path that the key of -> or ->> stands for.
func exactPath(key string, number bool) string {
	switch {
	case strings.HasPrefix(key, "$"):
		return key
	case number && strings.HasPrefix(key, "-"):
		return "$[#" + key + "]"
	case number:
		return "$[" + key + "]"
	case allAlphanumeric(key):
		return "$." + key
	case len(key) >= 3 && key[0] == '[' && key[len(key)-1] == ']':
		return "$" + key
	}
	return `$."` + key + `"`
}

func allAlphanumeric(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

// follow walks a SQLite path such as $.a[0]."b c"[#-1] from the root. n is -1
// if it leads nowhere; ok is false if it is not a path.
func (t *jsonTape) follow(path string) (n int, ok bool) {
	if !strings.HasPrefix(path, "$") {
		return -1, false
	}
	at := 0
	for path = path[1:]; path != ""; {
		var key string
		switch path[0] {
		case '.':
			path = path[1:]
			if strings.HasPrefix(path, `"`) {
				end := 1
				for end < len(path) && path[end] != '"' {
					if path[end] == '\\' {
						end++
					}
					end++
				}
				if end >= len(path) {
					return -1, false
				}
				key, path = path[1:end], path[end+1:]
			} else {
				end := strings.IndexAny(path, ".[")
				if end < 0 {
					end = len(path)
				}
				if end == 0 {
					return -1, false
				}
				key, path = path[:end], path[end:]
			}
			if t.nodes[at].kind != jsonObject {
				return -1, true
			}
			at = t.member(at, key)
		case '[':
			if t.nodes[at].kind != jsonArray {
				return -1, true
			}
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return -1, false
			}
			index, good := t.index(at, path[1:end])
			if !good {
				return -1, false
			}
			path = path[end+1:]
			at = t.element(at, index)
		default:
			return -1, false
		}
		if at < 0 {
			// SQLite stops at the first step that leads nowhere and does not
			// look at the rest.
			return -1, true
		}
	}
	return at, true
}

// index reads the inside of [N], [#] or [#-N] as a position in the array at
// node at; -1 is none.
func (t *jsonTape) index(at int, s string) (i int, ok bool) {
	rest, fromEnd := strings.CutPrefix(s, "#")
	if !fromEnd {
		if s == "" || countDigits(s) != len(s) {
			return -1, false
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return -1, true
		}
		return n, true
	}
	length := t.length(at)
	if rest == "" {
		return length, true
	}
	digits, minus := strings.CutPrefix(rest, "-")
	if !minus || digits == "" || countDigits(digits) != len(digits) {
		return -1, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1, true
	}
	return length - n, true
}

// length counts the elements of an array.
func (t *jsonTape) length(n int) int {
	count := 0
	for c := n + 1; c < int(t.nodes[n].next); c = int(t.nodes[c].next) {
		count++
	}
	return count
}

// element is the element of an array at a position; -1 if there is none.
func (t *jsonTape) element(n, index int) int {
	if t.nodes[n].kind != jsonArray || index < 0 {
		return -1
	}
	for c := n + 1; c < int(t.nodes[n].next); c = int(t.nodes[c].next) {
		if index == 0 {
			return c
		}
		index--
	}
	return -1
}

// appendRaw writes a node without its white space, every token as it stands.
func (t *jsonTape) appendRaw(b []byte, n int) []byte {
	node := t.nodes[n]
	switch node.kind {
	case jsonArray, jsonObject:
	default:
		return append(b, t.raw(n)...)
	}
	inString := false
	for i := int(node.start); i < int(node.end); i++ {
		c := t.text[i]
		switch {
		case inString && c == '\\':
			b = append(b, c)
			i++
			c = t.text[i]
		case c == '"':
			inString = !inString
		case !inString && isBlank(c):
			continue
		}
		b = append(b, c)
	}
	return b
}

// exactValue is a node as a SQL value.
func (t *jsonTape) exactValue(e *env, n int) millrace.Value {
	if k := t.nodes[n].kind; k == jsonArray || k == jsonObject {
		return t.exactText(e, n)
	}
	return t.sqlValue(e, n)
}

func (t *jsonTape) exactText(e *env, n int) millrace.Value {
	start := len(e.buf)
	e.buf = t.appendRaw(e.buf, n)
	return e.made(start)
}

// exactExtract is x -> path, or x ->> path.
func exactExtract(e *env, x millrace.Value, path string, asText bool) millrace.Value {
	if x.IsNull() {
		return x
	}
	t := &e.json
	if msg := t.parseExact(e.text(x)); msg != "" {
		return e.fail("%s", msg)
	}
	n, ok := t.follow(path)
	switch {
	case !ok:
		return e.fail("%q is not a JSON path", path)
	case n < 0:
		return millrace.Null
	case asText:
		return t.exactValue(e, n)
	}
	return t.exactText(e, n)
}

// parseExact is parse, where a key may stand twice.
func (t *jsonTape) parseExact(text string) string {
	t.duplicates = true
	msg := t.parse(text)
	t.duplicates = false
	return msg
}

// exactJSONExtract gives the value at the path, or a JSON array of those at
// several paths.
func exactJSONExtract(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Null
	}
	t := &e.json
	if msg := t.parseExact(e.text(args[0])); msg != "" {
		return e.fail("json_extract: %s", msg)
	}
	start := len(e.buf)
	single := len(args) == 2
	var nodes []int
	for _, p := range args[1:] {
		if p.IsNull() {
			return millrace.Null
		}
		n, ok := t.follow(e.text(p))
		if !ok {
			return e.fail("json_extract: %q is not a JSON path", e.text(p))
		}
		nodes = append(nodes, n)
	}
	if single {
		if nodes[0] < 0 {
			return millrace.Null
		}
		return t.exactValue(e, nodes[0])
	}
	start = len(e.buf)
	e.buf = append(e.buf, '[')
	for i, n := range nodes {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if n < 0 {
			e.buf = append(e.buf, "null"...)
		} else {
			e.buf = t.appendRaw(e.buf, n)
		}
	}
	e.buf = append(e.buf, ']')
	return e.made(start)
}

func exactArrayLength(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Null
	}
	t := &e.json
	if msg := t.parseExact(e.text(args[0])); msg != "" {
		return e.fail("json_array_length: %s", msg)
	}
	n := 0
	if len(args) > 1 {
		if args[1].IsNull() {
			return millrace.Null
		}
		var ok bool
		if n, ok = t.follow(e.text(args[1])); !ok {
			return e.fail("json_array_length: %q is not a JSON path", e.text(args[1]))
		}
	}
	switch {
	case n < 0:
		return millrace.Null
	case t.nodes[n].kind != jsonArray:
		return millrace.Integer(0)
	}
	return millrace.Integer(int64(t.length(n)))
}

func exactJSONValid(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Null
	}
	return millrace.Bool(e.json.parseExact(e.text(args[0])) == "")
}
