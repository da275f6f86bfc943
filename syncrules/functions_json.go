package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

func jsonExtract(e *env, args []millrace.Value) millrace.Value {
	return extractPath(e, args, 0)
}

func jsonExtractLegacy(e *env, args []millrace.Value) millrace.Value {
	return extractPath(e, args, pathLegacyNull)
}

func extractPath(e *env, args []millrace.Value, mode pathMode) millrace.Value {
	if args[0].IsNull() || args[1].IsNull() {
		return millrace.Null
	}
	path := e.text(args[1])
	if !strings.HasPrefix(path, "$") {
		return e.fail("json_extract: a path starts with $")
	}
	return extract(e, args[0], path, pathDollar|mode, true)
}

func jsonArrayLength(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() || len(args) > 1 && args[1].IsNull() {
		return millrace.Null
	}
	if msg := e.json.parse(e.text(args[0])); msg != "" {
		return e.fail("json_array_length: %s", msg)
	}
	n := 0
	if len(args) > 1 {
		path := e.text(args[1])
		if !strings.HasPrefix(path, "$") {
			return e.fail("json_array_length: a path starts with $")
		}
		n = e.json.find(path, pathDollar)
	}
	if n < 0 {
		return millrace.Null
	}
	node := e.json.nodes[n]
	if node.kind == jsonNull {
		return millrace.Null
	}
	count := int64(0)
	if node.kind == jsonArray {
		for c := n + 1; c < int(node.next); c = int(e.json.nodes[c].next) {
			count++
		}
	}
	return millrace.Integer(count)
}

// jsonKeys lists an object's keys; those that look like array indexes come
// first, ascending.
func jsonKeys(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Null
	}
	t := &e.json
	if msg := t.parse(e.text(args[0])); msg != "" {
		return e.fail("json_keys: %s", msg)
	}
	root := t.nodes[0]
	if root.kind == jsonNull {
		return millrace.Null
	}
	if root.kind != jsonObject {
		return e.fail("json_keys: not a JSON object")
	}
	var keys []string
	seen := map[string]bool{}
	for k := 1; k < int(root.next); k = int(t.nodes[t.nodes[k].next].next) {
		if key := t.decode(k); !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	sortIndexesFirst(keys, func(k string) string { return k })
	start := len(e.buf)
	e.buf = append(e.buf, '[')
	for i, k := range keys {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.buf = millrace.AppendTextJSON(e.buf, k)
	}
	e.buf = append(e.buf, ']')
	return e.made(start)
}

func jsonValid(e *env, args []millrace.Value) millrace.Value {
	if args[0].IsNull() {
		return millrace.Integer(0)
	}
	msg := e.json.parse(e.text(args[0]))
	return millrace.Bool(msg == "" || msg == duplicateKey)
}
