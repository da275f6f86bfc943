package devserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func testSessions() *sessions {
	return &sessions{
		key: Key{ID: keyID, Secret: make([]byte, 32), Audience: audience},
		users: func(context.Context) ([]demoUser, error) {
			return []demoUser{{"alice", "Alice"}, {"bob", "Bob"}}, nil
		},
		log: slog.New(slog.DiscardHandler),
	}
}

// fromHere is what the page's own request looks like.
func fromHere(user string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080"+sessionPath+"?user="+user, nil)
	r.RemoteAddr = "127.0.0.1:50000"
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func TestSession(t *testing.T) {
	s := testSessions()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, fromHere("bob"))
	var got session
	if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != http.StatusOK || err != nil {
		t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	if got.User != (demoUser{"bob", "Bob"}) || len(got.Users) != 2 || got.Upload != uploadPath {
		t.Errorf("session %+v", got)
	}
	if sub, err := s.key.Verify(got.Token); sub != "bob" || err != nil {
		t.Errorf("the token is for %q (%v)", sub, err)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("other sites may read it: %q", got)
	}
}

func TestSessionRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*http.Request)
		status int // 200: not refused
	}{
		"the page":                 {func(r *http.Request) {}, 200},
		"curl":                     {func(r *http.Request) { r.Header.Del("Sec-Fetch-Site") }, 200},
		"localhost":                {func(r *http.Request) { r.Host = "localhost:8080" }, 200},
		"IPv6":                     {func(r *http.Request) { r.Host, r.RemoteAddr = "[::1]:8080", "[::1]:50000" }, 200},
		"own origin":               {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:8080") }, 200},
		"another machine":          {func(r *http.Request) { r.RemoteAddr = "192.0.2.7:50000" }, 403},
		"a name that leads here":   {func(r *http.Request) { r.Host = "evil.example:8080" }, 403},
		"another address":          {func(r *http.Request) { r.Host = "192.0.2.1:8080" }, 403},
		"no host":                  {func(r *http.Request) { r.Host = "" }, 403},
		"another site":             {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"another port":             {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		"another origin":           {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:9999") }, 403},
		"a sandboxed page":         {func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		"a proxy":                  {func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.7") }, 403},
		"a proxy of another make":  {func(r *http.Request) { r.Header.Set("Forwarded", "for=192.0.2.7") }, 403},
		"nobody":                   {func(r *http.Request) { r.URL.RawQuery = "" }, 404},
		"somebody who is not here": {func(r *http.Request) { r.URL.RawQuery = "user=mallory" }, 404},
	} {
		t.Run(name, func(t *testing.T) {
			r := fromHere("alice")
			tc.change(r)
			w := httptest.NewRecorder()
			testSessions().ServeHTTP(w, r)
			if w.Code != tc.status {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tc.status)
			}
			if hasToken := strings.Contains(w.Body.String(), "token\":"); hasToken != (tc.status == 200) {
				t.Errorf("answer %s", w.Body)
			}
		})
	}
}

func TestSessionWithoutSource(t *testing.T) {
	s := testSessions()
	s.users = func(context.Context) ([]demoUser, error) { return nil, errors.New("password secret was wrong") }
	w := httptest.NewRecorder()
	s.ServeHTTP(w, fromHere("alice"))
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAppRoutes(t *testing.T) {
	mux := http.NewServeMux()
	for pattern, h := range appRoutes() {
		mux.Handle(pattern, h)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Millrace") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/assets/", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("the folder of the assets: %d %s", w.Code, w.Body)
	}
}

func TestAssets(t *testing.T) {
	h := assets(fstest.MapFS{
		"assets/a-1.js":      {Data: []byte("let a")},
		"assets/sqlite.wasm": {Data: []byte("\x00asm")},
	})
	for path, want := range map[string]string{"/assets/a-1.js": "text/javascript; charset=utf-8", "/assets/sqlite.wasm": "application/wasm"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		body, err := io.ReadAll(w.Body)
		if w.Code != http.StatusOK || err != nil || len(body) == 0 {
			t.Errorf("%s: %d (%v)", path, w.Code, err)
		}
		head := w.Header()
		if head.Get("Content-Type") != want || !strings.Contains(head.Get("Cache-Control"), "immutable") || !strings.Contains(head.Get("Content-Security-Policy"), "wasm-unsafe-eval") {
			t.Errorf("%s: %v", path, head)
		}
	}
	for _, path := range []string{"/assets", "/assets/", "/assets/b.js", "/assets/../app.go"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
