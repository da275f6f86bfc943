package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// kill -9 at random moments during a mixed load with a large transaction. Three
// seeds each share servers: the history of all of them must hold together.
func TestKillUnderLoad(t *testing.T) {
	first, seeds := envInt(t, "E2E_SEED", 1), envInt(t, "E2E_SEEDS", 20)
	const together = 3
	for from := 0; from < seeds; from += together {
		r := []rules{bucketRules, streamRules}[from/together%2]
		t.Run(fmt.Sprintf("%s from seed %d", r.name, first+from), func(t *testing.T) {
			s := newSystem(t, options{rules: r})
			p := s.start()
			s.caughtUp(startTimeout)
			turns := [together]int{0, 1, 2} // fill, move, delete
			if from/together%4 >= 2 {
				turns = [together]int{0, 1, 0} // fill, move, truncate and fill
			}
			for i, turn := range turns[:min(together, seeds-from)] {
				p = s.killUnderLoad(p, first+from+i, turn)
			}
			s.checkFootprint()
			if code := p.terminate(t, 20*time.Second); code != 0 {
				t.Errorf("after SIGTERM the decoder ends with %d, want 0", code)
			}
		})
	}
}

// killUnderLoad runs one seed and returns the process that is running then.
func (s *system) killUnderLoad(p *process, seed, turn int) *process {
	s.t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(seed), 9))
	l := startLoad(s.sourceURI, 2, uint64(seed))
	big := s.background(bigTransaction(turn, bigRows(s.t)))
	kills := 0
	for end := time.Now().Add(envDuration(s.t, "E2E_LOAD", 2*time.Second)); time.Now().Before(end); {
		// Often early in the life of a process, sometimes late.
		waitFor(s.t, time.Duration(rnd.Int64N(int64(40*time.Millisecond)))<<rnd.IntN(6))
		p.kill9(s.t)
		p = s.start()
		kills++
	}
	committed, err := l.Stop()
	if err != nil {
		s.t.Errorf("the load: %v", err)
	}
	if err := <-big; err != nil {
		s.t.Errorf("the large transaction: %v", err)
	}
	// Once more while the rest, usually the large transaction, is drained.
	waitFor(s.t, time.Duration(rnd.Int64N(int64(2*time.Second))))
	p.kill9(s.t)
	p = s.start()
	s.t.Logf("seed %d: %d transactions, %d kills", seed, committed, kills+1)
	s.caughtUp(drainTimeout)
	s.oracle()
	return p
}

// background runs statements on the source and delivers their outcome.
func (s *system) background(statements []string) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx := context.Background()
		conn, err := connectAs(ctx, s.sourceURI, "e2e-big")
		if err != nil {
			done <- err
			return
		}
		defer conn.Close(ctx)
		done <- execAll(ctx, conn, statements)
	}()
	return done
}

// waitFor lets a random moment of a running load come; nothing is expected to
// have happened after it.
func waitFor(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test was cancelled")
	}
}

// kill -9 while tables are copied for the first time, under load.
func TestKillDuringInitialCopy(t *testing.T) {
	for seed := range envInt(t, "E2E_COPY_SEEDS", 2) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			r := []rules{bucketRules, streamRules}[seed%2]
			s := newSystem(t, options{rules: r})
			rows := bigRows(t)
			s.onSource(fmt.Sprintf(`INSERT INTO bulk SELECT gen_random_uuid(), 'o' || 1 + g %% 12, g FROM generate_series(1, %d) g;
				INSERT INTO items SELECT g, 'o' || 1 + g %% 12, 'a', g, 'title ' || g, CASE WHEN g %% 5 = 0 THEN repeat(md5(g::text), 100) END, g, true FROM generate_series(1, 20000) g`, rows))
			l := startLoad(s.sourceURI, 2, uint64(seed))
			rnd := rand.New(rand.NewPCG(uint64(seed), 10))
			p := s.start()
			kills := 0
			for range 12 {
				waitFor(t, 50*time.Millisecond+time.Duration(rnd.Int64N(int64(time.Second))))
				active, err := tryQuery[bool](s.sidecarURI, `SELECT EXISTS (SELECT FROM millrace.rule_sets WHERE state = 'active')`)
				if err != nil {
					t.Fatal(err)
				}
				if active {
					break
				}
				p.kill9(t)
				kills++
				p = s.start()
			}
			if _, err := l.Stop(); err != nil {
				t.Error(err)
			}
			t.Logf("killed %d times before the first rule set was active", kills)
			if kills == 0 {
				t.Error("the copy was over before the first kill; raise E2E_BIG_ROWS")
			}
			s.caughtUp(drainTimeout)
			s.oracle()
			s.checkFootprint()
		})
	}
}

// kill -9 in the first moments of the first start, again and again: the slot is
// recorded, created, its snapshot stored, the rules deployed; wherever it was,
// exactly one slot is there in the end (RA-08).
func TestKillDuringFirstStart(t *testing.T) {
	s := newSystem(t, options{rules: streamRules})
	s.onSource(`INSERT INTO items SELECT g, 'o' || 1 + g % 12, 'a', g, 't' || g, CASE WHEN g % 7 = 0 THEN repeat(md5(g::text), 90) END FROM generate_series(1, 5000) g`)
	l := startLoad(s.sourceURI, 2, 91)
	rnd := rand.New(rand.NewPCG(91, 11))
	for range 20 {
		p := s.start()
		waitFor(t, time.Duration(10+rnd.IntN(350))*time.Millisecond)
		p.kill9(t)
	}
	s.start()
	if _, err := l.Stop(); err != nil {
		t.Error(err)
	}
	s.caughtUp(startTimeout)
	if n := query[int](t, s.sourceURI, `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`); n != 1 {
		t.Errorf("%d slots on the source, want 1", n)
	}
	s.oracle()
	s.checkFootprint()
}

// A transaction left open on the source, on a table nobody syncs, holds up the
// first start: it says so, names the process, and goes on when that ends
// (RA-07).
func TestFirstStartBehindOpenTransaction(t *testing.T) {
	s := newSystem(t, options{ownSource: true})
	ctx := t.Context()
	conn, err := connectAs(ctx, s.sourceURI, "e2e-idle")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO unrelated VALUES (1, 'open')`); err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprint(conn.PgConn().PID())
	p := s.start()
	pgtest.Eventually(t, 40*time.Second, func() error {
		told, err := tryQuery[string](s.sidecarURI, `SELECT coalesce(string_agg(waiting_for, ' '), '') FROM millrace.source_reports`)
		if err != nil {
			return err
		}
		if !strings.Contains(told+p.log.text(), pid) {
			return fmt.Errorf("neither the status (%q) nor the log names process %s:\n%s", told, pid, p.log.tail(10))
		}
		return nil
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	s.caughtUp(startTimeout)
	s.oracle()
}

// kill -9 several times while one large transaction is being applied, and none
// of it may show before all of it does (I3).
func TestKillDuringLargeTransaction(t *testing.T) {
	s := newSystem(t, options{})
	p := s.start()
	s.caughtUp(startTimeout)
	for turn := range 2 {
		watch := s.watchBulk()
		if err := <-s.background(bigTransaction(turn, bigRows(t))); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			waitFor(t, time.Duration(200+rand.IntN(800))*time.Millisecond)
			p.kill9(t)
			p = s.start()
		}
		s.caughtUp(drainTimeout)
		watch.finish(t)
		s.oracle()
	}
}

// bulkWatch polls content that large transactions change, of two buckets in one
// snapshot, and keeps the distinct answers in order.
type bulkWatch struct {
	stop chan struct{}
	done chan error
	seen []string
	n    int
}

const bulkState = `
SELECT coalesce(count(*) || ' rows, ' || sum(hashtext(b.name || r.row_id)::bigint), 'none')
FROM millrace.buckets b CROSS JOIN LATERAL millrace.bucket_rows(b.bucket) r
WHERE b.name ~ '^(by_owner|my_bulk).*"o[34]"' AND r.type = 'bulk'`

func (s *system) watchBulk() *bulkWatch {
	w := &bulkWatch{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		for last := false; ; {
			select {
			case <-w.stop:
				last = true // this answer is asked for after the end
			default:
			}
			state, err := tryQuery[string](s.sidecarURI, bulkState)
			if err != nil {
				w.done <- err
				return
			}
			w.n++
			if len(w.seen) == 0 || w.seen[len(w.seen)-1] != state {
				w.seen = append(w.seen, state)
			}
			if last {
				w.done <- nil
				return
			}
		}
	}()
	return w
}

// finish ends the polling: there must have been one state before the
// transaction, one after, and nothing between.
func (w *bulkWatch) finish(t testing.TB) {
	t.Helper()
	close(w.stop)
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d polls saw %q", w.n, w.seen)
	if len(w.seen) != 2 {
		t.Errorf("a reader saw %d states of the large transaction's rows, want the one before and the one after: %q", len(w.seen), w.seen)
	}
}

// A reader that polls never sees a part of a transaction: neither of a large
// one, nor of the small ones that move money between accounts (I3).
func TestTransactionsAreVisibleWholly(t *testing.T) {
	s := newSystem(t, options{rules: streamRules})
	p := s.start()
	s.caughtUp(startTimeout)
	l := startLoad(s.sourceURI, 2, 77)
	stop, sums := make(chan struct{}), make(chan error, 1)
	polls := 0
	go func() { sums <- s.watchSums(stop, &polls) }()
	for turn := range 2 {
		watch := s.watchBulk()
		if err := <-s.background(bigTransaction(turn, bigRows(t))); err != nil {
			t.Fatal(err)
		}
		s.caughtUp(drainTimeout)
		watch.finish(t)
	}
	pgtest.Eventually(t, waitTimeout, func() error { return l.progress(200) })
	if _, err := l.Stop(); err != nil {
		t.Error(err)
	}
	s.caughtUp(time.Minute)
	close(stop)
	if err := <-sums; err != nil {
		t.Error(err)
	}
	t.Logf("the sum was right in %d polls", polls)
	if polls < 20 {
		t.Errorf("only %d polls", polls)
	}
	s.oracle()
	if peak := peakMemory(p.cmd.Process.Pid); peak > 256<<20 {
		t.Errorf("the decoder had %d MiB resident, want less than 256 (RA-29)", peak>>20)
	} else {
		t.Logf("the decoder's peak memory is %d MiB", peak>>20)
	}
}

// peakMemory is the most resident memory of a process, in bytes; 0 where the
// system does not tell.
func peakMemory(pid int) int64 {
	text, err := readText(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(text) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}

func (s *system) watchSums(stop chan struct{}, polls *int) error {
	ctx := context.Background()
	conn, err := connectAs(ctx, s.sidecarURI, "e2e-watch")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	wire, err := sidecar{conn}.wireName(ctx, s.rules.accounts)
	if err != nil || wire == "" {
		return errors.Join(fmt.Errorf("bucket %s is %q", s.rules.accounts, wire), err)
	}
	for {
		var sum int64
		if err := conn.QueryRow(ctx, `SELECT sum((data::json ->> 'balance')::bigint) FROM millrace.bucket_rows($1)`, wire).Scan(&sum); err != nil {
			return err
		}
		if sum != 20_000 {
			return fmt.Errorf("a reader saw accounts with a sum of %d, want 20000", sum)
		}
		*polls++
		select {
		case <-stop:
			return nil
		default:
		}
	}
}
