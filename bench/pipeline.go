package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// measurement is what one reader did in one run.
type measurement struct {
	rows    int
	elapsed time.Duration
	// CPU time, per process: the source's walsender, the reader itself, and
	// the sidecar's backend.
	walsender, ours, sidecar time.Duration
	memory                   int64 // peak resident, bytes
}

func (m measurement) rate() float64 { return float64(m.rows) / m.elapsed.Seconds() }

// perRow is CPU time by row.
func (m measurement) perRow(d time.Duration) float64 {
	return float64(d.Microseconds()) / float64(m.rows)
}

// decoder runs the binary's decoder; stop ends it.
func (b *bed) decoder(ctx context.Context) (cmd *exec.Cmd, stop func() error, err error) {
	logPath := filepath.Join(b.dir, "millrace.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.CommandContext(ctx, b.binary, "serve", "-c", b.config, "--role", "decoder")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, log.Close())
	}
	return cmd, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it had ended before
		err := errors.Join(cmd.Wait(), log.Close())
		if err != nil {
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("millrace: %w; its log ends:\n%s", err, text[max(0, len(text)-2000):])
		}
		return nil
	}, nil
}

// position is the newest op id, and the time the newest checkpoint was written
// by the sidecar's own clock.
func (b *bed) position(ctx context.Context) (op int64, at time.Time, err error) {
	err = b.side.QueryRow(ctx, "SELECT op_id, at FROM millrace.head").Scan(&op, &at)
	return op, at, err
}

// arrived tells whether the last mark is in a checkpoint.
func (b *bed) arrived(ctx context.Context) (bool, error) {
	var ok bool
	err := b.side.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.buckets b CROSS JOIN LATERAL millrace.bucket_rows(b.bucket) r
		WHERE b.name = 'marks[]' AND r.data = $1)`, fmt.Sprintf(`{"id":"mark","n":%d}`, b.marked)).Scan(&ok)
	return ok, err
}

// backends are the sidecar's processes that serve the decoder.
func (b *bed) backends(ctx context.Context) (pids []int, err error) {
	err = b.side.QueryRow(ctx, "SELECT array_agg(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'bench'").Scan(&pids)
	return pids, err
}

// copyTable measures the first start with a filled table, and makes the slots
// that the other measurements read.
func (b *bed) copyTable(ctx context.Context, r *report) error {
	progress("initial copy of %d rows", b.settings.copied)
	if err := b.load(ctx, b.settings.copied, 10_000); err != nil {
		return err
	}
	if _, err := b.src.Exec(ctx, "VACUUM ANALYZE tasks"); err != nil {
		return err
	}
	start := time.Now()
	cmd, stop, err := b.decoder(ctx)
	if err != nil {
		return err
	}
	if err := poll(ctx, 5*time.Minute, func() (bool, error) { return b.arrived(ctx) }); err != nil {
		return errors.Join(err, stop())
	}
	r.start = time.Since(start)
	r.copy.rows = b.settings.copied
	// The time from the first read to the last merge, by the sidecar's clock.
	var seconds float64
	if err := b.side.QueryRow(ctx, "SELECT extract(epoch FROM max(done_at) - min(started_at))::float8 FROM millrace.copies").Scan(&seconds); err != nil {
		return errors.Join(err, stop())
	}
	r.copy.elapsed = time.Duration(seconds * float64(time.Second))
	pids, err := b.backends(ctx)
	if err != nil {
		return errors.Join(err, stop())
	}
	used := cpu(append(pids, cmd.Process.Pid)...)
	r.copy.ours = used.of(cmd.Process.Pid)
	for _, pid := range pids {
		r.copy.sidecar += used.of(pid)
	}
	r.copy.memory = peakMemory(cmd.Process.Pid)
	if err := stop(); err != nil {
		return err
	}
	_, err = b.src.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", naiveSlot)
	return err
}

// compare loads rows while nobody reads, lets the discarding reader have them,
// then the pipeline.
func (b *bed) compare(ctx context.Context, r *report, size, rows int) error {
	if err := b.load(ctx, rows, size); err != nil {
		return err
	}
	end, err := b.endOfLoad(ctx)
	if err != nil {
		return err
	}
	naive, err := b.naive(ctx, rows, end)
	if err != nil {
		return fmt.Errorf("discarding reader: %w", err)
	}
	progress("  discarding reader: %.0f rows/s", naive.rate())
	before, _, err := b.position(ctx)
	if err != nil {
		return err
	}
	pipeline, err := b.pipeline(ctx, rows)
	if err != nil {
		return fmt.Errorf("pipeline: %w", err)
	}
	progress("  slot to durable checkpoint: %.0f rows/s, %.2f of it", pipeline.rate(), pipeline.rate()/naive.rate())
	bound, err := b.insertBound(ctx, before)
	if err != nil {
		return err
	}
	progress("  insert bound: %.0f ops/s", bound.rate())
	r.add(size, naive, pipeline, bound)
	return nil
}

// pipeline starts the decoder on a full slot and measures from the first
// checkpoint with rows to the last.
func (b *bed) pipeline(ctx context.Context, rows int) (m measurement, err error) {
	op0, _, err := b.position(ctx)
	if err != nil {
		return m, err
	}
	cmd, stop, err := b.decoder(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var first, last int64
	var begin, end time.Time
	if err := poll(ctx, time.Minute, func() (bool, error) {
		first, begin, err = b.position(ctx)
		return first > op0, err
	}); err != nil {
		return m, fmt.Errorf("no checkpoint: %w", err)
	}
	walsender, err := b.walsender(ctx, slot)
	if err != nil {
		return m, err
	}
	pids, err := b.backends(ctx)
	if err != nil {
		return m, err
	}
	all := append(pids, walsender, cmd.Process.Pid)
	before := cpu(all...)
	if err := poll(ctx, 10*time.Minute, func() (bool, error) {
		last, end, err = b.position(ctx)
		return last >= op0+int64(rows), err
	}); err != nil {
		return m, fmt.Errorf("%d of %d rows arrived: %w", last-op0, rows, err)
	}
	after := cpu(all...)
	m.rows, m.elapsed = int(last-first), end.Sub(begin)
	m.walsender = after.of(walsender) - before.of(walsender)
	m.ours = after.of(cmd.Process.Pid) - before.of(cmd.Process.Pid)
	for _, pid := range pids {
		m.sidecar += after.of(pid) - before.of(pid)
	}
	m.memory = peakMemory(cmd.Process.Pid)
	return m, poll(ctx, time.Minute, func() (bool, error) { return b.arrived(ctx) })
}

// latency measures, on an idle pipeline, from the return of a COMMIT on the
// source to the moment another connection sees the checkpoint that holds it.
func (b *bed) latency(ctx context.Context, r *report) (err error) {
	const commits = 300
	progress("latency of %d single commits", commits)
	_, stop, err := b.decoder(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := poll(ctx, time.Minute, func() (bool, error) { return b.arrived(ctx) }); err != nil {
		return err
	}
	for i := range commits + 20 {
		before, _, err := b.position(ctx)
		if err != nil {
			return err
		}
		b.marked++
		if _, err := b.src.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", b.marked); err != nil {
			return err
		}
		start := time.Now()
		for deadline := start.Add(30 * time.Second); ; {
			op, _, err := b.position(ctx)
			if err != nil {
				return err
			}
			if op > before {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("commit %d is in no checkpoint after 30 s", i)
			}
		}
		if i >= 20 { // the first warm up
			r.latencies = append(r.latencies, time.Since(start))
		}
		// Wait a little, so that each commit finds the pipeline idle.
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}
