package relay

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/protocol"
)

// worker serves a session from its start to its end. There is a goroutine only
// while there is something to do, so that an idle session has no stack.
type worker struct {
	ctx   context.Context
	t     transport
	ended func(error) // called once, last
	asked bool        // a view is under way
	clock clock
}

// start serves the session until it ends; ctx is the connection's. After ctx
// has ended the session must be interrupted. ended is told why.
func (s *session) start(ctx context.Context, t transport, ended func(error)) {
	w := &worker{ctx: ctx, t: t, ended: ended, asked: true}
	w.clock.keepalive = time.Now().Add(nextKeepalive())
	w.clock.alarm = time.AfterFunc(time.Hour, s.signal) // set by the first pass
	s.mu.Lock()
	s.worker, s.working = w, true
	s.mu.Unlock()
	go s.work(w)
}

// run serves the session and returns when it has ended.
func (s *session) run(ctx context.Context, t transport) error {
	done := make(chan error, 1)
	s.start(ctx, t, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		s.interrupt()
		return <-done
	}
}

// signal has the session looked at. It may be called by anybody at any time.
func (s *session) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.worker == nil:
		select {
		case s.wake <- struct{}{}:
		default:
		}
	case s.working:
		s.again = true
	default:
		s.working = true
		go s.work(s.worker)
	}
}

// interrupt has the session end, whatever its client does; its context has ended.
func (s *session) interrupt() {
	s.mu.Lock()
	w := s.worker
	s.mu.Unlock()
	if w != nil {
		w.t.interrupt()
	}
	s.signal()
}

// rest ends the work unless there was a signal meanwhile.
func (s *session) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working, s.again = s.again, false
	return !s.working
}

func (s *session) work(w *worker) {
	for {
		if err := s.pass(w); err != nil {
			// Nobody begins to work again.
			w.clock.alarm.Stop()
			s.mu.Lock()
			s.broke = err
			s.mu.Unlock()
			w.ended(err)
			return
		}
		if s.rest() {
			return
		}
	}
}

// pass does what there is to do.
func (s *session) pass(w *worker) error {
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := s.ended(); err != nil {
			return err
		}
		busy := false
		if w.t.room() > 0 {
			var err error
			if busy, err = s.advance(w.ctx, w.t, &w.asked); err != nil {
				return err
			}
		}
		if err := s.tick(w); err != nil {
			return err
		}
		if !busy {
			return nil
		}
	}
}

// Timing of keepalives and of the token's end, as clients expect it.
const (
	keepaliveEvery = 20 * time.Second
	expiryWarning  = 20 * time.Second
)

func nextKeepalive() time.Duration {
	return time.Duration(float64(keepaliveEvery) * (0.9 + 0.2*rand.Float64()))
}

// clock is what a session has to do when.
type clock struct {
	alarm     *time.Timer // signals the session
	at        time.Time   // when it does
	keepalive time.Time
	expires   time.Time // the token
	warned    bool      // the client knows that it ends soon
}

// errExpired ends a session whose token has.
var errExpired = ending{code: protocol.CodeTokenExpired, close: protocol.CloseUnauthorized, text: "the token has expired"}

// tick does what is due, and sets the alarm for what is due next.
func (s *session) tick(w *worker) error {
	c, now := &w.clock, time.Now()
	if at := s.expiry(); !at.Equal(c.expires) {
		c.expires, c.warned = at, false
	}
	if !now.Before(c.keepalive) {
		c.keepalive = now.Add(nextKeepalive())
		if err := w.t.keepalive(w.ctx, s.secondsLeft()); err != nil {
			return err
		}
	}
	if ended := !now.Before(c.expires); ended || !c.warned && !now.Before(c.expires.Add(-expiryWarning)) {
		c.warned = true
		if err := w.t.tokenEnds(w.ctx, s.secondsLeft()); err != nil {
			return err
		}
		if ended {
			return errExpired
		}
	}
	next := c.expires
	if !c.warned {
		next = next.Add(-expiryWarning)
	}
	if c.keepalive.Before(next) {
		next = c.keepalive
	}
	if !next.Equal(c.at) {
		c.at = next
		c.alarm.Reset(time.Until(next))
	}
	return nil
}
