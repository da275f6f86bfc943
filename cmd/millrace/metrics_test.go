package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/store"
)

func getMetrics(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %d %s (%v)", res.StatusCode, b, err)
	}
	return string(b)
}

var metricName = regexp.MustCompile(`\b(?:millrace|process|go)_[a-z0-9_]+`)

// A process that syncs a client tells everything the dashboard and the alerts
// ask for, in names and units that Prometheus' own linter accepts.
func TestMetrics(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	c := s.dial(t, "alice", nil)
	defer c.Close()
	c.Until(1)

	var text string
	pgtest.Eventually(t, time.Minute, func() error {
		text = getMetrics(t, s.url)
		for _, want := range []string{
			`millrace_sidecar_up 1`, `millrace_relay_ready 1`, `millrace_source_up{source="main"} 1`, `millrace_source_lag_bytes{source="main"}`,
			`millrace_relay_sessions{transport="http"} 1`, `millrace_relay_sessions_opened_total{transport="http"} 1`,
			`millrace_definition_buckets{definition="`, `millrace_slot_retained_bytes{source="main"}`,
		} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %s in\n%s", want, text)
			}
		}
		return nil
	})
	if m := regexp.MustCompile(`millrace_relay_sent_ops_total\{transport="http"\} (\S+)`).FindStringSubmatch(text); m == nil || m[1] == "0" {
		t.Errorf("ops sent: %v", m)
	}
	if strings.Contains(text, "alice") {
		t.Error("the metrics name a user")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "millrace_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	told := map[string]bool{}
	for line := range strings.Lines(text) {
		// Vectors show nothing before their first event, but are described.
		if f := strings.Fields(line); len(f) > 2 && f[1] == "TYPE" {
			told[f[2]] = true
			if f[3] == "histogram" {
				told[f[2]+"_bucket"] = true
			}
		}
	}
	// These tell of what has not happened here, or has no limit.
	for _, name := range []string{"millrace_relay_sessions_ended_total", "millrace_relay_refused_total", "millrace_relay_denied_total", "millrace_slot_safe_bytes", "millrace_slot_fills_in_seconds"} {
		told[name] = true
	}
	asked := map[string]bool{}
	for _, file := range []string{"../../deploy/grafana/millrace.json", "../../deploy/prometheus/alerts.yml"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := metricName.FindAllString(string(b), -1)
		if strings.HasSuffix(file, ".json") {
			names = dashboardNames(t, b)
		}
		for _, n := range names {
			asked[n] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !told[name] {
			t.Errorf("the dashboard or an alert asks for %s, which is not told", name)
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %d metrics are asked for: were they found?", len(asked))
	}
}

// dashboardNames are the metrics that the panels of a Grafana dashboard ask for.
func dashboardNames(t *testing.T, b []byte) (names []string) {
	t.Helper()
	var d struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			names = append(names, metricName.FindAllString(target.Expr, -1)...)
		}
	}
	return names
}

// Compaction counts what it did, and rounds that failed.
func TestCompactionMeters(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newCompactionMeters(registry)
	m.round(store.CompactionReport{Done: 3, Deleted: 10, Emptied: 4, Bytes: 1000, Skipped: 1, Failed: 2}, 2*time.Second, nil)
	m.round(store.CompactionReport{Done: 1, Bytes: -5}, time.Second, errors.New("down"))
	(*compactionMeters)(nil).round(store.CompactionReport{}, 0, nil) // a relay's
	out := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(out, httptest.NewRequest("GET", metricsPath, nil))
	for _, want := range []string{
		"millrace_compaction_buckets_total 4", "millrace_compaction_deleted_ops_total 10", "millrace_compaction_emptied_ops_total 4",
		"millrace_compaction_freed_bytes_total 1000", "millrace_compaction_skipped_buckets_total 3", "millrace_compaction_round_seconds_sum 3",
		`millrace_compaction_rounds_total{result="failed"} 1`, `millrace_compaction_rounds_total{result="ok"} 1`,
	} {
		if !strings.Contains(out.Body.String(), "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, out.Body)
		}
	}
}

// Without the sidecar the process still tells of itself, and no old numbers; it
// goes on by itself when the sidecar is back.
func TestMetricsWithoutSidecar(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	uri := server.Database(t)
	if err := migrations.Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Sidecar.URI = config.URI(uri)
	metrics, closeMetrics := newMetrics(&cfg, prometheus.NewRegistry(), nil, slog.New(slog.DiscardHandler))
	defer closeMetrics()
	h := httptest.NewServer(metrics)
	defer h.Close()
	says := func(yes, no string) {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			if text := getMetrics(t, h.URL); !strings.Contains(text, yes) || no != "" && strings.Contains(text, no) || !strings.Contains(text, "go_goroutines") {
				return fmt.Errorf("wanted %q, not %q:\n%s", yes, no, text)
			}
			return nil
		})
	}
	says("millrace_sidecar_up 1", "millrace_sidecar_up 0")
	server.Stop(t)
	says("millrace_sidecar_up 0", "millrace_op_id")
	server.Start(t)
	says("millrace_op_id 0", "millrace_sidecar_up 0")
}
