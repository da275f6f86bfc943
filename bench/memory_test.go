package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRA29_Memory is `make bench-memory` at a fiftieth of its size: a transaction of
// 100,000 rows, one of 25,000, a copy of 400,000, and what does not shrink: rows in
// 100,000 buckets, and values of 1 MiB. The bound is the same 256 MiB, since what
// is kept in memory does not depend on how much there is: all of it is full at
// this size. Beside that bound the larger transaction must not take more than
// the smaller one (I8, RA-29), and the connections to the sources must stand
// (RA-33). The processes measured have no race detector, whatever this test has.
func TestRA29_Memory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	if peakMemory(selfPID) == 0 {
		t.Skip("no /proc here")
	}
	dir := t.TempDir()
	openTo(t, dir)
	b, err := newBed(t.Context(), dir, settings{only: "memory", copied: 400_000, transaction: 100_000, limit: 256})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := b.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	var f memoryFigures
	if err := b.memory(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	f.lines(t.Logf)
	if len(f.phases) != 8 || f.expected != 145_000 {
		t.Errorf("%d phases, %d ops expected of each client", len(f.phases), f.expected)
	}
	for _, p := range f.phases {
		if p.decoder == 0 || p.elapsed == 0 {
			t.Errorf("not measured: %+v", p)
		}
	}
	if err := f.err(); err != nil {
		t.Error(err)
	}
}

// What is too much is told, and fails the run.
func TestMemoryReport(t *testing.T) {
	f := &memoryFigures{limit: 256 << 20, clients: 10, sent: 2_500_000_000, phases: []memoryPhase{
		{what: "the copy of a table", rows: 7, elapsed: time.Second, decoder: 100 << 20},
		{what: "small", rows: 10, elapsed: 2 * time.Second, synced: 3 * time.Second, decoder: 110 << 20, relay: 50 << 20, waited: time.Second},
		{what: "large", rows: 40, elapsed: 2 * time.Second, decoder: 150 << 20, relay: 60 << 20},
	}}
	r := &report{settings: settings{only: "memory", copied: 7, transaction: 40, limit: 256}, memory: f}
	f.judge()
	if err := f.err(); err != nil {
		t.Fatal(err)
	}
	text := r.markdown()
	for _, want := range []string{"# Memory", "-only memory -copied 7 -transaction 40 -limit 256", "got 2.5 GB in all",
		"| the copy of a table | 7 | 1.0 |  | 100 |  |  |", "| small | 10 | 2.0 | 3.0 | 110 | 50 | 1.0 |", "At most 150 MiB in the decoder and 60 MiB in the relay, of 256 allowed"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	f.phases[2].decoder, f.phases[2].relay = 200<<20, 300<<20
	f.judge()
	err := f.err()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"90 MiB more for a transaction of 40 rows than for one of 10", "the relay had 300 MiB resident, more than 256"} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(r.markdown(), want) {
			t.Errorf("neither error nor report may lack %q: %v", want, err)
		}
	}
}

// openTo lets servers, which run under another user, reach a folder.
func openTo(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
}
