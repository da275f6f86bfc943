package decoder

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// RA-29, I8: a large transaction, and a large table, take no more memory than
// the bounds say.
func TestRA29_MemoryIsBounded(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text)",
		"insert into t select g, 0, repeat(md5(g::text), 20) from generate_series(1, 100000) g")
	d := &discard{Sidecar: f.sidecar}
	limit := uint64(160 << 20)
	f.term = startTerm(f.config, d)
	f.growsLess(limit, func() bool { return d.changes.Load() >= 100_000 })
	f.settled()
	f.exec("insert into t select g, 0, repeat(md5(g::text), 20) from generate_series(100001, 300000) g")
	f.growsLess(limit, func() bool { return d.changes.Load() >= 300_000 })
}

// growsLess watches the heap until done. What is only garbage does not count: how
// much of it there is depends on when it is collected.
func (f *fixture) growsLess(limit uint64, done func() bool) {
	f.t.Helper()
	runtime.GC()
	base, peak := heap(), uint64(0)
	pgtest.Eventually(f.t, 2*time.Minute, func() error {
		now := heap()
		if now > base+limit {
			runtime.GC()
			now = heap()
		}
		peak = max(peak, now)
		if !done() {
			return errors.New("not done")
		}
		return nil
	})
	f.t.Logf("heap grew from %d to %d MiB", base>>20, peak>>20)
	if peak > base+limit {
		f.t.Errorf("more than %d MiB", limit>>20)
	}
}

// A few pages of a table may hold gigabytes of long values: what is read of
// them at once goes to a file, and if that may not be so long, less is read.
func TestRA29_CopyOfLongValuesIsBounded(t *testing.T) {
	const rows = 2000 // on some 15 pages
	f := newFixture(t, pgtest.Shared(t), wideRules,
		"create table t(id int primary key, v int, big text)",
		"alter table t alter big set storage external",
		fmt.Sprintf("insert into t select g, 0, repeat(md5(g::text), 1000) from generate_series(1, %d) g", rows))
	f.config.SpoolMax = 12 << 20
	d := &discard{Sidecar: f.sidecar}
	f.term = startTerm(f.config, d)
	f.growsLess(80<<20, func() bool { return d.changes.Load() >= rows })
}
