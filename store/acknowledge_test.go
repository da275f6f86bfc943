package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestAcknowledge(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	ids, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "a"}, {User: "b"}, {User: "c"}})
	must(t, err)
	newer, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: "b"}})
	must(t, err)
	// "b" has asked again since; "d" never did; "a" is in twice.
	c := x.commit(t, &millrace.Flush{Acknowledge: []millrace.WriteRequest{
		{User: "b", ID: ids[1]}, {User: "a", ID: ids[0]}, {User: "a", ID: ids[0] - 1}, {User: "d", ID: 5}}})
	counters := func() []millrace.WriteCheckpoint {
		t.Helper()
		list, err := snapshot(t, r).WriteCheckpoints(t.Context(), nil, []string{"a", "b", "c"})
		must(t, err)
		slices.SortFunc(list, func(x, y millrace.WriteCheckpoint) int { return strings.Compare(x.User, y.User) })
		return list
	}
	got := counters()
	equal(t, []millrace.WriteCheckpoint{
		{User: "a", ID: ids[0], Acknowledged: ids[0], Seq: c.Seq},
		{User: "b", ID: newer[0], Acknowledged: ids[1], Seq: c.Seq},
		{User: "c", ID: ids[2]}}, got)
	// Again, and older ones, change nothing.
	x.commit(t, &millrace.Flush{Acknowledge: []millrace.WriteRequest{{User: "a", ID: ids[0]}}})
	equal(t, got, counters())
}

func TestWatchWriteRequests(t *testing.T) {
	x := newWorld(t, Options{})
	r := openReader(t, x.uri)
	ask := func(user string) int64 {
		t.Helper()
		ids, err := r.RequestWriteCheckpoints(t.Context(), []millrace.WriteRequest{{User: user}})
		must(t, err)
		return ids[0]
	}
	old, noted := ask("old"), ask("noted")
	exec(t, x.conn, `UPDATE millrace.write_requests SET heads = '{"1":"0/1"}' WHERE user_id = 'noted'`)
	taken := make(chan []millrace.WriteRequest, 10)
	fail := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- x.w.WatchWriteRequests(ctx, func(_ context.Context, q []millrace.WriteRequest) ([]millrace.SourcePosition, error) {
			select {
			case err := <-fail:
				return nil, err
			default:
			}
			taken <- q
			return []millrace.SourcePosition{{Source: x.source.ID, LSN: 0x100}}, nil
		})
	}()
	// A new term takes what the one before had taken, too.
	equal(t, []millrace.WriteRequest{{User: "noted", ID: noted}, {User: "old", ID: old}}, <-taken)
	start := time.Now()
	id := ask("new")
	equal(t, []millrace.WriteRequest{{User: "new", ID: id}}, <-taken)
	if d := time.Since(start); d > writesPoll*9/10 {
		t.Errorf("taken after %s: that was the poll", d)
	}
	pgtest.Eventually(t, 5*time.Second, func() error {
		if n := value[int](t, x.conn, `SELECT count(*) FROM millrace.pending_write_checkpoints WHERE waits_for = 'main to reach 0/100, it is at 0/0'`); n != 3 {
			return fmt.Errorf("%d are shown to wait", n)
		}
		return nil
	})
	// What could not be taken comes again.
	fail <- errors.New("no source")
	id = ask("later")
	equal(t, []millrace.WriteRequest{{User: "later", ID: id}}, <-taken)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
