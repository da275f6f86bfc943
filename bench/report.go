package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// report gathers measurements and prints them.
type report struct {
	settings                             settings
	started                              time.Time
	machine, postgres, goVersion, commit string

	start time.Duration // process start to the first checkpoint with everything
	copy  measurement
	pairs []pair
	bytes opBytes
	// latencies are from COMMIT on the source to a visible checkpoint, idle.
	latencies []time.Duration
	clients   clientFigures
	relay     relayFigures
	deploys   *deployFigures // nil unless only they are measured
	memory    *memoryFigures // the same
}

// pair is one run: both readers had the same rows.
type pair struct {
	size                   int
	naive, pipeline, bound measurement
}

func (r *report) add(size int, naive, pipeline, bound measurement) {
	r.pairs = append(r.pairs, pair{size, naive, pipeline, bound})
}

// spread is the median, and the least and greatest when there are several.
func spread(format string, values []float64) string {
	v := slices.Sorted(slices.Values(values))
	text := fmt.Sprintf(format, v[len(v)/2])
	if len(v) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", v[0], v[len(v)-1])
	}
	return text
}

func (r *report) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s := r.settings
	title := "# Slot to durable checkpoint"
	switch {
	case s.only == "relay":
		title = "# One process, many clients"
	case r.deploys != nil:
		title = "# A change of the rules"
	case r.memory != nil:
		title = "# Memory"
	}
	p("%s", title)
	p("")
	p("* %s, commit %s", r.started.UTC().Format("2006-01-02 15:04 UTC"), r.commit)
	p("* %s", r.machine)
	p("* PostgreSQL %s, source and sidecar on the same machine, sidecar with fsync; %s", r.postgres, r.goVersion)
	if p("* `%s`", s.command()); r.deploys == nil && r.memory == nil {
		p("* median (least–greatest) of %d", s.runs)
	}
	p("")
	if r.deploys != nil {
		r.deploys.lines(p)
		return b.String()
	}
	if r.memory != nil {
		r.memory.lines(p)
		return b.String()
	}
	if len(r.pairs) > 0 {
		r.pipeline(p)
		r.writePath(p)
	}
	if s.only != "relay" {
		p("Initial copy of %d rows: %.0f rows/s (%.2f s; %.2f s from the start of the process to the checkpoint with all rows), "+
			"%.1f µs of CPU per row in millrace and %.1f in the sidecar, peak memory %d MiB.",
			r.copy.rows, r.copy.rate(), r.copy.elapsed.Seconds(), r.start.Seconds(),
			r.copy.perRow(r.copy.ours), r.copy.perRow(r.copy.sidecar), r.copy.memory>>20)
	}
	if n := len(r.latencies); n > 0 {
		l := slices.Sorted(slices.Values(r.latencies))
		p("")
		p("From COMMIT on the source to a checkpoint that another connection sees, idle, %d single commits: median %.1f ms, 99th percentile %.1f ms, longest %.1f ms.",
			n, ms(l[n/2]), ms(l[n*99/100]), ms(l[n-1]))
	}
	r.clients.lines(p)
	r.relay.lines(p)
	return b.String()
}

// command repeats the run.
func (s settings) command() string {
	if s.only == "deploys" {
		return fmt.Sprintf("go run ./bench -only deploys -copied %d", s.copied)
	}
	if s.only == "memory" {
		return fmt.Sprintf("go run ./bench -only memory -copied %d -transaction %d -limit %d", s.copied, s.transaction, s.limit)
	}
	text := fmt.Sprintf("go run ./bench -rows %d -one-rows %d -copied %d -runs %d -caught-up %d -idle %d", s.rows, s.oneRows, s.copied, s.runs, s.caughtUp, s.idle)
	if s.only != "" {
		text += " -only " + s.only
		if s.only == "relay" {
			text += fmt.Sprintf(" -connections %d", s.connections)
		}
	}
	return text
}

// pipeline writes the comparison with the discarding reader.
func (r *report) pipeline(p func(string, ...any)) {
	p("A row has nine columns. The discarding reader takes one message at a time and does nothing with it. Both read")
	p("the same backlog, one after the other. CPU is user and system time in microseconds per row.")
	p("")
	p("| rows per transaction | discarding reader, rows/s | slot to durable checkpoint, rows/s | ratio |")
	p("|---|---|---|---|")
	for _, size := range []int{100, 1} {
		column := r.column(size)
		p("| %d | %s | %s | %s |", size,
			spread("%.0f", column(func(x pair) float64 { return x.naive.rate() })),
			spread("%.0f", column(func(x pair) float64 { return x.pipeline.rate() })),
			spread("%.2f", column(func(x pair) float64 { return x.pipeline.rate() / x.naive.rate() })))
	}
	p("")
	p("| CPU µs per row | walsender | reader or millrace | sidecar backends | all | millrace's share | peak memory of millrace |")
	p("|---|---|---|---|---|---|---|")
	for _, size := range []int{100, 1} {
		column := r.column(size)
		cpu := func(of func(pair) float64) string { return spread("%.1f", column(of)) }
		p("| discarding reader, %d | %s | %s | | | | |", size,
			cpu(func(x pair) float64 { return x.naive.perRow(x.naive.walsender) }),
			cpu(func(x pair) float64 { return x.naive.perRow(x.naive.ours) }))
		all := func(m measurement) time.Duration { return m.walsender + m.ours + m.sidecar }
		p("| millrace, %d | %s | %s | %s | %s | %s %% | %s MiB |", size,
			cpu(func(x pair) float64 { return x.pipeline.perRow(x.pipeline.walsender) }),
			cpu(func(x pair) float64 { return x.pipeline.perRow(x.pipeline.ours) }),
			cpu(func(x pair) float64 { return x.pipeline.perRow(x.pipeline.sidecar) }),
			cpu(func(x pair) float64 { return x.pipeline.perRow(all(x.pipeline)) }),
			spread("%.0f", column(func(x pair) float64 { return 100 * float64(x.pipeline.ours) / float64(max(all(x.pipeline), 1)) })),
			spread("%.0f", column(func(x pair) float64 { return float64(x.pipeline.memory) / (1 << 20) })))
	}
	p("")
}

// column picks a figure from each run with transactions of a size.
func (r *report) column(size int) func(func(pair) float64) []float64 {
	return func(of func(pair) float64) (out []float64) {
		for _, x := range r.pairs {
			if x.size == size {
				out = append(out, of(x))
			}
		}
		return out
	}
}
