package decoder

import (
	"time"
	"unsafe"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// batch is what goes to the writer at once: changes, and with the last batch
// of a flush what closes it. All that its changes point to lives in the batch,
// so that reusing it costs no allocation for each row.
type batch struct {
	changes []millrace.Change
	outputs []millrace.Output
	lookups []millrace.Lookup
	marks   []millrace.WriteMark
	errors  []millrace.RowError
	out     syncrules.Output
	text    arena
	bytes   int64 // about what the changes hold

	// flush closes the sidecar transaction after the changes; nil if more
	// batches of the same flush follow.
	flush *millrace.Flush
	// applied is how far the flush contains each source.
	applied map[millrace.SourceID]millrace.LSN
	began   time.Time // when the oldest change of the flush came in
	// replaces: a change replaces a table by its shadow.
	replaces bool
}

func (b *batch) reset() {
	clear(b.changes)
	clear(b.outputs)
	clear(b.lookups)
	clear(b.marks)
	clear(b.errors)
	b.changes, b.outputs = b.changes[:0], b.outputs[:0]
	b.lookups, b.marks, b.errors = b.lookups[:0], b.marks[:0], b.errors[:0]
	b.out.Reset()
	b.text.reset()
	b.bytes = 0
	b.flush, b.applied, b.began, b.replaces = nil, nil, time.Time{}, false
}

// remove appends the deletion of a row.
func (b *batch) remove(scope *millrace.Scope, key string) {
	b.changes = append(b.changes, millrace.Change{Scope: scope, Kind: millrace.ChangeDelete, Key: key})
	b.bytes += int64(len(key)) + changeOverhead
}

// truncate appends the removal of all rows of a table.
func (b *batch) truncate(scope *millrace.Scope) {
	b.changes = append(b.changes, millrace.Change{Scope: scope, Kind: millrace.ChangeTruncate})
	b.bytes += changeOverhead
}

// replace appends that what a table has is replaced by its shadow.
func (b *batch) replace(scope *millrace.Scope) {
	b.changes = append(b.changes, millrace.Change{Scope: scope, Kind: millrace.ChangeReplace})
	b.replaces = true
	b.bytes += changeOverhead
}

// changeOverhead is about what a change takes beside its texts.
const changeOverhead = 150

// arena holds texts that live as long as a batch.
type arena struct {
	chunk []byte
	kept  [][]byte // full chunks of this round
}

const arenaChunk = 256 << 10

// room gives an empty slice to append at most n bytes to, followed by keep.
func (a *arena) room(n int) []byte {
	if cap(a.chunk)-len(a.chunk) < n {
		if len(a.chunk) > 0 {
			a.kept = append(a.kept, a.chunk)
		}
		a.chunk = make([]byte, 0, max(n, arenaChunk))
	}
	return a.chunk[len(a.chunk):len(a.chunk):cap(a.chunk)]
}

// keep makes what was appended to the room part of the arena. What outgrew it
// is kept as it is.
func (a *arena) keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if n := len(a.chunk); len(b) <= cap(a.chunk)-n && &b[0] == &a.chunk[:n+1][n] {
		a.chunk = a.chunk[:n+len(b)]
	}
	return unsafe.String(&b[0], len(b))
}

func (a *arena) reset() {
	a.kept = nil
	if cap(a.chunk) > 4*arenaChunk {
		a.chunk = nil
	}
	a.chunk = a.chunk[:0]
}

// textOf views bytes as a string. The bytes must not change while it is used.
func textOf(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}
