package decoder

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// discard is a sidecar that counts changes and keeps none, so that what is
// measured is the decoder.
type discard struct {
	Sidecar
	changes atomic.Int64
}

func (d *discard) Apply(_ context.Context, changes []millrace.Change) error {
	d.changes.Add(int64(len(changes)))
	return nil
}

func cpu(tb testing.TB) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPipeline copies 200,000 rows, then streams 200,000 in transactions
// of 100, from a server on this machine to a sidecar that discards.
func BenchmarkPipeline(b *testing.B) {
	const rows = 200_000
	for b.Loop() {
		f := newFixture(b, pgtest.Shared(b), benchRules,
			"create table todos(id uuid primary key, list_id uuid not null, title text, completed boolean, created_by text, created_at timestamptz, completed_at timestamptz)",
			"create table lists(id uuid primary key, owner_id text)",
			"insert into todos select gen_random_uuid(), gen_random_uuid(), 'buy '||g||' bottles of milk and something to eat with it', false, 'alice', now() from generate_series(1,200000) g")
		d := &discard{Sidecar: f.sidecar}
		wait := func(n int64) {
			pgtest.Eventually(b, time.Minute, func() error {
				if got := d.changes.Load(); got < n {
					return errCrash
				}
				return nil
			})
		}
		began, used := time.Now(), cpu(b)
		f.term = startTerm(f.config, d)
		wait(rows)
		b.ReportMetric(rows/time.Since(began).Seconds(), "copied/s")
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/rows, "cpu-µs/copied")
		f.settled()
		_ = f.term.stop()
		f.exec(`do $$ begin for i in 1..2000 loop
			insert into todos select gen_random_uuid(), gen_random_uuid(), 'buy '||g||' bottles of milk and something to eat with it', false, 'alice', now() from generate_series(1,100) g;
			commit; end loop; end $$`)
		began, used = time.Now(), cpu(b)
		f.term = startTerm(f.config, d)
		wait(2 * rows)
		b.ReportMetric(rows/time.Since(began).Seconds(), "streamed/s")
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/rows, "cpu-µs/streamed")
		_ = f.term.stop()
	}
}
