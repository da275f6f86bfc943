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
		walsender: 3 * time.Millisecond, ours: time.Millisecond, sidecar: 6 * time.Millisecond})
	r.add(1, measurement{rows: 1000, elapsed: 10 * time.Millisecond}, measurement{rows: 1000, elapsed: 10 * time.Millisecond})
	r.copy = measurement{rows: 1000, elapsed: time.Second}
	text := r.markdown()
	for _, want := range []string{"a machine", "commit abc", "| 100 | 100000 | 50000 | 0.50 |", "| 3.0 | 1.0 | 6.0 | 10.0 | 10 % |", "1000 rows/s"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
}
