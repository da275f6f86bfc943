package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/tracetest"
	"github.com/millrace/millrace/internal/tracing"
)

// start gives a provider for a collector, and what ends it.
func start(t *testing.T, endpoint string, sample float64, log *slog.Logger) (*tracing.Provider, func()) {
	t.Helper()
	p, err := tracing.New(t.Context(), tracing.Config{Endpoint: endpoint, Sample: sample, Always: []string{"rare"}, Version: "1.2", Instance: "host/7", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return p, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
}

func only(t *testing.T, list []tracetest.Received) tracetest.Received {
	t.Helper()
	if len(list) != 1 {
		t.Fatalf("%d spans, want one: %v", len(list), list)
	}
	return list[0]
}

func TestSpansReachTheCollector(t *testing.T) {
	c := tracetest.NewCollector(t)
	p, end := start(t, c.URL, 1, slog.New(slog.DiscardHandler))
	began := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	root := millrace.BeginTraceAt(p, "root", began, millrace.RemoteSpan{})
	ctx, child := millrace.ChildSpan(root.In(t.Context()), "child")
	child.Set(slog.Int("rows", 3), slog.String("user_agent.original", "sdk/1"), slog.Bool("shadow", true), slog.Duration("read_s", 1500*time.Millisecond))
	_, grandchild := millrace.ChildSpan(ctx, "grandchild")
	grandchild.End(nil)
	child.End(nil)
	root.End(nil)
	end()

	r, ch, g := only(t, c.Spans("root")), only(t, c.Spans("child")), only(t, c.Spans("grandchild"))
	if r.Parent != "" || ch.Parent != r.ID || g.Parent != ch.ID || ch.Trace != r.Trace || g.Trace != r.Trace {
		t.Errorf("no tree: %v, %v, %v", r, ch, g)
	}
	if r.Begun != uint64(began.UnixNano()) || r.Ended <= r.Begun {
		t.Errorf("from %d to %d, want from %d", r.Begun, r.Ended, began.UnixNano())
	}
	for key, want := range map[string]string{"millrace.rows": "int_value:3", "user_agent.original": "sdk/1", "millrace.shadow": "bool_value:true", "millrace.read_s": "double_value:1.5"} {
		if got := ch.Attrs[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if about := c.Resource(); about["service.name"] != "millrace" || about["service.version"] != "1.2" || about["service.instance.id"] != "host/7" {
		t.Errorf("resource %v", about)
	}
}

// The text of an error may quote a row or a token: only its kind is sent.
func TestErrorsAreSentWithoutText(t *testing.T) {
	c := tracetest.NewCollector(t)
	p, end := start(t, c.URL, 1, slog.New(slog.DiscardHandler))
	for name, err := range map[string]error{
		"SQLSTATE 23505": fmt.Errorf("store: %w", &pgconn.PgError{Code: "23505", Detail: "Key (email)=(alice@secret) exists"}),
		"timeout":        fmt.Errorf("alice@secret: %w", context.DeadlineExceeded),
		"canceled":       context.Canceled,
		"_OTHER":         errors.New("alice@secret"),
	} {
		millrace.BeginTrace(p, name).End(err)
	}
	end()
	for _, s := range c.Spans("") {
		if !s.Failed || s.Attrs["error.type"] != s.Name {
			t.Errorf("%s: error.type %q, failed %v", s.Name, s.Attrs["error.type"], s.Failed)
		}
		if text := fmt.Sprint(s); strings.Contains(text, "secret") {
			t.Errorf("the text of an error was sent: %s", text)
		}
	}
}

func TestATraceOfTheClientIsContinued(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	c := tracetest.NewCollector(t)
	p, end := start(t, c.URL, 0, slog.New(slog.DiscardHandler))
	begin := func(name, header string) millrace.Span {
		return millrace.BeginTraceAt(p, name, time.Time{}, millrace.RemoteSpan{Parent: header})
	}
	begin("continued", "00-"+trace+"-"+parent+"-01").End(nil)
	for _, header := range []string{"00-" + trace + "-" + parent + "-00", "", "00-nonsense-" + parent + "-01", strings.Repeat("x", 10_000)} {
		if s := begin("not recorded", header); s.On() {
			t.Errorf("traceparent %.60q is recorded", header)
		}
	}
	end()
	if s := only(t, c.Spans("")); s.Trace != trace || s.Parent != parent || s.Name != "continued" {
		t.Errorf("%v", s)
	}
}

func TestSampling(t *testing.T) {
	c := tracetest.NewCollector(t)
	p, end := start(t, c.URL, 0.25, slog.New(slog.DiscardHandler))
	const n = 4000
	recorded := 0
	for range n {
		s := millrace.BeginTrace(p, "often")
		if s.On() {
			recorded++
		}
		if s.Child("part").On() != s.On() {
			t.Fatal("a part of a trace is decided apart from the trace")
		}
		if !millrace.BeginTrace(p, "rare").On() {
			t.Fatal("what is always recorded was not")
		}
	}
	end()
	// Six standard deviations of a binomial distribution are 164.
	if recorded < n/4-200 || recorded > n/4+200 {
		t.Errorf("%d of %d traces recorded, want a quarter", recorded, n)
	}
}

// lines counts log lines with a text.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// A collector that hangs: recording goes on without it, in bounded memory, and
// the end of the process waits no longer than it is told to.
func TestAHangingCollectorHoldsNothingUp(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-release
	}))
	defer server.Close()
	defer close(release)
	p, err := tracing.New(t.Context(), tracing.Config{Endpoint: server.URL, Sample: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	millrace.BeginTrace(p, "first").End(nil)
	// Far more than the queue holds, while nothing is taken out of it.
	for i := range 50_000 {
		if i == 1000 {
			<-asked
		}
		millrace.BeginTrace(p, "span").End(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown while the collector hangs: %v, want that its time is up", err)
	}
}

// One line when the collector stops taking spans, one when it does again.
func TestAFailingCollectorIsToldOnce(t *testing.T) {
	var mu sync.Mutex
	down, refused := true, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			refused++
			w.WriteHeader(http.StatusForbidden) // not tried again
		}
	}))
	defer server.Close()
	var log lines
	endpoint := strings.Replace(server.URL, "http://", "http://me:password@", 1)
	p, end := start(t, endpoint, 1, slog.New(slog.NewTextHandler(&log, nil)))
	wait := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); {
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s", what)
			}
			for range 512 { // a batch, so that it is sent at once
				millrace.BeginTrace(p, "span").End(nil)
			}
			time.Sleep(time.Millisecond)
		}
	}
	wait("three refused batches", func() bool { mu.Lock(); defer mu.Unlock(); return refused >= 3 })
	if n := log.count("takes no spans"); n != 1 {
		t.Errorf("the outage was logged %d times", n)
	}
	mu.Lock()
	down = false
	mu.Unlock()
	wait("the end of the outage", func() bool { return log.count("takes spans again") == 1 })
	end()
	if log.count("password") != 0 {
		t.Error("a password was logged")
	}
}

func TestEndpoints(t *testing.T) {
	for _, tc := range []struct{ path, want string }{
		{"", "/v1/traces"}, {"/", "/v1/traces"}, {"/otlp", "/otlp/v1/traces"}, {"/v1/traces", "/v1/traces"},
	} {
		paths := make(chan string, 1)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { paths <- req.URL.Path }))
		p, end := start(t, server.URL+tc.path, 1, slog.New(slog.DiscardHandler))
		millrace.BeginTrace(p, "span").End(nil)
		end()
		server.Close()
		if got := <-paths; got != tc.want {
			t.Errorf("an endpoint with path %q was asked at %s, want %s", tc.path, got, tc.want)
		}
	}
	if _, err := tracing.New(t.Context(), tracing.Config{Endpoint: "collector:4318"}); err == nil {
		t.Error("an endpoint that is no URL was taken")
	}
}

// BenchmarkTrace is what a trace of three spans costs that is recorded; compare
// BenchmarkTraceOff of the root package.
func BenchmarkTrace(b *testing.B) {
	for _, sample := range []float64{0, 0.05, 1} {
		b.Run(fmt.Sprintf("sample=%v", sample), func(b *testing.B) {
			server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer server.Close()
			p, err := tracing.New(b.Context(), tracing.Config{Endpoint: server.URL, Sample: sample, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Shutdown(context.WithoutCancel(b.Context()))
			b.ReportAllocs()
			for b.Loop() {
				span := millrace.BeginTrace(p, "outer")
				ctx, inner := millrace.ChildSpan(span.In(b.Context()), "inner")
				_, last := millrace.ChildSpan(ctx, "last")
				if last.On() {
					last.Set(slog.Int("rows", 1))
				}
				last.End(nil)
				inner.End(nil)
				span.End(nil)
			}
		})
	}
}
