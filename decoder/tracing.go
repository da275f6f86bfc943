package decoder

import (
	"errors"
	"log/slog"
	"time"

	"github.com/millrace/millrace"
)

// Names of the spans that begin traces. docs/reference/traces.md says what each
// tells.
const (
	spanFlush   = "decoder.flush"
	spanReplace = "decoder.replace" // a flush that replaces a table by its shadow
	spanDeploy  = "decoder.deploy"
	spanBuild   = "decoder.build"
	spanCopy    = "decoder.copy"
)

// AlwaysTraced are the spans that are so rare, and so telling, that they should
// be recorded whatever the share of traces is.
var AlwaysTraced = []string{spanReplace, spanDeploy, spanBuild, spanCopy}

// flushSpan records the flush under way. It belongs to the writer's goroutine.
type flushSpan struct {
	tracer  millrace.Tracer
	sources map[millrace.SourceID]string
	span    millrace.Span
	open    bool // a flush is under way, recorded or not
	pieces  int
	changes int
	bytes   int64
}

// piece takes note of a batch that is about to be written. The span of a flush
// begins when the oldest change of it came in. Positions alone are not worth
// one.
func (t *flushSpan) piece(b *batch) {
	if t.tracer == nil {
		return
	}
	idle := len(b.changes) == 0 && (b.flush == nil || b.flush.Activate == 0 && len(b.flush.Acknowledge) == 0 && len(b.flush.Copies) == 0)
	if !t.open && !idle || b.replaces && !t.span.On() {
		name := spanFlush
		if b.replaces {
			name = spanReplace
		}
		t.open = true
		t.span = millrace.BeginTraceAt(t.tracer, name, b.began, millrace.RemoteSpan{})
		t.span.ChildAt("decoder.gather", b.began).End(nil)
	}
	t.pieces++
	t.changes += len(b.changes)
	t.bytes += b.bytes
}

// end ends the span of a flush that was committed, or given up.
func (t *flushSpan) end(f *millrace.Flush, c millrace.Checkpoint, err error) {
	if t.span.On() {
		t.span.Set(slog.Int("pieces", t.pieces), slog.Int("changes", t.changes), slog.Int64("bytes", t.bytes))
		if f != nil {
			for _, p := range f.Positions {
				t.span.Set(slog.String("lsn."+t.sources[p.Source], p.LSN.String()))
			}
			if f.Activate != 0 {
				t.span.Set(slog.Int("activated_rule_set", int(f.Activate)))
			}
			t.span.Set(slog.Int("copies", len(f.Copies)), slog.Int("write_checkpoints", len(f.Acknowledge)))
		}
		if c.Seq != 0 {
			t.span.Set(slog.Int64("checkpoint", int64(c.Seq)), slog.Int64("op_id", int64(c.OpID)))
			if !f.Published.IsZero() {
				t.span.Set(slog.Duration("since_source_commit_s", time.Since(f.Published)))
			}
		}
		t.span.End(err)
	}
	*t = flushSpan{tracer: t.tracer, sources: t.sources}
}

// errInterrupted ends the spans of what goes on in a later session.
var errInterrupted = errors.New("interrupted; it goes on from what is durable")

// traceBuild records how long the rule set that is being built takes.
func (a *appender) traceBuild() {
	set := a.feed.building()
	if set == nil {
		return
	}
	a.build = millrace.BeginTrace(a.config.Tracer, spanBuild)
	if a.build.On() {
		a.build.Set(slog.Int("rule_set", int(set.set.ID)), slog.Int("definitions", len(set.ids)))
	}
}

// endTraces ends the spans of what the round leaves unfinished.
func (a *appender) endTraces() {
	for _, s := range a.sources {
		for _, c := range s.copies {
			c.endTrace(errInterrupted)
		}
	}
	a.build.End(errInterrupted)
	a.build = millrace.Span{}
}

// trace begins the span of the copy, unless it has one.
func (c *copyRun) trace(a *appender) {
	if c.span.On() || a.config.Tracer == nil {
		return
	}
	if c.saved.Shadow || !a.build.On() {
		c.span = millrace.BeginTrace(a.config.Tracer, spanCopy)
	} else {
		c.span = a.build.Child(spanCopy)
	}
	if c.span.On() {
		c.span.Set(slog.String("source", c.source.config.Name), slog.String("table", c.name()),
			slog.Bool("shadow", c.saved.Shadow), slog.Int64("first_page", int64(c.machine.cursor)))
	}
}

// endTrace ends the span of the copy.
func (c *copyRun) endTrace(err error) {
	if !c.span.On() {
		return
	}
	c.span.Set(slog.Int64("rows", c.saved.Rows), slog.Int64("end_page", int64(c.machine.endPage)))
	c.span.End(err)
	c.span = millrace.Span{}
}

// traceChunk records a chunk: reading it, waiting for the stream to reach it,
// and evaluating its rows.
func (c *copyRun) traceChunk(r *chunkResult, merging time.Time, rows int64, err error) {
	if !c.span.On() {
		return
	}
	s := c.span.ChildAt("decoder.chunk", r.began)
	s.Set(slog.Duration("read_s", r.done.Sub(r.began)), slog.Int64("bytes", r.Bytes))
	if !merging.IsZero() {
		s.Set(slog.Duration("waited_s", merging.Sub(r.done)), slog.Int64("rows", rows))
	}
	if r.chunk.keys != nil {
		s.Set(slog.Int("keys", len(r.chunk.keys)))
	} else {
		s.Set(slog.Int64("from_page", int64(r.chunk.from)), slog.Int64("to_page", int64(r.chunk.to)))
	}
	s.End(err)
}
