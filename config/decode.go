package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxFileBytes is far beyond any honest configuration.
const maxFileBytes = 1 << 20

// maxDepth bounds nesting and alias chains.
const maxDepth = 20

// Load reads a file and the environment (in the form of os.Environ), fills in
// the defaults and checks the result. An empty file name takes the environment
// alone. The error is Errors with all findings, or one that wraps the reason
// why the file cannot be read.
func Load(file string, environ []string) (*Config, error) {
	var src []byte
	if file != "" {
		fi, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		if fi.Size() > maxFileBytes {
			return nil, fmt.Errorf("read the configuration: %s is larger than %v", file, Bytes(maxFileBytes))
		}
		if src, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
	}
	return Parse(file, src, environ)
}

// Parse is Load for a text that was read already; file is for messages and for
// relative paths.
func Parse(file string, src []byte, environ []string) (*Config, error) {
	cfg := Default()
	d := &decoder{file: file, env: make(map[string]string), where: make(map[string]place)}
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			d.env[k] = v
		}
	}
	if root := d.parse(src); root != nil {
		d.decode("", root, reflect.ValueOf(&cfg).Elem(), 0)
	}
	d.overrides(&cfg)
	if len(d.errs) == 0 {
		cfg.derive(file)
		d.validate(&cfg)
	}
	if len(d.errs) > 0 {
		return nil, d.errs.sorted()
	}
	return &cfg, nil
}

// place is where a key was given.
type place struct {
	line, column int
	env          string
}

type decoder struct {
	file  string
	env   map[string]string
	where map[string]place // by key path
	errs  Errors
}

// fail records a finding at a key; its place is that of the key or of the
// nearest key around it.
func (d *decoder) fail(key, hint, format string, args ...any) {
	e := &Error{File: d.file, Key: key, Message: fmt.Sprintf(format, args...), Hint: hint}
	for k := key; ; {
		if p, ok := d.where[k]; ok {
			e.Line, e.Column, e.Env = p.line, p.column, p.env
			break
		}
		i := strings.LastIndexAny(k, ".[")
		if i < 0 {
			break
		}
		k = k[:i]
	}
	d.errs = append(d.errs, e)
}

func (d *decoder) parse(src []byte) *yaml.Node {
	if strings.TrimSpace(string(src)) == "" {
		return nil
	}
	var doc yaml.Node
	if err := yaml.Load(src, &doc); err != nil {
		var le *yaml.LoadError
		switch {
		case errors.As(err, &le) && le.Mark.Line > 0:
			d.errs = append(d.errs, &Error{File: d.file, Line: le.Mark.Line, Column: le.Mark.Column + 1, Message: "not valid YAML: " + le.Message})
		case strings.Contains(err.Error(), "no documents"):
			return nil // only comments
		case strings.Contains(err.Error(), "multiple"):
			d.errs = append(d.errs, &Error{File: d.file, Message: "the file holds several YAML documents", Hint: "remove the --- lines but the first"})
		default:
			d.errs = append(d.errs, &Error{File: d.file, Message: "not valid YAML: " + err.Error()})
		}
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	return doc.Content[0]
}

// decode puts a node into a value: a struct, a slice, or a scalar.
func (d *decoder) decode(key string, n *yaml.Node, v reflect.Value, depth int) {
	if key != "" {
		d.where[key] = place{line: n.Line, column: n.Column}
	}
	if depth > maxDepth {
		d.fail(key, "", "nested too deeply")
		return
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		d.decode(key, n.Alias, v, depth+1)
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value keeps its default
	}
	switch {
	case v.Type() == reflect.TypeFor[JWK]():
		d.decodeJWK(key, n, v)
	case v.Kind() == reflect.Struct:
		d.decodeStruct(key, n, v, depth)
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(key, "write it as [a, b] or as lines that start with -", "a list is needed here")
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.decode(fmt.Sprintf("%s[%d]", key, i), item, list.Index(i), depth+1)
		}
		v.Set(list)
	default:
		text, ok := d.scalar(key, n)
		if !ok {
			return
		}
		if err := setScalar(v, text); err != nil {
			d.fail(key, "", "%v", err)
		}
	}
}

func (d *decoder) decodeStruct(key string, n *yaml.Node, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		d.fail(key, "", "keys with values are needed here")
		return
	}
	fields := fieldsOf(v.Type())
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		path := join(key, k.Value)
		if seen[k.Value] {
			d.errs = append(d.errs, &Error{File: d.file, Line: k.Line, Column: k.Column, Key: path, Message: "the key is there twice"})
			continue
		}
		seen[k.Value] = true
		index, ok := fields.index[k.Value]
		if !ok || k.Kind != yaml.ScalarNode {
			hint := "known here: " + strings.Join(fields.names, ", ")
			if near := closest(k.Value, fields.names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.errs = append(d.errs, &Error{File: d.file, Line: k.Line, Column: k.Column, Key: path, Message: "unknown key", Hint: hint})
			continue
		}
		d.decode(path, value, v.Field(index), depth+1)
	}
}

// scalar is the text of a scalar node, `!env NAME` resolved.
func (d *decoder) scalar(key string, n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.fail(key, "", "a single value is needed here")
		return "", false
	}
	if n.Tag != "!env" {
		if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
			d.fail(key, "only !env NAME is known", "unknown tag %s", n.Tag)
			return "", false
		}
		return n.Value, true
	}
	name := strings.TrimSpace(n.Value)
	text, ok := d.env[name]
	if !ok {
		d.fail(key, "set it, or write the value here", "the environment variable %q is not set", name)
		return "", false
	}
	return text, true
}

// decodeJWK takes a key as a mapping, or as JSON text.
func (d *decoder) decodeJWK(key string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode {
		if text, ok := d.scalar(key, n); ok {
			if err := setScalar(v, text); err != nil {
				d.fail(key, "", "%v", err)
			}
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(key, `for example {kty: oct, alg: HS256, k: !env KEY, kid: dev}`, "a JSON Web Key is needed here")
		return
	}
	members := make(map[string]any)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		path := join(key, name)
		d.where[path] = place{line: value.Line, column: value.Column}
		if value.Kind == yaml.SequenceNode { // key_ops, x5c
			var list []string
			for _, item := range value.Content {
				if text, ok := d.scalar(path, item); ok {
					list = append(list, text)
				}
			}
			members[name] = list
			continue
		}
		if text, ok := d.scalar(path, value); ok {
			members[name] = text
		}
	}
	b, err := json.Marshal(members)
	if err != nil {
		d.fail(key, "", "%v", err)
		return
	}
	v.SetBytes(b)
}

// setScalar parses text for the type of v.
func setScalar(v reflect.Value, text string) error {
	switch v.Interface().(type) {
	case time.Duration:
		dur, err := ParseDuration(text)
		v.SetInt(int64(dur))
		return err
	case Bytes:
		n, err := ParseBytes(text)
		v.SetInt(int64(n))
		return err
	case JWK:
		if !json.Valid([]byte(text)) || !strings.HasPrefix(strings.TrimSpace(text), "{") {
			return errors.New("a JSON Web Key is needed here, as a JSON object")
		}
		v.SetBytes([]byte(text))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch text {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case reflect.Int64:
		n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetFloat(n)
	default:
		return fmt.Errorf("values of type %v cannot be read", v.Type())
	}
	return nil
}

type fieldSet struct {
	names []string
	index map[string]int
}

func fieldsOf(t reflect.Type) fieldSet {
	f := fieldSet{index: make(map[string]int)}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "-" {
			f.names = append(f.names, name)
			f.index[name] = i
		}
	}
	return f
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
