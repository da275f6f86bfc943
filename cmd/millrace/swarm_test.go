package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/relay/relaytest"
)

// TestServeSwarm: clients that join, pause, leave and come back while the source
// is written to end with what the rules give them. On the way every completion
// is checked by its checksums.
func TestServeSwarm(t *testing.T) {
	const clients, transactions, every = 24, 400, 10 * time.Millisecond
	s := newSystem(t)
	s.start(t)
	users := []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		defer close(stop)
		if err := s.write(t.Context(), users, transactions, every); err != nil {
			t.Errorf("writing to the source: %v", err)
		}
	})
	ends := make([]*relaytest.Client, clients)
	for i := range clients {
		group.Go(func() { ends[i] = s.wander(t, users[i%len(users)], i, stop) })
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for i, c := range ends {
		user := users[i%len(users)]
		s.catchUp(t, user, c)
		if got, want := titlesOf(t, c), s.titles(t, user); !maps.Equal(got, want) {
			t.Errorf("client %d of %s has %d to-dos, want %d", i, user, len(got), len(want))
		}
	}
}

// wander connects, reads for a while, leaves and comes back, until stop.
func (s *system) wander(t *testing.T, user string, i int, stop <-chan struct{}) *relaytest.Client {
	rnd := rand.New(rand.NewPCG(uint64(i), 7))
	c := relaytest.NewClient(t)
	for {
		c = relaytest.Dial(t, s.url, relaytest.Token(user, time.Hour), relaytest.Request(fmt.Sprint("c", i)), c)
		pause := time.After(time.Duration(rnd.IntN(1500)) * time.Millisecond)
	reading:
		for {
			select {
			case <-stop:
				return c
			case <-pause:
				break reading
			case l, ok := <-c.Lines:
				if !ok {
					if !errors.Is(c.Err, context.Canceled) {
						t.Errorf("client %d: the stream ended: %v", i, c.Err)
					}
					return c
				}
				c.Fold(l)
				if rnd.IntN(50) == 0 { // slow for a moment
					select {
					case <-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond):
					case <-stop:
					}
				}
			}
		}
		c.Close()
	}
}

// write commits random transactions to the demo's tables.
func (s *system) write(ctx context.Context, users []string, n int, every time.Duration) error {
	conn, err := pgx.Connect(ctx, string(s.cfg.Sources[0].URI))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rnd := rand.New(rand.NewPCG(1, 1))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range n {
		<-tick.C
		var b pgx.Batch
		b.Queue(`BEGIN`)
		for range 1 + rnd.IntN(5) {
			list := fmt.Sprintf("00000000-0000-4000-a000-%012d", 1+rnd.IntN(40))
			user := users[rnd.IntN(len(users))]
			switch k := rnd.IntN(10); {
			case k < 4:
				b.Queue(`UPDATE todos SET title = $2 WHERE id = (SELECT id FROM todos WHERE list_id = $1 ORDER BY random() LIMIT 1)`, list, fmt.Sprint("t", rnd.IntN(1000)))
			case k < 6:
				b.Queue(`INSERT INTO todos (id, list_id, title) VALUES (gen_random_uuid(), $1, $2)`, list, fmt.Sprint("n", rnd.IntN(1000)))
			case k < 7:
				b.Queue(`DELETE FROM todos WHERE id = (SELECT id FROM todos WHERE list_id = $1 ORDER BY random() LIMIT 1)`, list)
			case k < 8:
				b.Queue(`INSERT INTO list_members (list_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, list, user)
			case k < 9:
				b.Queue(`DELETE FROM list_members WHERE list_id = $1 AND user_id = $2`, list, user)
			default:
				b.Queue(`UPDATE lists SET owner_id = $2 WHERE id = $1`, list, user)
			}
		}
		b.Queue(`COMMIT`)
		if err := conn.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
	}
	return nil
}
