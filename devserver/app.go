package devserver

import (
	"context"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace/demo"
)

// Addresses of the demo. The app knows them too.
const (
	uploadPath  = "/demo/upload"  // where the demo's backend takes writes
	sessionPath = "/demo/session" // where the app's page gets its users' tokens
)

// sessionLifetime is how long a token of the page is valid. It asks again in
// time.
const sessionLifetime = time.Hour

// appPolicy lets the page load what is its own, and compile SQLite.
const appPolicy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// appRoutes serve the files of the demo's app at / and /assets/.
func appRoutes() Routes {
	files, built := demo.App()
	page := func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Cache-Control", "no-cache")
		if built { // the other page has a style of its own and nothing else
			head.Set("Content-Security-Policy", appPolicy)
		}
		head.Set("X-Content-Type-Options", "nosniff")
		http.ServeFileFS(w, r, files, "index.html")
	}
	return Routes{
		"GET /{$}":     http.HandlerFunc(page),
		"GET /assets/": assets(files),
	}
}

// assets have the hash of their content in their names. Workers take their
// policy from their own files.
func assets(files fs.FS) http.Handler {
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, err := fs.Stat(files, strings.TrimPrefix(r.URL.Path, "/")); err != nil || info.IsDir() {
			http.NotFound(w, r)
			return
		}
		head := w.Header()
		head.Set("Cache-Control", "public, max-age=31536000, immutable")
		head.Set("Content-Security-Policy", appPolicy)
		head.Set("X-Content-Type-Options", "nosniff")
		serve.ServeHTTP(w, r)
	})
}

// sessions hand out tokens for the demo's users: to pages of this server, in a
// browser of this machine. There is no log-in, so nobody else gets one.
type sessions struct {
	key   Key
	users func(context.Context) ([]demoUser, error)
	log   *slog.Logger
}

type demoUser struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type session struct {
	User   demoUser   `json:"user"`
	Token  string     `json:"token"`
	Upload string     `json:"upload"` // path of the backend
	Users  []demoUser `json:"users"`  // whom lists can be shared with, the user among them
}

// readUsers asks the source.
func readUsers(pool *pgxpool.Pool) func(context.Context) ([]demoUser, error) {
	return func(ctx context.Context) ([]demoUser, error) {
		rows, err := pool.Query(ctx, `SELECT id, name FROM users ORDER BY name, id LIMIT 100`)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[demoUser])
	}
}

// ServeHTTP answers GET ?user=ID with a session.
func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	if why := refuse(r); why != "" {
		http.Error(w, "tokens are given to the demo's own page on this machine only: "+why, http.StatusForbidden)
		return
	}
	id := r.URL.Query().Get("user")
	users, err := s.users(r.Context())
	if r.Context().Err() != nil {
		return // nobody waits for an answer
	}
	if err != nil {
		s.log.Warn("read the demo's users", "error", err)
		head.Set("Retry-After", "2")
		http.Error(w, "the source cannot be asked for its users now", http.StatusServiceUnavailable)
		return
	}
	answer := session{Upload: uploadPath, Users: users}
	for _, u := range users {
		if u.ID == id {
			answer.User = u
		}
	}
	if answer.User.ID == "" {
		http.Error(w, "the demo has no such user: see the table users of the source", http.StatusNotFound)
		return
	}
	if answer.Token, err = s.key.Sign(id, nil, sessionLifetime, time.Now()); err != nil {
		s.log.Error("sign a token", "error", err)
		http.Error(w, "no token could be made", http.StatusInternalServerError)
		return
	}
	head.Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // what fails here is the connection
}

// refuse says why a request is not from the demo's page on this machine; empty:
// it is. The name in the Host header keeps out pages of other sites whose name
// was made to lead here; a proxy on this machine would speak for others.
func refuse(r *http.Request) string {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "Via"} {
		if r.Header.Get(name) != "" {
			return "the request came through a proxy"
		}
	}
	switch from := r.Header.Get("Sec-Fetch-Site"); from {
	case "", "none", "same-origin":
	default:
		return "another site asked for them"
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return "another site asked for them"
		}
	}
	if !loopback(r.RemoteAddr) {
		return "the request came from another machine"
	}
	if !loopback(r.Host) {
		return "open the page at http://127.0.0.1 or http://localhost, with the port"
	}
	return ""
}

// loopback tells whether a host, with or without a port, is this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
