package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// The swarm: 40 users with two lists each, five clients for a user.
const (
	swarmUsers, swarmLists, swarmClients = 40, 80, 200
	swarmWriters, swarmRate              = 4, 200 // transactions a second, all together
	twins                                = 3      // to-dos of each list that always have one title
)

// swarmSeed makes them, each list with its twins and some others.
var swarmSeed = fmt.Sprintf(`
INSERT INTO users SELECT 'u' || i, 'User ' || i FROM generate_series(0, %[1]d - 1) i;
INSERT INTO lists (id, name, owner_id) SELECT ('77777777-0000-4000-a000-' || lpad(i::text, 12, '0'))::uuid, 'List ' || i, 'u' || i %% %[1]d FROM generate_series(0, %[2]d - 1) i;
INSERT INTO todos (id, list_id, title) SELECT ('77777777-0000-4000-b' || lpad(k::text, 3, '0') || '-' || lpad(i::text, 12, '0'))::uuid,
  ('77777777-0000-4000-a000-' || lpad(i::text, 12, '0'))::uuid, 'twin 0' FROM generate_series(0, %[2]d - 1) i, generate_series(0, %[3]d - 1) k;
INSERT INTO todos (list_id, title) SELECT ('77777777-0000-4000-a000-' || lpad(i::text, 12, '0'))::uuid, 'other ' || k FROM generate_series(0, %[2]d - 1) i, generate_series(1, 5) k;`,
	swarmUsers, swarmLists, twins)

// 200 clients over both transports that join, leave and pause while the source
// commits 200 transactions a second, access comes and goes, and history is
// compacted under them. The checking client breaks the test over an op that
// comes twice, an op of a bucket it was not told of, and a wrong checksum at
// any completion; a completion below a compaction's floor would show a list
// without some of its twins.
func TestClientSwarm(t *testing.T) {
	d := newDemo(t, demoOptions{schema: swarmSeed})
	d.start()
	d.ready()
	length := envDuration(t, "E2E_SWARM", 6*time.Second)
	stop := make(chan struct{})
	var writing, reading sync.WaitGroup
	var committed, compacted atomic.Int64
	began := time.Now()
	for i := range swarmWriters {
		writing.Go(func() {
			if err := d.writeSwarm(i, length, &committed); err != nil {
				t.Errorf("writing to the source: %v", err)
			}
		})
	}
	stopCompacting := make(chan struct{})
	var compacting sync.WaitGroup
	compacting.Go(func() {
		if err := d.compactSwarm(stopCompacting, &compacted); err != nil {
			t.Errorf("compacting: %v", err)
		}
	})
	clients := make([]*swarmClient, swarmClients)
	for i := range clients {
		clients[i] = &swarmClient{t: t, d: d, number: i, user: fmt.Sprint("u", i%swarmUsers), rnd: rand.New(rand.NewPCG(uint64(i), 31))}
		reading.Go(func() { clients[i].wander(stop) })
	}
	writing.Wait()
	took := time.Since(began)
	close(stop)
	reading.Wait()
	close(stopCompacting)
	compacting.Wait()
	if t.Failed() {
		return
	}
	want := map[string]rowSet{}
	for i := range swarmUsers {
		want[fmt.Sprint("u", i)] = mustBeEntitledTo(t, d.sourceURI, fmt.Sprint("u", i))
	}
	ended := time.Now()
	for _, c := range clients {
		reading.Go(func() { c.finish(want[c.user]) })
	}
	reading.Wait()
	drained := time.Since(ended)
	var joins, completions, checked, ops int
	for _, c := range clients {
		joins, completions, checked, ops = joins+c.joins, completions+c.completions, checked+c.checked, ops+c.ops
	}
	t.Logf("%d transactions at %.0f/s; %d clients joined %d times, took %d ops, completed %d checkpoints, %d looked at in full; %d ops were compacted away; all equal after %v",
		committed.Load(), float64(committed.Load())/took.Seconds(), len(clients), joins, ops, completions, checked, compacted.Load(), drained.Round(time.Millisecond))
	if joins < 2*swarmClients || completions < 4*swarmClients || checked < swarmClients || compacted.Load() < 100 {
		t.Error("too little happened")
	}
}

// writeSwarm commits random transactions at its share of the rate. A machine too
// slow for the rate writes for at most twice the length.
func (d *demoSystem) writeSwarm(number int, length time.Duration, committed *atomic.Int64) error {
	ctx := context.Background()
	conn, err := connectAs(ctx, d.sourceURI, "e2e-swarm")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rnd := rand.New(rand.NewPCG(uint64(number), 33))
	tick := time.NewTicker(time.Second * swarmWriters / swarmRate)
	defer tick.Stop()
	began := time.Now()
	for i := range int(length.Seconds()*swarmRate) / swarmWriters {
		<-tick.C
		if time.Since(began) > 2*length {
			break
		}
		// A writer has lists of its own, so that writers never deadlock.
		list := fmt.Sprintf("77777777-0000-4000-a000-%012d", number+swarmWriters*rnd.IntN(swarmLists/swarmWriters))
		user := fmt.Sprint("u", rnd.IntN(swarmUsers))
		var b pgx.Batch // sent whole, it is one transaction
		b.Queue(`UPDATE todos SET title = $2 WHERE list_id = $1 AND title LIKE 'twin %'`, list, fmt.Sprintf("twin %d.%d", number, i))
		switch k := rnd.IntN(10); {
		case k < 3:
			b.Queue(`INSERT INTO todos (list_id, title) VALUES ($1, $2)`, list, fmt.Sprint("new ", rnd.IntN(1000)))
		case k < 6:
			b.Queue(`DELETE FROM todos WHERE id = (SELECT id FROM todos WHERE list_id = $1 AND title NOT LIKE 'twin %' ORDER BY id LIMIT 1)`, list)
		case k < 8:
			b.Queue(`INSERT INTO list_members VALUES ($1, $2) ON CONFLICT DO NOTHING`, list, user)
		case k < 9:
			b.Queue(`DELETE FROM list_members WHERE list_id = $1`, list)
		default:
			b.Queue(`UPDATE lists SET name = $2 WHERE id = $1`, list, fmt.Sprint("List ", rnd.IntN(1000)))
		}
		if err := conn.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		committed.Add(1)
	}
	return nil
}

// compactNewest replaces what was superseded among the newest ops by MOVEs and
// raises the floors, in one transaction, as the sidecar's tables define it. Being
// as new as no sane compaction would touch, they are what clients are about to
// read.
const compactNewest = `
WITH superseded AS (
  SELECT o.definition, o.bucket, o.op_id, max(later.op_id) AS reason
  FROM millrace.bucket_names AS b
  JOIN millrace.ops AS o ON o.definition = b.definition AND o.bucket = b.id AND o.kind IN (1, 2)
    AND o.op_id > (SELECT op_id FROM millrace.head) - 1000
  JOIN millrace.ops AS later ON later.definition = o.definition AND later.bucket = o.bucket AND later.op_id > o.op_id
    AND later.type = o.type AND later.row_id = o.row_id AND later.subkey IS NOT DISTINCT FROM o.subkey
  GROUP BY 1, 2, 3),
moved AS (
  UPDATE millrace.ops AS o SET kind = 3, type = NULL, row_id = NULL, subkey = NULL, data = NULL
  FROM superseded AS s WHERE o.definition = s.definition AND o.bucket = s.bucket AND o.op_id = s.op_id
  RETURNING s.bucket, s.reason),
floors AS (
  INSERT INTO millrace.bucket_floors (bucket, floor_op) SELECT bucket, max(reason) FROM moved GROUP BY bucket
  ON CONFLICT (bucket) DO UPDATE SET floor_op = greatest(bucket_floors.floor_op, excluded.floor_op))
SELECT count(*) FROM moved`

// compactSwarm compacts again and again until stop.
func (d *demoSystem) compactSwarm(stop <-chan struct{}, compacted *atomic.Int64) error {
	ctx := context.Background()
	conn, err := connectAs(ctx, d.sidecarURI, "e2e-compact")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		var n int64
		if err := conn.QueryRow(ctx, compactNewest).Scan(&n); err != nil {
			return err
		}
		compacted.Add(n)
		select {
		case <-stop:
			return nil
		case <-time.After(5 * time.Millisecond): // leave the processor to others
		}
	}
}

// swarmClient is one of the swarm. One goroutine uses it at a time.
type swarmClient struct {
	t      *testing.T
	d      *demoSystem
	number int
	user   string
	rnd    *rand.Rand
	c      *relaytest.Client
	fresh  bool // no completion since it joined

	joins, completions, checked, ops int
}

// join connects, going on from what the client has; one of ten times as a new
// device.
func (s *swarmClient) join() {
	if s.rnd.IntN(10) == 0 {
		s.c = nil
	}
	s.joins++
	s.fresh = true
	token, err := s.d.key.Sign(s.user, nil, time.Hour, time.Now())
	if err != nil {
		s.t.Error(err)
		return
	}
	r := relaytest.Request(fmt.Sprint("swarm", s.number))
	if s.number%2 == 0 {
		s.c = relaytest.Dial(s.t, s.d.url, token, r, s.c)
		return
	}
	s.c = dialSocket(s.t, s.d.url, token, r, s.c)
}

// wander reads for a while, pauses, leaves and comes back, until stop, when it
// stays connected.
func (s *swarmClient) wander(stop <-chan struct{}) {
	for {
		s.join()
		leave := time.After(time.Duration(300+s.rnd.IntN(4000)) * time.Millisecond)
		for left := false; !left; {
			select {
			case <-stop:
				return
			case <-leave:
				left = true
			case l, ok := <-s.c.Lines:
				if !ok {
					s.t.Errorf("client %d: the stream ended: %v", s.number, s.c.Err)
					return
				}
				s.fold(l)
				if s.rnd.IntN(100) == 0 { // slow for a moment
					select {
					case <-time.After(time.Duration(s.rnd.IntN(500)) * time.Millisecond):
					case <-stop:
					}
				}
			}
		}
		s.c.Close()
	}
}

func (s *swarmClient) fold(l protocol.Line) {
	s.c.Fold(l)
	switch l := l.(type) {
	case *protocol.Data:
		s.ops += len(l.Ops)
	case protocol.CheckpointComplete:
		s.completions++
		if s.fresh || s.rnd.IntN(8) == 0 {
			s.checkTwins()
		}
		s.fresh = false
	}
}

// checkTwins: at a completion each list has all its twins, with one title.
func (s *swarmClient) checkTwins() {
	s.checked++
	for name, bucket := range s.c.Buckets {
		titles := map[string]int{}
		lists := 0
		for id, op := range bucket.Rows {
			switch {
			case id.Type == "lists":
				lists++
			case id.Type == "todos" && strings.HasPrefix(id.RowID, "77777777-"):
				titles[titleOf(op)]++
			}
		}
		if len(titles) > 1 || lists*twins != titles[anyKey(titles)] {
			s.t.Errorf("client %d, %s completed at %d: %d lists, and twins %v", s.number, name, s.c.At, lists, titles)
		}
	}
}

func titleOf(op millrace.Op) string {
	var row struct{ Title string }
	if err := json.Unmarshal([]byte(op.Data), &row); err != nil {
		return "not JSON: " + op.Data
	}
	return row.Title
}

func anyKey(m map[string]int) string {
	for k := range m {
		return k
	}
	return ""
}

// shown is what the client would show.
func (s *swarmClient) shown() rowSet {
	out := rowSet{}
	for _, name := range []string{"lists", "todos", "list_members"} {
		for id, data := range s.c.Table(name) {
			out[name+"/"+id] = canonical(data)
		}
	}
	return out
}

// finish reads until the client has what it should.
func (s *swarmClient) finish(want rowSet) {
	defer s.c.Close()
	deadline := time.After(time.Minute)
	for {
		err := s.shown().mustEqual(want)
		if err == nil {
			return
		}
		for complete := false; !complete; {
			select {
			case l, ok := <-s.c.Lines:
				if !ok {
					s.t.Errorf("client %d: the stream ended: %v", s.number, s.c.Err)
					return
				}
				s.fold(l)
				_, complete = l.(protocol.CheckpointComplete)
			case <-deadline:
				s.t.Errorf("client %d of %s at %d: %v", s.number, s.user, s.c.At, err)
				return
			}
		}
	}
}

// dialSocket is relaytest.Dial over the native WebSocket.
func dialSocket(t testing.TB, url, token string, r *protocol.Request, before *relaytest.Client) *relaytest.Client {
	t.Helper()
	c := relaytest.NewClient(t)
	if before != nil {
		c.Buckets = before.Buckets
		for name, b := range c.Buckets {
			r.Buckets = append(r.Buckets, protocol.BucketPosition{Name: name, After: b.Last})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c.OnClose(cancel)
	conn, _, err := websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1)+protocol.PathWebSocket,
		&websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err == nil {
		conn.SetReadLimit(-1)
		open := &protocol.Open{Request: *r, Token: token, CreditBytes: 1 << 40}
		err = conn.Write(ctx, websocket.MessageText, open.AppendFrame(nil))
	}
	if err != nil {
		c.Err = err
		close(c.Lines)
		return c
	}
	go func() {
		defer close(c.Lines)
		defer conn.CloseNow() //nolint:errcheck // over already
		for {
			_, b, err := conn.Read(ctx)
			if err != nil {
				c.Err = err
				return
			}
			for line := range bytes.Lines(b) {
				l, err := protocol.DecodeLine(bytes.TrimSuffix(line, []byte("\n")))
				if err != nil {
					c.Err = errors.Join(err, fmt.Errorf("in %q", line))
					return
				}
				select {
				case c.Lines <- l:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return c
}
