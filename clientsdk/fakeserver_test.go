package clientsdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/protocol"
)

// fakeServer serves a simServer over both transports, and misbehaves on demand.
type fakeServer struct {
	*httptest.Server
	tb testing.TB

	mu       sync.Mutex
	sim      *simServer
	changed  chan struct{}
	conns    map[int]context.CancelFunc
	nextConn int
	requests []*protocol.Request // of all streams opened
	tokens   []string            // seen, in order
	acks     []int64
	// Misbehaviour.
	noWS    bool
	refuse  func(token string) *protocol.ErrorBody // nil: welcome
	damage  func(*protocol.Data)
	expires int // seconds told once after the first checkpoint; 0: nothing
	down    bool
}

func newFakeServer(tb testing.TB) *fakeServer {
	f := &fakeServer{tb: tb, sim: newSimServer(), changed: make(chan struct{}), conns: map[int]context.CancelFunc{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+protocol.PathStream, f.http)
	mux.HandleFunc("GET "+protocol.PathWebSocket, f.webSocket)
	mux.HandleFunc("GET "+protocol.PathWriteCheckpoint, f.writeCheckpoint)
	f.Server = httptest.NewServer(mux)
	tb.Cleanup(func() {
		f.cut()
		f.Server.Close()
	})
	for i, name := range bucketNames {
		f.sim.buckets[name] = &simBucket{name: name, priority: []int{0, 1, 3, 3}[i]}
	}
	return f
}

// do changes the server's state and lets its sessions notice.
func (f *fakeServer) do(change func(*simServer)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.sim)
	f.wakeLocked()
}

func (f *fakeServer) wakeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// cut ends all streams.
func (f *fakeServer) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, cancel := range f.conns {
		cancel()
	}
}

func (f *fakeServer) setDown(down bool) {
	f.mu.Lock()
	f.down = down
	f.mu.Unlock()
	if down {
		f.cut()
	}
}

func (f *fakeServer) register(ctx context.Context) (context.Context, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	id := f.nextConn
	f.nextConn++
	f.conns[id] = cancel
	return ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		cancel()
		delete(f.conns, id)
	}
}

// admit looks at a request; an error is told in the transport's way.
func (f *fakeServer) admit(token string, r *protocol.Request) *protocol.ErrorBody {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens = append(f.tokens, token)
	if f.down {
		return &protocol.ErrorBody{Code: protocol.CodeRestarting, Status: 503, Description: "restarting"}
	}
	if f.refuse != nil {
		if e := f.refuse(token); e != nil {
			return e
		}
	}
	if r != nil {
		f.requests = append(f.requests, r)
	}
	return nil
}

func (f *fakeServer) http(w http.ResponseWriter, r *http.Request) {
	ctx, done := f.register(r.Context())
	defer done()
	body, _ := io.ReadAll(r.Body)
	req, err := protocol.DecodeRequest(body)
	if err != nil {
		f.tb.Error(err)
		return
	}
	if e := f.admit(strings.TrimPrefix(r.Header.Get("Authorization"), "Token "), req); e != nil {
		w.WriteHeader(e.Status)
		w.Write(e.AppendJSON(nil))
		return
	}
	w.Header().Set("Content-Type", protocol.MediaTypeNDJSON)
	w.WriteHeader(200)
	f.serve(ctx, req, nil, func(l protocol.Line) error {
		if _, err := w.Write(append(l.AppendLine(nil), '\n')); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	})
}

func (f *fakeServer) writeCheckpoint(w http.ResponseWriter, r *http.Request) {
	if e := f.admit(strings.TrimPrefix(r.Header.Get("Authorization"), "Token "), nil); e != nil {
		w.WriteHeader(e.Status)
		w.Write(e.AppendJSON(nil))
		return
	}
	w.Write(protocol.AppendWriteCheckpoint(nil, f.requestCheckpoint()))
}

func (f *fakeServer) requestCheckpoint() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeLocked()
	return f.sim.requestCheckpoint()
}

func (f *fakeServer) webSocket(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	noWS := f.noWS
	f.mu.Unlock()
	if noWS {
		http.NotFound(w, r)
		return
	}
	ctx, done := f.register(context.Background()) // a hijacked request has no context of its own
	defer done()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		f.tb.Error(err)
		return
	}
	defer c.CloseNow()
	_, b, err := c.Read(ctx)
	if err != nil {
		return
	}
	fr, err := protocol.DecodeFrame(b)
	if err != nil {
		f.tb.Error(err)
		return
	}
	open := fr.(*protocol.Open)
	if e := f.admit(open.Token, &open.Request); e != nil {
		code := websocket.StatusCode(protocol.CloseUnauthorized)
		if e.Status == 503 {
			code = protocol.CloseRestarting
		}
		c.Close(code, string(e.Code))
		return
	}
	frames := make(chan protocol.Frame)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		for {
			_, b, err := c.Read(ctx)
			if err != nil {
				return
			}
			fr, err := protocol.DecodeFrame(b)
			if err != nil {
				f.tb.Error(err)
				return
			}
			select {
			case frames <- fr:
			case <-ctx.Done():
				return
			}
		}
	}()
	f.serve(ctx, &open.Request, frames, func(l protocol.Line) error {
		return c.Write(ctx, websocket.MessageText, l.AppendLine(nil))
	})
}

// serve runs one session.
func (f *fakeServer) serve(ctx context.Context, req *protocol.Request, frames <-chan protocol.Frame, send func(protocol.Line) error) {
	var at []position
	for _, b := range req.Buckets {
		at = append(at, position{b.Name, b.After})
	}
	f.mu.Lock()
	ses := f.sim.connect(at)
	f.mu.Unlock()
	version, told := int64(0), false
	for {
		f.mu.Lock()
		changed := f.changed
		var l protocol.Line
		whole := version != 0
		if ses.first || ses.done || ses.stale() || whole {
			l = ses.move(whole)
			if cp, ok := l.(*protocol.Checkpoint); ok {
				cp.StreamsVersion, version = version, 0
				cp.Streams = []protocol.Stream{{Name: "all", IsDefault: true}}
			}
		} else {
			l = ses.next(3, true)
		}
		if d, ok := l.(*protocol.Data); ok && f.damage != nil {
			f.damage(d)
		}
		expires := f.expires
		f.mu.Unlock()
		if l != nil {
			if send(l) != nil {
				return
			}
			if expires != 0 && !told {
				told = true
				if send(protocol.TokenExpiresIn(expires)) != nil {
					return
				}
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case fr := <-frames:
			switch fr := fr.(type) {
			case *protocol.TokenFrame:
				f.admit(fr.Token, nil)
			case *protocol.StreamsFrame:
				f.mu.Lock()
				f.requests = append(f.requests, &protocol.Request{Streams: fr.StreamSelection})
				f.mu.Unlock()
				version = fr.Version
			case protocol.AckFrame:
				f.mu.Lock()
				f.acks = append(f.acks, int64(fr.OpID))
				f.mu.Unlock()
			case protocol.CheckpointRequestFrame:
				if send(protocol.CheckpointRequestReply{ID: f.requestCheckpoint()}) != nil {
					return
				}
			}
		}
	}
}

// testApp is a connector whose backend is the simulated server.
type testApp struct {
	f  *fakeServer
	mu sync.Mutex
	// fetched counts calls; tokens are numbered.
	fetched  int
	fetchErr error
	// uploadErr fails uploads before the backend sees anything; lag keeps
	// accepted uploads from being replicated.
	uploadErr error
	lag       bool
	uploads   [][]UploadOp
}

func (a *testApp) FetchCredentials(context.Context) (Credentials, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetchErr != nil {
		return Credentials{}, a.fetchErr
	}
	a.fetched++
	return Credentials{Endpoint: a.f.URL, Token: fmt.Sprintf("token-%d", a.fetched)}, nil
}

func (a *testApp) UploadData(ctx context.Context, db *DB) error {
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		a.mu.Lock()
		failed, lag := a.uploadErr, a.lag
		if failed == nil {
			a.uploads = append(a.uploads, tx.Ops)
		}
		a.mu.Unlock()
		if failed != nil {
			return failed
		}
		a.f.do(func(s *simServer) {
			s.accepted++
			s.lag = append(s.lag, simEffect{func() {
				for _, op := range tx.Ops {
					s.applyUpload(op)
				}
			}})
			if !lag {
				s.replicate()
			}
		})
		if err := tx.Complete(ctx); err != nil {
			return err
		}
	}
}

func (a *testApp) set(change func(*testApp)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// applyUpload: rows of type a live in bucket p1, of b in p3a.
func (s *simServer) applyUpload(op UploadOp) {
	bucket := map[string]string{"a": "p1", "b": "p3a"}[op.Type]
	if op.Kind == UploadDelete {
		s.remove(bucket, op.Type, op.ID, "")
		return
	}
	row := map[string]any{}
	for id, have := range s.buckets[bucket].at(s.op).Rows {
		if id.Type == op.Type && id.RowID == op.ID {
			json.Unmarshal([]byte(have.Data), &row)
		}
	}
	json.Unmarshal(op.Data, &row)
	data, _ := json.Marshal(row)
	s.put(bucket, op.Type, op.ID, "", string(data))
}

// eventually polls until a condition holds.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within 20 s", what)
		}
		timer := time.NewTimer(2 * time.Millisecond)
		<-timer.C
	}
}

var errOffline = errors.New("offline")
