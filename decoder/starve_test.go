package decoder

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// slowSidecar takes longer to apply a batch than the decoder takes to fill one.
type slowSidecar struct {
	Sidecar
	since, most atomic.Int64 // changes since the last commit, and the most of them
	done        atomic.Bool
}

func (s *slowSidecar) Apply(ctx context.Context, changes []millrace.Change) error {
	if n := s.since.Add(int64(len(changes))); n > s.most.Load() {
		s.most.Store(n)
	}
	work := time.NewTimer(10 * time.Millisecond)
	defer work.Stop()
	select {
	case <-work.C:
	case <-ctx.Done():
	}
	return s.Sidecar.Apply(ctx, changes)
}

func (s *slowSidecar) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	s.since.Store(0)
	if f.Activate != 0 {
		s.done.Store(true)
	}
	return s.Sidecar.Commit(ctx, f)
}

// A copy that keeps the writer busy all the time comes to checkpoints all the
// same: each chunk is durable soon, and others' changes do not wait for the
// table.
func TestCopyComesToCheckpoints(t *testing.T) {
	const rows, pages = 12_000, 10
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text)",
		fmt.Sprintf("insert into t select g, 0, repeat('x', 60) from generate_series(1, %d) g", rows))
	f.config.BatchMaxBytes, f.config.pages, f.config.fixedPages = 32<<10, pages, true
	s := &slowSidecar{Sidecar: f.sidecar}
	f.term = startTerm(f.config, s)
	pgtest.Eventually(t, 2*time.Minute, func() error {
		if !s.done.Load() {
			return fmt.Errorf("%d changes since the last checkpoint", s.since.Load())
		}
		return nil
	})
	chunk := pages * 8192 / 100 // rows, at most
	if most := s.most.Load(); most > int64(2*chunk) {
		t.Errorf("%d of %d rows were in one checkpoint, a chunk has at most %d", most, rows, chunk)
	}
}
