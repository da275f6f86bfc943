package syncrules

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFileBytes bounds the size of a rules file.
const maxFileBytes = 1 << 20

// document is the YAML of a rules file, read with an eye on positions.
type document struct {
	rep *reporter
	src []byte
}

// readYAML parses the file into its root map. nil means an error was reported.
func readYAML(rep *reporter) *yaml.Node {
	src := rep.src
	if len(src) > maxFileBytes {
		rep.add(Fatal, 0, 0, "split the application's rules or drop what is not used", "rules file is larger than 1 MiB")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			rep.add(Fatal, 0, 0, "define streams: or bucket_definitions:", "rules file is empty")
		} else {
			rep.yamlError(err)
		}
		return nil
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		at := rep.offset(second.Line, second.Column)
		rep.add(Fatal, at, at, "remove the line ---", "a rules file is one YAML document")
		return nil
	case !errors.Is(err, io.EOF):
		rep.yamlError(err)
		return nil
	}
	d := &document{rep, src}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		rep.add(Fatal, 0, 0, "", "rules file is empty")
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.fatal(root, "define streams: or bucket_definitions:", "a rules file is a map")
		return nil
	}
	return root
}

// yamlError reports what the YAML parser found.
func (r *reporter) yamlError(err error) {
	var le *yaml.LoadError
	var many *yaml.LoadErrors
	if errors.As(err, &many) && len(many.Errors) > 0 {
		le = many.Errors[0]
	} else {
		errors.As(err, &le)
	}
	if le == nil {
		r.add(Fatal, 0, 0, "", "invalid YAML: "+err.Error())
		return
	}
	mark := le.Mark
	hint, message := "", "invalid YAML: "+le.Message
	off := r.offset(mark.Line, max(mark.Column, 1))
	switch {
	case strings.Contains(le.Message, "expected key"), strings.Contains(le.Message, "expected <document start>"):
		hint = "check the indentation: the keys of a map begin in the same column"
	case strings.Contains(le.Message, "mapping values are not allowed"):
		hint = "put a text that contains \": \" in quotes, or write it on lines of its own below |"
	case strings.Contains(le.Message, "cannot start any token"):
		hint = "put the text in quotes"
		if off < len(r.src) && bytes.IndexByte(r.src[off:min(off+1, len(r.src))], '\t') >= 0 {
			message, hint = "invalid YAML: a tab in the indentation", "indent with spaces"
		}
	case strings.Contains(le.Message, "unexpected end of stream") && le.ContextMark.Line > 0:
		mark = le.ContextMark
		message, hint = "invalid YAML: a quoted text is not closed", "add the quote at its end"
	}
	if mark.Line == 0 {
		mark = le.ContextMark
	}
	off = r.offset(mark.Line, max(mark.Column, 1))
	r.add(Fatal, off, min(off+1, len(r.src)), hint, message)
}

func (d *document) start(n *yaml.Node) int { return d.rep.offset(n.Line, n.Column) }

// end is where a node ends in the file.
func (d *document) end(n *yaml.Node) int {
	switch n.Kind {
	case yaml.ScalarNode:
		return d.scalar(n).end
	case yaml.MappingNode, yaml.SequenceNode:
		if len(n.Content) > 0 {
			end := d.end(n.Content[len(n.Content)-1])
			if n.Style&yaml.FlowStyle != 0 {
				for end < len(d.src) && d.src[end] != ']' && d.src[end] != '}' && d.src[end] != '\n' {
					end++
				}
				end = min(end+1, len(d.src))
			}
			return end
		}
		return min(d.start(n)+2, len(d.src))
	}
	return min(d.start(n)+len(n.Value)+1, len(d.src))
}

func (d *document) fatal(n *yaml.Node, hint, message string) {
	d.rep.add(Fatal, d.start(n), d.end(n), hint, message)
}

func (d *document) warn(n *yaml.Node, hint, message string) {
	d.rep.add(Warning, d.start(n), d.end(n), hint, message)
}

// entry is a key of a map with its value.
type entry struct {
	key, value *yaml.Node
}

// entries reads a map whose keys are text and unique. ok is false if n is not
// a map, which is reported.
func (d *document) entries(n *yaml.Node, what string) (list []entry, ok bool) {
	n = resolveAlias(n)
	if n.Kind != yaml.MappingNode {
		d.fatal(n, mapHints[what], what+" must be a map")
		return nil, false
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str":
			d.fatal(k, "put the key in quotes", "map keys must be text")
		case seen[k.Value]:
			d.fatal(k, "give one of them another name, or put both under one key", "key "+quote(k.Value)+" is given twice")
		default:
			seen[k.Value] = true
			list = append(list, entry{k, v})
		}
	}
	return list, true
}

// mapHints tell what a map of each kind looks like.
var mapHints = map[string]string{
	"a stream":            "write query: SELECT … below the stream's name",
	"a bucket definition": "write data: with a list of queries below the definition's name",
	"an event definition": "write payloads: with a list of queries below the event's name",
	"config":              "write edition: 3 below config:",
	"streams":             "write the name of a stream below streams:",
	"bucket_definitions":  "write the name of a definition below bucket_definitions:",
	"with":                "write name: SELECT … for each common table expression",
}

// unknownKey reports a key that is not one of those allowed.
func (d *document) unknownKey(k *yaml.Node, where string, allowed ...string) {
	hint := didYouMean(k.Value, allowed)
	if hint == "" {
		hint = "allowed here: " + strings.Join(allowed, ", ")
	}
	d.fatal(k, hint, "unknown key "+quote(k.Value)+" in "+where)
}

// resolveAlias follows an alias to what it stands for.
func resolveAlias(n *yaml.Node) *yaml.Node {
	for i := 0; i < 10 && n.Kind == yaml.AliasNode && n.Alias != nil; i++ {
		n = n.Alias
	}
	return n
}

func quote(s string) string { return "\"" + s + "\"" }

// boolean reads true or false.
func (d *document) boolean(e entry) (value, ok bool) {
	n := resolveAlias(e.value)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 {
		switch strings.ToLower(n.Value) {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	hint := ""
	switch strings.ToLower(n.Value) {
	case "yes", "on", "1":
		hint = "write true"
	case "no", "off", "0":
		hint = "write false"
	}
	d.fatal(e.value, hint, e.key.Value+" must be true or false")
	return false, false
}

// integer reads one of the small integers in allowed.
func (d *document) integer(e entry, allowed ...int) (value int, ok bool) {
	n := resolveAlias(e.value)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		for _, a := range allowed {
			if n.Value == itoa(a) {
				return a, true
			}
		}
	}
	texts := make([]string, len(allowed))
	for i, a := range allowed {
		texts[i] = itoa(a)
	}
	hint := ""
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		hint = "write the number without quotes"
	}
	d.fatal(e.value, hint, e.key.Value+" must be one of "+strings.Join(texts, ", "))
	return 0, false
}

// query reads a scalar as the text of a query. nil means an error was
// reported.
func (d *document) query(n *yaml.Node, what string) *query {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fatal(n, "write the query out", what+" cannot be a YAML alias")
		return nil
	case n.Kind != yaml.ScalarNode:
		hint := ""
		if what == "query" && n.Kind == yaml.SequenceNode {
			hint = "write queries: for a list of queries"
		}
		d.fatal(n, hint, what+" must be text")
		return nil
	}
	m := d.scalar(n)
	return &query{text: n.Value, rep: d.rep, from: m.from, to: m.to, base: m.base}
}

// queryText is query for places where only text will do.
func (d *document) queryText(n *yaml.Node, what string) *query {
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!str" && n.Style&yaml.TaggedStyle == 0 {
		d.fatal(n, "", what+" must be text")
		return nil
	}
	return d.query(n, what)
}
