package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// deployTables is the number of definitions, each over a table of its own; one
// of them is changed.
const deployTables = 10

// deployFigures compare a deploy of one of ten definitions with the first start
// of all of them, which is what building everything anew would cost.
type deployFigures struct {
	rows        int // of all tables
	all, one    build
	back        build
	changes     int           // committed to another definition during the deploy
	longest     time.Duration // from such a commit to the client
	longestIdle time.Duration // the same, before the deploy
}

// build is what it took until rules were in force and a connected client had
// all of them.
type build struct {
	inForce, synced time.Duration
	wal             int64 // bytes the sidecar wrote
	sent            int64 // bytes of messages to the client
	ops             int   // of them
}

// deployRules are ten definitions; the changed one has another column.
func deployRules(changed int) string {
	var b strings.Builder
	b.WriteString("config:\n  edition: 2\nbucket_definitions:\n  marks:\n    priority: 0\n    data:\n      - SELECT * FROM marks\n")
	for i := range deployTables {
		columns := "*"
		if i == changed {
			columns = "id, list_id, owner, title, description, status, priority, done, created_at, 'v2' AS version"
		}
		fmt.Fprintf(&b, "  tasks_%d:\n    data:\n      - SELECT %s FROM tasks_%d\n", i, columns, i)
	}
	return b.String()
}

// deploys measures a change of the rules.
func (b *bed) deploys(ctx context.Context, f *deployFigures) (err error) {
	f.rows = b.settings.copied / deployTables * deployTables
	progress("writing %d rows", f.rows)
	for i := range deployTables {
		_, err := b.src.Exec(ctx, fmt.Sprintf(`
			CREATE TABLE tasks_%d (LIKE tasks INCLUDING ALL);
			INSERT INTO tasks_%[1]d SELECT gen_random_uuid(), gen_random_uuid(), 'user' || g %% 100, 'Task number ' || g,
				repeat(md5(g::text), 4), 'open', g %% 5, g %% 2 = 0, '2024-01-01'::timestamptz + g * interval '1 second'
			FROM generate_series(1, %[2]d) g;
			ANALYZE tasks_%[1]d`, i, f.rows/deployTables))
		if err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
	}
	if _, err := b.src.Exec(ctx, "CHECKPOINT"); err != nil {
		return err
	}
	rules := filepath.Join(b.dir, "sync.yaml")
	if err := os.WriteFile(rules, []byte(deployRules(-1)), 0o600); err != nil {
		return err
	}
	progress("first start of %d definitions", deployTables)
	before, err := b.wal(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	err = poll(ctx, time.Hour, func() (done bool, err error) {
		err = b.side.QueryRow(ctx, "SELECT rule_set IS NOT NULL FROM millrace.status").Scan(&done)
		return done, err
	})
	if err != nil {
		return fmt.Errorf("wait for the first rules: %w", err)
	}
	f.all.inForce = time.Since(began)
	after, err := b.wal(ctx)
	if err != nil {
		return err
	}
	f.all.wal = after - before

	began = time.Now()
	c, err := s.wire(ctx, "user1", "deploys")
	if err != nil {
		return err
	}
	defer c.close()
	for c.ops < f.rows {
		if _, err := c.until(time.Now().Add(relayPatience), nil); err != nil {
			return err
		}
	}
	f.all.synced, f.all.sent, f.all.ops = time.Since(began), c.size, c.ops

	m := newMarker(b)
	defer m.stop()
	if err := m.start(ctx); err != nil {
		return err
	}
	follow := follower{c: c, marker: m}
	for m.committed.Load() < 50 {
		if err := follow.next(ctx); err != nil {
			return err
		}
	}
	f.longestIdle, follow.longest = follow.longest, 0
	first := m.committed.Load()

	changed := filepath.Join(b.dir, "changed.yaml")
	if err := os.WriteFile(changed, []byte(deployRules(3)), 0o600); err != nil {
		return err
	}
	progress("deploying rules with one definition changed")
	if f.one, err = b.change(ctx, &follow, f.rows/deployTables, "deploy", changed); err != nil {
		return err
	}
	f.changes, f.longest = int(m.committed.Load()-first), follow.longest
	progress("rolling back")
	f.back, err = b.change(ctx, &follow, f.rows/deployTables, "rollback")
	return err
}

// change runs a rules command while the client reads, until it has got so many
// rows.
func (b *bed) change(ctx context.Context, follow *follower, rows int, args ...string) (m build, err error) {
	before, err := b.wal(ctx)
	if err != nil {
		return m, err
	}
	size, ops := follow.c.size, follow.rows
	began := time.Now()
	deployed := make(chan error, 1)
	go func() {
		args := append([]string{"rules", args[0], "-c", b.config, "--json"}, args[1:]...)
		cmd := exec.CommandContext(ctx, b.binary, args...)
		var warnings bytes.Buffer
		cmd.Stderr = &warnings
		out, err := cmd.Output()
		var result struct{ Seconds float64 }
		if err == nil {
			err = json.Unmarshal(out, &result)
		}
		if err != nil {
			err = fmt.Errorf("millrace rules %s: %w\n%s%s", args[1], err, warnings.Bytes(), out)
		}
		m.inForce = time.Duration(result.Seconds * float64(time.Second))
		deployed <- err
	}()
	for follow.rows < ops+rows {
		if err := follow.next(ctx); err != nil {
			return m, errors.Join(err, <-deployed)
		}
	}
	m.synced, m.sent, m.ops = time.Since(began), follow.c.size-size, follow.rows-ops
	if err := <-deployed; err != nil {
		return m, err
	}
	after, err := b.wal(ctx)
	m.wal = after - before
	return m, err
}

// wal is how many bytes the sidecar has written.
func (b *bed) wal(ctx context.Context) (n int64, err error) {
	err = b.side.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn() - '0/0'").Scan(&n)
	return n, err
}

// marker commits a change of another definition every 20 ms.
type marker struct {
	bed       *bed
	conn      *pgx.Conn
	committed atomic.Int64
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	mu sync.Mutex
	at map[int64]time.Time
}

func newMarker(b *bed) *marker { return &marker{bed: b, at: map[int64]time.Time{}, cancel: func() {}} }

func (m *marker) start(ctx context.Context) (err error) {
	if m.conn, err = connect(ctx, m.bed.source.URI("postgres")); err != nil {
		return err
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := int64(1_000_000); ; n++ {
			m.mu.Lock()
			m.at[n] = time.Now()
			m.mu.Unlock()
			if _, err := m.conn.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", n); err != nil {
				return // the run is over; the client waits in vain if it is not
			}
			m.committed.Add(1)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return nil
}

func (m *marker) stop() {
	m.cancel()
	m.wg.Wait()
	if m.conn != nil {
		_ = m.conn.Close(context.Background()) // nothing depends on it
	}
}

// follower reads as a client, and measures how late the marks are.
type follower struct {
	c       *wire
	marker  *marker
	rows    int // ops that are no marks
	longest time.Duration
}

var markField = []byte(`\"n\":1`)

// next reads one message.
func (f *follower) next(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), f.c.conn.SetReadDeadline(time.Now().Add(relayPatience))); err != nil {
		return err
	}
	kind, b, err := f.c.frame()
	switch {
	case err != nil:
		return fmt.Errorf("read as a client: %w", err)
	case kind == closeFrame:
		return fmt.Errorf("the server ended the session: %q", b)
	case kind != textFrame:
		return nil
	}
	now := time.Now()
	f.c.size += int64(len(b))
	for line := range bytes.Lines(b) {
		if !bytes.HasPrefix(line, dataPrefix) {
			continue
		}
		ops := bytes.Count(line, opSeparator)
		f.c.ops += ops
		at := bytes.LastIndex(line, markField)
		if at < 0 {
			f.rows += ops
			continue
		}
		digits := line[at+len(markField)-1:]
		if end := bytes.IndexByte(digits, '}'); end > 0 {
			digits = digits[:end]
		}
		n, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			continue
		}
		f.marker.mu.Lock()
		if sent, ok := f.marker.at[n]; ok {
			f.longest = max(f.longest, now.Sub(sent))
		}
		f.marker.mu.Unlock()
	}
	return nil
}

func (f *deployFigures) lines(p func(string, ...any)) {
	p("## One of %d definitions changed", deployTables)
	p("")
	p("%d rows in %d tables of one definition each, about 400 bytes of JSON a row; one client holds all of it and is connected. "+
		"Everything built anew is the first start of the same rules, and a first sync of that client.", f.rows, deployTables)
	p("")
	p("| | everything built anew | `rules deploy`, one changed | `rules rollback` |")
	p("|---|---|---|---|")
	row := func(what string, of func(build) string) {
		p("| %s | %s | %s | %s |", what, of(f.all), of(f.one), of(f.back))
	}
	row("until the rules are in force", func(b build) string { return fmt.Sprintf("%.2f s", b.inForce.Seconds()) })
	row("written by the sidecar (WAL)", func(b build) string { return fmt.Sprintf("%.1f MB", float64(b.wal)/1e6) })
	row("ops sent to the client", func(b build) string { return fmt.Sprint(b.ops) })
	row("bytes sent to the client, uncompressed", func(b build) string { return fmt.Sprintf("%.1f MB", float64(b.sent)/1e6) })
	p("")
	p("The client had everything %.2f s after it connected (first sync), %.2f s after the deploy was asked for, %.2f s after the roll-back was.",
		f.all.synced.Seconds(), f.one.synced.Seconds(), f.back.synced.Seconds())
	p("")
	p("%d commits of another definition during the deploy, one every 20 ms at most: from COMMIT to the client at most %.0f ms, the moment included in which "+
		"the decoder connects again; before the deploy at most %.0f ms.", f.changes, ms(f.longest), ms(f.longestIdle))
}
