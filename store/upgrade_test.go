package store

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/migrations"
)

// TestUpgradeUnderWork: migrating, which makes every function and view again,
// while a decoder writes, compacts and is read from, stops none of them. A
// process of this release that then meets a newer schema goes on with its term;
// only the next one is refused, so that the newer release takes over.
func TestUpgradeUnderWork(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	ctx, cancel := context.WithCancel(t.Context())
	upgraded := make(chan error, 1)
	go func() {
		for range 5 {
			if err := migrations.Up(ctx, x.uri); err != nil {
				upgraded <- err
				return
			}
		}
		upgraded <- nil
	}()
	compacting := make(chan error, 1)
	go func() { compacting <- x.w.Compact(ctx, CompactionOptions{Interval: 20 * time.Millisecond}) }()
	var have millrace.Reduced
	work := func(n int) {
		t.Helper()
		x.change(t, "a", n*20, n*20+20)
		follow(t, r, x.set.Definitions[0].ID, busyBucket, &have)
		if got := device(&have); len(got) != 1 {
			t.Errorf("a device has %v", got)
		}
	}
	n := 0
	for done := false; !done; n++ {
		select {
		case err := <-upgraded:
			must(t, err)
			done = true
		default:
			work(n)
		}
	}
	if n < 3 {
		t.Errorf("only %d flushes went on beside the migrations", n)
	}
	exec(t, x.conn, `UPDATE millrace.schema_migrations SET version = version + 1`)
	work(n)
	if _, err := Open(t.Context(), x.uri, Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "newer one") {
		t.Errorf("a new term on a newer schema: %v", err)
	}
	work(n + 1)
	cancel()
	<-compacting
	x.verified(t)

	// The newer release, which knows the schema, takes over.
	exec(t, x.conn, `UPDATE millrace.schema_migrations SET version = version - 1`)
	next := openStore(t, x.uri, Options{LeaderSilence: time.Second, Heartbeat: 100 * time.Millisecond})
	must(t, x.w.Close(t.Context()))
	x.w = lead(t, next)
	work(n + 2)
	x.verified(t)
}
