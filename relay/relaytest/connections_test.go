package relaytest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/rsocket"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// many admits more than tests usually need.
var many = relaytest.Options{Limits: relay.Limits{Connections: 1 << 20, PerUser: 1 << 20}}

// BenchmarkIdleConnections holds b.N connections of each transport, whose client
// side is another process, and reports this process's memory for each: resident
// right after connecting and after a collection, live heap and stacks. Give b.N
// with -benchtime, for example -benchtime 2000x.
func BenchmarkIdleConnections(b *testing.B) {
	for _, transport := range transports {
		b.Run(transport, func(b *testing.B) {
			srv := relaytest.Serve(b, relaytest.NewSidecar(), many)
			runtime.GC()
			debug.FreeOSMemory()
			base, before := rss(b), inUse()
			d := dial(b, srv, transport, b.N)
			each := func(n int) float64 { return float64(n) / float64(b.N) }
			b.ReportMetric(each(rss(b)-base), "KiB/conn-at-once")
			after := inUse()
			debug.FreeOSMemory()
			b.ReportMetric(each(rss(b)-base), "KiB/conn-settled")
			b.ReportMetric(each(runtime.NumGoroutine()), "goroutines/conn")
			b.ReportMetric(each(int(after.heap-before.heap))/1024, "heapKiB/conn")
			b.ReportMetric(each(int(after.stacks-before.stacks))/1024, "stackKiB/conn")
			d.end()
		})
	}
}

// inUseOf is memory that a collection leaves, and all that was ever allocated.
type inUseOf struct{ heap, stacks, allocated int64 }

func inUse() inUseOf {
	runtime.GC()
	runtime.GC() // pools keep what they have through one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return inUseOf{int64(m.HeapAlloc), int64(m.StackInuse), int64(m.TotalAlloc)}
}

// TestIdleConnectionsAreSmall: what an idle connection of each transport keeps,
// and what connecting it leaves behind as garbage, which is what a process has
// grown by right after many have come. The bounds are about half as much again as it
// takes; those of HTTP are mostly net/http's own.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const n = 300
	for transport, most := range map[string]struct{ kept, allocated int64 }{
		"ws":      {16 << 10, 50 << 10},
		"rsocket": {16 << 10, 60 << 10},
		"http":    {40 << 10, 60 << 10},
	} {
		t.Run(transport, func(t *testing.T) {
			srv := relaytest.Serve(t, relaytest.NewSidecar(), many)
			before := inUse()
			d := dial(t, srv, transport, n)
			after := inUse()
			kept := (after.heap - before.heap + after.stacks - before.stacks) / n
			allocated := (after.allocated - before.allocated) / n
			t.Logf("%d bytes are kept, %d were allocated", kept, allocated)
			if kept > most.kept || allocated > most.allocated {
				t.Errorf("a connection keeps %d bytes, at most %d; %d were allocated for it, at most %d", kept, most.kept, allocated, most.allocated)
			}
			d.end()
		})
	}
}

// BenchmarkFanOut commits b.N changes, one after the other, of a bucket that
// RELAYTEST_CLIENTS native connections (1000) follow, and reports the time to
// the last of them and this process's CPU for each delivered checkpoint.
func BenchmarkFanOut(b *testing.B) {
	clients := 1000
	if text := os.Getenv("RELAYTEST_CLIENTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		clients = n
	}
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(b, side, many)
	d := dial(b, srv, "ws", clients)
	began := cpu(b)
	var times []time.Duration
	for i := range b.N {
		start := time.Now()
		side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "t", "1", fmt.Sprintf(`{"n":%d}`, i)) })
		if got := d.line(); got != "all" {
			b.Fatalf("the client process says %q", got)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(times[len(times)/2]), "ms-to-last-p50")
	b.ReportMetric(ms(times[len(times)*99/100]), "ms-to-last-p99")
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N*clients), "cpu-us/delivery")
	d.end()
}

// cpu is the processor time this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dialer is the process that has the client side of connections.
type dialer struct {
	b   testing.TB
	cmd *exec.Cmd
	out *bufio.Reader
}

// dial starts the client process and waits until n connections are in sync.
func dial(b testing.TB, srv *relaytest.Server, transport string, n int) *dialer {
	b.Helper()
	if os.Getenv("RELAYTEST_DIAL") != "" {
		b.Skip("this is the client process")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDialer$")
	cmd.Env = append(os.Environ(), "RELAYTEST_DIAL="+strings.TrimPrefix(srv.URL, "http://"), "RELAYTEST_TRANSPORT="+transport, fmt.Sprint("RELAYTEST_COUNT=", n), "RELAYTEST_TOKEN="+srv.Token("alice"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	d := &dialer{b: b, cmd: cmd, out: bufio.NewReader(out)}
	if got := d.line(); got != "connected" {
		b.Fatalf("the client process says %q", got)
	}
	return d
}

func (d *dialer) line() string {
	d.b.Helper()
	text, err := d.out.ReadString('\n')
	if err != nil {
		d.b.Fatalf("the client process: %v", err)
	}
	return strings.TrimSpace(text)
}

func (d *dialer) end() {
	if err := d.cmd.Process.Kill(); err != nil {
		d.b.Fatal(err)
	}
	d.cmd.Wait() // it was killed
}

// rss is this process's resident memory, in KiB.
func rss(b testing.TB) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("no /proc")
	}
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// TestDialer is the client process of the benchmarks. It says when every
// connection is in sync, and each time that every one has got a checkpoint.
func TestDialer(t *testing.T) {
	address := os.Getenv("RELAYTEST_DIAL")
	if address == "" {
		t.Skip("only as the client of a benchmark")
	}
	n, err := strconv.Atoi(os.Getenv("RELAYTEST_COUNT"))
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = dialRaw(t, address, i)
	}
	var got atomic.Int64
	for _, c := range conns {
		go func() {
			buf := make([]byte, 2048)
			for {
				m, err := c.Read(buf)
				if err != nil {
					fmt.Println("a connection ended:", err)
					return
				}
				if bytes.Contains(buf[:m], []byte("checkpoint_complete")) && got.Add(1)%int64(n) == 0 {
					fmt.Println("all")
				}
			}
		}()
	}
	fmt.Println("connected")
	<-context.Background().Done()
}

// transports are those that dialRaw knows.
var transports = []string{"ws", "rsocket", "http"}

// hello is what a client sends first.
func hello(transport, token string, i int) []byte {
	request := relaytest.Request(fmt.Sprint(i))
	upgrade := func(path, subprotocol string) []byte {
		return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n",
			path, base64.StdEncoding.EncodeToString([]byte(rand.Text())[:16]), subprotocol)
	}
	frame := func(opcode byte, b []byte) []byte { // a mask of zeros
		return append([]byte{0x80 | opcode, 0x80 | 126, byte(len(b) >> 8), byte(len(b)), 0, 0, 0, 0}, b...)
	}
	switch transport {
	case "rsocket":
		b := append(upgrade(protocol.PathStream, ""), frame(2, relaytest.SetupFrame(token).Append(nil))...)
		return append(b, frame(2, relaytest.RequestFrame(request, rsocket.MaxN).Append(nil))...)
	case "http":
		body := request.AppendJSON(nil)
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", protocol.PathStream, token, len(body), body)
	}
	open := &protocol.Open{Request: *request, Token: token, CreditBytes: 1 << 30}
	return append(upgrade(protocol.PathWebSocket, "Sec-WebSocket-Protocol: "+protocol.Subprotocol+"\r\n"), frame(1, open.AppendFrame(nil))...)
}

// dialRaw opens a session by hand, so that the client process stays small, and
// reads up to its first completion.
func dialRaw(t *testing.T, address string, i int) net.Conn {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(hello(os.Getenv("RELAYTEST_TRANSPORT"), os.Getenv("RELAYTEST_TOKEN"), i)); err != nil {
		t.Fatal(err)
	}
	var all []byte
	buf := make([]byte, 4096)
	for !strings.Contains(string(all), "checkpoint_complete") {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		all = append(all, buf[:n]...)
	}
	return c
}
