package relay_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/protocol/rsocket"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// sessions waits until the relay reports so many.
func sessions(t *testing.T, side *relaytest.Sidecar, want int) {
	t.Helper()
	pgtest.Eventually(t, time.Minute, func() error {
		reports := side.Reports()
		if n := len(reports); n == 0 || reports[n-1].Connections != want {
			return fmt.Errorf("%d reports; the last has not %d connections", n, want)
		}
		return nil
	})
}

// large fills a bucket with more than what sockets buffer, in rows of 100 kB that
// do not compress.
func large(side *relaytest.Sidecar, rows int) millrace.Checkpoint {
	noise := rand.NewChaCha8([32]byte{})
	return side.Commit(func(tx *relaytest.Tx) {
		b := make([]byte, 75_000)
		for i := range rows {
			noise.Read(b)
			tx.Put("global", "", "t", fmt.Sprint(i), `{"text":"`+base64.StdEncoding.EncodeToString(b)+`"}`)
		}
	})
}

// openAnd asks for a stream by each transport and reads nothing.
var openAnd = map[string]func(t *testing.T, url, token string) (close func()){
	"HTTP": func(t *testing.T, url, token string) func() {
		resp, err := relaytest.Post(t.Context(), url, token, relaytest.Request("c").AppendJSON(nil), http.Header{"Accept-Encoding": {"identity"}})
		if err != nil {
			t.Error(err)
			return func() {}
		}
		return func() { resp.Body.Close() }
	},
	"native": func(t *testing.T, url, token string) func() {
		conn, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(url, "http")+protocol.PathWebSocket, &websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
		if err != nil {
			t.Error(err)
			return func() {}
		}
		if err := conn.Write(t.Context(), websocket.MessageText, openFrame(token, 1<<40).AppendFrame(nil)); err != nil {
			t.Error(err)
		}
		return func() { conn.CloseNow() }
	},
	"RSocket": func(t *testing.T, url, token string) func() {
		s := relaytest.OpenRSocket(t, url)
		s.Send(relaytest.SetupFrame(token), relaytest.RequestFrame(relaytest.Request("c"), rsocket.MaxN))
		return func() { s.Conn.CloseNow() }
	},
	"RSocket without credit": func(t *testing.T, url, token string) func() {
		s := relaytest.OpenRSocket(t, url)
		s.Send(relaytest.SetupFrame(token), relaytest.RequestFrame(relaytest.Request("c"), 1))
		return func() { s.Conn.CloseNow() }
	},
}

// stalling is an address at which clients get only the beginning of what they
// are sent, behind connections that stay open.
func stalling(t *testing.T, url string) string {
	t.Helper()
	proxy, err := faultnet.Listen(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	sent := map[int]int{}
	over := make(chan struct{})
	proxy.SetHook(func(conn int, dir faultnet.Direction, chunk []byte) faultnet.Verdict {
		mu.Lock()
		sent[conn] += len(chunk)
		stuck := dir == faultnet.ToClient && sent[conn] > 64<<10
		mu.Unlock()
		if stuck {
			<-over
			return faultnet.Cut
		}
		return faultnet.Pass
	})
	t.Cleanup(func() {
		close(over)
		proxy.Close()
	})
	return "http://" + proxy.Addr()
}

// TestStalledReaders: clients that take nothing are let go after a time. Others
// are served meanwhile or after it.
func TestStalledReaders(t *testing.T) {
	for name, open := range openAnd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			side := relaytest.NewSidecar()
			cp := large(side, 150) // 15 MB
			srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{PageBytes: 4 << 20, WriteTimeout: time.Second, ReportEvery: 10 * time.Millisecond}})
			url := stalling(t, srv.URL)
			for range 4 {
				defer open(t, url, srv.Token("alice"))()
			}
			good := comesThrough(t, srv, cp.OpID, nil)
			cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "bob", "t", "1", `{}`) })
			comesThrough(t, srv, cp.OpID, good)
			if name != "RSocket without credit" { // which is sent nothing, and may wait
				sessions(t, side, 1)
			}
		})
	}
}

// TestStalledReadersAreBounded: however many clients take nothing, what they are
// being sent stays within the budget for pages.
func TestStalledReadersAreBounded(t *testing.T) {
	side := relaytest.NewSidecar()
	large(side, 150)
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{PageBytes: 4 << 20, ReportEvery: 10 * time.Millisecond}})
	url := stalling(t, srv.URL)
	const clients = 60 // without a budget a page of 1 MiB each, and as much again to send it
	before := heap()
	for range clients {
		defer openAnd["native"](t, url, srv.Token("alice"))()
	}
	sessions(t, side, clients)
	// Once they are stuck; until then there is garbage between two looks.
	pgtest.Eventually(t, time.Minute, func() error {
		if used := heap() - before; used > 40<<20 {
			return fmt.Errorf("%d stalled clients take %d MiB", clients, used>>20)
		}
		return nil
	})
	sessions(t, side, clients)
}

// comesThrough gets a client that reads to a checkpoint. Where the machine is so
// busy that the relay takes it for one that does not, it comes back.
func comesThrough(t *testing.T, srv *relaytest.Server, at millrace.OpID, c *relaytest.Client) *relaytest.Client {
	t.Helper()
	if c == nil {
		c = dial(t, srv, srv.Token("bob"), relaytest.Request("good"), nil)
	}
	for range 20 {
		for {
			l, err := c.Next()
			if err != nil {
				t.Logf("again, after: %v", err)
				c = dial(t, srv, srv.Token("bob"), relaytest.Request("good"), c)
				break
			}
			if done, ok := l.(protocol.CheckpointComplete); ok && done.LastOpID >= at {
				return c
			}
		}
	}
	t.Fatal("the client that reads was let go 20 times")
	return nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // pools keep what they have through one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestByteByByteReader: a client that reads a byte at a time while others' and
// its own buckets change loses nothing, and holds nobody back.
func TestByteByByteReader(t *testing.T) {
	side := relaytest.NewSidecar()
	side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "t", "first", `{}`) })
	srv := relaytest.Serve(t, side)
	conn, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := relaytest.Request("slow").AppendJSON(nil)
	fmt.Fprintf(conn, "POST /sync/stream HTTP/1.0\r\nAuthorization: Token %s\r\nContent-Length: %d\r\n\r\n%s", srv.Token("alice"), len(body), body)
	good := dial(t, srv, srv.Token("bob"), relaytest.Request("good"), nil)
	slow := relaytest.NewClient(t)
	read := &oneByte{conn: conn}
	var last millrace.Checkpoint
	for i := range 200 {
		last = side.Commit(func(tx *relaytest.Tx) {
			tx.Put("global", "", "t", fmt.Sprint(i%50), fmt.Sprintf(`{"n":%d,"text":%q}`, i, strings.Repeat("x", 100_000)))
		})
		good.Until(last.OpID)
		read.Read(make([]byte, 1))
	}
	// Now it catches up, and has what the other has.
	text := io.MultiReader(strings.NewReader(read.got.String()), conn)
	for line := range headless(t, text) {
		l, err := protocol.DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		slow.Fold(l)
		if done, ok := l.(protocol.CheckpointComplete); ok && done.LastOpID == last.OpID {
			break
		}
	}
	if got := slow.Rows("global", ""); len(got) != 51 || got["49"] != good.Rows("global", "")["49"] {
		t.Errorf("%d rows", len(got))
	}
}

// oneByte keeps what it reads.
type oneByte struct {
	conn net.Conn
	got  strings.Builder
}

func (o *oneByte) Read(b []byte) (int, error) {
	n, err := o.conn.Read(b[:1])
	o.got.Write(b[:n])
	return n, err
}

// headless gives the lines after the head of an HTTP answer without chunks.
func headless(t *testing.T, r io.Reader) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		var rest []byte
		head, buf := true, make([]byte, 64<<10)
		for {
			for {
				line, after, ok := strings.Cut(string(rest), "\n")
				if !ok {
					break
				}
				rest = []byte(after)
				if head {
					head = line != "\r"
					continue
				}
				if !yield([]byte(line)) {
					return
				}
			}
			n, err := r.Read(buf)
			rest = append(rest, buf[:n]...)
			if err != nil {
				t.Errorf("reading on: %v", err)
				return
			}
		}
	}
}

// TestProbingBucketNames: (I9) naming buckets gives nobody anything: not their
// rows, not whether they exist, over any transport.
func TestProbingBucketNames(t *testing.T) {
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			cp := side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "t", "secret", `{}`)
				tx.Put("list", "private", "t", "secret", `{}`)
				tx.Put("project", "p1", "t", "secret", `{}`)
				tx.Grant("alice", "private")
				tx.Put("mine", "mallory", "t", "own", `{}`)
			})
			names := []string{
				relaytest.Wire("mine", "alice"), relaytest.Wire("list", "private"), relaytest.Wire("project", "p1"),
				`mine["alice"]`, "", "#", `t2#mine["alice"]`, `T2#MINE["alice"]`, `t2#mine["alice"`, strings.Repeat("x", 100_000), "t2#mine[\"mallory\"]\x00",
			}
			r := relaytest.Request("c", protocol.Subscription{Stream: "mine", Parameters: []byte(`{"id":"alice","sub":"alice"}`), Priority: 0},
				protocol.Subscription{Stream: "list", Parameters: []byte(`{"id":"private"}`), Priority: protocol.DefaultPriority})
			r.Parameters = []byte(`{"sub":"alice","user_id":"alice"}`)
			for _, name := range names {
				r.Buckets = append(r.Buckets, protocol.BucketPosition{Name: name}, protocol.BucketPosition{Name: name, After: 1})
			}
			c := dials[how](t, srv, srv.Token("mallory"), r, nil)
			c.Until(cp.OpID)
			cp = side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "t", "more", `{}`)
				tx.Put("list", "private", "t", "more", `{}`)
				tx.Put("mine", "mallory", "t", "own2", `{}`)
			})
			c.Until(cp.OpID)
			if len(c.Target) != 3 || len(c.Buckets) != 3 { // global, urgent and their own
				t.Errorf("mallory is told of %v", c.Target)
			}
			if got := c.Table("t"); len(got) != 2 || got["own"] != `{}` || got["own2"] != `{}` {
				t.Errorf("mallory has %v", got)
			}
		})
	}
}

// TestTokenSwap: the same device with the token of another user gets that user's
// buckets and is told to drop the others.
func TestTokenSwap(t *testing.T) {
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			cp := side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "t", "a", `{}`)
				tx.Put("mine", "bob", "t", "b", `{}`)
				tx.Grant("alice", "l1")
				tx.Put("list", "l1", "t", "l", `{}`)
			})
			c := dialAny(t, srv, how, "alice", "device", nil)
			c.Until(cp.OpID)
			if got := c.Table("t"); len(got) != 2 {
				t.Fatalf("alice has %v", got)
			}
			c.Close()
			c = dialAny(t, srv, how, "bob", "device", c)
			c.Until(cp.OpID)
			if got := c.Table("t"); len(got) != 1 || got["b"] != `{}` {
				t.Errorf("bob has %v", got)
			}
		})
	}
}

// TestFloods: a client that asks without end and never reads, by whatever is
// answered at once, is let go; it costs no more than what sockets buffer.
func TestFloods(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{WriteTimeout: time.Second, ReportEvery: 10 * time.Millisecond}})
	flood := func(t *testing.T, conn *websocket.Conn, kind websocket.MessageType, message []byte) {
		before := heap()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			if err := conn.Write(ctx, kind, message); err != nil {
				if ctx.Err() != nil {
					t.Error("the flood went on for a minute")
				}
				break
			}
		}
		if used := heap() - before; used > 32<<20 {
			t.Errorf("%d MiB more are used", used>>20)
		}
		sessions(t, side, 0)
	}
	t.Run("RSocket keepalives", func(t *testing.T) {
		s := relaytest.OpenRSocket(t, srv.URL)
		s.Send(relaytest.SetupFrame(srv.Token("alice")), relaytest.RequestFrame(relaytest.Request("c"), 10))
		data := make([]byte, 64<<10)
		rand.NewChaCha8([32]byte{}).Read(data) // does not compress
		flood(t, s.Conn, websocket.MessageBinary, (&rsocket.Keepalive{Respond: true, Data: data}).Append(nil))
	})
	t.Run("native checkpoint requests", func(t *testing.T) {
		s := connectSocket(t, srv)
		s.send(openFrame(srv.Token("alice"), 1))
		flood(t, s.conn, websocket.MessageText, protocol.CheckpointRequestFrame{}.AppendFrame(nil))
	})
}

// TestSilentConnections: a connection that says nothing, or not what it wants, is
// ended.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	silent, begun := relaytest.OpenRSocket(t, srv.URL), relaytest.OpenRSocket(t, srv.URL)
	native := connectSocket(t, srv)
	begun.Send(relaytest.SetupFrame(srv.Token("alice")))
	for what, s := range map[string]*relaytest.RSocket{"SETUP": silent, "request": begun} {
		f, err := s.Read()
		if e, ok := f.(*rsocket.Error); err != nil || !ok || e.Stream != 0 || e.Code != rsocket.ConnectionClose || !strings.Contains(e.Text, what) {
			t.Errorf("without a %s: %+v, %v", what, f, err)
		}
	}
	native.listen()
	if code, _ := native.closed(); code != protocol.CloseNoOpen {
		t.Errorf("closed with %d", code)
	}
}

// TestStopWaitsForNobody: connections that have not said yet what they want are
// told of a restart like all others.
func TestStopWaitsForNobody(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	silent, begun := relaytest.OpenRSocket(t, srv.URL), relaytest.OpenRSocket(t, srv.URL)
	native := connectSocket(t, srv)
	begun.Send(relaytest.SetupFrame(srv.Token("alice")))
	stopped := make(chan struct{})
	go func() {
		srv.Stop()
		close(stopped)
	}()
	for _, s := range []*relaytest.RSocket{silent, begun} {
		f, err := s.Read()
		if e, ok := f.(*rsocket.Error); err != nil || !ok || !strings.HasPrefix(e.Text, "[PSYNC_S2003] ") {
			t.Errorf("%+v, %v", f, err)
		}
		s.Conn.CloseNow()
	}
	native.listen()
	if code, _ := native.closed(); code != protocol.CloseRestarting {
		t.Errorf("closed with %d", code)
	}
	<-stopped
}

// TestStopWithStalledReaders: a relay that stops does not wait for clients that
// take nothing, whatever they might be given otherwise.
func TestStopWithStalledReaders(t *testing.T) {
	t.Parallel() // it waits for them for a time
	side := relaytest.NewSidecar()
	large(side, 100)
	srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{WriteTimeout: 24 * time.Hour}})
	url := stalling(t, srv.URL)
	for _, open := range openAnd {
		defer open(t, url, srv.Token("alice"))()
	}
	connections(t, srv, len(openAnd))
	// All of them have been sent something, and wait.
	before := int64(-1)
	pgtest.Eventually(t, time.Minute, func() error {
		now := srv.Relay.SentBytes()
		was := before
		before = now
		if now == 0 || now != was {
			return fmt.Errorf("%d bytes were sent, before %d", now, was)
		}
		return nil
	})
	stopped := make(chan struct{})
	go func() {
		srv.Stop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(2 * time.Minute):
		t.Fatalf("the relay waits for %d sessions", srv.Relay.Sessions())
	}
}
