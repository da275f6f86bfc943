package walstream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// Stream is an open replication connection. Next is for one goroutine; Confirm,
// Progress, Stats and Close are for any.
type Stream struct {
	config Config
	wire   *wire
	spool  *spool

	taken []Event // handed over by the reader, next at head; Next's alone
	head  int

	mu    sync.Mutex
	queue []Event // whole transactions and keepalives in stream order
	err   error   // why there will be no more; set once
	cause error   // set by who interrupts the reader: better than what the reader then sees

	ready  chan struct{} // queue or err changed
	space  chan struct{} // queued fell
	nudge  chan struct{} // a status message should go out now
	closed chan struct{} // Close was called
	over   atomic.Bool   // the same

	queued    atomic.Int64  // cost of the events Next has not given out yet
	pending   atomic.Int64  // transactions not released
	progress  atomic.Uint64 // counts whatever is a step forward (P89)
	delivered atomic.Uint64 // greatest position given out by Next
	confirmed atomic.Uint64 // greatest position the consumer has confirmed
	received  atomic.Uint64 // greatest position the server has told
	awaited   atomic.Uint64 // WAL end of a keepalive whose answer the server waits for; 0 if none

	closeOnce    sync.Once
	reader       sync.WaitGroup
	statusWriter sync.WaitGroup
	stopStatus   chan struct{}
}

// Open connects and starts streaming from the slot. ctx bounds the opening
// only. The errors a person meets are *session.ConnectError and the conditions
// of this package; a *pgconn.PgError of the server is kept in the chain.
func Open(ctx context.Context, config Config) (*Stream, error) {
	c, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	w, err := dial(ctx, &c)
	if err != nil {
		return nil, err
	}
	if w.timeout > 0 {
		c.StatusInterval = min(c.StatusInterval, w.timeout/3)
	}
	s := &Stream{
		config: c, wire: w, spool: newSpool(c.SpoolDir, c.Slot),
		ready: make(chan struct{}, 1), space: make(chan struct{}, 1), nudge: make(chan struct{}, 1),
		closed: make(chan struct{}), stopStatus: make(chan struct{}),
	}
	if err := s.spool.clean(); err != nil {
		w.below.interrupt()
		_ = w.Close()
		return nil, err
	}
	s.delivered.Store(uint64(c.Start))
	s.confirmed.Store(uint64(c.Start))
	s.reader.Go(s.read)
	s.statusWriter.Go(s.tellStatus)
	return s, nil
}

// Next waits for the next event. It returns ctx's error when that ends first;
// the stream can be used on. Any other error is final: it comes after the
// events received before it.
func (s *Stream) Next(ctx context.Context) (Event, error) {
	for {
		if s.over.Load() {
			s.dropTaken()
			return nil, ErrClosed
		}
		if s.head < len(s.taken) {
			e := s.taken[s.head]
			s.taken[s.head] = nil
			s.head++
			s.give(e)
			return e, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.taken, s.queue = s.queue, s.taken[:0]
		s.head = 0
		err := s.err
		s.mu.Unlock()
		if len(s.taken) > 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dropTaken releases what nobody will ask for any more.
func (s *Stream) dropTaken() {
	for ; s.head < len(s.taken); s.head++ {
		if tx, ok := s.taken[s.head].(*Tx); ok {
			tx.Release()
		}
	}
}

// eventCost is what an event costs in memory beside its messages.
const eventCost = 256

// give accounts for an event that leaves the queue.
func (s *Stream) give(e Event) {
	cost := int64(eventCost)
	var upto millrace.LSN
	switch e := e.(type) {
	case *Tx:
		cost += e.Bytes
		upto = e.EndLSN
	case Keepalive:
		upto = e.WALEnd
	}
	raise(&s.delivered, uint64(upto))
	s.progress.Add(1)
	left := s.queued.Add(-cost)
	if left < s.config.QueueBytes && left+cost >= s.config.QueueBytes {
		signal(s.space)
	}
}

// Confirm says that everything up to lsn is durable and need never be sent
// again. Only positions given out by Next can be confirmed: what lies beyond
// is cut off (P88). It never goes back.
func (s *Stream) Confirm(lsn millrace.LSN) {
	if !raise(&s.confirmed, min(uint64(lsn), s.delivered.Load())) {
		return
	}
	s.progress.Add(1)
	if s.awaited.Load() != 0 {
		signal(s.nudge)
	}
}

// Progress tells that the consumer is moving although it neither takes,
// releases nor confirms anything (P89).
func (s *Stream) Progress() { s.progress.Add(1) }

// Stats is where a stream stands.
type Stats struct {
	Received  millrace.LSN // end of the WAL the server has told of
	Delivered millrace.LSN // given out by Next
	Confirmed millrace.LSN
	Queued    int64 // bytes waiting for Next
	Pending   int64 // transactions not released
	Spooled   int64 // bytes in spool files
}

// Stats gives a snapshot of the numbers.
func (s *Stream) Stats() Stats {
	return Stats{
		Received:  millrace.LSN(s.received.Load()),
		Delivered: millrace.LSN(s.delivered.Load()),
		Confirmed: millrace.LSN(s.confirmed.Load()),
		Queued:    s.queued.Load(),
		Pending:   s.pending.Load(),
		Spooled:   s.spool.bytes.Load(),
	}
}

// Close tells the server the last confirmed position, ends the stream, waits
// for its goroutines and removes all spool files. Next then gives ErrClosed.
// Transactions held by the consumer must still be released.
func (s *Stream) Close() {
	s.closeOnce.Do(func() {
		s.over.Store(true)
		close(s.closed)
		close(s.stopStatus)
		s.statusWriter.Wait()
		// Best effort: a lost position is sent again, a lost farewell the
		// server notices at its next write.
		if s.wire.sendStatus(s.Stats().Confirmed, time.Now()) == nil && s.wire.sendEnd() == nil {
			timer := time.AfterFunc(300*time.Millisecond, s.wire.below.interrupt)
			s.reader.Wait()
			timer.Stop()
		}
		s.wire.below.interrupt()
		s.reader.Wait()
		_ = s.wire.below.Close()
		s.mu.Lock()
		s.err = ErrClosed
		queue := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, e := range queue {
			if tx, ok := e.(*Tx); ok {
				tx.Release()
			}
		}
		s.spool.removeAll()
		signal(s.ready)
	})
}

// interrupt ends the reader with an error of ours.
func (s *Stream) interrupt(cause error) {
	s.mu.Lock()
	if s.cause == nil {
		s.cause = cause
	}
	s.mu.Unlock()
	s.wire.below.interrupt()
}

// publish hands the reader's events to Next, and with err the end.
func (s *Stream) publish(events []Event, err error) {
	s.mu.Lock()
	if err != nil && s.cause != nil {
		err = s.cause
	}
	for _, e := range events {
		// Of keepalives in a row only the last says anything.
		if k, ok := e.(Keepalive); ok && len(s.queue) > 0 {
			if _, ok := s.queue[len(s.queue)-1].(Keepalive); ok {
				s.queue[len(s.queue)-1] = k
				s.queued.Add(-eventCost)
				continue
			}
		}
		s.queue = append(s.queue, e)
	}
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	signal(s.ready)
}

var errStopped = errors.New("closing")

// waitForSpace blocks while the queue is full.
func (s *Stream) waitForSpace() error {
	for s.queued.Load() >= s.config.QueueBytes {
		select {
		case <-s.space:
		case <-s.closed:
			return errStopped
		}
		if err := s.interrupted(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) interrupted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// raise makes v at least to and tells whether that changed it.
func raise(v *atomic.Uint64, to uint64) bool {
	for {
		old := v.Load()
		if to <= old {
			return false
		}
		if v.CompareAndSwap(old, to) {
			return true
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
