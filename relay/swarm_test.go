package relay_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// TestSwarm: many clients that join, leave, come back by another transport and
// are granted and refused lists, while ops are written and compacted, end equal to the sidecar.
// Every completion on the way is checked by its checksums.
func TestSwarm(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{NodeBytes: 20_000, RingBytes: 40_000}})
	users := []string{"alice", "bob", "carol", "dan"}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		defer close(stop)
		for range 400 {
			side.Commit(func(tx *relaytest.Tx) {
				n := 1 + rnd.IntN(20)
				if rnd.IntN(40) == 0 {
					n = 1500
				}
				for range n {
					def, key := "list", fmt.Sprint("l", rnd.IntN(4))
					switch rnd.IntN(4) {
					case 0:
						def, key = "mine", users[rnd.IntN(len(users))]
					case 1:
						def, key = []string{"global", "urgent"}[rnd.IntN(2)], ""
					}
					id := fmt.Sprint(rnd.IntN(50))
					if rnd.IntN(3) == 0 {
						tx.Remove(def, key, "t", id)
					} else {
						tx.Put(def, key, "t", id, fmt.Sprintf(`{"n":%d}`, rnd.IntN(1000)))
					}
				}
				if rnd.IntN(4) == 0 {
					u, l := users[rnd.IntN(len(users))], fmt.Sprint("l", rnd.IntN(4))
					if rnd.IntN(2) == 0 {
						tx.Grant(u, l)
					} else {
						tx.Revoke(u, l)
					}
				}
			})
			if rnd.IntN(5) == 0 {
				side.Compact("list", fmt.Sprint("l", rnd.IntN(4)))
			}
		}
		side.Commit(func(tx *relaytest.Tx) {
			for _, u := range users {
				tx.Grant(u, "l0")
				tx.Put("mine", u, "t", "last", `{}`)
			}
		})
	})
	for i := range 24 {
		group.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 3))
			user := users[i%len(users)]
			var c *relaytest.Client
			for running := true; running; {
				select {
				case <-stop:
					running = false
				default:
				}
				c = dialAny(t, srv, rnd.IntN(len(dials)), user, fmt.Sprint("c", i), c)
				for n := rnd.IntN(60); running && n > 0; n-- {
					if _, err := c.Next(); err != nil {
						break // quiet for long, at the end
					}
					select {
					case <-stop:
						n = 0
					default:
					}
				}
				if running {
					c.Close()
				}
			}
			last := side.Head().OpID
			c.Until(last)
			for name := range c.Target {
				if !same(side, name, c.Buckets[name], user) {
					t.Errorf("%s of client %d differs at the end", name, i)
				}
			}
			if _, ok := c.Target[relaytest.Wire("list", "l0")]; !ok {
				t.Errorf("client %d was not granted l0", i)
			}
		})
	}
	group.Wait()
}

// dials are the ways to get the same stream.
var dials = []func(testing.TB, *relaytest.Server, string, *protocol.Request, *relaytest.Client) *relaytest.Client{
	dial,
	func(tb testing.TB, srv *relaytest.Server, token string, r *protocol.Request, before *relaytest.Client) *relaytest.Client {
		return relaytest.DialWith(tb, srv.URL, token, r, before, http.Header{"Accept": {bsonStream}, "Accept-Encoding": {"zstd"}})
	},
	func(tb testing.TB, srv *relaytest.Server, token string, r *protocol.Request, before *relaytest.Client) *relaytest.Client {
		return relaytest.DialRSocket(tb, srv.URL, token, r, before)
	},
	func(tb testing.TB, srv *relaytest.Server, token string, r *protocol.Request, before *relaytest.Client) *relaytest.Client {
		return relaytest.DialSocket(tb, srv.URL, token, r, before)
	},
}

func dialAny(tb testing.TB, srv *relaytest.Server, how int, user, device string, before *relaytest.Client) *relaytest.Client {
	tb.Helper()
	return dials[how](tb, srv, srv.Token(user), relaytest.Request(device), before)
}

func same(side *relaytest.Sidecar, wire string, got *millrace.Reduced, user string) bool {
	for _, k := range [][2]string{{"global", ""}, {"urgent", ""}, {"mine", user}, {"list", "l0"}, {"list", "l1"}, {"list", "l2"}, {"list", "l3"}} {
		if relaytest.Wire(k[0], k[1]) != wire {
			continue
		}
		want := side.Bucket(k[0], k[1])
		if got == nil {
			return len(want.Rows) == 0
		}
		if got.Checksum != want.Checksum || len(got.Rows) != len(want.Rows) {
			return false
		}
		for id, op := range want.Rows {
			if got.Rows[id].Data != op.Data {
				return false
			}
		}
		return true
	}
	return false
}

// BenchmarkFanOut: one commit to many idle clients.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(b, side)
			clients := make([]*relaytest.Client, n)
			for i := range clients {
				clients[i] = dial(b, srv, srv.Token("alice"), &protocol.Request{RawData: true, ClientID: fmt.Sprint(i), Streams: protocol.StreamSelection{IncludeDefaults: true}}, nil)
				clients[i].Until(0)
			}
			b.ResetTimer()
			for i := range b.N {
				cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "t", "1", fmt.Sprintf(`{"n":%d}`, i)) })
				for _, c := range clients {
					c.Until(cp.OpID)
				}
			}
		})
	}
}
