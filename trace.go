package millrace

import (
	"context"
	"log/slog"
	"time"
)

// Tracer begins traces: records of what was done for one thing, and how long
// each part of it took. A nil Tracer is none: tracing is off. Safe for
// concurrent use.
type Tracer interface {
	// Begin begins the first span of a trace in this process; nil if this trace
	// is not recorded. A valid parent, of another process, decides about that.
	Begin(name string, at time.Time, parent RemoteSpan) SpanRecorder
}

// SpanRecorder records one span. Attributes hold no customer's data and no
// secrets. Child may be called concurrently, also after End.
type SpanRecorder interface {
	// Child begins a span below this one.
	Child(name string, at time.Time) SpanRecorder
	Set(attrs ...slog.Attr)
	// End ends the span; err, if not nil, is why it failed. Of its text nothing
	// is recorded.
	End(err error)
}

// RemoteSpan is a span of another process, by its headers as in the W3C's Trace
// Context. The zero value is none, as is whatever is malformed.
type RemoteSpan struct{ Parent, State string }

// Span is something under way that may be recorded. The zero value is not, and
// costs nothing. A caller with attributes to set asks On first, so that none are
// made in vain.
type Span struct{ recorder SpanRecorder }

// BeginTrace begins a trace now; t may be nil.
func BeginTrace(t Tracer, name string) Span {
	return BeginTraceAt(t, name, time.Time{}, RemoteSpan{})
}

// BeginTraceAt begins a trace at a time that has passed, or now if at is zero,
// and under a span of another process if there is one; t may be nil.
func BeginTraceAt(t Tracer, name string, at time.Time, parent RemoteSpan) Span {
	if t == nil {
		return Span{}
	}
	return Span{t.Begin(name, orNow(at), parent)}
}

// On tells whether the span is recorded.
func (s Span) On() bool { return s.recorder != nil }

// Child begins a span below this one now.
func (s Span) Child(name string) Span { return s.ChildAt(name, time.Time{}) }

// ChildAt begins a span below this one at a time that has passed.
func (s Span) ChildAt(name string, at time.Time) Span {
	if s.recorder == nil {
		return Span{}
	}
	return Span{s.recorder.Child(name, orNow(at))}
}

// Set adds attributes.
func (s Span) Set(attrs ...slog.Attr) {
	if s.recorder != nil {
		s.recorder.Set(attrs...)
	}
}

// End ends the span; err is why it failed, nil if it did not.
func (s Span) End(err error) {
	if s.recorder != nil {
		s.recorder.End(err)
	}
}

type spanKey struct{}

// In is a context in which ChildSpan finds the span.
func (s Span) In(ctx context.Context) context.Context {
	if s.recorder == nil {
		return ctx
	}
	return context.WithValue(ctx, spanKey{}, s)
}

// SpanOf is the span of the context, one that is not recorded if there is none.
func SpanOf(ctx context.Context) Span {
	s, _ := ctx.Value(spanKey{}).(Span)
	return s
}

// ChildSpan begins a span below the one of the context, and gives the context
// in which it is found. Without one it gives ctx itself and a span that is not
// recorded.
func ChildSpan(ctx context.Context, name string) (context.Context, Span) {
	s := SpanOf(ctx).Child(name)
	return s.In(ctx), s
}

func orNow(at time.Time) time.Time {
	if at.IsZero() {
		return time.Now()
	}
	return at
}
