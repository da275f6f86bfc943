package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/relay/relaytest"
)

// officialServer is a real relay over a sidecar in memory, behind a proxy that
// can be cut, with a backend for uploads: what an official client needs, without
// databases to start and rules to copy.
type officialServer struct {
	t     *testing.T
	side  *relaytest.Sidecar
	proxy *faultnet.Proxy
	front *httptest.Server
	relay atomic.Pointer[relaytest.Server]
	// onlyJSON hides from the relay that the client accepts BSON.
	onlyJSON atomic.Bool

	mu       sync.Mutex
	requests []officialRequest
	ops      int // uploaded
}

// officialRequest is what a client asked for, and how it was answered.
type officialRequest struct {
	path, accept, upgrade, token string
	contentType, coding          string // of the answer
}

func startOfficialServer(t *testing.T) *officialServer {
	t.Helper()
	s := &officialServer{t: t, side: relaytest.NewSidecar()}
	s.relay.Store(relaytest.Serve(t, s.side))
	s.front = httptest.NewServer(http.HandlerFunc(s.serve))
	var err error
	if s.proxy, err = faultnet.Listen(s.front.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.relay.Load().Stop()
		if err := s.proxy.Close(); err != nil {
			t.Error(err)
		}
		s.front.CloseClientConnections()
		s.front.Close()
	})
	return s
}

// url is what clients are told; no slash at the end.
func (s *officialServer) url() string { return "http://" + s.proxy.Addr() }

func (s *officialServer) serve(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/upload" {
		s.upload(w, req)
		return
	}
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	r := officialRequest{path: req.URL.Path, accept: req.Header.Get("Accept"), upgrade: req.Header.Get("Upgrade"), token: token}
	if s.onlyJSON.Load() {
		req.Header.Del("Accept")
	}
	if req.Method == http.MethodOptions || r.upgrade != "" {
		s.record(r)
		s.relay.Load().Relay.Handler().ServeHTTP(w, req)
		return
	}
	s.relay.Load().Relay.Handler().ServeHTTP(&headWatcher{ResponseWriter: w, seen: func(h http.Header) {
		r.contentType, r.coding = h.Get("Content-Type"), h.Get("Content-Encoding")
		s.record(r)
	}}, req)
}

func (s *officialServer) record(r officialRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}

// asked tells whether a request of some kind was made.
func (s *officialServer) asked(is func(officialRequest) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.requests, is)
}

// headWatcher tells the head of an answer.
type headWatcher struct {
	http.ResponseWriter
	seen func(http.Header)
	done bool
}

func (w *headWatcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *headWatcher) WriteHeader(status int) {
	if !w.done {
		w.done = true
		w.seen(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *headWatcher) Write(b []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// upload is the app's backend: it commits what it is sent, as a transaction of
// the user that the address names, with a mark that it was here.
func (s *officialServer) upload(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
	if req.Method == http.MethodOptions {
		return
	}
	var body struct {
		Transactions []struct {
			Ops []struct {
				Op, Type, ID string
				Data         map[string]any
			}
		}
	}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	user := req.URL.Query().Get("user")
	for _, transaction := range body.Transactions {
		s.side.Commit(func(tx *relaytest.Tx) {
			for _, op := range transaction.Ops {
				if op.Op == "DELETE" {
					tx.Remove("mine", user, op.Type, op.ID)
					continue
				}
				op.Data["created_by"] = "backend"
				data, err := json.Marshal(op.Data)
				if err != nil {
					s.t.Error(err)
				}
				tx.Put("mine", user, op.Type, op.ID, string(data))
			}
		})
		s.mu.Lock()
		s.ops += len(transaction.Ops)
		s.mu.Unlock()
	}
}

// putTodo writes a to-do into a bucket.
func putTodo(tx *relaytest.Tx, definition, key, id, title string) {
	tx.Put(definition, key, "todos", id, fmt.Sprintf(`{"id":%q,"title":%q}`, id, title))
}

// cutAfter cuts every connection once so many bytes went to clients, and refuses
// new ones until the channel's receiver has done what it must do; resume ends it.
func (s *officialServer) cutAfter(bytes int64) (cut <-chan struct{}, resume func()) {
	var sent atomic.Int64
	var once sync.Once
	done := make(chan struct{})
	s.proxy.SetHook(func(_ int, dir faultnet.Direction, chunk []byte) faultnet.Verdict {
		if dir == faultnet.ToClient && sent.Add(int64(len(chunk))) > bytes {
			once.Do(func() { close(done) })
		}
		if sent.Load() > bytes {
			return faultnet.Cut
		}
		return faultnet.Pass
	})
	return done, func() { s.proxy.SetHook(nil) }
}

// restart replaces the relay by a new one over the same sidecar.
func (s *officialServer) restart() {
	s.t.Helper()
	s.relay.Load().Stop()
	s.relay.Store(relaytest.Serve(s.t, s.side))
}

// awaitClosed waits for a channel, within what a busy machine may need.
func awaitClosed(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s: not within a minute", what)
	}
}
