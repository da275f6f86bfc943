package relay

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace/millrace"
)

// readPage reads ops of buckets that are behind, with their floors, in one
// snapshot.
func (r *Relay) readPage(ctx context.Context, q *pageRequest) (*page, error) {
	began := time.Now()
	defer func() { r.meters.pages.Observe(time.Since(began).Seconds()) }()
	release, err := r.acquireRead(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	waited := time.Since(began)
	snap, err := r.source.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	if h := snap.Head(); h.OpID < q.upto {
		return nil, fmt.Errorf("%w: it shows checkpoint %d, wanted is %d", ErrUnavailable, h.OpID, q.upto)
	}
	ids := make([]millrace.BucketID, len(q.ranges))
	for i, g := range q.ranges {
		ids[i] = g.Bucket
	}
	totals, err := snap.Totals(ctx, ids)
	if err != nil {
		return nil, err
	}
	size, ops := 0, 0
	if span := millrace.SpanOf(ctx); span.On() {
		defer func() {
			span.Set(slog.Int("buckets", len(q.ranges)), slog.Int64("op_id", int64(q.upto)), slog.Int("ops", ops), slog.Int("bytes", size), slog.Duration("waited_s", waited))
		}()
	}
	p := &page{request: q, parts: make([]pagePart, 0, len(q.ranges))}
	e := encoder{wires: func(i int) string { return q.wires[i] }, after: func(i int) millrace.OpID { return q.ranges[i].After }, as: q.as}
	// fill adds parts without ops for the buckets before i.
	fill := func(i int) {
		for n := len(p.parts); n < i; n++ {
			p.parts = append(p.parts, pagePart{done: true, floor: totals[n].Floor, gone: totals[n].ID == 0})
		}
	}
	var last millrace.OpID
	flush := func(i int, lines []byte, n int) {
		fill(i)
		p.parts = append(p.parts, pagePart{lines: &dataLines{text: append([]byte(nil), lines...), as: q.as, ops: n}, last: last, done: true, floor: totals[i].Floor, gone: totals[i].ID == 0})
		size += len(lines)
	}
	full := false
	err = snap.Ops(ctx, q.ranges, q.upto, q.maxOps, func(i int, op *millrace.Op) bool {
		e.op(i, op, flush)
		last = op.ID
		ops++
		full = size+e.size() >= q.maxSize
		return !full
	})
	if err != nil {
		return nil, err
	}
	full = full || ops == q.maxOps
	if !full {
		e.end(flush)
		fill(len(q.ranges))
		return p, nil
	}
	more := last < min(q.upto, totals[e.index].Last)
	e.endMore(more, flush)
	p.parts[len(p.parts)-1].done = !more
	return p, nil
}
