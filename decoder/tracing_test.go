package decoder

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/internal/tracetest"
)

func (f *fixture) traced() *tracetest.Recorder {
	r := &tracetest.Recorder{}
	f.config.Tracer = r
	return r
}

// ended waits for a span of a name that fits.
func ended(t *testing.T, r *tracetest.Recorder, name string, fits func(*tracetest.Span) bool) *tracetest.Span {
	t.Helper()
	var found *tracetest.Span
	pgtest.Eventually(t, 2*patience, func() error {
		for _, s := range r.Ended(name) {
			if fits == nil || fits(s) {
				found = s
				return nil
			}
		}
		return fmt.Errorf("of %d spans %s none fits", len(r.Ended(name)), name)
	})
	return found
}

func TestTracesOfTheFirstStart(t *testing.T) {
	t.Parallel()
	f := todoFixture(t)
	r := f.traced()
	f.start()
	f.settled()
	build := ended(t, r, spanBuild, nil)
	if len(r.Ended(spanDeploy)) != 1 || build.Err != nil || build.Attrs["definitions"].Int64() != 2 {
		t.Errorf("%d deploys, build %v, error %v", len(r.Ended(spanDeploy)), build.Attrs, build.Err)
	}
	rows := map[string]int64{}
	for _, c := range r.Below(build, spanCopy) {
		rows[c.Attrs["table"].String()] = c.Attrs["rows"].Int64()
		var merged int64
		for _, chunk := range r.Below(c, "decoder.chunk") {
			merged += chunk.Attrs["rows"].Int64()
			if chunk.Attrs["to_page"].Int64() <= chunk.Attrs["from_page"].Int64() || chunk.Attrs["bytes"].Int64() == 0 {
				t.Errorf("chunk %v", chunk.Attrs)
			}
		}
		if merged != c.Attrs["rows"].Int64() || c.Attrs["source"].String() != "main" {
			t.Errorf("chunks of %d rows in a copy %v", merged, c.Attrs)
		}
	}
	if rows["public.lists"] != 5 || rows["public.todos"] != 500 {
		t.Errorf("copied %v", rows)
	}

	before := time.Now()
	f.exec("insert into todos values ('new', 'l1', 'milk')")
	flush := ended(t, r, spanFlush, func(s *tracetest.Span) bool { return s.Attrs["changes"].Int64() == 1 && s.Begun.After(before) })
	head := f.sidecar.Head()
	if a := flush.Attrs; a["pieces"].Int64() != 1 || a["bytes"].Int64() == 0 || a["op_id"].Int64() == 0 || a["op_id"].Int64() > int64(head.OpID) ||
		a["lsn.main"].String() == "" || a["since_source_commit_s"].Duration() <= 0 || flush.Err != nil {
		t.Errorf("flush %v, error %v", a, flush.Err)
	}
	if len(r.Below(flush, "decoder.gather")) != 1 {
		t.Error("what a flush waited for is not told")
	}
	_ = f.term.stop()
	r.CheckEnds(t)
}

// A table that is made anew is copied into a shadow; the flush that puts it in
// the old one's place has a name of its own, that is always recorded.
func TestTraceOfAReplacement(t *testing.T) {
	t.Parallel()
	f := todoFixture(t)
	f.config.look = 100 * time.Millisecond
	r := f.traced()
	f.start()
	f.settled()
	f.exec(`begin; drop table todos; create table todos(id text primary key, list text, title text, done boolean not null default false);
		insert into todos values ('only', 'l1', 'one'); commit`)
	replace := ended(t, r, spanReplace, nil)
	if replace.Err != nil || replace.Attrs["changes"].Int64() == 0 {
		t.Errorf("%v, error %v", replace.Attrs, replace.Err)
	}
	ended(t, r, spanCopy, func(s *tracetest.Span) bool {
		return s.Attrs["shadow"].Bool() && s.Attrs["table"].String() == "public.todos"
	})
	_ = f.term.stop()
	r.CheckEnds(t)
}

// What a term leaves unfinished is told as interrupted, whenever it stops.
func TestSpansEndWithTheTerm(t *testing.T) {
	t.Parallel()
	f := todoFixture(t)
	f.config.pages, f.config.fixedPages, f.config.SnapshotWorkers = 1, true, 1
	r := f.traced()
	f.start()
	ended(t, r, "decoder.chunk", nil)
	_ = f.term.stop()
	r.CheckEnds(t)
	for _, s := range append(r.Ended(spanCopy), r.Ended(spanBuild)...) {
		if s.Err == nil && s.Attrs["table"].String() == "public.todos" && len(f.sidecar.Copies()) > 1 && f.sidecar.Copies()[1].State != millrace.CopyDone {
			t.Errorf("%s %v ended as if it was done", s.Name, s.Attrs)
		}
	}
}

// Without a tracer, or for a flush that is not recorded, the writer's notes
// cost no allocation.
func TestNoTraceOfAFlushCostsNoAllocation(t *testing.T) {
	b := &batch{changes: make([]millrace.Change, 3), began: time.Now(), flush: &millrace.Flush{Positions: make([]millrace.SourcePosition, 1)}}
	for name, trace := range map[string]flushSpan{"off": {}, "not sampled": {tracer: unsampled{}}} {
		if n := testing.AllocsPerRun(1000, func() {
			trace.piece(b)
			trace.end(b.flush, millrace.Checkpoint{Seq: 1}, nil)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

type unsampled struct{}

func (unsampled) Begin(string, time.Time, millrace.RemoteSpan) millrace.SpanRecorder { return nil }
