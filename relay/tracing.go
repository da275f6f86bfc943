package relay

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/relay/auth"
)

// What is traced: connecting, up to the first complete checkpoint, with its
// parts; publishing a checkpoint, up to the last client; pages and resolutions
// later on; write checkpoints. docs/reference/traces.md says what each span
// tells. No user is named: millrace.sessions says who had a session.

// beginTrace begins a trace for a request, or continues the client's.
func (r *Relay) beginTrace(name string, req *http.Request) millrace.Span {
	if r.cfg.Tracer == nil {
		return millrace.Span{}
	}
	parent := millrace.RemoteSpan{Parent: req.Header.Get("Traceparent"), State: req.Header.Get("Tracestate")}
	return millrace.BeginTraceAt(r.cfg.Tracer, name, r.publisher.now(), parent)
}

// traced records requests that get one answer.
func (r *Relay) traced(name string, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		span := r.beginTrace(name, req)
		if !span.On() {
			handle(w, req)
			return
		}
		answer := &answerStatus{ResponseWriter: w, status: http.StatusOK}
		handle(answer, req.WithContext(span.In(req.Context())))
		span.Set(slog.Int("http.response.status_code", answer.status))
		span.End(answer.failure())
	}
}

// answerStatus remembers the status of an answer.
type answerStatus struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *answerStatus) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *answerStatus) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// failure is the server's own; what a client did wrong is none.
func (w *answerStatus) failure() error {
	if w.status < http.StatusInternalServerError {
		return nil
	}
	return statusError(w.status)
}

type statusError int

func (e statusError) Error() string     { return "status " + e.ErrorCode() }
func (e statusError) ErrorCode() string { return strconv.Itoa(int(e)) }

// ErrorCode is what a trace tells of the reason.
func (e ending) ErrorCode() string { return string(e.code) }

// ErrorCode is what a trace tells of the reason.
func (e refusal) ErrorCode() string { return string(e.why.code) }

// verifyToken verifies a token.
func (r *Relay) verifyToken(ctx context.Context, token string) (*auth.Token, error) {
	ctx, span := millrace.ChildSpan(ctx, "relay.token")
	t, err := r.cfg.Verifier.Verify(ctx, token)
	span.End(err)
	return t, err
}

// traceConnect has the session record how it gets its first checkpoint.
func (s *session) traceConnect(span millrace.Span, claimed int) {
	if !span.On() {
		return
	}
	s.connect = span
	span.Set(slog.String("transport", s.kind), slog.String("user_agent.original", s.agent), slog.String("relay", s.relay.id),
		slog.Int("claimed_buckets", claimed))
}

// connected ends what traceConnect began; later calls do nothing.
func (s *session) connected(err error) {
	if !s.connect.On() {
		return
	}
	s.resolving.End(err)
	s.connect.Set(slog.Int64("session", s.id), slog.Int64("buckets", s.buckets.Load()), slog.Int64("bytes", s.bytes.Load()), slog.Int64("op_id", s.sent.Load()))
	s.connect.End(err)
	s.connect, s.resolving = millrace.Span{}, millrace.Span{}
}

// whyLeft is why a session that is over ended.
func (s *session) whyLeft() error {
	if err := s.ended(); err != nil {
		return err
	}
	return errGone
}

// pageSpan begins the span of a page: a part of connecting, or a trace of its
// own.
func (s *session) pageSpan() millrace.Span {
	if s.sent.Load() == 0 {
		return s.connect.Child("relay.page")
	}
	return millrace.BeginTrace(s.relay.cfg.Tracer, "relay.page")
}

// fanOut records a node's way to the last client it concerns.
type fanOut struct {
	publish, deliver millrace.Span
	left             atomic.Int64 // sessions that have not sent it, and the publisher while it hands it out
}

// trace begins to record the publishing of a node that was read from began on.
func (p *publisher) trace(n *node, began time.Time) {
	span := millrace.BeginTraceAt(p.tracer, "relay.publish", began, millrace.RemoteSpan{})
	if !span.On() {
		return
	}
	span.Set(slog.Duration("read_s", p.now().Sub(began)))
	n.fan = &fanOut{publish: span, deliver: span.Child("relay.deliver")}
	n.fan.left.Store(1)
}

// endTrace says that the node was handed to all sessions it concerns.
func (p *publisher) endTrace(n *node, stale, writes, bytes int, published time.Time) {
	if n.fan == nil {
		return
	}
	n.fan.publish.Set(slog.Int64("op_id", int64(n.to)), slog.Int64("checkpoint", int64(p.head.Seq)), slog.Int("buckets", len(n.changes)),
		slog.Int("bytes", bytes), slog.Int("sessions", p.dispatched), slog.Int("stale_sessions", stale), slog.Int("write_checkpoints", writes))
	if !published.IsZero() {
		n.fan.publish.Set(slog.Duration("since_source_commit_s", p.now().Sub(published)))
	}
	n.fan.done()
}

// done takes one off.
func (f *fanOut) done() {
	if f != nil && f.left.Add(-1) == 0 {
		f.deliver.End(nil)
		f.publish.End(nil)
	}
}

// dropMail forgets deliveries that are not sent as they are. s.mu is held.
func (s *session) dropMail() {
	for _, d := range s.mail {
		d.node.fan.done()
	}
	s.mail = nil
}

// traceResolutions says what a batch of sessions was resolved from, and to.
func traceResolutions(span millrace.Span, list []*resolving) {
	lookups, buckets, refused := 0, 0, 0
	for _, r := range list {
		lookups += len(r.keys)
		buckets += len(r.result.Buckets)
		if r.err != nil {
			refused++
		}
	}
	span.Set(slog.Int("sessions", len(list)), slog.Int("lookups", lookups), slog.Int("buckets", buckets), slog.Int("refused_sessions", refused))
}
