package relay

import (
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// R50, SA-34: a bucket whose history was dropped between the snapshot that its
// totals are from and the one its ops are read in is not completed as an empty
// one. The session asks for a view, which does not have it.
func TestSA34_DroppedHistoryIsNotAnEmptyBucket(t *testing.T) {
	for name, part := range map[string]pagePart{
		"ops are gone":        {done: true},
		"totals are gone too": {done: true, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			ref := &bucketRef{name: millrace.BucketName{Definition: 1, Name: "b"}, wire: "w#b"}
			v := &view{at: 9, ruleSet: 1, buckets: []viewBucket{{ref: ref, state: bucketState{id: 1, last: 7, ops: 1, checksum: 5}}}}
			c := newCore(nil, protocol.JSON)
			var out output
			c.view(v, &out)
			if w := c.next(); w != wantPage {
				t.Fatalf("after the view it wants %d", w)
			}
			c.page(&page{request: c.pageRequest(1), parts: []pagePart{part}}, &out)
			if out.completed || c.complete {
				t.Error("an empty bucket was completed")
			}
			if w := c.next(); w != wantView {
				t.Errorf("after the page it wants %d", w)
			}
			c.view(&view{at: 12, ruleSet: 2}, &out)
			if !c.complete {
				t.Error("without the bucket it is not complete")
			}
		})
	}
}
