package transport

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, h http.Handler) *Client {
	srv := httptest.NewServer(h)
	hc := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		hc.CloseIdleConnections()
		srv.CloseClientConnections()
		srv.Close()
	})
	return &Client{Endpoint: srv.URL + "/", HTTP: hc, UserAgent: "test/1", Silence: 300 * time.Millisecond}
}

func request() *Request {
	return &Request{StreamsVersion: 4, Request: protocol.Request{ClientID: "c", RawData: true,
		Buckets: []protocol.BucketPosition{{Name: "b", After: 7}}, Streams: protocol.StreamSelection{IncludeDefaults: true}}}
}

// ws answers each connection by a script, after the open frame.
func ws(t *testing.T, script func(ctx context.Context, c *websocket.Conn, open *protocol.Open)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol.Subprotocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		_, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		f, err := protocol.DecodeFrame(b)
		if err != nil {
			t.Error(err)
			return
		}
		script(r.Context(), c, f.(*protocol.Open))
	})
}

func next(t *testing.T, s Stream) protocol.Line {
	t.Helper()
	l, err := s.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestWebSocketFrames: several lines in a frame, compressed frames, and credit
// that is given back once lines were taken.
func TestWebSocketFrames(t *testing.T) {
	var credit atomic.Int64
	c := client(t, ws(t, func(ctx context.Context, c *websocket.Conn, open *protocol.Open) {
		if open.Token != "tok" || !open.AcceptGzip || open.StreamsVersion != 4 || open.Buckets[0].After != 7 {
			t.Errorf("%+v", open)
		}
		c.Write(ctx, websocket.MessageText, []byte("{\"token_expires_in\":1}\n\n{\"token_expires_in\":2}\n"))
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		fmt.Fprintf(w, "{\"token_expires_in\":3}\n{\"token_expires_in\":4}")
		w.Close()
		c.Write(ctx, websocket.MessageBinary, z.Bytes())
		sent := open.CreditBytes
		big := (&protocol.Data{Bucket: "b", Ops: []millrace.Op{{ID: 8, Kind: millrace.OpPut, Type: "t", RowID: "1", Data: `{"x":"` + strings.Repeat("x", 1<<20) + `"}`}}}).AppendLine(nil)
		for range 20 {
			for sent < 0 {
				_, b, err := c.Read(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				f, err := protocol.DecodeFrame(b)
				if err != nil {
					t.Error(err)
					return
				}
				sent += f.(protocol.CreditFrame).Bytes
				credit.Add(f.(protocol.CreditFrame).Bytes)
			}
			if c.Write(ctx, websocket.MessageText, big) != nil {
				return
			}
			sent -= int64(len(big))
		}
		c.Close(websocket.StatusCode(protocol.CloseRestarting), "PSYNC_S2003")
	}))
	s, err := c.OpenWebSocket(context.Background(), "tok", request())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for want := 1; want <= 4; want++ {
		if l := next(t, s); l != protocol.TokenExpiresIn(want) {
			t.Fatalf("line %d: %v", want, l)
		}
	}
	for range 20 {
		if d := next(t, s).(*protocol.Data); len(d.Ops) != 1 {
			t.Fatalf("%+v", d)
		}
	}
	if _, err := s.Next(context.Background()); Reason(err) != machine.EndRestarting || !strings.Contains(err.Error(), "PSYNC_S2003") {
		t.Fatalf("%v", err)
	}
	if credit.Load() == 0 {
		t.Fatal("no credit was given")
	}
}

func TestWebSocketEnds(t *testing.T) {
	for code, want := range map[int]machine.EndReason{
		protocol.CloseUnauthorized: machine.EndUnauthorized, protocol.CloseSubject: machine.EndUnauthorized,
		protocol.CloseRestarting: machine.EndRestarting, protocol.CloseRules: machine.EndRestarting,
		protocol.CloseOverloaded: machine.EndOverloaded, protocol.CloseConnections: machine.EndOverloaded,
		protocol.CloseMalformed: machine.EndProtocol, protocol.CloseTooLarge: machine.EndProtocol, 1000: machine.EndLost,
	} {
		c := client(t, ws(t, func(_ context.Context, c *websocket.Conn, _ *protocol.Open) {
			c.Close(websocket.StatusCode(code), "PSYNC_S2101")
		}))
		s, err := c.OpenWebSocket(context.Background(), "secret-token", request())
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Next(context.Background())
		if Reason(err) != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("close code %d: %v, reason %d", code, err, Reason(err))
		}
		s.Close()
	}
}

// TestBadFrames: whatever comes, an error that says what is wrong.
func TestBadFrames(t *testing.T) {
	for name, frame := range map[string][]byte{"not gzip": []byte("x"), "not JSON": nil} {
		c := client(t, ws(t, func(ctx context.Context, c *websocket.Conn, _ *protocol.Open) {
			kind := websocket.MessageBinary
			if frame == nil {
				kind, frame = websocket.MessageText, []byte("{nope")
			}
			c.Write(ctx, kind, frame)
			c.Read(ctx)
		}))
		s, err := c.OpenWebSocket(context.Background(), "t", request())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(context.Background()); Reason(err) != machine.EndProtocol {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

// TestSilence: a server that says nothing is gone, on both transports; one that
// is slow to be read is not.
func TestSilence(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(protocol.PathWebSocket, ws(t, func(ctx context.Context, c *websocket.Conn, _ *protocol.Open) {
		c.Write(ctx, websocket.MessageText, []byte("{\"token_expires_in\":1}\n{\"token_expires_in\":2}"))
		c.Read(ctx)
	}))
	mux.HandleFunc(protocol.PathStream, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", protocol.MediaTypeNDJSON)
		fmt.Fprint(w, "{\"token_expires_in\":1}\n{\"token_expires_in\":2}\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := client(t, mux)
	for name, open := range map[string]func(context.Context, string, *Request) (Stream, error){"websocket": c.OpenWebSocket, "http": c.OpenHTTP} {
		s, err := open(context.Background(), "t", request())
		if err != nil {
			t.Fatal(err)
		}
		next(t, s)
		<-time.NewTimer(2 * c.Silence).C // the consumer takes its time: the silence does not count
		next(t, s)
		if _, err := s.Next(context.Background()); err == nil || !strings.Contains(err.Error(), "silent") {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

func TestHTTPRefusals(t *testing.T) {
	for _, c := range []struct {
		status int
		code   protocol.Code
		want   machine.EndReason
	}{
		{401, protocol.CodeTokenExpired, machine.EndUnauthorized}, {400, protocol.CodeInvalid, machine.EndProtocol},
		{404, protocol.CodeNoRoute, machine.EndProtocol}, {429, protocol.CodeConnections, machine.EndOverloaded},
		{503, protocol.CodeRestarting, machine.EndRestarting}, {500, protocol.CodeNoRules, machine.EndLost},
	} {
		cl := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Token secret-token" || r.Header.Get("X-User-Agent") != "test/1" {
				t.Errorf("%v", r.Header)
			}
			w.WriteHeader(c.status)
			w.Write((&protocol.ErrorBody{Code: c.code, Status: c.status, Description: "the words"}).AppendJSON(nil))
		}))
		_, err := cl.OpenHTTP(context.Background(), "secret-token", request())
		_, err2 := cl.WriteCheckpoint(context.Background(), "secret-token", "c")
		for _, err := range []error{err, err2} {
			if Reason(err) != c.want || !strings.Contains(err.Error(), string(c.code)+": the words") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%d: %v, reason %d", c.status, err, Reason(err))
			}
		}
	}
}

func TestHTTPLines(t *testing.T) {
	long := (&protocol.Data{Bucket: "b", Ops: []millrace.Op{{ID: 8, Kind: millrace.OpPut, Type: "t", RowID: "1", Data: `{"x":"` + strings.Repeat("x", 1<<20) + `"}`}}}).AppendLine(nil)
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == protocol.PathWriteCheckpoint {
			if r.URL.Query().Get("client_id") != "a b&c" {
				t.Error(r.URL)
			}
			w.Write(protocol.AppendWriteCheckpoint(nil, 17))
			return
		}
		w.Header().Set("Content-Type", protocol.MediaTypeNDJSON+"; charset=utf-8")
		fmt.Fprintf(w, "\r\n%s\n{\"token_expires_in\":2}\r\n{bad\n", long)
	}))
	s, err := c.OpenHTTP(context.Background(), "t", request())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if d := next(t, s).(*protocol.Data); len(d.Ops[0].Data) < 1<<20 {
		t.Fatal("cut")
	}
	if l := next(t, s); l != protocol.TokenExpiresIn(2) {
		t.Fatalf("%v", l)
	}
	if _, err := s.Next(context.Background()); Reason(err) != machine.EndProtocol {
		t.Fatalf("%v", err)
	}
	if id, err := c.WriteCheckpoint(context.Background(), "t", "a b&c"); id != 17 || err != nil {
		t.Fatalf("%d %v", id, err)
	}
}

func TestUnavailable(t *testing.T) {
	c := client(t, http.NotFoundHandler())
	if _, err := c.OpenWebSocket(context.Background(), "t", request()); !Unavailable(err) {
		t.Errorf("404: %v", err)
	}
	html := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }))
	if _, err := html.OpenWebSocket(context.Background(), "t", request()); !Unavailable(err) {
		t.Errorf("a web page: %v", err)
	}
	if _, err := html.OpenHTTP(context.Background(), "t", request()); Reason(err) != machine.EndProtocol || !strings.Contains(err.Error(), "is the endpoint a sync server?") {
		t.Errorf("a web page: %v", err)
	}
	for _, endpoint := range []string{"", "ftp://x", "localhost:8080", "http://%zz"} {
		c := &Client{Endpoint: endpoint, HTTP: http.DefaultClient, Silence: time.Second}
		if _, err := c.OpenHTTP(context.Background(), "t", request()); Reason(err) != machine.EndProtocol {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
	down := &Client{Endpoint: "http://127.0.0.1:1", HTTP: http.DefaultClient, Silence: time.Second}
	if _, err := down.OpenWebSocket(context.Background(), "t", request()); Unavailable(err) || Reason(err) != machine.EndLost {
		t.Errorf("nobody there: %v", err)
	}
}
