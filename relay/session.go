package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// ending is why a session ends: what the client is told as far as the transport
// can tell it. It is an error of the request that it answers.
type ending struct {
	code   protocol.Code
	status int // of HTTP, if nothing was sent yet
	close  int // of the native transport
	text   string
	// refusal is what RSocket tells, if not an error of the stream.
	refusal *refusal
}

func (e ending) Error() string { return "[" + string(e.code) + "] " + e.text }

// resolveRequest is what a session's buckets are resolved from.
type resolveRequest struct {
	rules          RulesRequest
	streamsVersion int64
	version        int64 // grows with each change of the request
}

// mailMax is how many nodes wait for a session before it has to be given a view
// instead.
const mailMax = 64

// session is one connected client. Whoever is at work on it owns the core; the
// publisher puts mail in.
type session struct {
	id                 int64
	subject            string // of the token
	user               string // of write checkpoints
	clientID           string
	agent              string
	kind               string // transport
	since              time.Time
	ahead              millrace.OpID // greatest position the client claimed
	relay              *Relay
	meters             *sessionMeters
	core               *core         // of the one at work
	failing            time.Time     // since when pages cannot be read; of the one at work
	connect, resolving millrace.Span // until the first complete checkpoint; of the one at work
	wake               chan struct{} // signalled until the session is started

	queued bool      // under publisher.mu
	pub    published // the publisher's goroutine only

	mu      sync.Mutex
	request resolveRequest
	expires time.Time // of the token
	mail    []delivery
	lost    bool
	next    *view
	stale   bool
	left    bool
	asks    bool // for a view of the same request
	resolve bool // for the request to be resolved
	end     *ending
	broke   error   // what ended the work
	worker  *worker // nil until the session is started
	working bool    // a goroutine is at work
	again   bool    // it has to look once more before it ends

	// What reports tell.
	buckets      atomic.Int64
	sent         atomic.Int64 // checkpoint completed last
	sending      atomic.Int64 // checkpoint being sent, 0 if none is
	acknowledged atomic.Int64
	ops, bytes   atomic.Int64
}

// transport sends lines to one client.
type transport interface {
	// send writes the lines. It blocks while the client is slow, up to a bound.
	send(ctx context.Context, o *output) error
	// keepalive is called now and then with how long the token is valid, in
	// whole seconds.
	keepalive(ctx context.Context, seconds int32) error
	// tokenEnds tells the client that its token ends soon, or, with 0, now.
	tokenEnds(ctx context.Context, seconds int32) error
	// room is how many lines the client takes now, 0 for none; the session is
	// signalled when there is room again. Sending more blocks.
	room() int
	// interrupt ends a send that is under way, once its context has ended. The
	// transport cannot be used after it.
	interrupt()
}

// roomForAll is the room of transports that count no lines.
const roomForAll = 1 << 30

// push hands over a node.
func (s *session) push(d delivery) {
	s.mu.Lock()
	if s.lost || s.left || len(s.mail) == mailMax {
		if !s.lost && !s.left {
			s.relay.meters.overrun.Inc()
		}
		s.lost = true
		s.dropMail()
		d.node.fan.done()
	} else {
		s.mail = append(s.mail, d)
	}
	s.mu.Unlock()
	s.signal()
}

// markStale stops the session until it gets a view.
func (s *session) markStale() {
	s.mu.Lock()
	s.stale, s.lost = true, false
	s.dropMail()
	s.mu.Unlock()
	s.signal()
}

func (s *session) giveView(v *view) {
	s.mu.Lock()
	s.lost = false
	s.dropMail()
	if !s.resolve { // else the request has changed meanwhile: its view follows
		s.next, s.stale = v, false
	}
	s.mu.Unlock()
	s.signal()
}

// finish ends the session; the first reason counts.
func (s *session) finish(e ending) {
	s.mu.Lock()
	if s.end == nil {
		s.end = &e
		s.relay.meters.ended.WithLabelValues(string(e.code)).Inc()
	}
	s.mu.Unlock()
	s.signal()
}

func (s *session) takeAsked() (left, resolve, refresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, resolve, refresh = s.left, s.resolve, s.asks
	s.asks, s.resolve = false, false
	return left, resolve, refresh
}

func (s *session) currentRequest() resolveRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.request
}

// change replaces parts of the request; nothing is sent before it is resolved.
func (s *session) change(f func(*resolveRequest)) {
	s.mu.Lock()
	f(&s.request)
	s.request.version++
	s.stale, s.resolve = true, true
	s.dropMail()
	s.mu.Unlock()
	s.relay.publisher.attend(s)
	s.signal()
}

// join asks for the first view.
func (s *session) join() {
	s.resolving = s.connect.Child("relay.resolve")
	s.mu.Lock()
	s.resolve = true
	s.mu.Unlock()
	s.relay.publisher.attend(s)
}

func (s *session) leave() {
	s.mu.Lock()
	s.left = true
	s.dropMail()
	s.mu.Unlock()
	s.relay.publisher.attend(s)
}

func (s *session) askView() {
	s.mu.Lock()
	s.asks = true
	s.mu.Unlock()
	s.relay.publisher.attend(s)
}

// mailbox is what has come for the session since it last looked.
type mailbox struct {
	view  *view
	stale bool
	lost  bool
}

// look takes the view there is; nodes stay until they can be used.
func (s *session) look() mailbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := mailbox{view: s.next, stale: s.stale, lost: s.lost}
	s.next = nil
	return m
}

// ended gives the reason to end, if there is one.
func (s *session) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		return nil
	}
	return *s.end
}

// interrupted tells whether something has come that counts before any page that
// is being read: rights may have been withdrawn.
func (s *session) interrupted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale || s.next != nil || s.end != nil
}

func (s *session) takeMail(usable func([]delivery) bool) []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Nodes after a view count from that view.
	if len(s.mail) == 0 || s.next != nil || s.stale || !usable(s.mail) {
		return nil
	}
	mail := s.mail
	s.mail = nil
	return mail
}

// inlineAlways is how many bytes of shared lines a session may send, and thus
// keep in memory while its client is slow, beyond the relay's budget.
const inlineAlways = 16 << 10

// advance does the next thing there is to do; false if there is nothing. asked
// tells whether a view is under way.
func (s *session) advance(ctx context.Context, t transport, asked *bool) (bool, error) {
	m := s.look()
	out := output{as: s.core.as}
	if m.view != nil {
		s.core.view(m.view, &out)
		s.buckets.Store(int64(len(m.view.buckets)))
		*asked = false
		s.resolving.End(nil)
		s.resolving = millrace.Span{}
	}
	if m.stale {
		s.core.stale()
	}
	if m.lost {
		s.core.missed()
	}
	if out.empty() {
		mail := s.takeMail(func(ds []delivery) bool { return s.core.ready() || s.core.interrupts(ds) })
		if mail != nil {
			room := inlineAlways
			if s.relay.pages.TryAcquire(pageBytes) {
				defer s.relay.pages.Release(pageBytes)
				room = pageBytes
			}
			s.core.nodes(mail, room, &out)
			defer func() {
				for _, d := range mail {
					d.node.fan.done()
				}
			}()
		}
	}
	if !out.empty() {
		return true, s.send(ctx, t, &out)
	}
	switch s.core.next() {
	case wantView:
		if !*asked {
			*asked = true
			s.askView()
		}
	case wantPage:
		return true, s.catchUp(ctx, t)
	}
	return m.view != nil, nil
}

func (s *session) expiry() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expires
}

// secondsLeft rounds down: a client must not trust a token too long.
func (s *session) secondsLeft() int32 {
	return int32(min(max(time.Until(s.expiry())/time.Second, 0), 1<<30))
}

func (s *session) send(ctx context.Context, t transport, o *output) error {
	if err := t.send(ctx, o); err != nil {
		return err
	}
	n := o.size()
	s.ops.Add(int64(o.ops))
	s.bytes.Add(int64(n))
	s.meters.sent(n, o.ops)
	if o.completed {
		s.sent.Store(int64(s.core.at))
		s.connected(nil)
	}
	if s.core.complete {
		s.sending.Store(0)
	} else {
		s.sending.Store(int64(s.core.at))
	}
	return nil
}

// catchUp reads and sends one page, under the relay's budget for pages held in
// memory.
func (s *session) catchUp(ctx context.Context, t transport) error {
	if err := s.relay.pages.Acquire(ctx, pageBytes); err != nil {
		return err
	}
	defer s.relay.pages.Release(pageBytes)
	span := s.pageSpan()
	p, err := s.relay.readPage(span.In(ctx), s.core.pageRequest(t.room()))
	span.End(err)
	if err != nil {
		return s.unread(ctx, err)
	}
	s.failing = time.Time{}
	if s.interrupted() {
		return nil
	}
	out := output{as: s.core.as}
	s.core.page(p, &out)
	if out.empty() {
		return nil
	}
	return s.send(ctx, t, &out)
}

// How long pages are tried to be read again, and the pause between.
const (
	readPatience = 30 * time.Second
	readPause    = 200 * time.Millisecond
)

// unread deals with a page that could not be read: while the sidecar may come
// back, or a replica has cancelled the query for its replay, it is tried again
// from the positions held.
func (s *session) unread(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.failing.IsZero() {
		s.failing = time.Now()
	}
	if !errors.Is(err, ErrUnavailable) || time.Since(s.failing) > readPatience {
		s.log().Warn("reading a page", "error", err)
		return ending{code: protocol.CodeRestarting, close: protocol.CloseRestarting, text: "the sidecar cannot be read at the moment"}
	}
	timer := time.NewTimer(readPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return ctx.Err()
}
