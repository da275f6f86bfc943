package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// relayFigures is what many connections cost one process.
type relayFigures struct {
	connections int
	fanOuts     []fanOut
	steady      []time.Duration // from COMMIT to each completion at steadyClients, at steadyRate
	catchUps    map[int][]catchUp
	idleCPU     time.Duration // of the process, while the others' buckets change
	idleFor     time.Duration
	idleCommits int
	memory      []idleMemory
}

// fanOut is a number of connections, and commits that some of them get.
type fanOut struct {
	what       string
	clients    int // connected
	reached    int // that get a commit
	perConn    int64
	times      []time.Duration // to each client
	last       []time.Duration // to the last client of each commit
	cpu        time.Duration   // of the server
	deliveries int
}

// What is measured, beside settings.
const (
	relayCommits  = 20
	perBucket     = 10
	steadyClients = 50
	steadyRate    = 100 // commits a second
	steadyCommits = 1000
	catchUpMany   = 50
	idleWatchers  = 500
	dialing       = 64 // connections opened at a time
	relayPatience = 2 * time.Minute
)

// relay measures one process with many native connections. The writer is this
// process, and so are few clients; many are processes of their own. All of it
// shares the machine.
func (b *bed) relay(ctx context.Context, r *report) error {
	f := &r.relay
	f.connections = b.settings.connections
	steps := []struct {
		name string
		run  func(context.Context, *server, *relayFigures) error
	}{
		{"the same bucket, 1,000", func(ctx context.Context, s *server, f *relayFigures) error { return b.sameBucket(ctx, s, f, 1000) }},
		{"the same bucket", func(ctx context.Context, s *server, f *relayFigures) error {
			return b.sameBucket(ctx, s, f, b.settings.connections)
		}},
		{"a bucket for ten", b.tenPerBucket},
		{"a steady load", b.steady},
		{"catch-up", b.manyCatchUps},
		{"idle connections", b.watchers},
		{"memory of idle connections", b.idleByTransport},
	}
	for _, step := range steps {
		progress("%s", step.name)
		// A process for each: what one leaves behind would blur the next.
		if err := b.serving(ctx, func(s *server) error { return step.run(ctx, s, f) }); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// deliver commits and waits until the clients from one to another have got it.
func (f *fanOut) deliver(s *server, c *crowd, from, to int, want []byte, commit func() error) error {
	before := cpu(s.cmd.Process.Pid).of(s.cmd.Process.Pid)
	arrivals, committed, err := c.deliver(from, to, want, commit)
	if err != nil {
		return err
	}
	f.cpu += cpu(s.cmd.Process.Pid).of(s.cmd.Process.Pid) - before
	f.deliveries += len(arrivals)
	last := time.Duration(0)
	for _, at := range arrivals {
		d := max(at.Sub(committed), 0) // a client may know before the writer
		f.times = append(f.times, d)
		last = max(last, d)
	}
	f.last = append(f.last, last)
	return nil
}

// mark commits a change that every session gets.
func (b *bed) mark(ctx context.Context) (want []byte, commit func() error) {
	b.marked++
	n := b.marked
	return fmt.Appendf(nil, `\"n\":%d}`, n), func() error {
		_, err := b.src.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", n)
		return err
	}
}

func (b *bed) sameBucket(ctx context.Context, s *server, f *relayFigures, n int) error {
	same := func(int) string { return reader }
	warm, err := s.connectAll(ctx, idleBefore, 0, same)
	if err != nil {
		return err
	}
	defer closeAll(warm)
	base := residentMemory(s.cmd.Process.Pid)
	clients, err := b.crowd(ctx, s, n, same)
	if err != nil {
		return err
	}
	defer clients.close()
	fan := fanOut{what: "all in one bucket", clients: n, reached: n}
	fan.perConn = (residentMemory(s.cmd.Process.Pid) - base) / int64(n)
	closeAll(warm)
	for i := range relayCommits + 2 {
		if i == 2 { // the first ones warm up
			fan.times, fan.last, fan.cpu, fan.deliveries = nil, nil, 0, 0
		}
		want, commit := b.mark(ctx)
		if err := fan.deliver(s, clients, 0, n, want, commit); err != nil {
			return err
		}
	}
	f.fanOuts = append(f.fanOuts, fan)
	return nil
}

// tenPerBucket gives ten clients a bucket each; a commit changes one bucket.
func (b *bed) tenPerBucket(ctx context.Context, s *server, f *relayFigures) error {
	n := b.settings.connections
	if _, err := b.src.Exec(ctx, `INSERT INTO tasks SELECT gen_random_uuid(), gen_random_uuid(), 'ten' || g, 'Task', '0', 'open', 1, false, now() FROM generate_series(0, $1::int) g`, n/perBucket); err != nil {
		return err
	}
	clients, err := b.crowd(ctx, s, n, func(i int) string { return fmt.Sprint("ten", i/perBucket) })
	if err != nil {
		return err
	}
	defer clients.close()
	fan := fanOut{what: "ten for each bucket, one changes", clients: n, reached: perBucket}
	for i := range 10 * relayCommits {
		bucket := i * 7 % (n / perBucket)
		err := fan.deliver(s, clients, bucket*perBucket, (bucket+1)*perBucket, fmt.Appendf(nil, `change %d.`, i), func() error {
			_, err := b.src.Exec(ctx, "UPDATE tasks SET description = $1 WHERE owner = $2", fmt.Sprintf("change %d.", i), fmt.Sprint("ten", bucket))
			return err
		})
		if err != nil {
			return err
		}
	}
	f.fanOuts = append(f.fanOuts, fan)
	return nil
}

// steady commits at a rate, whatever the clients do, and takes the time of every
// commit at every client.
func (b *bed) steady(ctx context.Context, s *server, f *relayFigures) error {
	clients, err := s.connectAll(ctx, steadyClients, 0, func(int) string { return reader })
	if err != nil {
		return err
	}
	defer closeAll(clients)
	committed := make([]time.Time, steadyCommits)
	first := b.marked + 1
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	deadline := time.Now().Add(relayPatience)
	arrivals := make([][]time.Time, len(clients))
	for i, c := range clients {
		arrivals[i] = make([]time.Time, steadyCommits)
		g.Go(func() error {
			for k := range steadyCommits {
				// A checkpoint may hold several commits: only its last value is seen.
				at, err := c.untilMark(deadline, first+int64(k))
				if err != nil {
					return err
				}
				arrivals[i][k] = at
			}
			return nil
		})
	}
	g.Go(func() error {
		tick := time.NewTicker(time.Second / steadyRate)
		defer tick.Stop()
		for k := range steadyCommits {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			_, commit := b.mark(ctx)
			if err := commit(); err != nil {
				return err
			}
			mu.Lock()
			committed[k] = time.Now()
			mu.Unlock()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for _, list := range arrivals {
		for k, at := range list {
			f.steady = append(f.steady, max(at.Sub(committed[k]), 0))
		}
	}
	return nil
}

// manyCatchUps has one, then fifty fresh clients read the same history at once.
func (b *bed) manyCatchUps(ctx context.Context, s *server, f *relayFigures) error {
	rows := b.settings.caughtUp
	if _, err := b.src.Exec(ctx, fmt.Sprintf(`INSERT INTO tasks SELECT gen_random_uuid(), gen_random_uuid(), '%s', 'Task number ' || g,
		repeat(md5(g::text), 4), 'open', g %% 5, g %% 2 = 0, '2024-01-01'::timestamptz + g * interval '1 second' FROM generate_series(1, %d) g`, collector, rows)); err != nil {
		return err
	}
	_, commit := b.mark(ctx)
	if err := commit(); err != nil {
		return err
	}
	if err := poll(ctx, 5*time.Minute, func() (bool, error) { return b.arrived(ctx) }); err != nil {
		return err
	}
	f.catchUps = map[int][]catchUp{}
	for _, n := range []int{1, catchUpMany} {
		for range b.settings.runs {
			start := time.Now()
			clients, err := s.connectAll(ctx, n, 0, func(int) string { return collector })
			if err != nil {
				return err
			}
			c := catchUp{elapsed: time.Since(start)}
			for _, w := range clients {
				c.ops, c.bytes = c.ops+w.ops, c.bytes+w.size
			}
			closeAll(clients)
			if c.ops < n*rows {
				return fmt.Errorf("%d clients got %d ops, want %d", n, c.ops, n*rows)
			}
			f.catchUps[n] = append(f.catchUps[n], c)
		}
	}
	return nil
}

// watchers are connected while buckets of others change.
func (b *bed) watchers(ctx context.Context, s *server, f *relayFigures) error {
	measure := func(n int) (time.Duration, time.Duration, error) {
		clients, err := s.connectAll(ctx, n, 0, func(i int) string { return fmt.Sprint("watcher", i) })
		if err != nil {
			return 0, 0, err
		}
		defer closeAll(clients)
		pid := s.cmd.Process.Pid
		before, start := cpu(pid).of(pid), time.Now()
		for i := range steadyCommits {
			if _, err := b.src.Exec(ctx, "UPDATE tasks SET priority = $1 WHERE owner = 'ten0'", i); err != nil {
				return 0, 0, err
			}
		}
		return cpu(pid).of(pid) - before, time.Since(start), nil
	}
	without, _, err := measure(1)
	if err != nil {
		return err
	}
	with, elapsed, err := measure(idleWatchers)
	f.idleCPU, f.idleFor, f.idleCommits = with-without, elapsed, steadyCommits
	return err
}

// lines writes the figures through p, which ends each line.
func (f *relayFigures) lines(p func(string, ...any)) {
	if len(f.fanOuts) == 0 {
		return
	}
	p("")
	p("## Many connections")
	p("")
	p("One process with both roles; the writer and native WebSocket clients, if many in a process of their own, on the same machine.")
	p("")
	p("| connections | reached by a commit | KiB each, right after connecting | COMMIT to the last client, ms: median | longest | to any client: median | 99th percentile | server CPU for each delivery, µs (the decoder's part included) |")
	p("|---|---|---|---|---|---|---|---|")
	for _, x := range f.fanOuts {
		last, all := slices.Sorted(slices.Values(x.last)), slices.Sorted(slices.Values(x.times))
		memory := ""
		if x.perConn > 0 {
			memory = fmt.Sprintf("%.1f", float64(x.perConn)/1024)
		}
		p("| %d, %s | %d | %s | %.1f | %.1f | %.1f | %.1f | %.1f |", x.clients, x.what, x.reached, memory, ms(last[len(last)/2]), ms(last[len(last)-1]),
			ms(all[len(all)/2]), ms(all[len(all)*99/100]), float64(x.cpu.Microseconds())/float64(x.deliveries))
	}
	if l := slices.Sorted(slices.Values(f.steady)); len(l) > 0 {
		p("")
		p("%d clients, %d commits a second: COMMIT to completion median %.1f ms, 99th percentile %.1f ms, longest %.1f ms.", steadyClients, steadyRate, ms(l[len(l)/2]), ms(l[len(l)*99/100]), ms(l[len(l)-1]))
	}
	for _, n := range []int{1, catchUpMany} {
		if c := f.catchUps[n]; len(c) > 0 {
			p("")
			p("%d fresh clients read %d ops each at once: %s ops/s together.", n, c[0].ops/n, spread("%.0f", column(c, catchUp.rate)))
		}
	}
	if f.idleCommits > 0 {
		p("")
		p("%d idle clients while others' buckets changed %d times in %.1f s: %d ms of CPU more than without them.", idleWatchers, f.idleCommits, f.idleFor.Seconds(), f.idleCPU.Milliseconds())
	}
	if len(f.memory) > 0 {
		p("")
		p("| idle connections | | KiB of resident memory each, right after connecting | %s later |", idleSettled)
		p("|---|---|---|---|")
		for _, m := range f.memory {
			p("| %d | %s | %.1f | %.1f |", m.connections, m.transport, float64(m.atOnce)/1024, float64(m.settled)/1024)
		}
	}
}
