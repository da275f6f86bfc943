package walstream

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// reader cuts the stream into transactions. buf[pos:end] of the slab is what
// has been received and not looked at; an open transaction owns buf[from:pos].
type reader struct {
	s        *Stream
	slab     *slab
	pos, end int
	need     int // size of the frame at pos, 0 if unknown

	tx   *Tx // open transaction
	from int
	held int64 // bytes of tx in memory

	events []Event // complete, not published
	cost   int64   // of events

	ended bool // the server has said that the stream is over
}

// read is the reader's goroutine.
func (s *Stream) read() {
	r := &reader{s: s, slab: newSlab(slabSize)}
	err := r.run()
	r.publish(nil)
	if r.tx != nil {
		s.pending.Add(1)
		r.tx.Release()
	}
	r.slab.release()
	if err == errStopped {
		// Let the server finish its farewell; Close bounds how long.
		_, _ = io.Copy(io.Discard, s.wire)
		err = ErrClosed
	}
	r.publish(err)
}

func (r *reader) run() error {
	for {
		if err := r.makeRoom(); err != nil {
			return err
		}
		n, readErr := r.s.wire.Read(r.slab.buf[r.end:])
		r.end += n
		if err := r.frames(); err != nil {
			return err
		}
		if r.tx != nil && r.held+int64(r.pos-r.from) > r.s.config.MaxMemory {
			if err := r.moveToSpool(); err != nil {
				return err
			}
		}
		r.publish(nil)
		select {
		case <-r.s.closed:
			return errStopped
		default:
		}
		if readErr != nil {
			if r.ended {
				return ErrServerShutdown
			}
			return fmt.Errorf("%w: %w", ErrDisconnected, readErr)
		}
		if err := r.s.waitForSpace(); err != nil {
			return err
		}
	}
}

// publish hands over what is complete.
func (r *reader) publish(err error) {
	if len(r.events) == 0 && err == nil {
		return
	}
	r.s.queued.Add(r.cost)
	r.s.publish(r.events, err)
	clear(r.events)
	r.events, r.cost = r.events[:0], 0
}

// makeRoom sees to it that the next read has room for what is worth a wake-up,
// and that a frame that has begun fits.
func (r *reader) makeRoom() error {
	free, begun := len(r.slab.buf)-r.end, r.end-r.pos
	idle := begun == 0 && r.pos > 0 && r.tx == nil && r.slab.alone()
	if !idle && free >= minRead && r.need <= len(r.slab.buf)-r.pos {
		return nil
	}
	if err := r.cut(); err != nil {
		return err
	}
	next := r.slab
	if !next.alone() || r.need > len(next.buf) || len(next.buf) > max(slabSize, r.need) {
		next = newSlab(max(r.need, slabSize))
	}
	copy(next.buf, r.slab.buf[r.pos:r.end])
	if next != r.slab {
		r.slab.release()
	}
	r.slab, r.pos, r.end, r.from = next, 0, begun, 0
	return nil
}

// cut gives what the open transaction has in the slab to the transaction.
func (r *reader) cut() error {
	if r.tx == nil || r.pos == r.from {
		return nil
	}
	from := r.from
	r.from = r.pos
	if r.tx.spool != nil {
		return r.write(r.slab.buf[from:r.pos])
	}
	r.slab.hold()
	r.tx.pieces = append(r.tx.pieces, piece{r.slab, from, r.pos})
	r.held += int64(r.pos - from)
	return nil
}

// moveToSpool continues the open transaction in a file.
func (r *reader) moveToSpool() error {
	if r.tx.spool != nil {
		return nil // the slab's part follows when the slab is full
	}
	f, err := r.s.spool.create()
	if err != nil {
		return err
	}
	r.tx.spool = f
	pieces := r.tx.pieces
	r.tx.pieces = nil
	for _, p := range pieces {
		if err == nil {
			err = r.write(p.slab.buf[p.from:p.to])
		}
		p.slab.release()
	}
	r.held = 0
	if err != nil {
		return err
	}
	return r.cut()
}

// write appends to the open transaction's file. If other transactions take up
// the spool it waits for them; one that is too large alone is an error.
func (r *reader) write(b []byte) error {
	sp := r.s.spool
	size := r.tx.spool.size + int64(len(b))
	if size > r.s.config.SpoolMax {
		return &SpoolFullError{XID: r.tx.XID, Size: size, Limit: r.s.config.SpoolMax}
	}
	for sp.bytes.Load()+int64(len(b)) > r.s.config.SpoolMax {
		r.publish(nil)
		select {
		case <-sp.freed:
		case <-r.s.space: // woken by whoever interrupts
		case <-r.s.closed:
			return errStopped
		}
		if err := r.s.interrupted(); err != nil {
			return err
		}
	}
	if err := sp.write(r.tx.spool, b); err != nil {
		return err
	}
	r.s.progress.Add(1)
	return nil
}

// frames looks at every whole frame.
func (r *reader) frames() error {
	for {
		r.need = 0
		b := r.slab.buf[r.pos:r.end]
		if len(b) < frameHeader {
			return nil
		}
		size := 1 + int(binary.BigEndian.Uint32(b[1:]))
		if size < frameHeader || size > 1<<30+1<<20 {
			return fmt.Errorf("%w: message of %d bytes", ErrProtocol, size)
		}
		if len(b) < size {
			r.need = size
			return nil
		}
		if err := r.frame(b[:size]); err != nil {
			return err
		}
	}
}

// frame takes one frame and moves pos behind it.
func (r *reader) frame(b []byte) error {
	if b[0] != 'd' {
		return r.control(b)
	}
	if len(b) > messageOffset && b[frameHeader] == 'w' {
		return r.message(b)
	}
	if len(b) == frameHeader+18 && b[frameHeader] == 'k' {
		r.pos += len(b)
		r.keepalive(b[frameHeader+1:])
		return nil
	}
	return fmt.Errorf("%w: copy data of %d bytes", ErrProtocol, len(b))
}

func (r *reader) keepalive(b []byte) {
	walEnd := binary.BigEndian.Uint64(b)
	raise(&r.s.received, walEnd)
	if b[16] != 0 {
		if walEnd > r.s.confirmed.Load() {
			r.s.awaited.Store(walEnd)
		}
		signal(r.s.nudge)
	}
	if r.tx == nil {
		r.events = append(r.events, Keepalive{WALEnd: millrace.LSN(walEnd)})
		r.cost += eventCost
	}
}

// message takes a frame with a pgoutput message.
func (r *reader) message(b []byte) error {
	msg := b[messageOffset:]
	switch kind := pgoutput.Kind(msg[0]); kind {
	case pgoutput.KindBegin:
		return r.begin(msg, len(b))
	case pgoutput.KindCommit:
		return r.commit(msg, len(b))
	case pgoutput.KindMessage:
		if r.tx == nil {
			// Not transactional: nothing of ours. The position moves with the
			// next transaction or keepalive (P62).
			r.pos += len(b)
			return nil
		}
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete, pgoutput.KindTruncate,
		pgoutput.KindRelation, pgoutput.KindType, pgoutput.KindOrigin:
		if r.tx == nil {
			return fmt.Errorf("%w: %v outside a transaction", ErrProtocol, kind)
		}
	default:
		_, err := pgoutput.KindOf(msg)
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	r.pos += len(b)
	r.tx.Bytes += int64(len(b))
	r.tx.Count++
	return nil
}

func (r *reader) begin(msg []byte, size int) error {
	if r.tx != nil {
		return fmt.Errorf("%w: Begin inside transaction %d", ErrProtocol, r.tx.XID)
	}
	m, err := pgoutput.ParseBegin(msg)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	r.pos += size
	r.from = r.pos
	r.held = 0
	r.tx = &Tx{XID: m.XID, CommitLSN: m.FinalLSN, CommitTime: m.CommitTime, stream: r.s}
	r.tx.pieces = r.tx.first[:0]
	return nil
}

func (r *reader) commit(msg []byte, size int) error {
	m, err := pgoutput.ParseCommit(msg)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if r.tx == nil || m.CommitLSN != r.tx.CommitLSN {
		return fmt.Errorf("%w: Commit at %v without its Begin", ErrProtocol, m.CommitLSN)
	}
	if err := r.cut(); err != nil {
		return err
	}
	r.pos += size
	tx := r.tx
	r.tx = nil
	tx.EndLSN = m.EndLSN
	raise(&r.s.received, uint64(m.EndLSN))
	r.s.pending.Add(1)
	r.events = append(r.events, tx)
	r.cost += tx.Bytes + eventCost
	return nil
}

// control takes a message that is not part of the copy stream.
func (r *reader) control(b []byte) error {
	r.pos += len(b)
	switch b[0] {
	case 'E':
		return serverError(r.s.config.Slot, pgError(b[frameHeader:]))
	case 'c', 'C', 'Z': // the server ends the stream: it shuts down (P91)
		r.ended = true
		return nil
	case 'N', 'S':
		return nil
	}
	return fmt.Errorf("%w: unexpected message 0x%02x", ErrProtocol, b[0])
}
