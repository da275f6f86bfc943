package syncrules

import (
	"bytes"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// scalarMap tells where the bytes of a scalar's value stand in the file.
type scalarMap struct {
	// from[i] and to[i] enclose what byte i of the value was written as.
	from, to []int32
	base     int // where the content begins
	end      int // behind the scalar
}

// scalar finds a scalar's value in the file. The YAML parser tells where the
// scalar begins; from there the value is laid beside the text: escapes are
// read, and white space that folding, indentation or line breaks add or drop
// is skipped up to the next character that is not white space.
func (d *document) scalar(n *yaml.Node) scalarMap {
	src, value := d.src, n.Value
	p := d.skipProperties(d.start(n))
	m := scalarMap{from: make([]int32, len(value)), to: make([]int32, len(value))}
	quote := byte(0)
	switch {
	case p < len(src) && (src[p] == '"' || src[p] == '\'') && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		quote = src[p]
		p++
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		if i := bytes.IndexByte(src[p:], '\n'); i >= 0 {
			p += i + 1
		}
		for p < len(src) && isBlank(src[p]) {
			p++
		}
	}
	m.base, m.end = p, p
	for i := 0; i < len(value); {
		_, size := utf8.DecodeRuneInString(value[i:])
		p = alignTo(src, p, value[i], quote)
		width := min(size, len(src)-p)
		step := width
		switch {
		case isBlank(value[i]) && !(p < len(src) && (src[p] == value[i] || quote == '"' && src[p] == '\\')):
			width, step = 0, 0 // white space that is not there in this form
		case quote == '"' && p < len(src) && src[p] == '\\':
			width = escapeWidth(src, p)
			step = width
		case quote == '\'' && p+1 < len(src) && src[p] == '\'' && src[p+1] == '\'':
			width, step = 2, 2
		}
		for j := i; j < i+size; j++ {
			m.from[j], m.to[j] = int32(p), int32(p+width)
		}
		p += step
		if !isBlank(value[i]) {
			m.end = p
		}
		i += size
	}
	if quote != 0 {
		for p = m.end; p < len(src) && src[p] != quote; p++ {
		}
		m.end = min(p+1, len(src))
	}
	return m
}

// alignTo moves p to where the next character c of a value is written.
func alignTo(src []byte, p int, c, quote byte) int {
	for p < len(src) {
		if quote == '"' && src[p] == '\\' && p+1 < len(src) && (src[p+1] == '\n' || src[p+1] == '\r') {
			p += 2 // an escaped line break
			continue
		}
		if isBlank(c) || !isBlank(src[p]) {
			return p
		}
		p++
	}
	return p
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// escapeWidth is the length of the escape of a double quoted scalar at p.
func escapeWidth(src []byte, p int) int {
	if p+1 >= len(src) {
		return len(src) - p
	}
	n := map[byte]int{'x': 4, 'u': 6, 'U': 10}[src[p+1]]
	if n == 0 {
		_, size := utf8.DecodeRune(src[p+1:])
		n = 1 + size
	}
	return min(n, len(src)-p)
}

// skipProperties passes a tag or an anchor in front of a scalar.
func (d *document) skipProperties(p int) int {
	for p < len(d.src) && (d.src[p] == '!' || d.src[p] == '&') {
		for p < len(d.src) && !isBlank(d.src[p]) {
			p++
		}
		for p < len(d.src) && isBlank(d.src[p]) {
			p++
		}
	}
	return p
}
