package relay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/protocol"
)

// fakeTransport records keepalives.
type fakeTransport struct {
	start time.Time
	at    []time.Duration
	left  []int32
}

func (f *fakeTransport) send(context.Context, *output) error { return nil }
func (f *fakeTransport) room() int                           { return roomForAll }
func (f *fakeTransport) interrupt()                          {}
func (f *fakeTransport) tokenEnds(ctx context.Context, seconds int32) error {
	return f.keepalive(ctx, seconds)
}
func (f *fakeTransport) keepalive(_ context.Context, seconds int32) error {
	f.at, f.left = append(f.at, time.Since(f.start)), append(f.left, seconds)
	return nil
}

func idleSession(ttl time.Duration) (*session, *fakeTransport) {
	s := &session{relay: &Relay{meters: newMeters()}, core: newCore(nil, protocol.JSON), wake: make(chan struct{}, 1), expires: time.Now().Add(ttl)}
	return s, &fakeTransport{start: time.Now()}
}

// TestTokenExpiry: keepalives every 20 s ± 10 %, a warning 20 s before the end,
// 0 at the end, then the end.
func TestTokenExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := idleSession(110 * time.Second)
		err := s.run(t.Context(), f)
		var e ending
		if !errors.As(err, &e) || e.code != protocol.CodeTokenExpired || e.close != protocol.CloseUnauthorized {
			t.Fatalf("ended with %v", err)
		}
		if d := time.Since(f.start); d < 110*time.Second || d > 111*time.Second {
			t.Errorf("ended after %s", d)
		}
		warned := false
		last := time.Duration(0)
		for i, at := range f.at {
			want := int32((110*time.Second - at) / time.Second)
			if f.left[i] != want {
				t.Errorf("after %s: %d s left, want %d", at, f.left[i], want)
			}
			if at == 90*time.Second {
				warned = true
				continue
			}
			if d := at - last; f.left[i] != 0 && (d < 18*time.Second || d > 22*time.Second) {
				t.Errorf("%s between keepalives", d)
			}
			last = at
		}
		if !warned || f.left[len(f.left)-1] != 0 {
			t.Errorf("keepalives at %v with %v", f.at, f.left)
		}
	})
}

func TestNewTokenMovesExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := idleSession(60 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx, f) }()
		time.Sleep(50 * time.Second)
		s.mu.Lock()
		s.expires = time.Now().Add(time.Hour)
		s.mu.Unlock()
		s.signal()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("ended with %v", err)
		default:
		}
		if n := f.left[len(f.left)-1]; n < 3500 {
			t.Errorf("the last keepalive tells %d s", n)
		}
		// A shorter one counts at once.
		s.mu.Lock()
		s.expires = time.Now().Add(5 * time.Second)
		s.mu.Unlock()
		s.signal()
		time.Sleep(6 * time.Second)
		cancel()
		var e ending
		if err := <-done; !errors.As(err, &e) || e.code != protocol.CodeTokenExpired {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestMailIsBounded: a session that does not look gets a view instead.
func TestMailIsBounded(t *testing.T) {
	s, _ := idleSession(time.Hour)
	for i := range 2 * mailMax {
		s.push(delivery{node: &node{from: 0, to: 1}})
		if len(s.mail) > mailMax {
			t.Fatalf("%d nodes wait", len(s.mail))
		}
		if i >= mailMax && !s.lost {
			t.Fatal("nodes are missing, and nobody knows")
		}
	}
	s.giveView(&view{at: 5})
	if s.lost || s.mail != nil || s.look().view == nil {
		t.Error("a view did not make up for it")
	}
}
