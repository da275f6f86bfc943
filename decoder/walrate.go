package decoder

import (
	"time"

	"github.com/millrace/millrace"
)

// walRate is how fast a source writes WAL: over the last hour, or as much of it
// as was seen.
type walRate struct {
	samples []walSample // the oldest first, a minute apart
}

type walSample struct {
	at   time.Time
	head millrace.LSN
}

const (
	rateEvery  = time.Minute
	rateWindow = time.Hour
)

// add takes a head and gives bytes in an hour; -1 before a minute was seen.
func (r *walRate) add(at time.Time, head millrace.LSN) int64 {
	n := len(r.samples)
	if n > 0 && head < r.samples[n-1].head {
		r.samples, n = r.samples[:0], 0 // another server answers
	}
	if n == 0 || at.Sub(r.samples[n-1].at) >= rateEvery {
		r.samples = append(r.samples, walSample{at, head})
	}
	for len(r.samples) > 1 && at.Sub(r.samples[0].at) > rateWindow {
		r.samples = append(r.samples[:0], r.samples[1:]...)
	}
	oldest := r.samples[0]
	span := at.Sub(oldest.at)
	if span < rateEvery {
		return -1
	}
	return int64(float64(head-oldest.head) / span.Hours())
}
