package relay_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// TestTenThousandBuckets: a user with as many buckets as one may have connects by
// every transport, gets a change of one bucket and nothing else, and resumes with
// all positions in the request. One bucket more, and the sessions end with the
// reason; one less, and they are served again.
func TestTenThousandBuckets(t *testing.T) {
	const limit, lists = 10_000, 10_000 - 3 // global, urgent and their own
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	names := make([]string, lists)
	for i := range names {
		names[i] = fmt.Sprint("list", i)
	}
	side.Commit(func(tx *relaytest.Tx) {
		tx.Grant("alice", names...)
		for _, name := range names {
			tx.Put("list", name, "t", name, `{}`)
		}
	})
	changes := 0
	change := func(t *testing.T, c *relaytest.Client) {
		t.Helper()
		changes++
		name := names[changes*777%lists]
		cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("list", name, "t", "changed", fmt.Sprintf(`{"n":%d}`, changes)) })
		lines := c.Reach(cp.OpID)
		size := 0
		for _, l := range lines {
			size += len(l.AppendLine(nil))
		}
		if size > 2000 {
			t.Errorf("a change of one bucket takes %d bytes: %.500s", size, relaytest.Describe(lines))
		}
		if got := c.Rows("list", name)["changed"]; got != fmt.Sprintf(`{"n":%d}`, changes) {
			t.Errorf("the row is %q", got)
		}
	}
	var connected []*relaytest.Client
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			device := fmt.Sprint("device", how)
			c := dialAny(t, srv, how, "alice", device, nil)
			c.Reach(side.Head().OpID)
			if len(c.Target) != limit || len(c.Table("t")) < lists {
				t.Fatalf("%d buckets, %d rows", len(c.Target), len(c.Table("t")))
			}
			change(t, c)
			c.Close()
			c = dialAny(t, srv, how, "alice", device, c)
			for _, l := range c.Reach(side.Head().OpID) {
				if d, ok := l.(*protocol.Data); ok {
					t.Fatalf("%d ops of %s are sent again", len(d.Ops), d.Bucket)
				}
			}
			change(t, c)
			c.Close()
		})
		connected = append(connected, dialAny(t, srv, how, "alice", fmt.Sprint("stays", how), nil))
		connected[how].Reach(side.Head().OpID)
	}
	side.Commit(func(tx *relaytest.Tx) { tx.Grant("alice", "one more") })
	for how, c := range connected {
		for {
			_, err := c.Next()
			if err == nil {
				continue
			}
			if how >= 2 && !strings.Contains(err.Error(), "PSYNC_S2305") {
				t.Errorf("by transport %d the session ends with %v", how, err)
			}
			break
		}
	}
	connections(t, srv, 0)
	resp, body := do(t, "POST", srv.URL+protocol.PathStream, "Token "+srv.Token("alice"), "{}")
	if resp.StatusCode != 500 || !strings.Contains(body, "PSYNC_S2305") || !strings.Contains(body, "10001 buckets, the limit is 10000") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	other := dial(t, srv, srv.Token("bob"), relaytest.Request("other"), nil)
	other.Reach(side.Head().OpID)
	side.Commit(func(tx *relaytest.Tx) { tx.Revoke("alice", "one more") })
	back := dialAny(t, srv, 3, "alice", "stays3", connected[3])
	back.Reach(side.Head().OpID)
	change(t, back)
}

// TestHugeTransaction: a transaction far larger than what a node may carry goes
// to all clients whole, by pages, and takes little memory. MILLRACE_HUGE is its
// number of ops (25,000), of 4 kB each.
func TestHugeTransaction(t *testing.T) {
	ops := size(t, "MILLRACE_HUGE", 25_000)
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{NodeBytes: 256 << 10, PageBytes: 4 << 20}})
	clients := make([]*relaytest.Client, len(dials))
	for how := range dials {
		clients[how] = dialAny(t, srv, how, "alice", fmt.Sprint("device", how), nil)
		clients[how].Reach(1)
	}
	before := heap()
	text := `{"text":"` + strings.Repeat("long ", 800) + `"}` // one text for all: the sidecar is in this process
	cp := side.Commit(func(tx *relaytest.Tx) {
		for i := range ops {
			tx.Put("mine", "alice", "t", fmt.Sprint(i%100), text) // clients keep little
			if i == ops/2 {
				tx.Put("urgent", "", "t", "urgent", `{}`)
			}
		}
	})
	for how, c := range clients {
		if l, err := c.Next(); err != nil || c.At < cp.OpID {
			t.Fatalf("transport %d: %v, %v", how, l, err)
		}
	}
	// Now all wait for the clients to read on, and nothing of it is held beyond the
	// pages under way; the ops themselves are small here.
	pgtest.Eventually(t, time.Minute, func() error {
		if used := heap() - before; used > 64<<20 {
			return fmt.Errorf("%d ops, %d MiB, take %d MiB of memory on their way", ops, ops*len(text)>>20, used>>20)
		}
		return nil
	})
	each(len(clients), func(how int) {
		partial := false
		for clients[how].Completed < cp.OpID { // lines are not kept
			l, err := clients[how].Next()
			if err != nil {
				t.Errorf("transport %d: %v", how, err)
				return
			}
			if p, ok := l.(protocol.PartialCheckpointComplete); ok && p.Priority == 0 {
				partial = true
			}
		}
		if got := len(clients[how].Rows("mine", "alice")); got != 100 || !partial {
			t.Errorf("transport %d: %d rows; the urgent row came first: %t", how, got, partial)
		}
	})
	// Live changes go on without pages.
	next := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "last", `{}`) })
	each(len(clients), func(how int) { clients[how].Reach(next.OpID) })
	pgtest.Eventually(t, time.Minute, func() error {
		if now, _ := side.OpenSnapshots(); now > 0 {
			return fmt.Errorf("%d snapshots are open", now)
		}
		return nil
	})
}
