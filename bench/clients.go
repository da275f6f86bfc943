package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace/millrace/clientsdk"
)

// clientFigures is what serving clients costs and gives.
type clientFigures struct {
	latencies map[int][]time.Duration // from COMMIT on the source to the completion at a client, by number of clients
	fanOut    []time.Duration         // from COMMIT to the last of all clients
	fanned    int                     // how many those are
	raw, sdk  []catchUp
	idle      int   // connections
	idleBytes int64 // resident, for each
	base      int64 // resident before, with a few connections
}

// catchUp is one fresh client reading everything it may have.
type catchUp struct {
	ops     int
	bytes   int64 // of messages; 0 where not counted
	elapsed time.Duration
}

// What is measured, beside settings.
const (
	latencyCommits = 200
	fanOutClients  = 1000
	fanOutCommits  = 20
	warmUp         = 10  // commits that do not count
	idleBefore     = 100 // connections that pay for what is there once
	reader         = "reader"
	collector      = "collector" // the user whose tasks a fresh client catches up with
)

// clients measures the way to clients: the binary with both roles, clients over
// the native WebSocket in this process, which shares the machine with it.
func (b *bed) clients(ctx context.Context, r *report) error {
	if err := b.serving(ctx, func(s *server) error { return b.measureClients(ctx, s, &r.clients) }); err != nil {
		return err
	}
	// A process of its own: what the others left behind would hide the growth.
	return b.serving(ctx, func(s *server) error { return b.idleConnections(ctx, s, &r.clients) })
}

func (b *bed) serving(ctx context.Context, measure func(*server) error) error {
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	return errors.Join(measure(s), s.stop())
}

func (b *bed) measureClients(ctx context.Context, s *server, f *clientFigures) error {
	f.latencies = map[int][]time.Duration{}
	for _, n := range []int{1, 50} {
		progress("latency to %d clients", n)
		times, err := b.broadcast(ctx, s, n, latencyCommits)
		if err != nil {
			return fmt.Errorf("latency to %d clients: %w", n, err)
		}
		for _, t := range times {
			f.latencies[n] = append(f.latencies[n], t...)
		}
	}
	progress("fan-out to %d clients", fanOutClients)
	times, err := b.broadcast(ctx, s, fanOutClients, fanOutCommits)
	if err != nil {
		return fmt.Errorf("fan-out: %w", err)
	}
	f.fanned = fanOutClients
	for _, t := range times {
		last := t[0]
		for _, d := range t {
			last = max(last, d)
		}
		f.fanOut = append(f.fanOut, last)
	}
	if err := b.catchUps(ctx, s, f); err != nil {
		return fmt.Errorf("catch-up: %w", err)
	}
	return nil
}

// broadcast connects n clients and commits one change after the other, each to
// an idle system, and gives for each commit the time to every client.
func (b *bed) broadcast(ctx context.Context, s *server, n, commits int) ([][]time.Duration, error) {
	clients := make([]*wire, 0, n)
	defer func() { closeAll(clients) }()
	for i := range n {
		c, err := s.wire(ctx, reader, fmt.Sprint("client", i))
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
		if _, err := c.until(time.Now().Add(relayPatience), nil); err != nil {
			return nil, err
		}
	}
	var out [][]time.Duration
	arrivals, failures := make([]time.Time, n), make([]error, n)
	for i := range commits + warmUp {
		want, commit := b.mark(ctx)
		deadline := time.Now().Add(30 * time.Second)
		var group sync.WaitGroup
		for k, c := range clients {
			group.Go(func() { arrivals[k], failures[k] = c.until(deadline, want) })
		}
		err := commit()
		start := time.Now()
		if err != nil {
			closeAll(clients)
		}
		group.Wait()
		if err := errors.Join(append(failures, err)...); err != nil {
			return nil, err
		}
		if i < warmUp {
			continue
		}
		times := make([]time.Duration, n)
		for k, at := range arrivals {
			times[k] = max(at.Sub(start), 0) // a client may know before the writer
		}
		out = append(out, times)
		// Wait a little, so that each commit finds everything idle.
		pause := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		case <-pause.C:
		}
	}
	return out, nil
}

// catchUps measures fresh clients: one that only reads, and the Go SDK with its
// database.
func (b *bed) catchUps(ctx context.Context, s *server, f *clientFigures) error {
	rows := b.settings.caughtUp
	progress("catch-up of fresh clients with %d rows", rows)
	if _, err := b.src.Exec(ctx, fmt.Sprintf(`INSERT INTO tasks SELECT gen_random_uuid(), gen_random_uuid(), '%s', 'Task number ' || g,
		repeat(md5(g::text), 4), 'open', g %% 5, g %% 2 = 0, '2024-01-01'::timestamptz + g * interval '1 second' FROM generate_series(1, %d) g`, collector, rows)); err != nil {
		return err
	}
	b.marked++
	if _, err := b.src.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", b.marked); err != nil {
		return err
	}
	if err := poll(ctx, 5*time.Minute, func() (bool, error) { return b.arrived(ctx) }); err != nil {
		return err
	}
	for run := range b.settings.runs {
		c, err := s.catchUp(ctx, rows)
		if err != nil {
			return err
		}
		f.raw = append(f.raw, c)
		if c, err = s.catchUpSDK(ctx, filepath.Join(b.dir, fmt.Sprintf("device%d.db", run)), rows); err != nil {
			return fmt.Errorf("go sdk: %w", err)
		}
		f.sdk = append(f.sdk, c)
		progress("  run %d: %.0f ops/s read, %.0f ops/s into the Go SDK's database", run+1, f.raw[run].rate(), f.sdk[run].rate())
	}
	return nil
}

func (c catchUp) rate() float64 { return float64(c.ops) / c.elapsed.Seconds() }

func (s *server) catchUp(ctx context.Context, rows int) (catchUp, error) {
	start := time.Now()
	c, err := s.wire(ctx, collector, "fresh")
	if err != nil {
		return catchUp{}, err
	}
	defer c.close()
	if _, err := c.until(time.Now().Add(relayPatience), nil); err != nil {
		return catchUp{}, err
	}
	elapsed := time.Since(start)
	if c.ops < rows {
		return catchUp{}, fmt.Errorf("a client got %d ops, want %d", c.ops, rows)
	}
	return catchUp{ops: c.ops, bytes: c.size, elapsed: elapsed}, nil
}

// device is an app's connector without a backend: it uploads nothing.
type device struct{ s *server }

func (d device) FetchCredentials(context.Context) (clientsdk.Credentials, error) {
	token, err := d.s.key.Sign(collector, nil, time.Hour, time.Now())
	return clientsdk.Credentials{Endpoint: d.s.url, Token: token}, err
}

func (device) UploadData(context.Context, *clientsdk.DB) error {
	return errors.New("there is no backend")
}

func (s *server) catchUpSDK(ctx context.Context, path string, rows int) (c catchUp, err error) {
	db, err := clientsdk.Open(ctx, clientsdk.Options{Path: path, Schema: clientsdk.Schema{Tables: []clientsdk.Table{
		{Name: "tasks", Columns: []clientsdk.Column{{Name: "title"}}}, {Name: "marks", Columns: []clientsdk.Column{{Name: "n", Type: clientsdk.Integer}}}}}})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	start := time.Now()
	if err := db.Connect(device{s}, clientsdk.ConnectOptions{Transport: clientsdk.WebSocket}); err != nil {
		return c, err
	}
	limit, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := db.WaitForFirstSync(limit); err != nil {
		return c, err
	}
	c.elapsed = time.Since(start)
	err = db.QueryRow(ctx, `SELECT count(*) FROM tasks`).Scan(&c.ops)
	if err == nil && c.ops < rows {
		err = fmt.Errorf("the device has %d rows, want %d", c.ops, rows)
	}
	return c, err
}

// idleConnections measures by how much the process grows with connections that
// are in sync and then silent.
func (b *bed) idleConnections(ctx context.Context, s *server, f *clientFigures) error {
	f.idle = b.settings.idle
	progress("memory of %d idle connections", f.idle)
	var conns []*wire
	defer func() { closeAll(conns) }()
	connect := func(n int) error {
		for range n {
			c, err := s.wire(ctx, reader, fmt.Sprint("idle", len(conns)))
			if err != nil {
				return err
			}
			conns = append(conns, c)
			if _, err := c.until(time.Now().Add(relayPatience), nil); err != nil {
				return err
			}
		}
		return nil
	}
	if err := connect(idleBefore); err != nil {
		return fmt.Errorf("idle connections: %w", err)
	}
	f.base = residentMemory(s.cmd.Process.Pid)
	if err := connect(f.idle); err != nil {
		return fmt.Errorf("idle connections: %w", err)
	}
	f.idleBytes = (residentMemory(s.cmd.Process.Pid) - f.base) / int64(f.idle)
	return nil
}
