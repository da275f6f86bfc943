// Package faultnet is test support: a TCP proxy that delays, splits, stalls,
// corrupts and cuts connections on request, with a real server behind it. It
// is never linked into the product.
package faultnet

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Direction tells who sent a chunk.
type Direction uint8

// The directions.
const (
	ToServer Direction = iota // sent by the client that dialled the proxy
	ToClient                  // sent by the server behind it
)

// Verdict is what the proxy does with a chunk.
type Verdict uint8

// The verdicts.
const (
	// Pass forwards the chunk.
	Pass Verdict = iota
	// Discard swallows the chunk; the connection goes on.
	Discard
	// Cut closes both sides without forwarding the chunk.
	Cut
	// CutAfter forwards the chunk and closes both sides at once: the receiver
	// has it, the sender never learns.
	CutAfter
)

// A Hook sees each chunk as it was read from one side, whatever the message
// boundaries, and decides. It may change the bytes in place. Calls for one
// direction of one connection come in order; others come concurrently.
type Hook func(conn int, dir Direction, chunk []byte) Verdict

// Proxy forwards TCP connections to one address. Its settings may be changed
// at any time and count for chunks read from then on.
type Proxy struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	hook    Hook
	delay   time.Duration
	chunk   int
	stalled chan struct{} // closed when the stall ends; nil if there is none
	refuse  bool
	conns   map[int]*pair
	next    int
	closed  chan struct{}
}

type pair struct {
	client, server net.Conn
	once           sync.Once
}

// close ends both sides with a reset, which is what a crash looks like; but
// bytes already written to keep are delivered first.
func (p *pair) close(keep net.Conn) {
	p.once.Do(func() {
		for _, c := range []net.Conn{p.client, p.server} {
			if t, ok := c.(*net.TCPConn); ok && c != keep {
				_ = t.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

// Listen starts a proxy on a free loopback port in front of target, a
// "host:port" that is dialled anew for each connection.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for proxy to %s: %w", target, err)
	}
	p := &Proxy{target: target, listener: l, conns: map[int]*pair{}, closed: make(chan struct{})}
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

// Addr is the address to dial instead of the target.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Port is the port of Addr.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// SetHook replaces the hook; nil passes everything.
func (p *Proxy) SetHook(h Hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = h
}

// SetDelay holds each chunk back for d before it is forwarded.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// SetChunk limits how many bytes are read, and so forwarded, at once; 0 means
// the default of 32 KiB.
func (p *Proxy) SetChunk(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunk = n
}

// SetRefuse makes the proxy close new connections at once.
func (p *Proxy) SetRefuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Stall stops forwarding in both directions without closing anything, as a
// network that went silent does.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Resume ends a stall; what was held back is forwarded.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// CutAll resets every open connection and says how many there were.
func (p *Proxy) CutAll() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.close(nil)
	}
	return len(p.conns)
}

// Open is the number of open connections.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close stops listening, cuts every connection and waits until all is done.
func (p *Proxy) Close() error {
	p.mu.Lock()
	select {
	case <-p.closed:
		p.mu.Unlock()
		return nil
	default:
	}
	close(p.closed)
	for _, c := range p.conns {
		c.close(nil)
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		p.wg.Add(1)
		go p.serve(c)
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.wg.Done()
	p.mu.Lock()
	refuse := p.refuse
	p.mu.Unlock()
	if refuse {
		_ = client.Close()
		return
	}
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &pair{client: client, server: server}
	p.mu.Lock()
	select {
	case <-p.closed:
		p.mu.Unlock()
		c.close(nil)
		return
	default:
	}
	p.next++
	id := p.next
	p.conns[id] = c
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); p.pump(id, ToServer, client, server, c) }()
	go func() { defer both.Done(); p.pump(id, ToClient, server, client, c) }()
	both.Wait()
	p.mu.Lock()
	delete(p.conns, id)
	p.mu.Unlock()
}

// pump forwards one direction until either side ends. An orderly end of one
// side ends both: Postgres connections are not used half-closed.
func (p *Proxy) pump(id int, dir Direction, from, to net.Conn, c *pair) {
	defer c.close(to)
	buf := make([]byte, 32<<10)
	for {
		p.mu.Lock()
		size := len(buf)
		if p.chunk > 0 {
			size = min(size, p.chunk)
		}
		p.mu.Unlock()
		n, err := from.Read(buf[:size])
		if n > 0 && !p.forward(id, dir, buf[:n], to) {
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) forward(id int, dir Direction, chunk []byte, to net.Conn) bool {
	p.mu.Lock()
	hook, delay, stalled := p.hook, p.delay, p.stalled
	p.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-p.closed:
			return false
		}
	}
	if delay > 0 {
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-p.closed:
			t.Stop()
			return false
		}
	}
	verdict := Pass
	if hook != nil {
		verdict = hook(id, dir, chunk)
	}
	switch verdict {
	case Discard:
		return true
	case Cut:
		return false
	}
	_, err := to.Write(chunk)
	return err == nil && verdict != CutAfter
}
