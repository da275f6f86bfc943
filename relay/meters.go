package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are the relay's metrics, in a registry of its own. No label comes from
// a client: their number is bounded.
type meters struct {
	registry *prometheus.Registry
	bytes    *prometheus.CounterVec
	ops      *prometheus.CounterVec
	sessions *prometheus.GaugeVec
	opened   *prometheus.CounterVec
	ended    *prometheus.CounterVec
	denied   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	nodes    prometheus.Counter
	overrun  prometheus.Counter
	delay    prometheus.Histogram
	fanOut   prometheus.Histogram
	pages    prometheus.Histogram
	writes   prometheus.Histogram
}

func newMeters() *meters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &meters{
		registry: prometheus.NewRegistry(),
		bytes:    counters("millrace_relay_sent_bytes_total", "Bytes of lines sent to clients, before compression.", "transport"),
		ops:      counters("millrace_relay_sent_ops_total", "Operations sent to clients.", "transport"),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_relay_sessions", Help: "Connected clients."}, []string{"transport"}),
		opened:   counters("millrace_relay_sessions_opened_total", "Clients that were let in.", "transport"),
		ended:    counters("millrace_relay_sessions_ended_total", "Sessions ended by the relay, by code.", "code"),
		denied:   counters("millrace_relay_denied_total", "Tokens refused, by code.", "code"),
		refused:  counters("millrace_relay_refused_total", "Connections refused, by the limit that refused them.", "limit"),
		nodes:    counter("millrace_relay_checkpoints_total", "Checkpoints published to sessions."),
		overrun:  counter("millrace_relay_overrun_total", "Times a slow session's mailbox was full, so that it goes on by pages."),
		delay: histogram("millrace_relay_publish_delay_seconds", "From the commit on the source to the hand-over to sessions.",
			prometheus.ExponentialBuckets(0.001, 2, 14)),
		fanOut: histogram("millrace_relay_checkpoint_sessions", "Sessions reached by one checkpoint.", prometheus.ExponentialBuckets(1, 4, 9)),
		pages: histogram("millrace_relay_page_seconds", "Reading one page of history for a session that catches up, waiting for the right to read included.",
			prometheus.ExponentialBuckets(0.001, 2, 14)),
		writes: histogram("millrace_relay_write_checkpoint_seconds", "Storing a write checkpoint request.", prometheus.ExponentialBuckets(0.001, 2, 14)),
	}
	m.registry.MustRegister(m.bytes, m.ops, m.sessions, m.opened, m.ended, m.denied, m.refused, m.nodes, m.overrun, m.delay, m.fanOut, m.pages, m.writes)
	return m
}

// watch adds what is read from the relay when asked.
func (m *meters) watch(r *Relay) {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	m.registry.MustRegister(
		gauge("millrace_relay_max_sessions", "The limit of connected clients, relay.max_connections.", func() float64 { return float64(r.limits.Connections) }),
		gauge("millrace_relay_opening", "WebSockets whose first message is waited for.", func() float64 { return float64(r.opening.Load()) }),
		gauge("millrace_relay_op_id", "Newest op id published.", func() float64 { return float64(r.publisher.currentStatus().head.OpID) }),
		gauge("millrace_relay_ready", "1 if clients can be served.", func() float64 {
			if r.Ready() != nil {
				return 0
			}
			return 1
		}),
		gauge("millrace_relay_waiting_sessions", "Sessions that wait for the publisher: new ones, and those whose rights are resolved again.",
			func() float64 { return float64(r.publisher.queued()) }),
		gauge("millrace_relay_waiting_write_checkpoints", "Write checkpoint requests that wait to be stored.",
			func() float64 { return float64(len(r.writes.queue)) }),
	)
}

// sessionMeters are the counters of one transport.
type sessionMeters struct {
	bytes, ops prometheus.Counter
	sessions   prometheus.Gauge
	opened     prometheus.Counter
}

func (m *meters) transport(kind string) *sessionMeters {
	return &sessionMeters{
		bytes: m.bytes.WithLabelValues(kind), ops: m.ops.WithLabelValues(kind),
		sessions: m.sessions.WithLabelValues(kind), opened: m.opened.WithLabelValues(kind),
	}
}

func (m *sessionMeters) sent(bytes, ops int) {
	m.bytes.Add(float64(bytes))
	m.ops.Add(float64(ops))
}

func (m *meters) node(sessions int, committed, now time.Time) {
	m.nodes.Inc()
	m.fanOut.Observe(float64(sessions))
	if !committed.IsZero() {
		m.delay.Observe(now.Sub(committed).Seconds())
	}
}

// Metrics is the registry of the relay's metrics.
func (r *Relay) Metrics() prometheus.Gatherer { return r.meters.registry }
