package decoder

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace"
)

func TestSA27_PendingWrites(t *testing.T) {
	at := map[millrace.SourceID]millrace.LSN{1: 100, 2: 100}
	position := func(id millrace.SourceID) millrace.LSN { return at[id] }
	wait := func(user string, id int64, lsns ...millrace.LSN) writesEvent {
		e := writesEvent{requests: []millrace.WriteRequest{{User: user, ID: id}}}
		for i, l := range lsns {
			e.heads = append(e.heads, millrace.SourcePosition{Source: millrace.SourceID(i + 1), LSN: l})
		}
		return e
	}
	p := pendingWrites{wait("a", 1, 100, 101), wait("b", 2, 50, 100), wait("c", 3, 101, 50)}
	if !p.reached(position) {
		t.Error("b is not reached")
	}
	if got := p.take(position); len(got) != 1 || got[0].User != "b" || len(p) != 2 {
		t.Errorf("taken %v, left %v", got, p)
	}
	if p.reached(position) || len(p.take(position)) != 0 {
		t.Error("what waits for a position ahead is taken")
	}
	at[2] = 101
	if got := p.take(position); len(got) != 1 || got[0].User != "a" {
		t.Errorf("taken %v", got)
	}
}

// TestPendingWritesAreBounded: while a source stands still, the devices that ask
// again and again take no more memory than one request each.
func TestPendingWritesAreBounded(t *testing.T) {
	a := &appender{}
	for i := range 10 * maxPendingWrites {
		e := writesEvent{requests: []millrace.WriteRequest{{User: fmt.Sprint(i % 7), ID: int64(i)}}, heads: []millrace.SourcePosition{{Source: 1, LSN: millrace.LSN(i)}}}
		if err := e.handle(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.writes) > maxPendingWrites {
		t.Errorf("%d groups", len(a.writes))
	}
	got := a.writes.take(func(millrace.SourceID) millrace.LSN { return 10 * maxPendingWrites })
	last := slices.MaxFunc(got, func(x, y millrace.WriteRequest) int { return int(x.ID - y.ID) })
	if last.ID != 10*maxPendingWrites-1 || len(a.writes) != 0 {
		t.Errorf("newest %v, %d left", last, len(a.writes))
	}
}
