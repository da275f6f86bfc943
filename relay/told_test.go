package relay

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// TestToldAgain: whatever other sessions were sent of the same node, a session is
// sent, and stands, as if it were alone.
func TestToldAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		refs := []*bucketRef{{wire: "a"}, {wire: "b"}}
		lines := &dataLines{text: []byte(`{"data":{"bucket":"a"}}` + "\n"), ops: 1}
		makeNode := func() *node {
			n := &node{from: 10, to: 12, changes: map[*bucketRef]*change{refs[0]: {state: bucketState{id: 1, last: 12, ops: 3, checksum: 99}}}}
			n.changes[refs[0]].lines.Store(lines)
			return n
		}
		shared := makeNode()
		for range rapid.IntRange(1, 8).Draw(t, "sessions") {
			as := rapid.SampledFrom([]protocol.Encoding{protocol.JSON, protocol.JSON, protocol.JSON, protocol.NestedJSON}).Draw(t, "as")
			v := &view{at: 10, write: rapid.Int64Range(0, 1).Draw(t, "write")}
			reasons := []protocol.Reason{{Index: rapid.IntRange(0, 1).Draw(t, "reason")}}
			priority := rapid.IntRange(0, 1).Draw(t, "priority")
			for _, ref := range refs[:rapid.IntRange(1, 2).Draw(t, "buckets")] {
				v.buckets = append(v.buckets, viewBucket{ref: ref, state: bucketState{id: 1, last: 10, ops: 2, checksum: 7}, priority: priority, reasons: reasons})
			}
			ack := rapid.SampledFrom([]int64{0, 0, 1, 5}).Draw(t, "ack")
			room := rapid.SampledFrom([]int{0, 10, 1 << 20}).Draw(t, "room")
			var got, want output
			cores := [2]*core{}
			for i, n := range []*node{shared, makeNode()} {
				c := newCore([]protocol.BucketPosition{{Name: "a", After: 10}, {Name: "b", After: 10}}, as)
				c.view(v, &output{as: as})
				o := output{as: as}
				c.nodes([]delivery{{node: n, write: ack}}, room, &o)
				cores[i] = c
				if i == 0 {
					got = o
				} else {
					want = o
				}
			}
			if g, w := text(&got), text(&want); !bytes.Equal(g, w) || got.ops != want.ops || got.completed != want.completed {
				t.Fatalf("%s %d %t\nwant\n%s %d %t", g, got.ops, got.completed, w, want.ops, want.completed)
			}
			g, w := cores[0], cores[1]
			if g.at != w.at || g.write != w.write || g.complete != w.complete || len(g.todo) != len(w.todo) {
				t.Fatalf("%+v\nwant\n%+v", g, w)
			}
			for ref, h := range w.held {
				if k := g.held[ref]; k.pos != h.pos || k.state != h.state {
					t.Fatalf("%s: %+v, want %+v", ref.wire, k, h)
				}
			}
		}
		kept := shared.changes[refs[0]].told.Load()
		if kept != nil && kept.lines.ops != 1 {
			t.Fatalf("kept %+v", kept)
		}
	})
}

func text(o *output) (b []byte) {
	for _, c := range o.chunks {
		b = append(b, c.text...)
	}
	return b
}

// BenchmarkTold: what a session of many in the same bucket costs beside writing.
func BenchmarkTold(b *testing.B) {
	ref := &bucketRef{wire: "a"}
	c := newCore([]protocol.BucketPosition{{Name: "a"}}, protocol.JSON)
	c.view(&view{buckets: []viewBucket{{ref: ref, priority: 3}}}, &output{as: protocol.JSON})
	lines := &dataLines{text: bytes.Repeat([]byte("x"), 300), ops: 1}
	n := &node{changes: map[*bucketRef]*change{ref: {}}}
	n.changes[ref].lines.Store(lines)
	b.ReportAllocs()
	for i := range b.N {
		n.from, n.to = millrace.OpID(i), millrace.OpID(i+1)
		n.changes[ref].state = bucketState{id: 1, last: n.to}
		out := output{as: protocol.JSON}
		c.nodes([]delivery{{node: n}}, pageBytes, &out)
	}
}
