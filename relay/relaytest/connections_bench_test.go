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
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// BenchmarkIdleConnections holds b.N native connections, whose client side is
// another process, and reports this process's memory for each. Give b.N with
// -benchtime, for example -benchtime 2000x.
func BenchmarkIdleConnections(b *testing.B) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(b, side, relaytest.Options{Limits: relay.Limits{Connections: 1 << 20, PerUser: 1 << 20}})
	base := rss(b)
	d := dial(b, srv, b.N)
	b.ReportMetric(float64(rss(b)-base)/float64(b.N), "KiB/conn")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(b.N), "goroutines/conn")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1024/float64(b.N), "heapKiB/conn")
	b.ReportMetric(float64(m.StackInuse)/1024/float64(b.N), "stackKiB/conn")
	d.end()
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
	srv := relaytest.Serve(b, side, relaytest.Options{Limits: relay.Limits{Connections: 1 << 20, PerUser: 1 << 20}})
	d := dial(b, srv, clients)
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
	b   *testing.B
	cmd *exec.Cmd
	out *bufio.Reader
}

// dial starts the client process and waits until n connections are in sync.
func dial(b *testing.B, srv *relaytest.Server, n int) *dialer {
	b.Helper()
	if os.Getenv("RELAYTEST_DIAL") != "" {
		b.Skip("this is the client process")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDialer$")
	cmd.Env = append(os.Environ(), "RELAYTEST_DIAL="+strings.TrimPrefix(srv.URL, "http://"), fmt.Sprint("RELAYTEST_COUNT=", n), "RELAYTEST_TOKEN="+srv.Token("alice"))
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

func rss(b *testing.B) int {
	runtime.GC()
	debug.FreeOSMemory()
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

// dialRaw opens a session by hand, so that the client process stays small, and
// reads up to its first completion.
func dialRaw(t *testing.T, address string, i int) net.Conn {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		protocol.PathWebSocket, base64.StdEncoding.EncodeToString([]byte(rand.Text())[:16]), protocol.Subprotocol)
	open := &protocol.Open{Token: os.Getenv("RELAYTEST_TOKEN"), CreditBytes: 1 << 30}
	open.RawData, open.ClientID, open.Streams.IncludeDefaults = true, fmt.Sprint(i), true
	text := open.AppendFrame(nil)
	frame := []byte{0x81, 0x80 | 126, byte(len(text) >> 8), byte(len(text)), 0, 0, 0, 0} // a mask of zeros
	if _, err := c.Write(append(frame, text...)); err != nil {
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
