package decoder

import (
	"context"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
)

// What a copy was for may be gone before it is done: replaced, or of a history that
// was lost meanwhile. It ends like any other, and brings nothing.
func TestCopyThatNothingReadsAnyMoreEnds(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		e := keptEvaluator(t)
		c := Config{Logger: testLog(t), BatchMaxBytes: 8 << 20}
		a := newAppender(&c, newWriter(sinktest.New(), batchCount), e.feed)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = a.writer.run(ctx) }()
		s := &source{config: &SourceConfig{Name: "main"}, origin: *e.origin, eval: e, wide: e.wide,
			tables: map[millrace.TableID]*tableState{1: e.tables[1]}, finished: map[millrace.CopyID]bool{}}
		a.sources = []*source{s}
		const replaced = 99 // no rule set has it any more
		run := resumeCopy(s, e.tables[1], millrace.Copy{ID: 1, Table: 1, State: millrace.CopyRunning, Shadow: shadow, Definitions: []millrace.DefinitionID{replaced}}, nil, &c)
		run.machine.newest = snap(t, "10:10:")
		for !run.machine.done() {
			ch := run.machine.ask(2, 10)
			if ch == nil {
				t.Fatalf("shadow %t: not done, and nothing is asked for", shadow)
			}
			run.machine.answer(ch, snap(t, "10:10:"), 7, 1)
			r := &chunkResult{chunk: ch, columns: keptColumns(), rows: chunkRows{columns: len(keptColumns())}}
			for _, text := range []string{"7", "1", "text"} {
				r.rows.addText([]byte(text))
			}
			if got := run.machine.judge(ch, 7, 1); got != mergeChunk {
				t.Fatalf("judged %v", got)
			}
			if err := run.merge(ctx, a, r); err != nil {
				t.Fatalf("shadow %t: %v", shadow, err)
			}
		}
		if len(a.batch.changes) > 0 || run.saved.Rows > 0 {
			t.Errorf("shadow %t: %d changes, %d rows", shadow, len(a.batch.changes), run.saved.Rows)
		}
		cancel()
		<-a.writer.ended
	}
}
