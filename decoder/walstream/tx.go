package walstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// Event is what a stream hands out: *Tx or Keepalive.
type Event interface{ event() }

// Keepalive tells that everything the slot has for us below WALEnd was handed
// out before. It may be confirmed once all of that is durable (P59): it moves
// the slot past WAL that holds nothing for us, and a server that shuts down
// waits for it.
type Keepalive struct {
	WALEnd millrace.LSN
}

func (Keepalive) event() {}

// Tx is a whole committed transaction. It belongs to the consumer until
// Release; it may be used by one goroutine at a time.
type Tx struct {
	XID        uint32       // top-level transaction id, low 32 bits
	CommitLSN  millrace.LSN // start of the commit record: order of transactions
	EndLSN     millrace.LSN // end of it: what to confirm
	CommitTime time.Time
	Bytes      int64 // of the messages, with their headers
	Count      int   // of the messages, Relation, Type, Origin and logical ones included

	stream   *Stream
	pieces   []piece
	first    [1]piece // room for pieces of a small transaction
	spool    *spoolFile
	released atomic.Bool
}

func (*Tx) event() {}

// piece is a range of whole frames in a slab.
type piece struct {
	slab     *slab
	from, to int
}

// Message is one pgoutput message.
type Message struct {
	// LSN of the change (WALStart); several changes may share one (P2).
	LSN millrace.LSN
	// Data is the message, its kind byte included. It is valid until the next
	// message is asked for, and for a transaction that is not Spooled until
	// Release.
	Data []byte
}

// Spooled tells whether the messages are read from a file.
func (t *Tx) Spooled() bool { return t.spool != nil }

// Messages gives the messages between Begin and Commit in order. It can be
// used again from the start. An error, which only a spooled transaction gives,
// is the last thing yielded.
func (t *Tx) Messages() iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if t.released.Load() {
			yield(Message{}, fmt.Errorf("transaction %d was released", t.XID))
			return
		}
		if t.spool != nil {
			t.spooled(yield)
			return
		}
		for _, p := range t.pieces {
			t.stream.progress.Add(1)
			for b := p.slab.buf[p.from:p.to]; len(b) > 0; {
				m, size := firstMessage(b)
				if m.Data != nil && !yield(m, nil) {
					return
				}
				b = b[size:]
			}
		}
	}
}

// Release gives the memory or the spool file back. A second call does nothing.
func (t *Tx) Release() {
	if t.released.Swap(true) {
		return
	}
	for i := range t.pieces {
		t.pieces[i].slab.release()
		t.pieces[i].slab = nil
	}
	t.pieces = nil
	if t.spool != nil {
		t.stream.spool.remove(t.spool)
	}
	t.stream.progress.Add(1)
	t.stream.pending.Add(-1)
}

// Frames: 'd', length of the rest (4), then 'w', start and end of WAL, time
// (1+8+8+8), then the message.
const (
	frameHeader   = 5
	messageOffset = frameHeader + 25
)

// firstMessage gives the first frame's message and the frame's size. b holds
// whole frames that the reader has checked. Data is nil for a frame that holds
// no message (a keepalive between the rows of a long transaction).
func firstMessage(b []byte) (Message, int) {
	size := 1 + int(binary.BigEndian.Uint32(b[1:]))
	if b[0] != 'd' || b[frameHeader] != 'w' {
		return Message{}, size
	}
	return Message{
		LSN:  millrace.LSN(binary.BigEndian.Uint64(b[frameHeader+1:])),
		Data: b[messageOffset:size:size],
	}, size
}

func (t *Tx) spooled(yield func(Message, error) bool) {
	b := newSlab(slabSize)
	defer func() { b.release() }()
	var offset int64
	have := 0
	for offset+int64(have) < t.spool.size || have > 0 {
		n, err := t.spool.file.ReadAt(b.buf[have:], offset+int64(have))
		if err != nil && err != io.EOF {
			yield(Message{}, fmt.Errorf("read spooled transaction %d: %w", t.XID, err))
			return
		}
		have += n
		t.stream.progress.Add(1)
		used := 0
		for have-used >= frameHeader {
			size := 1 + int(binary.BigEndian.Uint32(b.buf[used+1:]))
			if have-used < size {
				break
			}
			m, _ := firstMessage(b.buf[used:have])
			if m.Data != nil && !yield(m, nil) {
				return
			}
			used += size
		}
		if used == 0 {
			if n == 0 {
				yield(Message{}, fmt.Errorf("read spooled transaction %d: file %s ends in a message", t.XID, t.spool.path))
				return
			}
			if have == len(b.buf) {
				// A message larger than the buffer.
				b = grow(b, have, 1+int(binary.BigEndian.Uint32(b.buf[1:])))
			}
			continue
		}
		copy(b.buf, b.buf[used:have])
		offset += int64(used)
		have -= used
	}
}

// grow moves the first have bytes of s to a slab of at least size bytes.
func grow(s *slab, have, size int) *slab {
	bigger := newSlab(size)
	copy(bigger.buf, s.buf[:have])
	s.release()
	return bigger
}
