// Package tracetest is for tests of what is traced: a Recorder that keeps spans
// in memory, and a Collector that takes them as OTLP over HTTP.
package tracetest

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// Recorder is a millrace.Tracer that records everything. Safe for concurrent
// use.
type Recorder struct {
	mu    sync.Mutex
	spans []*Span
}

// Span is one that was recorded. Its fields are to be read once it has ended.
type Span struct {
	Name   string
	Parent *Span // nil for the first of a trace
	Remote millrace.RemoteSpan
	Begun  time.Time
	Attrs  map[string]slog.Value
	Err    error
	Ended  int // how often

	recorder *Recorder
}

var _ millrace.Tracer = (*Recorder)(nil)

func (r *Recorder) add(s *Span) *Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.recorder, s.Attrs = r, map[string]slog.Value{}
	r.spans = append(r.spans, s)
	return s
}

// Begin implements millrace.Tracer.
func (r *Recorder) Begin(name string, at time.Time, parent millrace.RemoteSpan) millrace.SpanRecorder {
	return r.add(&Span{Name: name, Begun: at, Remote: parent})
}

// Child implements millrace.SpanRecorder.
func (s *Span) Child(name string, at time.Time) millrace.SpanRecorder {
	return s.recorder.add(&Span{Name: name, Begun: at, Parent: s})
}

// Set implements millrace.SpanRecorder.
func (s *Span) Set(attrs ...slog.Attr) {
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	for _, a := range attrs {
		s.Attrs[a.Key] = a.Value
	}
}

// End implements millrace.SpanRecorder.
func (s *Span) End(err error) {
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	s.Ended++
	s.Err = err
}

// Ended lists the spans of a name that have ended.
func (r *Recorder) Ended(name string) (list []*Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name && s.Ended > 0 {
			list = append(list, s)
		}
	}
	return list
}

// Below lists the spans of a name that have ended below a span.
func (r *Recorder) Below(parent *Span, name string) (list []*Span) {
	for _, s := range r.Ended(name) {
		for up := s.Parent; up != nil; up = up.Parent {
			if up == parent {
				list = append(list, s)
			}
		}
	}
	return list
}

// CheckEnds fails the test if a span has not ended, or ended twice.
func (r *Recorder) CheckEnds(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Ended != 1 {
			t.Errorf("a span %s ended %d times", s.Name, s.Ended)
		}
	}
}
