package relay

import "context"

// HoldReads takes every right to read a page, so that catch-ups wait, until
// release is called.
func (r *Relay) HoldReads(ctx context.Context) (release func(), err error) {
	n := int64(r.limits.Reads)
	if err := r.reads.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { r.reads.Release(n) }, nil
}

// Sessions is how many sessions there are.
func (r *Relay) Sessions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

// EndAll ends every session, as a restart does, but the relay goes on.
func (r *Relay) EndAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		s.finish(errRestarting)
	}
}

// SentBytes is what all sessions were sent.
func (r *Relay) SentBytes() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		n += s.bytes.Load()
	}
	return n
}
