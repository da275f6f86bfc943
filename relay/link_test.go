package relay

import (
	"errors"
	"testing"
	"time"
)

// TestHalfOpenPeers: a client that has shown no sign of life for longer than it
// may is let go at the next keepalive, without anything being written.
func TestHalfOpenPeers(t *testing.T) {
	gone := func(silence time.Duration) *link {
		l := &link{}
		l.seen.Store(time.Now().Add(-silence).UnixNano())
		return l
	}
	if err := (&wsConn{link: gone(silenceMax + time.Second)}).keepalive(t.Context(), 100); !errors.Is(err, errGone) {
		t.Errorf("the native transport says %v", err)
	}
	if err := (&rsConn{link: gone(91 * time.Second), lifetime: 90 * time.Second}).keepalive(t.Context(), 100); !errors.Is(err, errGone) {
		t.Errorf("RSocket says %v", err)
	}
	// A ping is under way, so that nothing is written.
	alive := gone(89 * time.Second)
	alive.pinging.Store(true)
	if err := (&rsConn{link: alive, lifetime: 90 * time.Second}).keepalive(t.Context(), 100); err != nil {
		t.Errorf("RSocket, within the lifetime, says %v", err)
	}
}
