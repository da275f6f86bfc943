package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters are the relay's metrics, in a registry of its own.
type meters struct {
	registry *prometheus.Registry
	bytes    prometheus.Counter
	ops      prometheus.Counter
	nodes    prometheus.Counter
	refused  prometheus.Counter
	denied   *prometheus.CounterVec
	delay    prometheus.Histogram
	fanOut   prometheus.Histogram
}

func newMeters() *meters {
	m := &meters{
		registry: prometheus.NewRegistry(),
		bytes:    prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_relay_sent_bytes_total", Help: "Bytes of lines sent to clients, before compression."}),
		ops:      prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_relay_sent_ops_total", Help: "Operations sent to clients."}),
		nodes:    prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_relay_checkpoints_total", Help: "Checkpoints published to sessions."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_relay_refused_total", Help: "Connections refused at the limit."}),
		denied:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_relay_denied_total", Help: "Tokens refused, by code."}, []string{"code"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_relay_publish_delay_seconds",
			Help: "From the commit on the source to the hand-over to sessions.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		fanOut: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_relay_checkpoint_sessions",
			Help: "Sessions reached by one checkpoint.", Buckets: prometheus.ExponentialBuckets(1, 4, 9)}),
	}
	m.registry.MustRegister(m.bytes, m.ops, m.nodes, m.refused, m.denied, m.delay, m.fanOut)
	return m
}

// watch adds what is read from the relay when asked.
func (m *meters) watch(r *Relay) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "millrace_relay_sessions", Help: "Connected clients."}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(len(r.sessions))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "millrace_relay_op_id", Help: "Newest op id published."}, func() float64 {
			return float64(r.publisher.currentStatus().head.OpID)
		}),
	)
}

func (m *meters) sent(bytes, ops int) {
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
