package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/store"
)

// compactionMeters count what compaction does while this process leads; all is
// zero elsewhere. A nil one counts nothing.
type compactionMeters struct {
	rounds                           *prometheus.CounterVec
	buckets, deleted, emptied, skips prometheus.Counter
	bytes                            prometheus.Counter
	seconds                          prometheus.Histogram
}

func newCompactionMeters(registry prometheus.Registerer) *compactionMeters {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &compactionMeters{
		rounds:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_compaction_rounds_total", Help: "Rounds of compaction, by result: ok or failed."}, []string{"result"}),
		buckets: counter("millrace_compaction_buckets_total", "Buckets compacted."),
		deleted: counter("millrace_compaction_deleted_ops_total", "Ops that compaction deleted."),
		emptied: counter("millrace_compaction_emptied_ops_total", "Ops of which compaction left the op id and the checksum."),
		bytes:   counter("millrace_compaction_freed_bytes_total", "Bytes of data that compaction gave back."),
		skips:   counter("millrace_compaction_skipped_buckets_total", "Times a bucket was left for the next round, since it was in use or an error came."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_compaction_round_seconds", Help: "Duration of a round of compaction.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 8)}),
	}
	registry.MustRegister(m.rounds, m.seconds)
	for _, result := range []string{"ok", "failed"} {
		m.rounds.WithLabelValues(result)
	}
	return m
}

// round counts one; see store.CompactionOptions.Done.
func (m *compactionMeters) round(r store.CompactionReport, took time.Duration, err error) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.rounds.WithLabelValues(result).Inc()
	m.seconds.Observe(took.Seconds())
	m.buckets.Add(float64(r.Done))
	m.deleted.Add(float64(r.Deleted))
	m.emptied.Add(float64(r.Emptied))
	m.bytes.Add(float64(max(r.Bytes, 0)))
	m.skips.Add(float64(r.Skipped + r.Failed))
}
