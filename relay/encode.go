package relay

import (
	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// encoder turns ops, bucket by bucket, into data lines of at most pageOps ops
// and about pageBytes each. It reuses its buffers; what flush is given is valid
// during the call.
type encoder struct {
	wires func(i int) string
	after func(i int) millrace.OpID
	as    protocol.Encoding

	buf   []byte // finished lines of the current bucket
	body  []byte // ops of the current line
	index int
	open  bool
	n     int // ops in body
	total int // ops of the bucket
	from  millrace.OpID
	last  millrace.OpID
}

// size is what the current bucket takes so far.
func (e *encoder) size() int { return len(e.buf) + len(e.body) }

// op adds an op of bucket i, ending the bucket before it.
func (e *encoder) op(i int, op *millrace.Op, flush func(i int, lines []byte, ops int)) {
	if e.open && e.index != i {
		e.end(flush)
	}
	if !e.open {
		e.open, e.index, e.total, e.n = true, i, 0, 0
		e.from = e.after(i)
		e.buf, e.body = e.buf[:0], e.body[:0]
	}
	if e.n == pageOps || len(e.body) >= pageBytes {
		e.line(true)
	}
	e.body = e.as.AppendOp(e.body, e.n, op)
	e.n++
	e.total++
	e.last = op.ID
}

func (e *encoder) line(more bool) {
	e.buf = e.as.AppendData(e.buf, e.wires(e.index), e.from, e.last, more, e.body)
	e.body, e.n, e.from = e.body[:0], 0, e.last
}

// end ends the current bucket, if there is one.
func (e *encoder) end(flush func(i int, lines []byte, ops int)) { e.endMore(false, flush) }

func (e *encoder) endMore(more bool, flush func(i int, lines []byte, ops int)) {
	if !e.open {
		return
	}
	e.line(more)
	e.open = false
	flush(e.index, e.buf, e.total)
}
