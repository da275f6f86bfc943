package decoder

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/walstream"
)

// session is one connection to a source: the stream, the copying workers and
// the prober, each with its connection. What it has to tell goes to the
// appender as events. The appender owns the fields below the line.
type session struct {
	source  *source
	stream  *walstream.Stream
	budget  *semaphore.Weighted // bytes of transactions handed to the appender
	events  chan<- event
	prober  *prober
	reads   chan chunkRead
	workers int
	pace    pace
	status  *status
	done    <-chan struct{} // closed when the session ends
	failed  chan error      // has room for one
	// watch ends the session when the catalog has changed.
	watch func(context.Context) error

	// --- the appender's
	idle   int          // workers without work
	lookAt millrace.LSN // where the session ends so that the next one looks at the catalog; 0 for nowhere
}

// budgetBytes bounds the transactions between stream and appender.
const budgetBytes = 16 << 20

func newSession(s *source, events chan<- event, workers int, rate int64) *session {
	return &session{
		source: s, events: events, workers: workers, idle: workers,
		pace:   pace{rate: rate},
		budget: semaphore.NewWeighted(budgetBytes),
		reads:  make(chan chunkRead, workers),
		failed: make(chan error, 1),
	}
}

// weight is a transaction's share of the budget.
func (s *session) weight(tx *walstream.Tx) int64 {
	return min(budgetBytes, tx.Bytes+256)
}

// run works until the context ends, a connection fails or the appender gives
// the session up.
func (s *session) run(ctx context.Context, opened openedEvent, worker func(context.Context, *session) error) error {
	g, ctx := errgroup.WithContext(ctx)
	s.done = ctx.Done()
	opened.session = s
	if err := s.post(ctx, opened); err != nil {
		return err
	}
	g.Go(func() error { return s.receive(ctx) })
	g.Go(func() error { return s.prober.run(ctx, s) })
	if s.watch != nil {
		g.Go(func() error { return s.watch(ctx) })
	}
	for range s.workers {
		g.Go(func() error { return worker(ctx, s) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			return err
		}
	})
	return g.Wait()
}

// post gives the appender an event.
func (s *session) post(ctx context.Context, e event) error {
	select {
	case s.events <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail ends the session. It never blocks.
func (s *session) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// receive hands the stream's events to the appender.
func (s *session) receive(ctx context.Context) error {
	for {
		e, err := s.stream.Next(ctx)
		if err != nil {
			return err
		}
		switch e := e.(type) {
		case *walstream.Tx:
			s.status.received(e.EndLSN)
			if err := s.budget.Acquire(ctx, s.weight(e)); err != nil {
				e.Release()
				return err
			}
			if err := s.post(ctx, txEvent{s, e}); err != nil {
				e.Release()
				return err
			}
		case walstream.Keepalive:
			s.status.received(e.WALEnd)
			if err := s.post(ctx, keepaliveEvent{s, e.WALEnd}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unknown stream event %T", e)
		}
	}
}

// read gives a chunk to a worker. There is room: the appender counts the idle
// ones.
func (s *session) read(c *copyRun, ch *chunk) {
	s.reads <- chunkRead{copy: c, chunk: ch, table: c.table.found}
}

// copyFailed shows that a table cannot be read at present.
func (s *session) copyFailed(c *copyRun, err error) {
	s.status.fail(fmt.Errorf("copy of table %s: %w", c.name(), err))
}

// need tells the prober how often a snapshot is wanted, and whether the stream
// has to be moved to a head that is waited for.
func (s *session) need(rate pollRate, behind bool) { s.prober.need(rate, behind) }

// pollRate is how often the source's snapshot is asked for.
type pollRate int32

const (
	pollNever pollRate = iota
	pollSlow
	pollFast
)

const (
	fastPoll    = 20 * time.Millisecond
	slowPoll    = time.Second
	reportEvery = 2 * time.Second
	messageGap  = 50 * time.Millisecond
)

// prober asks the source, on a connection of its own, for snapshots and its
// head, and writes the logical messages that move the stream.
type prober struct {
	source    probe
	heartbeat time.Duration // ≤ 0: none
	rate      atomic.Int32
	behind    atomic.Bool
	wake      chan struct{}
}

// probe is what the prober asks for.
type probe interface {
	CurrentSnapshot(ctx context.Context) (catalog.Snapshot, error)
	// Message writes a transactional logical message without waiting for a
	// standby.
	Message(ctx context.Context) error
	// Slot describes the head and the slot, for the status views.
	Slot(ctx context.Context) (slotReport, error)
}

func newProber(source probe, heartbeat time.Duration) *prober {
	return &prober{source: source, heartbeat: heartbeat, wake: make(chan struct{}, 1)}
}

func (p *prober) need(rate pollRate, behind bool) {
	faster := pollRate(p.rate.Swap(int32(rate))) < rate
	if wasBehind := p.behind.Swap(behind); faster || behind && !wasBehind {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// run asks and writes until the context ends or the connection fails.
func (p *prober) run(ctx context.Context, s *session) error {
	var asked, wrote, reported time.Time
	beat := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if now.Sub(reported) >= reportEvery {
			reported = now
			r, err := p.source.Slot(ctx)
			if err != nil {
				return err
			}
			s.status.slot(r)
		}
		if p.behind.Load() && now.Sub(wrote) >= messageGap || p.heartbeat > 0 && now.Sub(beat) >= p.heartbeat {
			wrote, beat = now, now
			if err := p.source.Message(ctx); err != nil {
				return err
			}
		}
		every := map[pollRate]time.Duration{pollNever: time.Hour, pollSlow: slowPoll, pollFast: fastPoll}[pollRate(p.rate.Load())]
		if now.Sub(asked) >= every {
			asked = now
			snap, err := p.source.CurrentSnapshot(ctx)
			if err != nil {
				return err
			}
			if err := s.post(ctx, snapshotEvent{s, &snap}); err != nil {
				return err
			}
		}
		next := min(every, reportEvery)
		if p.behind.Load() {
			next = min(next, messageGap)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-p.wake:
		}
	}
}

// runner keeps a source connected: one session after the other until the term
// ends.
type runner struct {
	config   *Config
	source   *source
	writer   *writer
	events   chan<- event
	feed     *feed
	status   *status
	known    *known
	attempts int
	types    *catalog.Types
	rest     rest
}

func (r *runner) run(ctx context.Context) error {
	if wait := time.Until(r.rest.until); wait > 0 {
		r.status.waits(fmt.Sprintf("rests until %s after an error in the middle of a transaction", r.rest.until.Format(time.TimeOnly)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	for {
		before := r.source.advanced()
		err := r.connect(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var restart *restartError
		if errors.As(err, &restart) {
			return restart
		}
		if r.source.advanced() != before {
			r.attempts = 0
		}
		r.known.lookFor(err)
		wait := retryAfter(r.attempts, r.config.retry, r.config.stopped, err)
		r.attempts++
		if wait == 0 {
			r.config.Logger.Info("source looked at again", "source", r.source.config.Name, "reason", err)
		} else {
			r.status.fail(err)
			r.config.Logger.Error("source stopped", "source", r.source.config.Name, "error", err, "again_in", wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
