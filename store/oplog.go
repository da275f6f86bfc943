package store

import (
	"cmp"
	"io"
	"slices"
)

// opLog collects ops in the order of their ids, and gives them to COPY by
// bucket, in each by id: inserting into the primary key in its order is cheaper
// for the server, and a bucket's ops lie together for those who read them.
type opLog struct {
	copyBuffer
	places []opPlace
}

// opPlace is where an op ends in the buffer, and the delta of its bucket.
type opPlace struct {
	end   int
	delta int32
}

// end finishes the row of an op.
func (l *opLog) end(delta int32) { l.places = append(l.places, opPlace{len(l.b), delta}) }

func (l *opLog) reset(keep int) {
	l.copyBuffer.reset(keep)
	l.places = l.places[:0]
}

// span is a part of the buffer.
type span struct{ from, to int }

// sorted orders the rows by bucket. It is linear in the ops.
func (l *opLog) sorted(deltas []delta, scratch *opOrder) io.Reader {
	byBucket := scratch.byBucket[:0]
	for i := range deltas {
		byBucket = append(byBucket, int32(i))
	}
	slices.SortFunc(byBucket, func(a, b int32) int { return cmp.Compare(deltas[a].bucket, deltas[b].bucket) })
	// next is where the next op of a delta goes.
	next := slices.Grow(scratch.next[:0], len(deltas))[:len(deltas)]
	n := int32(0)
	for _, i := range byBucket {
		next[i] = n
		n += int32(deltas[i].ops)
	}
	spans := slices.Grow(scratch.spans[:0], len(l.places))[:len(l.places)]
	from := len(copyHeader)
	for _, p := range l.places {
		spans[next[p.delta]] = span{from, p.end}
		next[p.delta]++
		from = p.end
	}
	*scratch = opOrder{byBucket, next, spans}
	return &spanReader{b: l.b, spans: spans, open: span{0, len(copyHeader)}, trailer: span{from, from + len(copyTrailer)}}
}

// opOrder is scratch space.
type opOrder struct {
	byBucket, next []int32
	spans          []span
}

// spanReader reads parts of a buffer one after the other.
type spanReader struct {
	b       []byte
	open    span // being read
	spans   []span
	trailer span
}

// Read fills p as far as there are bytes.
func (r *spanReader) Read(p []byte) (n int, err error) {
	for {
		m := copy(p[n:], r.b[r.open.from:r.open.to])
		n += m
		r.open.from += m
		switch {
		case n == len(p):
			return n, nil
		case len(r.spans) > 0:
			r.open, r.spans = r.spans[0], r.spans[1:]
		case r.trailer.to > 0:
			r.open, r.trailer = r.trailer, span{}
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
