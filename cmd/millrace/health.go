package main

import (
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/devserver"
)

// health is what the probes answer. Safe for concurrent use.
type health struct {
	// clients tells why clients cannot be served; nil if this process serves
	// none. Set before use.
	clients func() error

	mu      sync.Mutex // guards what follows
	started bool
	role    string // what this process does at present
	reason  string // why it is not ready; empty when it is
	// problems of sources in words. They do not make the process unready:
	// what the sidecar holds can be served without a source.
	problems map[millrace.SourceID]string
}

func newHealth() *health { return &health{role: "starting", reason: "it is starting"} }

// set says what the process does, and why that is not its work yet; an empty
// reason means ready.
func (h *health) set(role, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started = h.started || reason == ""
	h.role, h.reason = role, reason
	h.problems = nil
}

// report notes the present failure of a source, or that there is none.
func (h *health) report(r millrace.SourceReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Error == "" {
		delete(h.problems, r.Source)
		return
	}
	if h.problems == nil {
		h.problems = make(map[millrace.SourceID]string)
	}
	h.problems[r.Source] = redact(r.Error)
}

type probeAnswer struct {
	Status   string   `json:"status"`
	Role     string   `json:"role,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

func (h *health) answer() (probeAnswer, bool) {
	var unserved error
	if h.clients != nil {
		unserved = h.clients()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.reason != "":
		return probeAnswer{Status: "not ready", Role: h.role, Reason: h.reason}, h.started
	case unserved != nil:
		return probeAnswer{Status: "not ready", Role: h.role, Reason: "clients cannot be served: " + redact(unserved.Error())}, h.started
	}
	a := probeAnswer{Status: "ready", Role: h.role}
	for _, id := range slices.Sorted(maps.Keys(h.problems)) {
		a.Problems = append(a.Problems, h.problems[id])
	}
	return a, h.started
}

// rootPattern is the page that a visitor of the address sees.
const rootPattern = "GET /{$}"

// newMux serves probes, the start page, more, and clients with the rest;
// without a handler for clients, a plain answer. page is what the start page
// says; it must hold no secrets. It is at /status, and at / too unless more has
// a page there.
func newMux(h *health, page startPage, clients http.Handler, more devserver.Routes) *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, handler := range more {
		mux.Handle(pattern, handler)
	}
	mux.HandleFunc("GET /probes/liveness", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, probeAnswer{Status: "alive"})
	})
	mux.HandleFunc("GET /probes/startup", func(w http.ResponseWriter, _ *http.Request) {
		a, started := h.answer()
		if started {
			a = probeAnswer{Status: "started", Role: a.Role}
		}
		writeJSON(w, statusOf(started), a)
	})
	mux.HandleFunc("GET /probes/readiness", func(w http.ResponseWriter, _ *http.Request) {
		a, _ := h.answer()
		writeJSON(w, statusOf(a.Reason == ""), a)
	})
	start := func(w http.ResponseWriter, _ *http.Request) {
		a, _ := h.answer()
		head := w.Header()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		head.Set("Cache-Control", "no-store")
		// What fails here is the connection: nobody is left to be told.
		_ = startTemplate.Execute(w, struct {
			startPage
			probeAnswer
			Clients bool
		}{page, a, h.clients != nil})
	}
	mux.HandleFunc("GET /status", start)
	mux.HandleFunc("GET "+devserver.ConsolePath, start)
	if _, taken := more[rootPattern]; !taken {
		mux.HandleFunc(rootPattern, start)
	}
	if clients == nil {
		clients = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, http.StatusNotFound, map[string]any{"error": map[string]any{
				"code": "PSYNC_S2002", "status": http.StatusNotFound,
				"description": r.Method + " " + r.URL.Path + " is not served: this process has no relay (--role decoder), only /status, /probes/startup, /probes/liveness and /probes/readiness",
			}})
		})
	}
	mux.Handle("/", clients)
	return mux
}

func statusOf(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // what fails here is the connection
}

// startPage is what /status shows beside the health.
type startPage struct {
	Version string
	Sources []pageDatabase
	Sidecar pageDatabase
	Rules   string
}

// pageDatabase is a database with a connection string without its password.
type pageDatabase struct{ Name, URI string }

var startTemplate = template.Must(template.New("start").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Millrace</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 3rem auto; padding: 0 1rem; color: #1d2630; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code, pre { font: 14px/1.5 ui-monospace, monospace; background: #f1f4f7; border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: .8em 1em; overflow-x: auto; }
.ready { color: #126b35; } .waiting { color: #9a5b00; }
@media (prefers-color-scheme: dark) { body { color: #dfe6ee; background: #14191f; } code, pre { background: #222a33; } .ready { color: #5fd08a; } .waiting { color: #f0b45c; } }
</style>
</head>
<body>
<h1>Millrace</h1>
<p>{{if .Reason}}<strong class="waiting">Not ready:</strong> {{.Reason}}{{else}}<strong class="ready">Ready</strong>, {{.Role}}.{{end}}</p>
{{range .Problems}}<p><strong class="waiting">Source:</strong> {{.}}</p>
{{end}}<p>{{.Version}} · rules in <code>{{.Rules}}</code></p>
<h2>Look at it with psql</h2>
{{range .Sources}}<p>Source <code>{{.Name}}</code>, the app's own database:</p>
<pre>psql {{.URI}}</pre>
{{end}}<p>Sidecar, the history that clients are served from:</p>
<pre>psql {{.Sidecar.URI}}
SELECT * FROM millrace.status;
SELECT * FROM millrace.buckets LIMIT 20;</pre>
<p>Passwords are not shown here; <code>millrace dev</code> prints complete addresses in its terminal.</p>
<h2>Probes</h2>
<p><code>/probes/startup</code>, <code>/probes/liveness</code> and <code>/probes/readiness</code> answer in JSON.
{{if .Clients}}Clients connect to this address: <code>POST /sync/stream</code> for PowerSync SDKs, <code>GET /sync/ws</code> for ours.{{end}}</p>
</body>
</html>
`))
