package relaytest_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// BenchmarkIdleConnections holds b.N native connections, whose client side is
// another process, and reports this process's memory for each. Give b.N with
// -benchtime, for example -benchtime 2000x.
func BenchmarkIdleConnections(b *testing.B) {
	if os.Getenv("RELAYTEST_DIAL") != "" {
		b.Skip("this is the client process")
	}
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(b, side)
	address := strings.TrimPrefix(srv.URL, "http://")
	base := rss(b)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestDialer$")
	cmd.Env = append(os.Environ(), "RELAYTEST_DIAL="+address, fmt.Sprint("RELAYTEST_COUNT=", b.N), "RELAYTEST_TOKEN="+srv.Token("alice"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	r := bufio.NewReader(out)
	line := func() string {
		text, err := r.ReadString('\n')
		if err != nil {
			b.Fatalf("the client process: %v", err)
		}
		return strings.TrimSpace(text)
	}
	if got := line(); got != "connected" {
		b.Fatalf("the client process says %q", got)
	}
	b.ReportMetric(float64(rss(b)-base)/float64(b.N), "KiB/conn")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(b.N), "goroutines/conn")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1024/float64(b.N), "heapKiB/conn")
	b.ReportMetric(float64(m.StackInuse)/1024/float64(b.N), "stackKiB/conn")
	start := time.Now()
	side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "t", "1", `{"n":1}`) })
	if got := line(); got != "all" {
		b.Fatalf("the client process says %q", got)
	}
	b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-to-last")
	if err := cmd.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	cmd.Wait() // it was killed
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

// TestDialer is the client process of BenchmarkIdleConnections.
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
	fmt.Println("connected")
	buf := make([]byte, 4096)
	for _, c := range conns {
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("all")
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
