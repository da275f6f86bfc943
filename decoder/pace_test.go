package decoder

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: reads wait for what was read before, all workers together, and
// time in which nothing was read is not saved up.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{rate: 1000}
		begin := time.Now()
		at := func(want time.Duration) {
			t.Helper()
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(begin); got != want {
				t.Fatalf("went on after %v, want %v", got, want)
			}
		}
		at(0)
		p.spent(500)
		p.spent(1500)
		at(2 * time.Second)
		time.Sleep(time.Minute) // inside the bubble: no time passes
		at(62 * time.Second)
		p.spent(1000)
		at(63 * time.Second)
		p.spent(1 << 40)
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled wait: %v", err)
		}
	})
	free := &pace{}
	free.spent(1 << 60)
	if err := free.wait(t.Context()); err != nil {
		t.Error(err)
	}
}
