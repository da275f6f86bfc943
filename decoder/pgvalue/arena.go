package pgvalue

import "unsafe"

// Arena keeps the texts that converters make. Values of a row stay valid until
// Reset, and the memory is used again after it. The zero Arena is ready. Not
// for concurrent use.
type Arena struct {
	buf []byte
}

// Reset forgets all texts. No Value made with the arena may be used any more.
func (a *Arena) Reset() { a.buf = a.buf[:0] }

// since gives the text appended after start. Growth moves the buffer, which
// leaves earlier texts where they are.
func (a *Arena) since(start int) string { return view(a.buf[start:]) }

// view is b as a string without a copy.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
