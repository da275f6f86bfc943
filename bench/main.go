// Command bench measures the pipeline from a source's slot to a durable
// checkpoint beside a reader that discards what it gets, in one run on the same
// machine, so that ratios mean something where absolute figures do not. Then it
// measures the way on to clients: latency, fan-out, catch-up, memory.
//
//	go run ./bench                     # everything, three times
//	go run ./bench -rows 50000 -runs 1 # quick
//
// It prints a Markdown report. Private PostgreSQL servers are started for the
// run and removed after it; the sidecar writes with fsync on.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

type settings struct {
	rows        int    // per measurement with 100-row transactions
	oneRows     int    // per measurement with one-row transactions
	copied      int    // rows of the initial copy
	caughtUp    int    // rows a fresh client catches up with
	idle        int    // idle connections
	only        string // "pipeline" leaves out clients, "clients" the pipeline, "relay" measures many connections, "deploys" nothing but a change of the rules, "memory" what takes much
	connections int    // of "relay"
	transaction int    // rows of the largest transaction of "memory"
	limit       int    // MiB that neither decoder nor relay may exceed in "memory"
	runs        int    // repetitions; medians are reported
	binary      string // millrace; built if empty
	pgBin       string
	out         string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == crowdMode {
		if err := serveCrowd(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench: clients:", err)
			os.Exit(1)
		}
		return
	}
	var s settings
	flag.IntVar(&s.rows, "rows", 300_000, "rows of each measurement with 100-row transactions")
	flag.IntVar(&s.oneRows, "one-rows", 100_000, "rows of each measurement with one-row transactions")
	flag.IntVar(&s.copied, "copied", 300_000, "rows of the initial copy")
	flag.IntVar(&s.caughtUp, "caught-up", 100_000, "rows that fresh clients catch up with")
	flag.IntVar(&s.idle, "idle", 2000, "idle connections")
	flag.StringVar(&s.only, "only", "", "\"pipeline\": leave out clients; \"clients\": leave out the pipeline, but for the initial copy; \"relay\": measure many connections; \"deploys\": only a change of the rules, over -copied rows; \"memory\": only how much is needed at most")
	flag.IntVar(&s.connections, "connections", 10_000, "connections of -only relay")
	flag.IntVar(&s.transaction, "transaction", 100_000, "rows of the largest transaction of -only memory")
	flag.IntVar(&s.limit, "limit", 256, "MiB of resident memory that neither decoder nor relay may exceed in -only memory")
	flag.IntVar(&s.runs, "runs", 3, "repetitions of each measurement")
	flag.StringVar(&s.binary, "binary", "", "the millrace binary; built if empty")
	flag.StringVar(&s.pgBin, "pg-bin", "", "folder of PostgreSQL's binaries; found if empty")
	flag.StringVar(&s.out, "out", "", "also write the report to this file")
	flag.Parse()
	if flag.NArg() > 0 || s.runs < 1 || s.rows < 1000 || s.oneRows < 1000 || s.copied < 1000 || s.caughtUp < 1000 || s.transaction < 1000 || s.idle < 100 || s.connections < 1000 ||
		!slices.Contains([]string{"", "pipeline", "clients", "relay", "deploys", "memory"}, s.only) {
		fmt.Fprintln(os.Stderr, "bench: at least 1,000 rows, 1,000 connections, 100 idle ones and one run are needed; -only takes pipeline, clients, relay, deploys or memory; no other arguments are taken")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := bench(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, s settings) (err error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // servers run under another user
		return err
	}
	b, err := newBed(ctx, dir, s)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.close(); err == nil {
			err = cerr
		}
	}()
	if err := b.install(ctx); err != nil {
		return err
	}
	r := &report{settings: s, started: time.Now()}
	if err := b.describe(ctx, r); err != nil {
		return err
	}
	if err := b.measure(ctx, r); err != nil {
		return err
	}
	text := r.markdown()
	fmt.Print(text)
	if s.out != "" {
		if err := os.MkdirAll(filepath.Dir(s.out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(s.out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if r.memory != nil {
		return r.memory.err()
	}
	return nil
}

// measure takes what was asked for.
func (b *bed) measure(ctx context.Context, r *report) error {
	if b.settings.only == "deploys" {
		r.deploys = &deployFigures{}
		if err := b.deploys(ctx, r.deploys); err != nil {
			return fmt.Errorf("deploys: %w", err)
		}
		return nil
	}
	if b.settings.only == "memory" {
		r.memory = &memoryFigures{}
		if err := b.memory(ctx, r.memory); err != nil {
			return fmt.Errorf("memory: %w", err)
		}
		return nil
	}
	if err := b.copyTable(ctx, r); err != nil {
		return fmt.Errorf("initial copy: %w", err)
	}
	if b.settings.only == "" || b.settings.only == "pipeline" {
		if err := b.measurePipeline(ctx, r); err != nil {
			return err
		}
	}
	if b.settings.only == "pipeline" {
		return nil
	}
	if b.settings.only == "relay" {
		if err := b.relay(ctx, r); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	} else if err := b.clients(ctx, r); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	return nil
}

// measurePipeline is the way from the slot to a durable checkpoint.
func (b *bed) measurePipeline(ctx context.Context, r *report) error {
	s := b.settings
	for _, size := range []int{100, 1} {
		rows := s.rows
		if size == 1 {
			rows = s.oneRows
		}
		for run := range s.runs {
			progress("%d-row transactions, run %d of %d", size, run+1, s.runs)
			if err := b.compare(ctx, r, size, rows); err != nil {
				return fmt.Errorf("%d-row transactions: %w", size, err)
			}
		}
	}
	if err := b.latency(ctx, r); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	var err error
	if r.bytes, err = b.size(ctx, s.rows); err != nil {
		return fmt.Errorf("bytes of ops: %w", err)
	}
	return nil
}

// progress tells a person what is being measured.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
