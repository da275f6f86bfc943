package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// quick makes changes of leadership take a second instead of ten.
var quick = Options{Heartbeat: 100 * time.Millisecond, LeaderSilence: time.Second}

func wantLost(tb testing.TB, err error) {
	tb.Helper()
	if !errors.Is(err, ErrLeadershipLost) {
		tb.Errorf("got %v, want ErrLeadershipLost", err)
	}
}

func waitLost(tb testing.TB, w *Writer) {
	tb.Helper()
	select {
	case <-w.Lost():
	case <-time.After(10 * time.Second):
		tb.Error("the writer does not notice that its term is over")
	}
}

// TestLeaderWithoutSession is what kill -9 leaves: the server ends the session.
func TestLeaderWithoutSession(t *testing.T) {
	x := newWorld(t, quick)
	old := x.w
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	must(t, old.writeOut(t.Context()))
	before := dump(t, x.conn)
	exec1(t, x, `SELECT pg_terminate_backend(writer_pid) FROM millrace.head`)
	next := lead(t, x.store)
	if next.fence != old.fence+1 {
		t.Errorf("fence %d after %d", next.fence, old.fence)
	}
	// A change of a cached row needs no session: only the flush does.
	if err := old.Apply(t.Context(), []millrace.Change{x.delete(0, "k")}); err != nil {
		wantLost(t, err)
	}
	_, err := old.Commit(t.Context(), &millrace.Flush{})
	wantLost(t, err)
	wantLost(t, old.SaveTable(t.Context(), &x.tables[0]))
	_, err = old.State(t.Context())
	wantLost(t, err)
	waitLost(t, old)
	delete(before, "head")
	after := dump(t, x.conn)
	delete(after, "head")
	same(t, "tables", before, after)
}

func exec1(tb testing.TB, x *world, sql string) { exec(tb, x.conn, sql) }

// TestSilentLeader freezes a leader, in effect, with a flush open and locks
// held: its heart stops, its session stays.
func TestSilentLeader(t *testing.T) {
	x := newWorld(t, quick)
	old := x.w
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	must(t, old.writeOut(t.Context()))
	if _, err := old.conn.Exec(t.Context(), `UPDATE millrace.head SET op_id = op_id + 1000`); err != nil {
		t.Fatal(err)
	}
	old.leadership.stop()
	start := time.Now()
	next := lead(t, x.store)
	if took := time.Since(start); took < quick.LeaderSilence || took > 5*time.Second {
		t.Errorf("taken over after %s", took)
	}
	if next.head.Seq != old.head.Seq || next.head.OpID != old.head.OpID {
		t.Errorf("the new term begins at %+v, the old one had committed %+v", next.head, old.head)
	}
	_, err := old.Commit(t.Context(), &millrace.Flush{})
	wantLost(t, err)
	x.w = next
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	c := x.commit(t, nil)
	model{{0, "k"}: {outputs: []millrace.Output{x.out(0, "b", "lists", "k", "{}")}}}.check(t, x, c.OpID)
}

// TestLivingLeaderKeepsTheFence lets a standby wait beside a leader that has
// one flush open for longer than the silence.
func TestLivingLeaderKeepsTheFence(t *testing.T) {
	x := newWorld(t, quick)
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	must(t, x.w.writeOut(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 3*quick.LeaderSilence)
	defer cancel()
	if w, err := x.store.Lead(ctx, "standby"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lead: %v, %v", w, err)
	}
	x.commit(t, nil)
}

func TestStandbysRace(t *testing.T) {
	x := newWorld(t, quick)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	won := make(chan *Writer, 3)
	for i := range 3 {
		wg.Go(func() {
			w, err := openStore(t, x.uri, quick).Lead(ctx, fmt.Sprint("standby ", i))
			if err == nil {
				won <- w
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	fence := x.w.fence
	for range 3 { // each ends the one before without a word
		exec1(t, x, `SELECT pg_terminate_backend(writer_pid) FROM millrace.head`)
		w := <-won
		fence++
		if w.fence != fence || value[int64](t, x.conn, `SELECT fence FROM millrace.head`) != fence {
			t.Errorf("fence %d, want %d", w.fence, fence)
		}
		if _, err := w.Commit(t.Context(), &millrace.Flush{}); err != nil {
			t.Error(err)
		}
		defer func() { _ = w.Close(context.Background()) }()
	}
	cancel()
	wg.Wait()
}

// TestFenceIsCheckedLast takes the fence while the old session lives on.
func TestFenceIsCheckedLast(t *testing.T) {
	x := newWorld(t, Options{})
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	exec1(t, x, `UPDATE millrace.head SET fence = fence + 1`)
	before := dump(t, x.conn)
	_, err := x.w.Commit(t.Context(), &millrace.Flush{Positions: []millrace.SourcePosition{{Source: 1, LSN: 5000}}})
	wantLost(t, err)
	waitLost(t, x.w)
	same(t, "tables", before, dump(t, x.conn))

	y := newWorld(t, Options{})
	exec1(t, y, `UPDATE millrace.head SET fence = fence + 1`)
	before = dump(t, y.conn)
	s := y.source
	s.Slot = "another"
	wantLost(t, y.w.SaveSource(t.Context(), &s))
	same(t, "tables", before, dump(t, y.conn))
	if s.Slot != "another" || y.w.lsns[s.ID] != 0 {
		t.Error("the failed write left something in memory")
	}

	z := newWorld(t, Options{})
	exec1(t, z, `UPDATE millrace.head SET fence = fence + 1`)
	before = dump(t, z.conn)
	_, err = z.w.Deploy(t.Context(), "more", []millrace.Definition{{Kind: millrace.BucketDefinition, Key: "x", Name: "x", Hash: "xx"}})
	wantLost(t, err)
	same(t, "tables", before, dump(t, z.conn))
}

func TestHeartbeatNoticesALostFence(t *testing.T) {
	x := newWorld(t, quick)
	exec1(t, x, `UPDATE millrace.leader SET fence = fence + 1`)
	waitLost(t, x.w)
}

// TestRA46_SidecarOfAnotherServer gives the head another identity: a dump restored
// elsewhere, or a standby promoted.
func TestRA46_SidecarOfAnotherServer(t *testing.T) {
	x := newWorld(t, Options{})
	prefixes := lines(t, x.conn, `SELECT id, wire_prefix FROM millrace.definition_versions ORDER BY id`)
	op := x.w.head.OpID
	must(t, x.w.Close(t.Context()))
	exec1(t, x, `UPDATE millrace.head SET timeline = timeline + 1`)
	w := lead(t, x.store)
	if w.head.OpID != op+1<<32 {
		t.Errorf("after a promotion: op id %d after %d", w.head.OpID, op)
	}
	equal(t, prefixes, lines(t, x.conn, `SELECT id, wire_prefix FROM millrace.definition_versions ORDER BY id`))
	must(t, w.Close(t.Context()))
	exec1(t, x, `UPDATE millrace.head SET system_id = '1'`)
	w = lead(t, x.store)
	if w.head.OpID != op+2<<32 {
		t.Errorf("after a restore: op id %d after %d", w.head.OpID, op)
	}
	for i, p := range lines(t, x.conn, `SELECT id, wire_prefix FROM millrace.definition_versions ORDER BY id`) {
		if lookup := strings.HasSuffix(p, ",)"); (p == prefixes[i]) != lookup {
			t.Errorf("wire prefix %s after %s", p, prefixes[i])
		}
	}
}

const leaderProcess = "MILLRACE_TEST_LEADER"

// leadForever is the child of TestSA32_FrozenProcess: it commits again and again
// and says so, until it fails.
func leadForever(uri string) {
	ctx := context.Background()
	s, err := Open(ctx, uri, Options{Logger: quiet})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	w, err := s.Lead(ctx, "child")
	if err != nil {
		fmt.Println("lead:", err)
		return
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	for range ticker.C {
		if _, err := w.Commit(ctx, &millrace.Flush{}); err != nil {
			fmt.Println("lost:", errors.Is(err, ErrLeadershipLost), err)
			return
		}
		fmt.Println("committed")
	}
}

// TestSA32_FrozenProcess stops and kills real processes, with the usual heartbeat:
// a standby leads within 20 s, and a process that wakes writes nothing.
func TestSA32_FrozenProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 12 s")
	}
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			uri := newSidecar(t)
			cmd := osexec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), leaderProcess+"="+uri)
			pipe, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			said := make(chan string, 100_000)
			go func() {
				defer close(said)
				for scan := bufio.NewScanner(pipe); scan.Scan(); {
					said <- scan.Text()
				}
			}()
			defer func() {
				_ = cmd.Process.Kill()
				for range said {
				}
				_ = cmd.Wait()
			}()
			if s := <-said; s != "committed" {
				t.Fatal(s)
			}
			must(t, cmd.Process.Signal(signal))
			start := time.Now()
			w := lead(t, openStore(t, uri, Options{}))
			took := time.Since(start)
			t.Logf("leading %s after %s", took.Round(100*time.Millisecond), signal)
			if took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			c, err := w.Commit(t.Context(), &millrace.Flush{})
			must(t, err)
			if signal == syscall.SIGSTOP {
				must(t, cmd.Process.Signal(syscall.SIGCONT))
				last := ""
				for s := range said {
					last = s
				}
				if !strings.HasPrefix(last, "lost: true") {
					t.Errorf("the woken process says %q", last)
				}
			}
			pgtest.Eventually(t, time.Second, func() error {
				if seq := value[int64](t, connect(t, uri), `SELECT seq FROM millrace.head`); seq != c.Seq {
					return fmt.Errorf("seq %d, want %d", seq, c.Seq)
				}
				return nil
			})
		})
	}
}
