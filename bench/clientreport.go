package main

import (
	"slices"
	"time"
)

// milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// lines writes the figures through p, which ends each line.
func (f *clientFigures) lines(p func(string, ...any)) {
	if len(f.latencies) == 0 {
		return
	}
	p("")
	p("## Clients")
	p("")
	p("The binary with both roles; clients over the native WebSocket, in the one process that also commits, on the same machine.")
	p("")
	p("| from COMMIT on the source to the completed checkpoint at the client, idle | median, ms | 99th percentile, ms | longest, ms |")
	p("|---|---|---|---|")
	for _, n := range []int{1, 50} {
		l := slices.Sorted(slices.Values(f.latencies[n]))
		if len(l) == 0 {
			continue
		}
		p("| %d clients, %d commits | %.1f | %.1f | %.1f |", n, len(l)/n, ms(l[len(l)/2]), ms(l[len(l)*99/100]), ms(l[len(l)-1]))
	}
	if len(f.fanOut) > 0 {
		l := slices.Sorted(slices.Values(f.fanOut))
		p("| last of %d clients, %d commits | %.1f | | %.1f |", f.fanned, len(l), ms(l[len(l)/2]), ms(l[len(l)-1]))
	}
	if len(f.raw) > 0 {
		p("")
		p("| a fresh client catches up with %d ops | ops/s | MB/s |", f.raw[0].ops)
		p("|---|---|---|")
		p("| reads only | %s | %s |", spread("%.0f", column(f.raw, catchUp.rate)), spread("%.0f", column(f.raw, func(c catchUp) float64 { return float64(c.bytes) / 1e6 / c.elapsed.Seconds() })))
		p("| Go SDK, into SQLite | %s | |", spread("%.0f", column(f.sdk, catchUp.rate)))
	}
	if f.idle > 0 {
		p("")
		p("%d idle connections: %.1f KiB of resident memory each, beside %d MiB of the process before them (%d connections).", f.idle, float64(f.idleBytes)/1024, f.base>>20, idleBefore)
	}
}

// column picks a figure from each run.
func column(runs []catchUp, of func(catchUp) float64) (out []float64) {
	for _, c := range runs {
		out = append(out, of(c))
	}
	return out
}
