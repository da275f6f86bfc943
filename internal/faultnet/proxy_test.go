package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// echo is a server that sends back what it gets and counts it.
func echo(t *testing.T) (addr string, received *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					received.Add(int64(n))
					if _, werr := c.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), received
}

func setup(t *testing.T) (*Proxy, net.Conn, *atomic.Int64) {
	t.Helper()
	addr, received := echo(t)
	p, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return p, c, received
}

func roundTrip(t *testing.T, c net.Conn, s string) string {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(s))
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func TestPassesBytes(t *testing.T) {
	p, c, _ := setup(t)
	want := strings.Repeat("millrace ", 20_000)
	p.SetChunk(7)
	if got := roundTrip(t, c, want[:5000]); got != want[:5000] {
		t.Error("bytes changed in small chunks")
	}
	p.SetChunk(0)
	if got := roundTrip(t, c, want[:60_000]); got != want[:60_000] {
		t.Error("bytes changed")
	}
}

func TestHookChangesAndDiscards(t *testing.T) {
	p, c, received := setup(t)
	lost := make(chan struct{})
	p.SetHook(func(_ int, dir Direction, b []byte) Verdict {
		if dir == ToServer && string(b) == "lost" {
			close(lost)
			return Discard
		}
		copy(b, bytes.ToUpper(b))
		return Pass
	})
	if got := roundTrip(t, c, "abc"); got != "ABC" {
		t.Errorf("got %q", got)
	}
	io.WriteString(c, "lost")
	<-lost
	if got := roundTrip(t, c, "abc"); got != "ABC" {
		t.Errorf("after a discarded chunk got %q", got)
	}
	if n := received.Load(); n != 6 {
		t.Errorf("server got %d bytes, want 6", n)
	}
}

func TestCutBeforeAndAfter(t *testing.T) {
	for _, v := range []struct {
		verdict Verdict
		want    int64
	}{{Cut, 0}, {CutAfter, 3}} {
		p, c, received := setup(t)
		p.SetHook(func(_ int, dir Direction, _ []byte) Verdict {
			if dir == ToServer {
				return v.verdict
			}
			return Pass
		})
		io.WriteString(c, "abc")
		io.ReadAll(c) // returns once the proxy has closed the connection
		deadline := time.Now().Add(5 * time.Second)
		for (p.Open() > 0 || received.Load() < v.want) && time.Now().Before(deadline) {
			runtime.Gosched()
		}
		if p.Open() != 0 {
			t.Errorf("verdict %d left the connection open", v.verdict)
		}
		if n := received.Load(); n != v.want {
			t.Errorf("verdict %d: server got %d bytes, want %d", v.verdict, n, v.want)
		}
	}
}

func TestCutAllAndRefuse(t *testing.T) {
	p, c, _ := setup(t)
	roundTrip(t, c, "x")
	if n := p.CutAll(); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a cut connection still reads")
	}
	p.SetRefuse(true)
	c2, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	c2.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c2.Read(make([]byte, 1)); err == nil {
		t.Error("a refused connection reads")
	}
}

func TestStallHoldsBack(t *testing.T) {
	p, c, _ := setup(t)
	roundTrip(t, c, "x")
	p.Stall()
	io.WriteString(c, "held")
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, err := c.Read(make([]byte, 4)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("a stalled proxy delivered something: %v", err)
	}
	p.Resume()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "held" {
		t.Errorf("after the stall: %q, %v", buf, err)
	}
}

func TestDelay(t *testing.T) {
	p, c, _ := setup(t)
	p.SetDelay(30 * time.Millisecond)
	start := time.Now()
	roundTrip(t, c, "x")
	if d := time.Since(start); d < 60*time.Millisecond {
		t.Errorf("both ways took %v, want at least 60ms", d)
	}
}
