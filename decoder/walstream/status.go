package walstream

import (
	"fmt"
	"time"

	"github.com/millrace/millrace"
)

// tellStatus is the only writer of the connection while it is open. It tells
// the confirmed position, whatever consumer and reader are doing: within a
// second when it has moved, at StatusInterval when not (P57), at once when the
// server asks, and at once when it has moved while the server waits for it
// (P89). And it watches that there is progress.
func (s *Stream) tellStatus() {
	tick := time.NewTicker(min(time.Second, s.config.StatusInterval/2))
	defer tick.Stop()
	var (
		sent     millrace.LSN
		sentAt   time.Time
		steps    uint64
		movingAt = time.Now()
	)
	for {
		now := time.Now()
		ask := false
		select {
		case <-s.stopStatus:
			return
		case <-s.nudge:
			ask = true
		case now = <-tick.C:
		}
		safe := millrace.LSN(s.confirmed.Load())
		if awaited := s.awaited.Load(); awaited != 0 && uint64(safe) >= awaited {
			s.awaited.CompareAndSwap(awaited, 0)
		}
		if ask || safe != sent || now.Sub(sentAt) >= s.config.StatusInterval {
			if err := s.wire.sendStatus(safe, now); err != nil {
				s.interrupt(fmt.Errorf("%w: send status: %w", ErrDisconnected, err))
				return
			}
			sent, sentAt = safe, now
		}
		if n := s.progress.Load(); n != steps || (s.pending.Load() == 0 && s.queued.Load() == 0) {
			steps, movingAt = n, now
		} else if stood := now.Sub(movingAt); stood >= s.config.StallTimeout {
			s.interrupt(&StallError{After: stood, Pending: s.pending.Load()})
			signal(s.space)
			return
		}
	}
}
