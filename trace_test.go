package millrace_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// unsampled is a tracer that records no trace.
type unsampled struct{}

func (unsampled) Begin(string, time.Time, millrace.RemoteSpan) millrace.SpanRecorder { return nil }

// traced is how the packages record something that is done often.
func traced(ctx context.Context, t millrace.Tracer, rows int) {
	span := millrace.BeginTrace(t, "outer")
	ctx, inner := millrace.ChildSpan(span.In(ctx), "inner")
	if inner.On() {
		inner.Set(slog.Int("rows", rows), slog.String("text", ctx.Err().Error()))
	}
	inner.End(errSome)
	span.End(nil)
}

var errSome = errors.New("some error")

// Tracing that is off, or a trace that is not recorded, costs no allocation.
func TestNoTraceCostsNoAllocation(t *testing.T) {
	ctx := context.WithValue(t.Context(), struct{ int }{}, 1)
	for name, tracer := range map[string]millrace.Tracer{"off": nil, "not sampled": unsampled{}} {
		if n := testing.AllocsPerRun(1000, func() { traced(ctx, tracer, 100_000) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkTraceOff(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		traced(b.Context(), nil, 100_000)
	}
}
