package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/devserver"
)

// crowd is many native clients in processes of their own: a process may open only
// so many files, and theirs are not the server's.
type crowd struct {
	parts []*crowdPart
	n     int
}

// crowdPart is one process, which has the clients from first on.
type crowdPart struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *json.Decoder
	first, n int
}

// crowdOf is how many clients a process has.
const crowdOf = 15_000

// crowdMode is the argument that makes this program such a process. It obeys
// orders on its standard input until that ends.
const crowdMode = "crowd"

// crowdOrder is to connect, if there are users, or to wait for a change.
type crowdOrder struct {
	URL, KeyDir string
	First       int      // number of the first client
	Users       []string // one for each

	From, To int // of this process
	Want     []byte
}

// crowdReply answers: once when everything is connected, or waits; then with the
// time at which each client had the change, in nanoseconds since 1970.
type crowdReply struct {
	Err      string
	Arrivals []int64
}

// crowd connects n clients, and waits until each is in sync.
func (b *bed) crowd(ctx context.Context, s *server, n int, user func(int) string) (_ *crowd, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &crowd{n: n}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for first := 0; first < n; first += crowdOf {
		p := &crowdPart{cmd: exec.CommandContext(ctx, program, crowdMode), first: first, n: min(crowdOf, n-first)}
		p.cmd.Stderr = os.Stderr
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		p.out = json.NewDecoder(out)
		if err := p.cmd.Start(); err != nil {
			return nil, err
		}
		c.parts = append(c.parts, p)
		order := crowdOrder{URL: s.url, KeyDir: b.dir, First: first}
		for i := range p.n {
			order.Users = append(order.Users, user(first+i))
		}
		if err := p.order(order); err != nil {
			return nil, fmt.Errorf("clients from %d on: %w", first, err)
		}
	}
	return c, nil
}

func (p *crowdPart) order(o crowdOrder) error {
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return err
	}
	_, err := p.reply()
	return err
}

func (p *crowdPart) reply() ([]int64, error) {
	var r crowdReply
	if err := p.out.Decode(&r); err != nil {
		return nil, fmt.Errorf("a process of clients: %w", err)
	}
	if r.Err != "" {
		return nil, errors.New(r.Err)
	}
	return r.Arrivals, nil
}

// deliver has the clients from one to another wait for a change, commits it, and
// tells when each had it and when it was committed.
func (c *crowd) deliver(from, to int, want []byte, commit func() error) (arrivals []time.Time, committed time.Time, err error) {
	var waiting []*crowdPart
	for _, p := range c.parts {
		o := crowdOrder{From: max(from-p.first, 0), To: min(to-p.first, p.n), Want: want}
		if o.From >= o.To {
			continue
		}
		if err := p.order(o); err != nil {
			return nil, committed, err
		}
		waiting = append(waiting, p)
	}
	if err := commit(); err != nil {
		return nil, committed, err // the processes are given up with the crowd
	}
	committed = time.Now()
	for _, p := range waiting {
		at, err := p.reply()
		if err != nil {
			return nil, committed, err
		}
		for _, t := range at {
			arrivals = append(arrivals, time.Unix(0, t))
		}
	}
	return arrivals, committed, nil
}

// close ends the clients and their processes.
func (c *crowd) close() {
	for _, p := range c.parts {
		_ = p.in.Close()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // it was killed
	}
}

// serveCrowd is such a process.
func serveCrowd(in io.Reader, out io.Writer) error {
	orders, replies := json.NewDecoder(in), json.NewEncoder(out)
	var clients []*wire
	defer func() { closeAll(clients) }()
	for {
		var o crowdOrder
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if len(o.Users) > 0 {
			list, err := o.connect()
			clients = append(clients, list...)
			if err := replies.Encode(crowdReply{Err: text(err)}); err != nil {
				return err
			}
			continue
		}
		arrivals, failures := make([]int64, o.To-o.From), make([]error, o.To-o.From)
		var group sync.WaitGroup
		deadline := time.Now().Add(relayPatience)
		for i, c := range clients[o.From:o.To] {
			group.Go(func() {
				at, err := c.until(deadline, o.Want)
				arrivals[i], failures[i] = at.UnixNano(), err
			})
		}
		if err := replies.Encode(crowdReply{}); err != nil {
			return err
		}
		group.Wait()
		if err := replies.Encode(crowdReply{Err: text(errors.Join(failures...)), Arrivals: arrivals}); err != nil {
			return err
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	return s[:min(len(s), 1000)]
}

// connect opens sessions, many at a time, and reads each up to its first
// completion.
func (o *crowdOrder) connect() ([]*wire, error) {
	key, err := devserver.LoadKey(o.KeyDir)
	if err != nil {
		return nil, err
	}
	s := &server{url: o.URL, key: key}
	return s.connectAll(context.Background(), len(o.Users), o.First, func(i int) string { return o.Users[i] })
}

// connectAll opens sessions, many at a time, and reads each up to its first
// completion. Their devices are numbered from first on.
func (s *server) connectAll(ctx context.Context, n, first int, user func(int) string) (_ []*wire, err error) {
	list := make([]*wire, n)
	defer func() {
		if err != nil {
			closeAll(list)
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialing)
	for i := range list {
		g.Go(func() error {
			w, err := s.wire(ctx, user(i), fmt.Sprint("wire", first+i))
			if err != nil {
				return err
			}
			list[i] = w
			_, err = w.until(time.Now().Add(relayPatience), nil)
			return err
		})
	}
	return list, g.Wait()
}

func closeAll(list []*wire) {
	for _, w := range list {
		if w != nil {
			w.close()
		}
	}
}
