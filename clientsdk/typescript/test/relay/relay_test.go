// Package relay runs a real relay for the browser tests of the TypeScript SDK,
// over a sidecar in memory: no Postgres, no decoder.
package relay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/relay/relaytest"
)

// TestServe serves until its standard input ends. Its address is the first line
// it prints.
func TestServe(t *testing.T) {
	if os.Getenv("MILLRACE_SERVE") == "" {
		t.Skip("run by the browser tests, with MILLRACE_SERVE set")
	}
	s := &server{t: t, side: relaytest.NewSidecar(), rows: map[string]map[string]any{}}
	s.restart()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /commit", s.commit)
	mux.HandleFunc("POST /upload", s.upload)
	mux.HandleFunc("POST /fail", s.setFail)
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, _ *http.Request) { s.restart(); w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /block", func(w http.ResponseWriter, r *http.Request) {
		var blocked bool
		if read(w, r, &blocked) {
			s.blocked.Store(blocked)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("GET /rows", s.list)
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, relaytest.Token(r.URL.Query().Get("sub"), time.Hour))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" && s.blocked.Load() {
			http.Error(w, "no upgrades here", http.StatusForbidden) // as some proxies do
			return
		}
		w.Header().Del("Access-Control-Allow-Origin") // the relay says so itself
		s.relay.Load().ServeHTTP(w, r)
	})
	h := httptest.NewServer(anyOrigin(mux))
	defer h.Close()
	fmt.Println(h.URL)
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // either way it is over
	h.CloseClientConnections()
}

type server struct {
	t     *testing.T
	side  *relaytest.Sidecar
	relay atomic.Pointer[httputil.ReverseProxy]
	stop  func()
	// No WebSocket gets through.
	blocked atomic.Bool

	mu   sync.Mutex
	fail string                    // what uploads answer, if not empty
	rows map[string]map[string]any // what was uploaded: "user type id" to the row
	seen map[string]int            // how often each transaction came
}

// restart replaces the relay by another over the same sidecar; connections end.
func (s *server) restart() {
	if s.stop != nil {
		s.stop()
	}
	srv := relaytest.Serve(s.t, s.side)
	u, err := url.Parse(srv.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.relay.Store(httputil.NewSingleHostReverseProxy(u))
	s.stop = srv.Stop
}

// change is one step of a commit; Rows rows are written at once, with "%d" in
// their id and data replaced.
type change struct {
	Do, Definition, Key, Table, ID, Data, Sub, List string
	Rows                                            int
}

func (s *server) commit(w http.ResponseWriter, r *http.Request) {
	var changes []change
	if !read(w, r, &changes) {
		return
	}
	cp := s.side.Commit(func(tx *relaytest.Tx) {
		for _, c := range changes {
			switch c.Do {
			case "put":
				tx.Put(c.Definition, c.Key, c.Table, c.ID, c.Data)
			case "rows":
				for i := range c.Rows {
					tx.Put(c.Definition, c.Key, c.Table, fmt.Sprintf(c.ID, i), fmt.Sprintf(c.Data, i))
				}
			case "remove":
				tx.Remove(c.Definition, c.Key, c.Table, c.ID)
			case "grant":
				tx.Grant(c.Sub, c.List)
			case "revoke":
				tx.Revoke(c.Sub, c.List)
			}
		}
	})
	fmt.Fprint(w, cp.OpID)
}

// upload is the app's backend: rows go to the bucket "mine" of the user.
func (s *server) upload(w http.ResponseWriter, r *http.Request) {
	var u struct {
		User, Transaction string
		Ops               []struct {
			Op, Type, ID string
			Data         map[string]any
		}
	}
	if !read(w, r, &u) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != "" {
		http.Error(w, s.fail, http.StatusServiceUnavailable)
		return
	}
	if s.seen == nil {
		s.seen = map[string]int{}
	}
	s.seen[u.Transaction]++
	s.side.Commit(func(tx *relaytest.Tx) {
		for _, op := range u.Ops {
			name := u.User + " " + op.Type + " " + op.ID
			if op.Op == "DELETE" {
				delete(s.rows, name)
				tx.Remove("mine", u.User, op.Type, op.ID)
				continue
			}
			row := s.rows[name]
			if row == nil || op.Op == "PUT" {
				row = map[string]any{"id": op.ID}
			}
			for k, v := range op.Data {
				row[k] = v
			}
			s.rows[name] = row
			data, err := json.Marshal(row)
			if err != nil {
				s.t.Error(err)
			}
			tx.Put("mine", u.User, op.Type, op.ID, string(data))
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) setFail(w http.ResponseWriter, r *http.Request) {
	var fail string
	if !read(w, r, &fail) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *server) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := json.NewEncoder(w).Encode(map[string]any{"rows": s.rows, "transactions": s.seen}); err != nil {
		s.t.Error(err)
	}
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func anyOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Authorization")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.ServeHTTP(w, r)
	})
}
