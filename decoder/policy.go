package decoder

import "time"

// flushPolicy decides when a batch that is not full is flushed. With nothing
// under way the first transaction is flushed at once. While flushes follow
// each other the policy waits a little, up to maxLinger, so that each takes
// more: how long follows from how long flushes take.
type flushPolicy struct {
	last  time.Time     // end of the last flush
	took  time.Duration // smoothed
	every time.Duration // between flushes of positions alone
}

const (
	maxLinger = 20 * time.Millisecond
	// idleWait is how long settle sleeps with nothing to wait for.
	idleWait = time.Second
	// askedWait is the least time between position-only flushes for a server
	// that asks.
	askedWait = time.Second
)

func (p *flushPolicy) committed(now time.Time, took time.Duration) {
	p.last = now
	if p.took == 0 {
		p.took = took
	}
	p.took += (took - p.took) / 4
}

// linger is how old the oldest change may get before the writer is asked.
func (p *flushPolicy) linger(began time.Time) time.Duration {
	linger := min(maxLinger, 2*p.took)
	if began.Sub(p.last) > linger {
		return 0
	}
	return linger
}

// wait tells how long to wait before flushing; 0 or less means now. began is
// when the oldest change came, busy that the writer is at work.
func (p *flushPolicy) wait(now, began time.Time, work, busy bool) time.Duration {
	if !work || busy {
		return idleWait
	}
	return began.Add(p.linger(began)).Sub(now)
}

// positions tells how long to wait before a flush of positions alone.
func (p *flushPolicy) positions(now time.Time, asked bool) time.Duration {
	every := p.every
	if asked {
		every = min(every, askedWait)
	}
	return min(idleWait, p.last.Add(every).Sub(now))
}
