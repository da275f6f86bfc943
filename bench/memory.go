package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// memoryFigures is how much a decoder and a relay need at most while sources do
// what takes much.
type memoryFigures struct {
	limit    int64 // bytes that neither may exceed
	phases   []memoryPhase
	clients  int
	expected int      // ops that each of them has got at least
	sent     int64    // bytes to all of them
	failures []string // what is not as it should be
}

// memoryPhase is one of the things that take much.
type memoryPhase struct {
	what           string
	rows           int
	elapsed        time.Duration // until a checkpoint has all of it
	synced         time.Duration // until the clients do; 0 if they do not follow it
	decoder, relay int64         // most resident memory during the phase, bytes
	waited         time.Duration // longest time without a checkpoint that has more of the other source
}

const (
	memoryClients = 10
	otherDatabase = "other"
	otherSlot     = "millrace_bench_other"
	// documentBytes is the size of a long value.
	documentBytes = 1 << 20
	// scatteredBuckets is in how many buckets one transaction writes.
	scatteredBuckets = 100_000
	// smaller is how much smaller the first transaction is than the second, which
	// may take growth more memory than it: both are far larger than what is kept
	// of a transaction in memory, and come when the caches are full.
	smaller = 4
	growth  = 48 << 20
)

const memorySchema = `
CREATE TABLE copied (id bigint PRIMARY KEY, owner text NOT NULL, title text NOT NULL, done boolean NOT NULL);
CREATE TABLE entries (id bigint PRIMARY KEY, note text NOT NULL);
CREATE TABLE scattered (id bigint PRIMARY KEY, owner text NOT NULL);
CREATE TABLE documents (id integer PRIMARY KEY, n integer NOT NULL, body text NOT NULL);
CREATE PROCEDURE small(first bigint, total int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 0 .. total / 100 - 1 LOOP
    INSERT INTO copied SELECT first + g, 'owner' || g % 1000, md5(g::text) || md5((-g)::text), false
    FROM generate_series(i * 100, i * 100 + 99) g;
    COMMIT;
  END LOOP;
END $$`

const memoryRules = `config:
  edition: 2
bucket_definitions:
  marks:
    data:
      - SELECT * FROM marks
  beats:
    data:
      - SELECT * FROM "other.public".beats
  entries:
    data:
      - SELECT * FROM entries
  copied:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM copied WHERE owner = bucket.owner
  scattered:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM scattered WHERE owner = bucket.owner
  documents:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM documents WHERE 'librarian' = bucket.owner
`

// memoryStep is what a source does in one transaction, or in many.
type memoryStep struct {
	what   string
	rows   int
	synced bool // by the clients
	sql    string
}

// memorySteps are what follows the initial copy. Documents are a few, however
// large the transaction is.
func memorySteps(copied, transaction int) []memoryStep {
	documents := documents(transaction)
	inserts := func(from, rows int) memoryStep {
		return memoryStep{"a transaction of inserts, to all clients", rows, true,
			fmt.Sprintf(`INSERT INTO entries SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(%d, %d) g`, from+1, from+rows)}
	}
	return []memoryStep{
		inserts(0, transaction/smaller),
		inserts(transaction/smaller, transaction),
		{"a transaction of updates, to all clients", transaction / 5, true,
			fmt.Sprintf(`UPDATE entries SET note = md5(note) WHERE id <= %d`, transaction/5)},
		{"transactions of 100 inserts", transaction / 5, false,
			fmt.Sprintf(`CALL small(%d, %d)`, copied+1, transaction/5)},
		{"a transaction of inserts, each in a bucket of its own", scatteredBuckets, false,
			fmt.Sprintf(`INSERT INTO scattered SELECT g, 'user' || g FROM generate_series(1, %d) g`, scatteredBuckets)},
		{"a transaction of inserts with values of 1 MiB", documents, false,
			fmt.Sprintf(`INSERT INTO documents SELECT g, 0, %s FROM generate_series(%d, %d) g`, documentBody, documents+1, 2*documents)},
		{"a transaction of updates that leave such values alone", 2 * documents, false,
			`UPDATE documents SET n = n + 1`},
	}
}

func documents(transaction int) int { return max(64, transaction/25_000) }

var documentBody = fmt.Sprintf("repeat(md5(g::text), %d)", documentBytes/32)

// memory measures the most memory a decoder and a relay take, each a process of
// its own, while ten clients are connected and a second source goes on.
func (b *bed) memory(ctx context.Context, f *memoryFigures) (err error) {
	f.limit, f.clients = int64(b.settings.limit)<<20, memoryClients
	if peakMemory(selfPID) == 0 {
		return errors.New("this system does not tell how much memory a process has (no /proc)")
	}
	other, err := b.prepareMemory(ctx)
	if err != nil {
		return err
	}
	defer other.Close(context.WithoutCancel(ctx))

	beats, err := startBeats(ctx, b, other)
	if err != nil {
		return err
	}
	defer beats.stop()
	progress("copying %d rows", b.settings.copied)
	began := time.Now()
	beats.begin()
	decoder, stop, err := b.decoder(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	w := &memoryWatch{decoder: decoder.Process.Pid}
	err = poll(ctx, 2*time.Hour, func() (done bool, err error) {
		err = b.side.QueryRow(ctx, "SELECT rule_set IS NOT NULL FROM millrace.status").Scan(&done)
		return done, errors.Join(err, w.alive())
	})
	if err != nil {
		return fmt.Errorf("initial copy: %w", err)
	}
	f.note(w, memoryPhase{what: "the copy of a table", rows: b.settings.copied, elapsed: time.Since(began), waited: beats.end()})

	s, err := b.serveAs(ctx, "relay")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	w.relay = s.cmd.Process.Pid
	clients, err := s.connectAll(ctx, memoryClients, 0, func(int) string { return reader })
	if err != nil {
		return err
	}
	defer closeAll(clients)
	senders, err := b.walsenders(ctx)
	if err != nil {
		return err
	}
	for _, step := range memorySteps(b.settings.copied, b.settings.transaction) {
		progress("%s (%d rows)", step.what, step.rows)
		if err := b.memoryStep(ctx, f, w, beats, clients, step); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if now, err := b.walsenders(ctx); err != nil || !slices.Equal(now, senders) {
		f.failures = append(f.failures, fmt.Sprintf("the connections to the sources were lost: processes %v served the slots, now it is %v (%v)", senders, now, err))
	}
	for _, c := range clients {
		f.sent += c.size
	}
	f.judge()
	return nil
}

// prepareMemory writes what is copied, and a configuration with two sources.
func (b *bed) prepareMemory(ctx context.Context) (other *pgx.Conn, err error) {
	progress("writing %d rows", b.settings.copied)
	for _, sql := range []string{"CREATE DATABASE " + otherDatabase, memorySchema} {
		if _, err := b.src.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, fmt.Errorf("create what is measured: %w", err)
		}
	}
	if other, err = connect(ctx, b.source.URI(otherDatabase)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = other.Close(ctx) // the first error says more
		}
	}()
	if _, err := other.Exec(ctx, "CREATE TABLE beats (id text PRIMARY KEY, beat bigint NOT NULL); INSERT INTO beats VALUES ('beat', 0)", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, err
	}
	const piece = 1_000_000 // rows at a time, so that the WAL of a piece can go before the next
	for from := 1; from <= b.settings.copied; from += piece {
		_, err := b.src.Exec(ctx, fmt.Sprintf(`INSERT INTO copied SELECT g, 'owner' || g %% 1000, md5(g::text) || md5((-g)::text), false FROM generate_series(%d, %d) g`,
			from, min(from+piece-1, b.settings.copied)))
		if err != nil {
			return nil, fmt.Errorf("write rows: %w", err)
		}
	}
	if _, err := b.src.Exec(ctx, fmt.Sprintf("INSERT INTO documents SELECT g, 0, %s FROM generate_series(1, %d) g", documentBody, documents(b.settings.transaction))); err != nil {
		return nil, fmt.Errorf("write rows: %w", err)
	}
	if _, err := b.src.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return nil, err
	}
	rules := filepath.Join(b.dir, "sync.yaml")
	b.config = filepath.Join(b.dir, "memory.yaml")
	text := fmt.Sprintf("sources:\n  - {name: main, uri: %q, slot: %s, publication: %s}\n  - {name: %s, uri: %q, slot: %s, publication: %[3]s}\nsidecar:\n  uri: %[7]q\nrules: %[8]q\n",
		b.source.URI("postgres"), slot, publication, otherDatabase, b.source.URI(otherDatabase), otherSlot, b.sidecar.URI("postgres"), rules)
	return other, errors.Join(os.WriteFile(rules, []byte(memoryRules), 0o600), os.WriteFile(b.config, []byte(text), 0o600))
}

// memoryStep does a step and waits until it is everywhere.
func (b *bed) memoryStep(ctx context.Context, f *memoryFigures, w *memoryWatch, beats *beats, clients []*wire, step memoryStep) error {
	want, commit := b.mark(ctx)
	var reading sync.WaitGroup
	failures := make([]error, len(clients))
	deadline := time.Now().Add(2 * time.Hour)
	for i, c := range clients { // from now on, so that they answer pings
		reading.Go(func() { _, failures[i] = c.until(deadline, want) })
	}
	beats.begin()
	_, err := b.src.Exec(ctx, step.sql)
	began := time.Now()
	if err == nil {
		err = commit()
	}
	if err == nil {
		err = poll(ctx, 2*time.Hour, func() (bool, error) {
			ok, err := b.arrived(ctx)
			return ok, errors.Join(err, w.alive())
		})
	}
	phase := memoryPhase{what: step.what, rows: step.rows, elapsed: time.Since(began)}
	if err != nil {
		closeAll(clients)
	}
	reading.Wait()
	if err := errors.Join(append(failures, err)...); err != nil {
		return err
	}
	if step.synced {
		phase.synced = time.Since(began)
		f.expected += step.rows
		for _, c := range clients {
			if c.ops < f.expected {
				return fmt.Errorf("a client got %d ops, want %d", c.ops, f.expected)
			}
		}
	}
	phase.waited = beats.end()
	f.note(w, phase)
	return nil
}

// walsenders are the processes that serve the slots.
func (b *bed) walsenders(ctx context.Context) (pids []int, err error) {
	for _, name := range []string{slot, otherSlot} {
		pid, err := b.walsender(ctx, name)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// note ends a phase.
func (f *memoryFigures) note(w *memoryWatch, p memoryPhase) {
	p.decoder, p.relay = w.take()
	progress("  %.1f s, decoder %d MiB, relay %d MiB", p.elapsed.Seconds(), p.decoder>>20, p.relay>>20)
	f.phases = append(f.phases, p)
}

// most is the most memory that either had.
func (f *memoryFigures) most() (decoder, relay int64) {
	for _, p := range f.phases {
		decoder, relay = max(decoder, p.decoder), max(relay, p.relay)
	}
	return decoder, relay
}

// judge adds what is not as it should be to the failures.
func (f *memoryFigures) judge() {
	if len(f.phases) > 2 {
		small, large := f.phases[1], f.phases[2]
		if more := large.decoder - small.decoder; more > growth {
			f.failures = append(f.failures, fmt.Sprintf("the decoder took %d MiB more for a transaction of %d rows than for one of %d", more>>20, large.rows, small.rows))
		}
	}
	decoder, relay := f.most()
	for who, peak := range map[string]int64{"decoder": decoder, "relay": relay} {
		if peak > f.limit {
			f.failures = append(f.failures, fmt.Sprintf("the %s had %d MiB resident, more than %d", who, peak>>20, f.limit>>20))
		}
	}
}

// memoryWatch asks for the peaks of two processes, known by their ids.
type memoryWatch struct {
	decoder int
	relay   int // 0 as long as there is none
}

// alive fails when the decoder has ended.
func (w *memoryWatch) alive() error {
	if residentMemory(w.decoder) == 0 {
		return errors.New("the decoder has ended")
	}
	return nil
}

// take gives the peaks since it was called last.
func (w *memoryWatch) take() (decoder, relay int64) {
	decoder, relay = peakMemory(w.decoder), 0
	resetPeak(w.decoder)
	if w.relay != 0 {
		relay = peakMemory(w.relay)
		resetPeak(w.relay)
	}
	return decoder, relay
}

// beats are commits on the other source, one every 100 ms.
type beats struct {
	cancel context.CancelFunc
	group  sync.WaitGroup
	conn   *pgx.Conn // to the sidecar

	mu      sync.Mutex
	last    time.Time // when durable was seen to move
	longest time.Duration
}

func startBeats(ctx context.Context, b *bed, other *pgx.Conn) (*beats, error) {
	conn, err := connect(ctx, b.sidecar.URI("postgres"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &beats{cancel: cancel, conn: conn, last: time.Now()}
	s.group.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		durable := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := other.Exec(ctx, "UPDATE beats SET beat = beat + 1"); err != nil {
				return // the run is over, or its figures show the gap
			}
			var now string
			if err := conn.QueryRow(ctx, "SELECT coalesce((SELECT durable::text FROM millrace.sources WHERE name = $1), '')", otherDatabase).Scan(&now); err != nil {
				return
			}
			s.mu.Lock()
			if now != durable {
				s.longest = max(s.longest, time.Since(s.last))
				s.last, durable = time.Now(), now
			}
			s.mu.Unlock()
		}
	})
	return s, nil
}

func (s *beats) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.longest = time.Now(), 0
}

// end gives the longest wait since begin.
func (s *beats) end() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.longest, time.Since(s.last))
}

func (s *beats) stop() {
	s.cancel()
	s.group.Wait()
	_ = s.conn.Close(context.Background()) // nothing depends on it
}

// lines writes the figures through p, which ends each line.
func (f *memoryFigures) lines(p func(string, ...any)) {
	p("A decoder and a relay, each a process of its own. %d clients follow the table of the transactions that say so, and got %.1f GB in all. "+
		"A second source commits ten times a second; what it waits for is the merging of the other's transaction. Memory is what the system says was resident at most (VmHWM).",
		f.clients, float64(f.sent)/1e9)
	p("")
	p("| | rows | COMMIT to a checkpoint, s | to all clients, s | decoder, MiB | relay, MiB | longest wait of the other source, s |")
	p("|---|---|---|---|---|---|---|")
	for _, x := range f.phases {
		text := func(d time.Duration) string {
			if d == 0 {
				return ""
			}
			return fmt.Sprintf("%.1f", d.Seconds())
		}
		relay := ""
		if x.relay > 0 {
			relay = fmt.Sprint(x.relay >> 20)
		}
		p("| %s | %d | %s | %s | %d | %s | %s |", x.what, x.rows, text(x.elapsed), text(x.synced), x.decoder>>20, relay, text(x.waited))
	}
	p("")
	if len(f.failures) == 0 {
		decoder, relay := f.most()
		p("At most %d MiB in the decoder and %d MiB in the relay, of %d allowed. The connections to the sources stood (wal_sender_timeout is 10 s).",
			decoder>>20, relay>>20, f.limit>>20)
	}
	for _, text := range f.failures {
		p("**Failed:** %s.", text)
	}
}

// err is what failed.
func (f *memoryFigures) err() error {
	var all []error
	for _, text := range f.failures {
		all = append(all, errors.New(text))
	}
	return errors.Join(all...)
}
