package decoder

import (
	"context"
	"sync"
	"time"
)

// pace spreads the reading of a source's tables over time. A worker waits before
// it reads, with no transaction open, until what was read before has been paid
// for; so a chunk is read at full speed, and the average is kept to. It may be
// used concurrently.
type pace struct {
	rate int64 // bytes a second; 0 is any number

	mu   sync.Mutex
	free time.Time // when all that was read is paid for
}

// wait returns when the next read may begin, or ctx ends.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		d := time.Until(p.free)
		p.mu.Unlock()
		if d <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(d)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// spent notes a read of n bytes.
func (p *pace) spent(n int64) {
	if p.rate <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
}
