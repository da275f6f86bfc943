package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/config"
)

// metricsPath is where Prometheus asks.
const metricsPath = "/metrics"

// Asking the sidecar for a scrape.
const (
	scrapeTimeout = 5 * time.Second
	scrapeKeep    = 2 * time.Second // an answer serves the scrapes within this time
	sizesKeep     = time.Minute     // sizes of definitions take longer to count
)

// newMetrics serves the process's own metrics, which it adds to own, those of more (the relay's, if
// there is one), and what the sidecar's views tell of replication. Nothing in
// them names a user or a row.
// The returned function gives the connection to the sidecar up.
func newMetrics(cfg *config.Config, own *prometheus.Registry, more prometheus.Gatherer, log *slog.Logger) (http.Handler, func()) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "millrace_build_info", Help: "1, with the version of the binary.",
		ConstLabels: prometheus.Labels{"version": versionText()},
	})
	build.Set(1)
	sidecar := &sidecarCollector{uri: string(cfg.Sidecar.URI), log: log, now: time.Now}
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build, sidecar)
	all := prometheus.Gatherers{own}
	if more != nil {
		all = append(all, more)
	}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4, Timeout: 2 * scrapeTimeout,
	}), sidecar.Close
}

// gauges are read from the sidecar, one statement each: the columns before the
// values are labels, in this order; rows may be many.
type gauges struct {
	labels []string
	names  []string // of the metrics, in the order of the values
	help   []string
	query  string
	keep   time.Duration
}

// sidecarGauges asks the public views only.
var sidecarGauges = []gauges{
	{
		names: []string{
			"millrace_op_id", "millrace_checkpoint_seq", "millrace_checkpoint_age_seconds", "millrace_decoder_heartbeat_age_seconds",
			"millrace_row_errors", "millrace_copy_tables", "millrace_copy_tables_done", "millrace_copy_rows", "millrace_copy_rows_expected",
		},
		help: []string{
			"Op id of the newest checkpoint.", "Number of the newest checkpoint.", "Since the newest checkpoint was written.",
			"Since the leading decoder's last heartbeat; it beats every two seconds.",
			"Source rows that could not be evaluated or stored.", "Tables copied for the rule set being built.",
			"Of these, copied in full.", "Rows copied for it.", "Rows expected.",
		},
		query: `SELECT op_id::float8, seq::float8, extract(epoch FROM clock_timestamp() - checkpoint_at)::float8,
			extract(epoch FROM clock_timestamp() - heartbeat_at)::float8, row_errors::float8,
			coalesce(copy_tables, 0)::float8, coalesce(copy_tables_done, 0)::float8, coalesce(copy_rows, 0)::float8, coalesce(copy_estimate, 0)::float8
			FROM millrace.status`,
		keep: scrapeKeep,
	},
	{
		labels: []string{"source"},
		names:  []string{"millrace_source_up", "millrace_source_lag_bytes", "millrace_source_lag_seconds", "millrace_slot_retained_bytes", "millrace_source_report_age_seconds"},
		help: []string{
			"1 if the source is followed, 0 if it has failed since there was progress last.",
			"WAL of the source that no checkpoint contains.", "Age of the newest contained transaction, 0 if nothing is missing.",
			"WAL that the slot holds back on the source.", "Since the decoder last reported on the source.",
		},
		query: `SELECT source, (error IS NULL)::int::float8, lag_bytes::float8, lag_seconds::float8, retained_bytes::float8,
			extract(epoch FROM clock_timestamp() - reported_at)::float8 FROM millrace.replication`,
		keep: scrapeKeep,
	},
	{
		labels: []string{"source"},
		names:  []string{"millrace_slot_safe_bytes", "millrace_slot_fills_in_seconds", "millrace_histories_lost"},
		help: []string{
			"WAL that may be written before the slot is in danger; missing without max_slot_wal_keep_size.",
			"When that is used up at the rate of the last hour; missing beyond 48 hours.",
			"How often the source's history was lost and built anew.",
		},
		query: `SELECT source, safe_bytes::float8, extract(epoch FROM fills_in)::float8, histories_lost::float8 FROM millrace.slot_health`,
		keep:  scrapeKeep,
	},
	{
		names: []string{"millrace_pending_write_checkpoints", "millrace_oldest_pending_write_checkpoint_seconds"},
		help:  []string{"Uploads that no checkpoint contains yet.", "How long the oldest of them has waited."},
		query: `SELECT count(*)::float8, coalesce(extract(epoch FROM max(waiting)), 0)::float8 FROM millrace.pending_write_checkpoints`,
		keep:  scrapeKeep,
	},
	{
		labels: []string{"definition", "name", "kind", "state"},
		names:  []string{"millrace_definition_buckets", "millrace_definition_disk_bytes"},
		help:   []string{"Buckets of a definition.", "Bytes on disk of its history."},
		query:  `SELECT id::text, name, kind::text, state, buckets::float8, disk_bytes::float8 FROM millrace.definitions`,
		keep:   sizesKeep,
	},
}

// sidecarCollector asks the sidecar when it is scraped. Safe for concurrent
// use.
type sidecarCollector struct {
	uri string
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	conn    *pgx.Conn
	answers [][]prometheus.Metric // per element of sidecarGauges
	asked   []time.Time
	failing bool
}

var sidecarUp = prometheus.NewDesc("millrace_sidecar_up", "1 if the sidecar answered this scrape.", nil, nil)

// Describe implements prometheus.Collector: which metrics there are depends on
// the sidecar.
func (c *sidecarCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *sidecarCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	up := 1.0
	if err := c.ask(ctx); err != nil {
		up = 0
		if !c.failing {
			c.log.Warn("metrics of the sidecar are missing", "error", err)
		}
	}
	c.failing = up == 0
	out <- prometheus.MustNewConstMetric(sidecarUp, prometheus.GaugeValue, up)
	if up == 0 {
		return // old numbers would look like present ones
	}
	for _, list := range c.answers {
		for _, m := range list {
			out <- m
		}
	}
}

// ask brings the answers up to date.
func (c *sidecarCollector) ask(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			c.close(ctx)
		}
	}()
	if c.answers == nil {
		c.answers, c.asked = make([][]prometheus.Metric, len(sidecarGauges)), make([]time.Time, len(sidecarGauges))
	}
	for i := range sidecarGauges {
		g := &sidecarGauges[i]
		if !c.asked[i].IsZero() && c.now().Sub(c.asked[i]) < g.keep {
			continue
		}
		if c.conn == nil {
			if c.conn, err = pgx.Connect(ctx, c.uri); err != nil {
				return err
			}
		}
		if c.answers[i], err = g.read(ctx, c.conn); err != nil {
			return err
		}
		c.asked[i] = c.now()
	}
	return nil
}

// Close gives the connection up.
func (c *sidecarCollector) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	c.close(ctx)
}

// close gives the connection up, and what was read over it.
func (c *sidecarCollector) close(ctx context.Context) {
	if c.conn != nil {
		_ = c.conn.Close(context.WithoutCancel(ctx)) // it is of no use any more
	}
	c.conn, c.answers = nil, nil
}

func (g *gauges) read(ctx context.Context, conn *pgx.Conn) ([]prometheus.Metric, error) {
	rows, err := conn.Query(ctx, g.query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	labels, values := make([]string, len(g.labels)), make([]*float64, len(g.names))
	var into []any
	for i := range labels {
		into = append(into, &labels[i])
	}
	for i := range values {
		into = append(into, &values[i])
	}
	descs := make([]*prometheus.Desc, len(g.names))
	for i, name := range g.names {
		descs[i] = prometheus.NewDesc(name, g.help[i], g.labels, nil)
	}
	var list []prometheus.Metric
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("read %s: %w", g.names[0], err)
		}
		for i, v := range values {
			if v != nil { // null: unknown
				list = append(list, prometheus.MustNewConstMetric(descs[i], prometheus.GaugeValue, *v, labels...))
			}
		}
	}
	return list, rows.Err()
}
