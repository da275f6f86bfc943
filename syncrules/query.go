package syncrules

import "fmt"

// query is one SQL text of a rules file, with the way back from positions in
// the text to positions in the file.
type query struct {
	text string
	rep  *reporter
	// from[i] and to[i] are where byte i of the text begins and ends in the
	// file. Both are nil if the text is a verbatim piece of the file at base.
	from, to []int32
	base     int
}

// span is a piece of a query's text. The zero span is nowhere.
type span struct {
	q          *query
	start, end int
}

func (s span) text() string { return s.q.text[s.start:s.end] }

// to returns the span from the start of s to the end of e.
func (s span) to(e span) span { return span{s.q, s.start, e.end} }

// file gives the offsets of the span in the file.
func (s span) file() (start, end int) {
	q := s.q
	if q.from == nil {
		return q.base + s.start, q.base + s.end
	}
	if len(q.from) == 0 {
		return q.base, q.base
	}
	if s.start < len(q.from) {
		start = int(q.from[s.start])
	} else {
		start = int(q.to[len(q.to)-1])
	}
	end = start
	if s.end > s.start {
		end = int(q.to[min(s.end, len(q.to))-1])
	}
	return start, max(start, end)
}

func (s span) fatal(hint, format string, args ...any) {
	start, end := s.file()
	s.q.rep.add(Fatal, start, end, hint, fmt.Sprintf(format, args...))
}

func (s span) warn(hint, format string, args ...any) {
	start, end := s.file()
	s.q.rep.add(Warning, start, end, hint, fmt.Sprintf(format, args...))
}

// whole is the span of the entire text.
func (q *query) whole() span { return span{q, 0, len(q.text)} }
