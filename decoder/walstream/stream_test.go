package walstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/walstream"
	"github.com/millrace/millrace/internal/pgtest"
)

const table = "CREATE TABLE t (id int PRIMARY KEY, v text)"

// RA-28, RA-31: only kept rows, whole transactions in commit order.
func TestTransactionsArriveWholeInCommitOrder(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	src.exec(`BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); SAVEPOINT b;
		INSERT INTO t VALUES (3); RELEASE b; ROLLBACK TO a; INSERT INTO t VALUES (4); COMMIT`)
	tx := nextTx(t, s)
	if got := rows(t, tx); got != "Relation 1 4" {
		t.Errorf("savepoints: %s", got)
	}
	if tx.Count != 3 || tx.Bytes == 0 || tx.Spooled() || time.Since(tx.CommitTime).Abs() > time.Hour || tx.EndLSN <= tx.CommitLSN {
		t.Errorf("%+v", tx)
	}
	last := tx.EndLSN
	tx.Release()
	tx.Release()
	for _, err := range tx.Messages() {
		if err == nil {
			t.Error("a released transaction can be read")
		}
	}

	// T1 begins, T2 begins and commits, T1 commits.
	other := src.connect()
	src.exec("BEGIN; INSERT INTO t VALUES (10)")
	if _, err := other.Exec(t.Context(), "INSERT INTO t VALUES (11)"); err != nil {
		t.Fatal(err)
	}
	src.exec("INSERT INTO t VALUES (12); COMMIT")
	// Nothing of these is seen: rolled back, and empty.
	src.exec("BEGIN; INSERT INTO t VALUES (13); ROLLBACK", "BEGIN; CREATE TEMP TABLE x (i int); COMMIT")
	src.exec("INSERT INTO t VALUES (14)")
	for _, want := range []string{"11", "10 12", "14"} {
		tx := nextTx(t, s)
		for tx.Count == 0 { // sent by servers before 15
			tx = nextTx(t, s)
		}
		// Some releases describe the relation again after any change of a catalog
		// that went on beside the transaction.
		if got := strings.TrimPrefix(rows(t, tx), "Relation "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if tx.EndLSN <= last {
			t.Errorf("end LSN %v after %v", tx.EndLSN, last)
		}
		last = tx.EndLSN
		tx.Release()
	}
}

func TestLogicalMessages(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	src.exec("SELECT pg_logical_emit_message(false, 'other', 'skipped')",
		"SELECT pg_logical_emit_message(true, 'millrace', 'n1')",
		"BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'millrace', 'n2'); COMMIT")
	for _, want := range []string{"millrace=n1", "Relation 1 millrace=n2"} {
		tx := nextTx(t, s)
		if got := rows(t, tx); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		tx.Release()
	}
}

// P58, P74: what is confirmed is not sent again, all else is.
func TestResumesBehindTheConfirmedPosition(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	src.exec("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
	first := nextTx(t, s)
	second := nextTx(t, s)
	s.Confirm(first.EndLSN)
	s.Confirm(first.CommitLSN) // never goes back
	if got := s.Stats().Confirmed; got != first.EndLSN {
		t.Errorf("confirmed %v", got)
	}
	// P88: a position nobody was given is not believed.
	s.Confirm(second.EndLSN + 1<<30)
	if got := s.Stats().Confirmed; got != second.EndLSN {
		t.Errorf("confirmed %v, want %v", got, second.EndLSN)
	}
	second.Release()
	first.Release()
	s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, walstream.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	pgtest.Eventually(t, patience, func() error {
		at := src.text("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + src.slot + "'")
		if at != second.EndLSN.String() {
			return fmt.Errorf("the slot is at %s, want %v", at, second.EndLSN)
		}
		return nil
	})
	s = src.open(func(c *walstream.Config) { c.Start = second.EndLSN })
	tx := nextTx(t, s)
	if got := rows(t, tx); got != "Relation 3" {
		t.Errorf("after resuming: %s", got)
	}
	tx.Release()
}

// The position of a keepalive can be confirmed and moves the slot past WAL
// that holds nothing for us (P59, RA-34).
func TestRA34_KeepaliveMovesTheSlot(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table, "CREATE UNLOGGED TABLE u (i int)", "CREATE TABLE x (i int)")
	src.exec("DROP PUBLICATION p", "CREATE PUBLICATION p FOR TABLE t", "SELECT pg_drop_replication_slot('"+src.slot+"')",
		"SELECT pg_create_logical_replication_slot('"+src.slot+"', 'pgoutput')")
	s := src.open()
	src.exec("INSERT INTO x SELECT generate_series(1, 1000)")
	head, err := millrace.ParseLSN(src.text("SELECT pg_current_wal_insert_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		e := next(t, s)
		if tx, ok := e.(*walstream.Tx); ok {
			if tx.Count > 0 {
				t.Fatalf("got %s", rows(t, tx))
			}
			tx.Release()
		}
		s.Confirm(position(e))
		if position(e) >= head {
			break
		}
	}
	pgtest.Eventually(t, patience, func() error {
		if ok := src.text("SELECT (confirmed_flush_lsn >= '" + head.String() + "')::text FROM pg_replication_slots WHERE slot_name = '" + src.slot + "'"); ok != "true" {
			return errors.New("the slot has not moved")
		}
		return nil
	})
}

func TestNextReturnsWhenItsContextEnds(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	for {
		if _, err := s.Next(ctx); err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			break
		}
	}
	src.exec("INSERT INTO t VALUES (1)")
	tx := nextTx(t, s) // the stream can be used on
	if got := rows(t, tx); got != "Relation 1" {
		t.Errorf("got %s", got)
	}
	tx.Release()
}

// RA-29: a transaction larger than the memory for it goes to a file, and the
// heap stays small.
func TestLargeTransactionIsSpooled(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	dir := t.TempDir()
	leftover := filepath.Join(dir, "spool-"+src.slot+"-123.wal")
	foreign := filepath.Join(dir, "spool-other_slot-123.wal")
	for _, f := range []string{leftover, foreign} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := src.open(func(c *walstream.Config) { c.SpoolDir = dir; c.MaxMemory = 2 << 20 })
	if files := spoolFiles(t, dir); len(files) != 1 || files[0] != foreign {
		t.Errorf("after Open: %v", files)
	}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := watchHeap(t)
	const n = 200_000
	src.exec(fmt.Sprintf("INSERT INTO t SELECT i, repeat('x', 250) FROM generate_series(1, %d) i", n),
		"INSERT INTO t VALUES (0)",
		"UPDATE t SET v = NULL WHERE id = 0")
	tx := nextTx(t, s)
	if !tx.Spooled() || tx.Bytes < n*250 || len(spoolFiles(t, dir)) != 2 {
		t.Errorf("spooled %v, %d bytes, files %v", tx.Spooled(), tx.Bytes, spoolFiles(t, dir))
	}
	for range 2 { // it can be read again
		if got := count(t, tx); got != n {
			t.Errorf("%d rows", got)
		}
	}
	tx.Release()
	if files := spoolFiles(t, dir); len(files) != 1 {
		t.Errorf("after Release: %v", files)
	}
	if got := s.Stats().Spooled; got != 0 {
		t.Errorf("%d bytes still counted", got)
	}
	small := nextTx(t, s)
	if got := rows(t, small); got != "0" || small.Spooled() {
		t.Errorf("after the large one: %q, spooled %v", got, small.Spooled())
	}
	small.Release()
	if used := peak() - before.HeapAlloc; used > 40<<20 {
		t.Errorf("heap grew by %d MiB", used>>20)
	}

	// Not released: Close removes the file.
	src.exec("INSERT INTO t SELECT i, repeat('x', 250) FROM generate_series(-20000, -1) i")
	held := nextTx(t, s)
	for !held.Spooled() {
		held.Release()
		held = nextTx(t, s)
	}
	s.Close()
	if files := spoolFiles(t, dir); len(files) != 1 {
		t.Errorf("after Close: %v", files)
	}
	held.Release()
}

// A row larger than every buffer, in memory and in the spool.
func TestRowLargerThanTheBuffers(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (v text, id int)")
	s := src.open(func(c *walstream.Config) { c.MaxMemory = 4 << 20; c.QueueBytes = 1 << 20 })
	src.exec("INSERT INTO t SELECT repeat('a', 3000000)", "INSERT INTO t VALUES ('small')",
		"INSERT INTO t SELECT repeat(i::text, 3000000) FROM generate_series(1, 5) i", "INSERT INTO t VALUES ('end')")
	for _, want := range []string{
		"Relation " + strings.Repeat("a", 3000000), "small",
		strings.Join([]string{strings.Repeat("1", 3000000), strings.Repeat("2", 3000000), strings.Repeat("3", 3000000),
			strings.Repeat("4", 3000000), strings.Repeat("5", 3000000)}, " "), "end",
	} {
		tx := nextTx(t, s)
		if got := rows(t, tx); got != want {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
		if tx.Spooled() != (len(want) > 4<<20) {
			t.Errorf("%d bytes spooled: %v", tx.Bytes, tx.Spooled())
		}
		tx.Release()
	}
}

func TestSpoolMax(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	dir := t.TempDir()
	s := src.open(func(c *walstream.Config) { c.SpoolDir = dir; c.MaxMemory = 1 << 20; c.SpoolMax = 6 << 20 })
	// Two that fit alone but not together: the second waits for the first.
	for i := range 2 {
		src.exec(fmt.Sprintf("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(%d, %d) i", i*10_000, i*10_000+7_999))
	}
	first := nextTx(t, s)
	if s.Stats().Spooled > 6<<20 {
		t.Errorf("%d bytes spooled", s.Stats().Spooled)
	}
	if got := count(t, first); got != 8000 {
		t.Errorf("first: %d rows", got)
	}
	first.Release()
	second := nextTx(t, s)
	if got := count(t, second); got != 8000 {
		t.Errorf("second: %d rows", got)
	}
	second.Release()

	src.exec("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(100000, 140000) i")
	err := end(t, s, true)
	var full *walstream.SpoolFullError
	if !errors.As(err, &full) || full.Limit != 6<<20 || full.Size <= full.Limit {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "decoder.spool_max") {
		t.Errorf("no cure in %q", err)
	}
	s.Close()
	if files := spoolFiles(t, dir); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
}

// A slow consumer holds the server back, and wal_sender_timeout does not end
// the connection (P57, RA-33).
func TestRA33_SlowConsumerSurvivesSenderTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_sender_timeout": "2s"}})
	src := newSource(t, server.Database(t), table)
	s := src.open(func(c *walstream.Config) { c.QueueBytes = 64 << 10 })
	for i := range 20 {
		src.exec(fmt.Sprintf("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(%d, %d) i", i*10_000, i*10_000+1999))
	}
	tx := nextTx(t, s)
	until := time.Now().Add(5 * time.Second)
	pgtest.Eventually(t, patience, func() error {
		if time.Now().Before(until) {
			return errors.New("still slow")
		}
		return nil
	})
	if q := s.Stats().Queued; q > 3<<20 {
		t.Errorf("%d bytes queued", q)
	}
	n := count(t, tx)
	tx.Release()
	for n < 40_000 {
		tx := nextTx(t, s)
		n += count(t, tx)
		tx.Release()
	}
	src.exec("INSERT INTO t VALUES (-1)")
	tx = nextTx(t, s)
	if got := rows(t, tx); got != "-1" {
		t.Errorf("got %s", got)
	}
	tx.Release()
}

// P89: a consumer that stands still ends the connection.
func TestRA33_StalledConsumerEndsTheConnection(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open(func(c *walstream.Config) {
		c.StatusInterval = 200 * time.Millisecond
		c.StallTimeout = time.Second
	})
	src.exec("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
	held := nextTx(t, s)
	busy := time.Now().Add(1500 * time.Millisecond)
	pgtest.Eventually(t, patience, func() error { // work that moves is no stall
		s.Progress()
		if time.Now().Before(busy) {
			return errors.New("working")
		}
		return nil
	})
	src.exec("SELECT count(*) FROM pg_stat_replication") // the server is well
	pgtest.Eventually(t, patience, func() error {
		if active := src.text("SELECT active::text FROM pg_replication_slots WHERE slot_name = '" + src.slot + "'"); active == "true" {
			return errors.New("still connected")
		}
		return nil
	})
	held.Release()
	err := end(t, s, false) // what was received comes first
	var stall *walstream.StallError
	if !errors.As(err, &stall) || stall.After < time.Second || stall.Pending == 0 {
		t.Errorf("got %v", err)
	}
}

func TestKilledConnection(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	src.exec("INSERT INTO t VALUES (1)")
	tx := nextTx(t, s)
	s.Confirm(tx.EndLSN)
	tx.Release()
	src.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '" + src.slot + "'")
	err := end(t, s, false)
	if err == nil || errors.Is(err, walstream.ErrServerShutdown) || !strings.Contains(err.Error(), "administrator command") {
		t.Errorf("got %v", err)
	}
	if _, again := s.Next(t.Context()); again == nil || again.Error() != err.Error() {
		t.Errorf("second time: %v", again)
	}
	s.Close()
	s = src.open()
	src.exec("INSERT INTO t VALUES (2)")
	got := ""
	for !strings.HasSuffix(got, "2") { // the confirmation may not have reached the server
		tx = nextTx(t, s)
		got += rows(t, tx)
		tx.Release()
	}
	if got != "Relation 2" && got != "Relation 12" {
		t.Errorf("got %s", got)
	}
}

// RA-53: the source can shut down while we are idle and while we stream.
func TestRA53_SourceShutsDown(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	src := newSource(t, server.Database(t), table)
	stop := func(s *walstream.Stream) {
		t.Helper()
		// A walsender that has only just begun would be ended like a backend.
		nextTx(t, s).Release()
		ended := make(chan error, 1)
		go func() {
			for {
				e, err := s.Next(context.Background())
				if err != nil {
					ended <- err
					return
				}
				s.Confirm(position(e))
				if tx, ok := e.(*walstream.Tx); ok {
					tx.Release()
				}
			}
		}()
		at := time.Now()
		server.Stop(t)
		if took := time.Since(at); took > 10*time.Second {
			t.Errorf("shutdown took %v", took)
		}
		if err := <-ended; !errors.Is(err, walstream.ErrServerShutdown) {
			t.Errorf("got %v", err)
		}
		s.Close()
	}
	src.exec("INSERT INTO t VALUES (0)")
	stop(src.open())
	server.Start(t)
	src.conn = src.connect()
	s := src.open(func(c *walstream.Config) { c.MaxMemory = 1 << 20 })
	src.exec("INSERT INTO t VALUES (-2)", "INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 100000) i")
	stop(s)
	server.Start(t)
	src.conn = src.connect()
	// The server may have forgotten what was confirmed last (P74).
	s = src.open(func(c *walstream.Config) { c.Start = s.Stats().Confirmed })
	src.exec("INSERT INTO t VALUES (-1)")
	tx := nextTx(t, s)
	for tx.Count == 0 {
		tx = nextTx(t, s)
	}
	if got := rows(t, tx); got != "Relation -1" {
		t.Errorf("after the restarts: %.60s", got)
	}
	tx.Release()
}

func TestOpenErrors(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	src := newSource(t, uri, table)
	s := src.open()
	config := walstream.Config{URI: uri, Slot: src.slot, Publications: []string{"p"}, SpoolDir: t.TempDir()}
	if _, err := walstream.Open(t.Context(), config); !errors.Is(err, walstream.ErrSlotActive) {
		t.Errorf("active slot: %v", err)
	}
	config.Slot = "nosuch"
	if _, err := walstream.Open(t.Context(), config); !errors.Is(err, walstream.ErrHistoryLost) || !strings.Contains(err.Error(), `"nosuch"`) {
		t.Errorf("missing slot: %v", err)
	}
	config.URI = "postgres://someone:s3cret@127.0.0.1:1/db"
	var connect *session.ConnectError
	if _, err := walstream.Open(t.Context(), config); !errors.As(err, &connect) || connect.Cause != session.Unreachable || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
	config.URI = "postgres://someone:s3cret@host:port/db"
	if _, err := walstream.Open(t.Context(), config); !errors.Is(err, session.ErrURI) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("bad URI: %v", err)
	}
	if _, err := walstream.Open(t.Context(), walstream.Config{}); err == nil || !strings.Contains(err.Error(), "no slot") {
		t.Errorf("empty config: %v", err)
	}
	s.Close()
}

// Every goroutine ends with Close, in whatever state the stream is.
func TestCloseJoinsEverything(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	src.exec("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 50000) i")
	for _, queue := range []int64{1, 64 << 20} { // the reader waits for room, or for the server
		src.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", -queue))
		before := goleak.IgnoreCurrent()
		s := src.open(func(c *walstream.Config) { c.QueueBytes = queue })
		tx := nextTx(t, s)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			for {
				if _, err := s.Next(context.Background()); err != nil {
					return
				}
			}
		})
		s.Close()
		waiting.Wait()
		tx.Release()
		goleak.VerifyNone(t, before)
	}
}

func spoolFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "spool-*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// watchHeap samples the live heap until the result is called, which gives the
// greatest size seen.
func watchHeap(t *testing.T) func() uint64 {
	stop := make(chan struct{})
	var peak uint64
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	stopped := sync.OnceValue(func() uint64 { close(stop); done.Wait(); return peak })
	t.Cleanup(func() { stopped() })
	return stopped
}
