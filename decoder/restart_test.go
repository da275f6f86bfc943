package decoder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// failAt makes the nth time a step is reached fail, once.
func (f *fixture) failAt(step sinktest.Step, nth int) {
	var mu sync.Mutex
	seen := 0
	f.sidecar.Fault = func(s sinktest.Step) error {
		mu.Lock()
		defer mu.Unlock()
		if s != step {
			return nil
		}
		if seen++; seen == nth {
			return errCrash
		}
		return nil
	}
}

// survive starts another term each time one ends by the fault.
func (f *fixture) survive(done func() error) (faults int) {
	f.t.Helper()
	pgtest.Eventually(f.t, patience, func() error {
		if err := f.term.failed(); err != nil {
			if !errors.Is(err, errCrash) {
				f.t.Fatalf("the term ended: %v", err)
			}
			faults++
			f.start()
		}
		return done()
	})
	return faults
}

// RA-32: whatever step fails, nothing is lost, and nothing is applied twice.
func TestRA32_FaultsWhileStreaming(t *testing.T) {
	for _, step := range []sinktest.Step{sinktest.BeforeApply, sinktest.AfterApply, sinktest.BeforeWide, sinktest.BeforeCommit, sinktest.AfterCommit} {
		t.Run(string(step), func(t *testing.T) {
			f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
			f.start()
			f.settled()
			before, _ := f.sidecar.Ops()
			_ = f.term.stop()
			f.failAt(step, 2)
			head := f.head()
			const rows = 60
			f.start()
			for i := range rows {
				f.exec("insert into t values ($1, 0, 'new')", 1000+i)
				if i%10 == 0 {
					f.exec("update t set v = v + 1 where id = 4") // needs its kept value
				}
				if err := f.term.failed(); err != nil {
					if !errors.Is(err, errCrash) {
						t.Fatal(err)
					}
					f.start()
				}
			}
			f.survive(func() error {
				if puts, _ := f.sidecar.Ops(); puts-before < rows+rows/10 {
					return fmt.Errorf("%d puts", puts-before)
				}
				return nil
			})
			f.settled()
			f.contentEquals("bucket:all", wideQuery)
			if puts, _ := f.sidecar.Ops(); puts-before != rows+rows/10 {
				t.Fatalf("%d puts for %d changes", puts-before, rows+rows/10)
			}
			if d := f.sidecar.Source("main").Durable; d < head {
				t.Fatalf("durable at %v, before %v", d, head)
			}
		})
	}
}

// RA-08: a first start that fails at any step leaves one slot and the right
// data.
func TestRA08_FaultsOfFirstStart(t *testing.T) {
	for _, step := range []sinktest.Step{sinktest.BeforeSave, sinktest.AfterSave, sinktest.BeforeCommit, sinktest.AfterCommit} {
		for nth := 1; ; nth++ {
			f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
			f.failAt(step, nth)
			f.start()
			faults := f.survive(func() error {
				if _, ok := f.sidecar.Active(); !ok {
					return errors.New("no rule set is in force")
				}
				return nil
			})
			if faults > 0 {
				f.settled()
				f.contentEquals("bucket:all", wideQuery)
				var slots int
				if err := f.db.QueryRow(context.Background(), "select count(*) from pg_replication_slots where database = current_database()").Scan(&slots); err != nil || slots != 1 {
					t.Fatalf("%d slots (%v)", slots, err)
				}
			}
			_ = f.term.stop()
			if faults == 0 {
				if nth == 1 {
					t.Fatalf("%s: never reached", step)
				}
				t.Logf("%s: %d times", step, nth-1)
				break
			}
		}
	}
}

// A source that goes away comes back without losing anything; the term goes on.
func TestSourceRestart(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.start()
	f.settled()
	_ = f.db.Close(context.Background())
	stopped := time.Now()
	server.Stop(t)
	if took := time.Since(stopped); took > 10*time.Second {
		t.Errorf("the source took %v to stop", took)
	}
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(1); r.Error == "" {
			return errors.New("the report shows no error")
		}
		return nil
	})
	server.Start(t)
	f.reconnect()
	f.exec("update t set v = 5; insert into t values (777, 1, 'back')")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(1); r.Error != "" {
			return fmt.Errorf("the report still shows %q", r.Error)
		}
		return nil
	})
	if err := f.term.failed(); err != nil {
		t.Fatalf("the term ended: %v", err)
	}
}
