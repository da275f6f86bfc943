package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/rsocket"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// size is how many of something a test takes: n, unless the environment says
// otherwise.
func size(t *testing.T, variable string, n int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return n
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// each runs f for 0 to n-1, all at once.
func each(n int, f func(i int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { f(i) })
	}
	group.Wait()
}

// connections waits until the relay serves so many sessions.
func connections(t *testing.T, srv *relaytest.Server, want int) {
	t.Helper()
	pgtest.Eventually(t, 2*time.Minute, func() error {
		if n := srv.Relay.Sessions(); n != want {
			return fmt.Errorf("%d sessions, want %d", n, want)
		}
		return nil
	})
}

// TestReconnectStorm: MILLRACE_STORM clients (600) of all transports come at
// once, and once they are in sync lose their connections and come back at once.
// Their catch-ups wait for each other within the limits; a client that was there
// before gets every change meanwhile; all end equal to the sidecar; nothing is
// left of them when they have gone.
func TestReconnectStorm(t *testing.T) {
	n := size(t, "MILLRACE_STORM", 600)
	const reads = 4
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{PageBytes: 16 << 20, Reads: reads}})
	user := func(i int) string { return fmt.Sprint("user", i) }
	side.Commit(func(tx *relaytest.Tx) {
		for i := range 1100 { // two pages
			tx.Put("global", "", "t", fmt.Sprint(i), fmt.Sprintf(`{"n":%d}`, i))
		}
		for i := range n {
			tx.Put("mine", user(i), "t", user(i), `{}`)
		}
	})
	bystander := dial(t, srv, srv.Token("bob"), relaytest.Request("bystander"), nil)
	bystander.Reach(side.Head().OpID)
	changes := 0
	change := func() {
		changes++
		bystander.Until(side.Commit(func(tx *relaytest.Tx) {
			tx.Put("global", "", "t", "live", fmt.Sprintf(`{"n":%d}`, changes))
			tx.Put("mine", "bob", "t", "bob", fmt.Sprintf(`{"n":%d}`, changes))
		}).OpID)
	}
	come := func(t *testing.T, clients []*relaytest.Client, turn int) {
		each(n, func(i int) {
			clients[i] = dialAny(t, srv, (i+turn)%len(dials), user(i), fmt.Sprint("device", i), clients[i])
		})
	}
	leave := func(clients []*relaytest.Client) {
		for _, c := range clients {
			c.Close()
		}
		connections(t, srv, 1)
	}
	var goroutines int
	var memory int64
	t.Run("they come", func(t *testing.T) {
		release, err := srv.Relay.HoldReads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		clients := make([]*relaytest.Client, n)
		come(t, clients, 0)
		each(n, func(i int) {
			if l, err := clients[i].Next(); err != nil {
				t.Errorf("client %d: %v", i, err)
			} else if _, ok := l.(*protocol.Checkpoint); !ok {
				t.Errorf("client %d is sent %s first", i, l.AppendLine(nil))
			}
		})
		connections(t, srv, n+1)
		// All of them wait for pages; who is in sync gets what is new.
		for range 20 {
			change()
		}
		release()
		each(n, func(i int) { clients[i].Reach(side.Head().OpID) })
		if _, most := side.OpenSnapshots(); most > reads+1 {
			t.Errorf("%d snapshots were open at a time; %d pages may be read, and the publisher has one", most, reads)
		}
		leave(clients)
	})
	goroutines, memory = runtime.NumGoroutine(), heap()
	t.Run("they come back", func(t *testing.T) {
		clients := make([]*relaytest.Client, n)
		come(t, clients, 1)
		each(n, func(i int) { clients[i].Reach(side.Head().OpID) })
		leave(clients)
		var group sync.WaitGroup
		group.Go(func() {
			for range 50 {
				change()
			}
		})
		come(t, clients, 2)
		group.Wait()
		each(n, func(i int) {
			c := clients[i]
			c.Reach(side.Head().OpID)
			for name := range c.Target {
				if !same(side, name, c.Buckets[name], user(i)) {
					t.Errorf("%s of client %d differs", name, i)
				}
			}
		})
		leave(clients)
	})
	change()
	http.DefaultClient.CloseIdleConnections()
	pgtest.Eventually(t, time.Minute, func() error {
		// A session that is left behind has 4 KiB at least.
		if g, m := runtime.NumGoroutine(), heap(); g > goroutines+20 || m > memory+int64(n)<<11+1<<20 {
			return fmt.Errorf("%d goroutines and %d KiB, before %d and %d", g, m>>10, goroutines, memory>>10)
		}
		return nil
	})
}

// TestStormBeyondTheLimit: of many more clients than may connect as many as may
// are served; the others are told so, and when to come back: not all at the same
// time.
func TestStormBeyondTheLimit(t *testing.T) {
	const limit, n = 60, 300
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{Connections: limit}})
	var mu sync.Mutex
	hints := map[int]int{}
	served, refused := 0, 0
	count := func(hint int, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			t.Error(err)
		case hint == 0:
			served++
		default:
			refused++
			hints[hint]++
		}
	}
	each(n, func(i int) { count(tryStream[i%len(tryStream)](t, srv, fmt.Sprint("user", i))) })
	if served != limit || refused != n-limit {
		t.Errorf("%d are served and %d refused; the limit is %d", served, refused, limit)
	}
	for hint := range hints {
		if hint < 2 || hint > 10 {
			t.Errorf("a client is told to come back in %d s", hint)
		}
	}
	if len(hints) < 5 {
		t.Errorf("clients are told to come back together: %v", hints)
	}
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "t", "1", `{}`) })
	srv.Relay.EndAll() // they have not been read since
	connections(t, srv, 0)
	c := dial(t, srv, srv.Token("late"), relaytest.Request("late"), nil)
	c.Until(cp.OpID)
}

// tryStream asks for a stream by each transport, and tells in how many seconds to
// come back; 0 if it is served. What is served stays until the test's end.
var tryStream = []func(t *testing.T, srv *relaytest.Server, user string) (hint int, err error){
	func(t *testing.T, srv *relaytest.Server, user string) (int, error) {
		resp, err := relaytest.Post(t.Context(), srv.URL, srv.Token(user), relaytest.Request("c").AppendJSON(nil), nil)
		if err != nil {
			return 0, err
		}
		t.Cleanup(func() { resp.Body.Close() })
		return hintOf(resp)
	},
	func(t *testing.T, srv *relaytest.Server, user string) (int, error) {
		conn, resp, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+protocol.PathWebSocket, &websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
		if err != nil {
			if resp == nil {
				return 0, err
			}
			return hintOf(resp)
		}
		t.Cleanup(func() { conn.CloseNow() })
		if err := conn.Write(t.Context(), websocket.MessageText, openFrame(srv.Token(user), 1<<40).AppendFrame(nil)); err != nil {
			return 0, err
		}
		_, _, err = conn.Read(t.Context())
		var closed websocket.CloseError
		switch {
		case err == nil:
			return 0, nil
		case !errors.As(err, &closed) || closed.Code != protocol.CloseConnections:
			return 0, fmt.Errorf("a native connection ends with %w", err)
		}
		return hintIn(closed.Reason)
	},
	func(t *testing.T, srv *relaytest.Server, user string) (int, error) {
		conn, resp, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+protocol.PathStream, nil)
		if err != nil {
			if resp == nil {
				return 0, err
			}
			return hintOf(resp)
		}
		t.Cleanup(func() { conn.CloseNow() })
		for _, f := range []rsocket.Frame{relaytest.SetupFrame(srv.Token(user)), relaytest.RequestFrame(relaytest.Request("c"), rsocket.MaxN)} {
			if err := conn.Write(t.Context(), websocket.MessageBinary, f.Append(nil)); err != nil {
				return 0, err
			}
		}
		_, b, err := conn.Read(t.Context())
		if err != nil {
			return 0, err
		}
		f, err := rsocket.Decode(b)
		if err != nil {
			return 0, err
		}
		e, ok := f.(*rsocket.Error)
		if !ok {
			return 0, nil
		}
		return hintIn(e.Text)
	},
}

func hintOf(resp *http.Response) (int, error) {
	switch resp.StatusCode {
	case http.StatusOK:
		return 0, nil
	case http.StatusTooManyRequests:
		return strconv.Atoi(resp.Header.Get("Retry-After"))
	}
	return 0, fmt.Errorf("status %d", resp.StatusCode)
}

// hintIn reads what a reason says.
func hintIn(reason string) (seconds int, err error) {
	_, after, _ := strings.Cut(reason, "retry in ")
	if _, err := fmt.Sscanf(after, "%d s", &seconds); err != nil || !strings.Contains(reason, string(protocol.CodeConnections)) {
		return 0, fmt.Errorf("the reason is %q", reason)
	}
	return seconds, nil
}

// TestJoiningUnderLoad: MILLRACE_JOINING sessions (200) of all transports come
// one after the other while one transaction follows the other. Each gets every
// op of its buckets once, in order.
func TestJoiningUnderLoad(t *testing.T) {
	n := size(t, "MILLRACE_JOINING", 200)
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Commit(func(tx *relaytest.Tx) {
		for i := range 1200 {
			tx.Put("global", "", "t", fmt.Sprint(i), `{}`)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writer sync.WaitGroup
	var transactions int
	var joined atomic.Int64
	writer.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond) // 500 a second, if the machine can
		defer tick.Stop()
		for ctx.Err() == nil {
			side.Commit(func(tx *relaytest.Tx) {
				tx.Put("global", "", "t", fmt.Sprint(transactions%100), fmt.Sprintf(`{"n":%d}`, transactions))
				tx.Put("mine", fmt.Sprint("user", transactions%5), "t", "own", fmt.Sprintf(`{"n":%d}`, transactions))
				tx.Put([]string{"urgent", "global"}[transactions%2], "", "t", "more", `{}`)
			})
			transactions++
			<-tick.C
		}
	})
	each(n, func(i int) {
		user := fmt.Sprint("user", i%5)
		c := dialAny(t, srv, i%len(dials), user, fmt.Sprint("device", i), nil)
		got := map[string][]millrace.OpID{}
		follow := func(until millrace.OpID) {
			for _, l := range c.Reach(until) {
				if d, ok := l.(*protocol.Data); ok {
					for _, op := range d.Ops {
						got[d.Bucket] = append(got[d.Bucket], op.ID)
					}
				}
			}
		}
		follow(1)
		for range 3 { // and on, for some time
			follow(side.Head().OpID)
		}
		// Once half of them are there the writer ends; the others end with what
		// they have by then, and what is left.
		if joined.Add(1) >= int64(n)/2 {
			stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Minute):
			t.Error("half of the sessions have not joined in two minutes")
			stop()
		}
		writer.Wait()
		follow(side.Head().OpID)
		for _, b := range [][2]string{{"global", ""}, {"urgent", ""}, {"mine", user}} {
			name := relaytest.Wire(b[0], b[1])
			if want := side.History(b[0], b[1]); !sameOps(got[name], want) {
				t.Errorf("client %d got %d ops of %s, there are %d; or they differ", i, len(got[name]), name, len(want))
			}
			if !same(side, name, c.Buckets[name], user) {
				t.Errorf("%s of client %d differs", name, i)
			}
		}
		c.Close()
	})
	t.Logf("%d transactions while %d sessions joined", transactions, n)
}

func sameOps(got []millrace.OpID, want []millrace.Op) bool {
	if len(got) != len(want) {
		return false
	}
	for i, id := range got {
		if id != want[i].ID {
			return false
		}
	}
	return true
}
