package syncrules

import (
	"bytes"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode/utf8"
)

// Severity tells whether a diagnostic prevents the rules from being used.
type Severity uint8

// The severities.
const (
	Fatal Severity = iota + 1
	Warning
)

// String gives the word used in rendered diagnostics.
func (s Severity) String() string {
	if s == Fatal {
		return "error"
	}
	return "warning"
}

// Diagnostic is something found in a rules file.
type Diagnostic struct {
	Severity Severity
	File     string
	// Start and End are byte offsets into the file, End exclusive.
	Start, End int
	// Lines and columns count from 1; columns count characters.
	Line, Column       int
	EndLine, EndColumn int
	Message            string
	Hint               string // what to do about it; may be empty
}

// String gives file:line:column: severity: message.
func (d Diagnostic) String() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", d.File, d.Line, d.Column, d.Severity, d.Message)
}

// Diagnostics is everything found in a rules file, by position.
type Diagnostics []Diagnostic

// Fatal tells whether any of them is fatal.
func (ds Diagnostics) Fatal() bool {
	for _, d := range ds {
		if d.Severity == Fatal {
			return true
		}
	}
	return false
}

// Error gives the diagnostics one per line, without source excerpts.
func (ds Diagnostics) Error() string {
	lines := make([]string, len(ds))
	for i, d := range ds {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Render writes each diagnostic with its source line, a caret below the place
// and the hint. src is the text that was compiled.
func (ds Diagnostics) Render(w io.Writer, src []byte) error {
	for _, d := range ds {
		if _, err := fmt.Fprintln(w, d.String()); err != nil {
			return err
		}
		line := sourceLine(src, d.Start)
		if line != "" {
			width := 1
			if d.EndLine == d.Line && d.EndColumn > d.Column {
				width = d.EndColumn - d.Column
			} else if d.EndLine > d.Line {
				width = max(1, utf8.RuneCountInString(line)-d.Column+1)
			}
			line, column, width := excerpt(line, d.Column, width)
			pad := caretPad(line, column)
			if _, err := fmt.Fprintf(w, "    %s\n    %s%s\n", line, pad, strings.Repeat("^", width)); err != nil {
				return err
			}
		}
		if d.Hint != "" {
			if _, err := fmt.Fprintf(w, "    hint: %s\n", d.Hint); err != nil {
				return err
			}
		}
	}
	return nil
}

// excerpt cuts a long line to what is around the place.
func excerpt(line string, column, width int) (string, int, int) {
	const longest, before = 160, 50
	runes := []rune(line)
	if len(runes) <= longest {
		return line, column, width
	}
	from := max(0, min(column-1-before, len(runes)-longest))
	to := min(from+longest, len(runes))
	cut := string(runes[from:to])
	column -= from
	if from > 0 {
		cut = "…" + cut
		column++
	}
	if to < len(runes) {
		cut += "…"
	}
	return cut, column, max(1, min(width, utf8.RuneCountInString(cut)-column+1))
}

func sourceLine(src []byte, at int) string {
	if at > len(src) {
		return ""
	}
	start := bytes.LastIndexByte(src[:at], '\n') + 1
	end := len(src)
	if i := bytes.IndexByte(src[start:], '\n'); i >= 0 {
		end = start + i
	}
	return strings.TrimRight(string(src[start:end]), "\r")
}

// caretPad is white space as wide as the line's first column-1 characters,
// tabs kept, so that the caret lines up.
func caretPad(line string, column int) string {
	var b strings.Builder
	n := 1
	for _, r := range line {
		if n >= column {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
		n++
	}
	return b.String()
}

// maxDiagnostics bounds what is collected of one file.
const maxDiagnostics = 200

// reporter collects the diagnostics of one file.
type reporter struct {
	file  string
	src   []byte
	lines []int // offset of each line's start
	list  Diagnostics
	fatal int // how many, also beyond what is collected
}

func newReporter(file string, src []byte) *reporter {
	r := &reporter{file: file, src: src, lines: []int{0}}
	for i, c := range src {
		if c == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	return r
}

// position turns a byte offset into line and column.
func (r *reporter) position(off int) (line, column int) {
	off = min(max(off, 0), len(r.src))
	line = sort.Search(len(r.lines), func(i int) bool { return r.lines[i] > off })
	start := r.lines[line-1]
	return line, utf8.RuneCount(r.src[start:off]) + 1
}

// offset turns a line and column, both from 1, into a byte offset.
func (r *reporter) offset(line, column int) int {
	if line < 1 {
		return 0
	}
	if line > len(r.lines) {
		return len(r.src)
	}
	off := r.lines[line-1]
	for n := 1; n < column && off < len(r.src) && r.src[off] != '\n'; n++ {
		_, size := utf8.DecodeRune(r.src[off:])
		off += size
	}
	return off
}

func (r *reporter) add(sev Severity, start, end int, hint, message string) {
	if sev == Fatal {
		r.fatal++
	}
	if len(r.list) >= maxDiagnostics {
		return
	}
	start = min(max(start, 0), len(r.src))
	end = min(max(end, start), len(r.src))
	d := Diagnostic{Severity: sev, File: r.file, Start: start, End: end, Message: message, Hint: hint}
	d.Line, d.Column = r.position(start)
	d.EndLine, d.EndColumn = r.position(end)
	for _, o := range r.list {
		if o.Start == d.Start && o.End == d.End && o.Message == d.Message {
			return
		}
	}
	r.list = append(r.list, d)
}

func (r *reporter) sorted() Diagnostics {
	sort.SliceStable(r.list, func(i, j int) bool { return r.list[i].Start < r.list[j].Start })
	return r.list
}

// closest returns the candidate nearest to name in spelling, or "" if none is
// near enough to be what was meant.
func closest(name string, candidates []string) string {
	best, bestDist := "", 1+max(1, len(name)/3)
	for _, c := range candidates {
		if d := editDistance(name, c, bestDist); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

func didYouMean(name string, candidates []string) string {
	if c := closest(name, candidates); c != "" {
		return fmt.Sprintf("did you mean %q?", c)
	}
	return ""
}

// editDistance is how many bytes to insert, drop, replace or swap with their
// neighbour turn a into b, or limit if it is not smaller.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return min(prev[len(b)], limit)
}
