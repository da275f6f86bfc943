package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// `make bench-browser` with a fiftieth of its rows: both clients end up with
// all of them. The speeds are told and not judged, the machine is busy.
func TestBrowserBench(t *testing.T) {
	needBrowser(t)
	const rows = 2000
	millrace, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	// The same layout as in the repository, with packages of its own.
	root := openDir(t)
	dir := filepath.Join(root, "bench", "browser")
	if err := installCopy(dir, filepath.Join("..", "bench", "browser")); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"e2e", "clientsdk"} {
		at, err := filepath.Abs(filepath.Join("..", folder))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(at, filepath.Join(root, folder)); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(dir, "run.mjs"), "--json", "--runs", "1", "--rows", strconv.Itoa(rows), "--millrace", millrace)
	cmd.SysProcAttr = endWithParent()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run.mjs: %v\n%s", err, stderr.Bytes())
	}
	var report struct {
		Measured []struct {
			Client        string
			Rows          []int
			RowsPerSecond float64
			LongestFrame  float64
			TakeOver      float64
			FailedReads   int
		}
		Ratios []struct {
			Client string
			Ratio  float64
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("run.mjs said %q: %v", out, err)
	}
	if len(report.Measured) != 3 || len(report.Ratios) != 2 {
		t.Fatalf("%d clients and %d ratios, want 3 and 2: %s", len(report.Measured), len(report.Ratios), out)
	}
	for _, m := range report.Measured {
		t.Logf("%s: %.0f rows/s, longest frame %.0f ms, longest wait for a read as the first tab closes %.0f ms", m.Client, m.RowsPerSecond, m.LongestFrame, m.TakeOver)
		if len(m.Rows) != 1 || m.Rows[0] != rows {
			t.Errorf("%s has %v rows after its first sync, want %d", m.Client, m.Rows, rows)
		}
		if m.RowsPerSecond <= 0 || m.LongestFrame <= 0 || m.TakeOver <= 0 {
			t.Errorf("%s: something was not measured: %+v", m.Client, m)
		}
	}
	if failed := report.Measured[0].FailedReads; failed != 0 {
		t.Errorf("%d reads failed in the second tab of %s", failed, report.Measured[0].Client)
	}
	for _, r := range report.Ratios {
		t.Logf("%.2f times the rows/s of %s", r.Ratio, r.Client)
	}
}
