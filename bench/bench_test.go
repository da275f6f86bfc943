package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	if got := spread("%.1f", []float64{3, 1, 2}); got != "2.0 (1.0–3.0)" {
		t.Errorf("got %q", got)
	}
	if got := spread("%.0f", []float64{7}); got != "7" {
		t.Errorf("got %q", got)
	}
}

func TestCPUOfThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	before := cpu(selfPID)
	deadline := time.Now().Add(10 * time.Second)
	for n := 0; cpu(selfPID).of(selfPID)-before.of(selfPID) < 30*time.Millisecond; n++ {
		if time.Now().After(deadline) {
			t.Fatal("CPU time does not grow while this loop runs")
		}
	}
	if m := peakMemory(selfPID); m < 1<<20 {
		t.Errorf("peak memory is %d", m)
	}
	if got := cpu(1 << 30).of(1 << 30); got != 0 {
		t.Errorf("a process that does not exist used %v", got)
	}
}

func TestReport(t *testing.T) {
	r := &report{settings: settings{rows: 1000, runs: 1}, machine: "a machine", commit: "abc"}
	r.add(100, measurement{rows: 1000, elapsed: 10 * time.Millisecond}, measurement{rows: 1000, elapsed: 20 * time.Millisecond,
		walsender: 3 * time.Millisecond, ours: time.Millisecond, sidecar: 6 * time.Millisecond}, measurement{rows: 1000, elapsed: 8 * time.Millisecond})
	r.add(1, measurement{rows: 1000, elapsed: 10 * time.Millisecond}, measurement{rows: 1000, elapsed: 10 * time.Millisecond}, measurement{rows: 1000, elapsed: 5 * time.Millisecond})
	r.bytes = opBytes{ops: 10, heap: 4000, index: 500, states: 700, stateIdx: 300}
	r.copy = measurement{rows: 1000, elapsed: time.Second}
	text := r.markdown()
	for _, want := range []string{"a machine", "commit abc", "| 100 | 100000 | 50000 | 0.50 |", "| 3.0 | 1.0 | 6.0 | 10.0 | 10 % |", "1000 rows/s",
		"| 100 | 125000 | 0.40 |", "| 1 | 200000 | 0.50 |", "take 450 bytes of disk an op", "heap 400, primary key 50", "row state: 70, its primary key 30"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
}

func TestClientReport(t *testing.T) {
	many := make([]time.Duration, 100)
	for i := range many {
		many[i] = time.Duration(i+1) * time.Millisecond
	}
	r := &report{settings: settings{rows: 1000, runs: 1, only: "clients"}, clients: clientFigures{
		latencies: map[int][]time.Duration{1: many, 50: many}, fanOut: many[:3], fanned: 7,
		raw: []catchUp{{ops: 500, bytes: 2_000_000, elapsed: time.Second}}, sdk: []catchUp{{ops: 500, elapsed: 2 * time.Second}},
		idle: 2000, idleBytes: 20 << 10, base: 30 << 20}}
	text := r.markdown()
	for _, want := range []string{"-only clients", "| 1 clients, 100 commits | 51.0 | 100.0 | 100.0 |", "| 50 clients, 2 commits |", "| last of 7 clients, 3 commits | 2.0 | | 3.0 |",
		"| reads only | 500 | 2 |", "| Go SDK, into SQLite | 250 | |", "2000 idle connections: 20.0 KiB"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "discarding reader") {
		t.Errorf("the report speaks of what was not measured:\n%s", text)
	}
}

func TestRelayReport(t *testing.T) {
	times := []time.Duration{time.Millisecond, 3 * time.Millisecond, 2 * time.Millisecond}
	r := &report{settings: settings{rows: 1000, runs: 1, only: "relay", connections: 5000}, relay: relayFigures{
		fanOuts: []fanOut{{what: "all", clients: 5000, reached: 5000, perConn: 16 << 10, times: times, last: times, cpu: time.Millisecond, deliveries: 100}},
		steady:  times, catchUps: map[int][]catchUp{1: {{ops: 500, elapsed: time.Second}}, 50: {{ops: 25_000, elapsed: 5 * time.Second}}},
		idleCPU: 7 * time.Millisecond, idleFor: time.Second, idleCommits: 9}}
	text := r.markdown()
	for _, want := range []string{"-only relay -connections 5000", "# One process, many clients", "| 5000, all | 5000 | 16.0 | 2.0 | 3.0 | 2.0 | 3.0 | 10.0 |", "completion median 2.0 ms, 99th percentile 3.0 ms, longest 3.0 ms",
		"1 fresh clients read 500 ops each at once: 500 ops/s", "50 fresh clients read 500 ops each at once: 5000 ops/s", "changed 9 times in 1.0 s: 7 ms of CPU"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
}

func TestDiscardingReader(t *testing.T) {
	dir := t.TempDir()
	openTo(t, dir)
	b, err := newBed(t.Context(), dir, settings{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, sql := range []string{"CREATE PUBLICATION " + publication + " FOR ALL TABLES",
		"SELECT pg_create_logical_replication_slot('" + naiveSlot + "', 'pgoutput')"} {
		if _, err := b.src.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second run must not be given the first one's rows
		if err := b.load(t.Context(), 2000, 100); err != nil {
			t.Fatal(err)
		}
		end, err := b.endOfLoad(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.naive(t.Context(), 2000, end)
		if err != nil {
			t.Fatal(err)
		}
		if m.rows != 2000 || m.elapsed <= 0 {
			t.Errorf("the reader got %d rows in %v", m.rows, m.elapsed)
		}
	}
}
