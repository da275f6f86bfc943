package clientsdk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/clientsdk/internal/transport"
	"github.com/millrace/millrace/protocol"
)

// outboxSize bounds messages that wait to be sent; a peer that lets them pile
// up is gone.
const outboxSize = 64

// checkpointTimeout bounds the wait for a write checkpoint asked for in-band.
const checkpointTimeout = 30 * time.Second

// openStream is one attempt's stream: a goroutine opens it and reads, another
// sends. It ends by close, or by itself with an Ended event.
type openStream struct {
	e       *engine
	attempt int
	request *transport.Request
	want    Transport
	ctx     context.Context
	cancel  context.CancelFunc
	outbox  chan protocol.Frame

	mu      sync.Mutex
	waiting chan checkpointAnswer // of the request for a write checkpoint under way
	open    bool                  // it can be asked for in-band
}

// checkpointAnswer is a write checkpoint, or why there is none.
type checkpointAnswer struct {
	id  int64
	err error
}

func newOpenStream(e *engine, attempt int, req *transport.Request, want Transport) *openStream {
	s := &openStream{e: e, attempt: attempt, request: req, want: want, outbox: make(chan protocol.Frame, outboxSize)}
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	return s
}

func (s *openStream) start() { s.e.tasks.Go(s.run) }

// close ends the stream without an event. Its goroutines end soon after; the
// engine joins them.
func (s *openStream) close() { s.cancel() }

// send puts a message into the outbox.
func (s *openStream) send(f protocol.Frame) {
	select {
	case s.outbox <- f:
	default:
		s.cancel() // the reader reports the end
	}
}

func (s *openStream) run() {
	defer s.cancel()
	err := s.talk()
	if s.e.ctx.Err() != nil {
		return
	}
	s.e.post(machine.Ended{Attempt: s.attempt, Reason: transport.Reason(err), Err: err})
}

// talk opens the stream and reads it to its end.
func (s *openStream) talk() error {
	c, token, err := s.e.client()
	if err != nil {
		return err
	}
	st, err := s.dial(c, token)
	if err != nil {
		return err
	}
	var writer sync.WaitGroup
	defer writer.Wait()
	defer s.cancel()
	defer st.Close()
	line, err := st.Next(s.ctx)
	if err != nil {
		return err
	}
	if st.InBand() {
		writer.Go(func() { s.write(st) })
		s.setOpen(true)
		defer s.setOpen(false)
	}
	if !s.e.post(machine.Opened{Attempt: s.attempt, InBand: st.InBand()}) {
		return s.ctx.Err()
	}
	for {
		if r, ok := line.(protocol.CheckpointRequestReply); ok {
			s.answer(checkpointAnswer{id: r.ID})
		} else if s.complain(line); !s.e.post(machine.Received{Attempt: s.attempt, Line: line}) {
			return s.ctx.Err()
		}
		if line, err = st.Next(s.ctx); err != nil {
			return err
		}
	}
}

func (s *openStream) dial(c *transport.Client, token string) (transport.Stream, error) {
	if s.want == HTTP || s.want == Auto && s.e.noWS.Load() {
		return c.OpenHTTP(s.ctx, token, s.request)
	}
	st, err := c.OpenWebSocket(s.ctx, token, s.request)
	if s.want == WebSocket || !transport.Unavailable(err) {
		return st, err
	}
	s.e.noWS.Store(true)
	s.e.db.log.Info("no WebSocket, going on over HTTP", "error", err)
	return c.OpenHTTP(s.ctx, token, s.request)
}

// write sends what the outbox holds until the stream ends.
func (s *openStream) write(st transport.Stream) {
	for {
		select {
		case f := <-s.outbox:
			if err := st.Send(s.ctx, f); err != nil {
				st.Close() // the reader reports the end
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *openStream) setOpen(open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = open
	if !open && s.waiting != nil {
		close(s.waiting)
		s.waiting = nil
	}
}

func (s *openStream) answer(a checkpointAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		s.waiting <- a // has room for one
		close(s.waiting)
		s.waiting = nil
	}
}

// complain takes a complaint that ends no stream and is not about a token for
// the answer to a request under way. Should it have been about something else,
// the true answer may still come and must not be taken for that of a later
// request, so later ones go over HTTP.
func (s *openStream) complain(line protocol.Line) {
	e, ok := line.(*protocol.StreamError)
	if !ok || e.Fatal || strings.HasPrefix(e.Code, "PSYNC_S21") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil {
		s.waiting <- checkpointAnswer{err: fmt.Errorf("%s: %s", e.Code, e.Description)} // has room for one
		close(s.waiting)
		s.waiting, s.open = nil, false
	}
}

var errStreamEnded = errors.New("the stream ended before the write checkpoint came")

// writeCheckpoint asks for a write checkpoint in-band; ok is false if the
// stream does not take messages.
func (s *openStream) writeCheckpoint(ctx context.Context) (id int64, ok bool, err error) {
	s.mu.Lock()
	if !s.open || s.waiting != nil {
		s.mu.Unlock()
		return 0, false, nil
	}
	reply := make(chan checkpointAnswer, 1)
	s.waiting = reply
	s.mu.Unlock()
	s.send(protocol.CheckpointRequestFrame{})
	late := time.NewTimer(checkpointTimeout)
	defer late.Stop()
	select {
	case a, got := <-reply:
		if !got {
			return 0, true, errStreamEnded
		}
		return a.id, true, a.err
	case <-late.C: // its answer, should it come, belongs to nobody; HTTP is next
		return 0, true, fmt.Errorf("no answer within %v", checkpointTimeout)
	case <-ctx.Done():
		return 0, true, ctx.Err()
	}
}
