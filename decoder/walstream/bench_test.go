package walstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/walstream"
	"github.com/millrace/millrace/internal/pgtest"
)

// BenchmarkRead reads the same backlog again and again: whole transactions
// with every row parsed, and beside it the reader that everybody writes first,
// which parses nothing. rows/s are what counts; compare within one run.
func BenchmarkRead(b *testing.B) {
	for _, load := range []struct {
		name      string
		txs, rows int
	}{{"tx=1", 60_000, 1}, {"tx=100", 2_000, 100}} {
		src := newBacklog(b, load.txs, load.rows)
		b.Run(load.name+"/walstream", func(b *testing.B) { measure(b, src, load.txs*load.rows, readStream) })
		b.Run(load.name+"/naive", func(b *testing.B) { measure(b, src, load.txs*load.rows, readNaive) })
	}
}

func newBacklog(b *testing.B, txs, rows int) *source {
	b.Helper()
	src := newSource(b, pgtest.Shared(b).Database(b), `CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, list uuid DEFAULT gen_random_uuid(),
		title text, done boolean DEFAULT false, owner text DEFAULT 'alice', at timestamptz DEFAULT now(), n int DEFAULT 7, score float8 DEFAULT 0.5, note text)`)
	src.exec("SET synchronous_commit = off", fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO t (title, note) SELECT 'title of the row', repeat('n', 60) FROM generate_series(1, %d); COMMIT; END LOOP; END $$`, txs, rows))
	return src
}

func measure(b *testing.B, src *source, rows int, read func(*testing.B, *source, string) int) {
	var took time.Duration
	for i := range b.N {
		slot := fmt.Sprintf("%s_%d", src.slot, i)
		src.exec("SELECT pg_copy_logical_replication_slot('" + src.slot + "', '" + slot + "')")
		at := time.Now()
		if got := read(b, src, slot); got != rows {
			b.Fatalf("%d rows, want %d", got, rows)
		}
		took += time.Since(at)
		pgtest.Eventually(b, patience, func() error {
			_, err := src.conn.Exec(context.Background(), "SELECT pg_drop_replication_slot('"+slot+"')")
			return err
		})
	}
	b.ReportMetric(float64(rows*b.N)/took.Seconds(), "rows/s")
	b.ReportMetric(0, "ns/op")
}

func readStream(b *testing.B, src *source, slot string) (rows int) {
	s, err := walstream.Open(b.Context(), walstream.Config{URI: src.uri, Slot: slot, Publications: []string{"p"}, SpoolDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	want := rowsOf(b, src)
	var ins pgoutput.Insert
	for rows < want {
		e, err := s.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		tx, ok := e.(*walstream.Tx)
		if !ok {
			continue
		}
		for m, err := range tx.Messages() {
			if err != nil {
				b.Fatal(err)
			}
			if pgoutput.Kind(m.Data[0]) != pgoutput.KindInsert {
				continue
			}
			if err := pgoutput.ParseInsert(m.Data, &ins); err != nil {
				b.Fatal(err)
			}
			rows++
		}
		tx.Release()
	}
	return rows
}

func readNaive(b *testing.B, src *source, slot string) (rows int) {
	conn, err := pgconn.Connect(b.Context(), pgtest.WithParam(b, src.uri, "replication", "database"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := pglogrepl.StartReplication(b.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'p'"}}); err != nil {
		b.Fatal(err)
	}
	want := rowsOf(b, src)
	for rows < want {
		m, err := conn.ReceiveMessage(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if cd, ok := m.(*pgproto3.CopyData); ok && cd.Data[0] == 'w' && cd.Data[25] == 'I' {
			rows++
		}
	}
	return rows
}

func rowsOf(b *testing.B, src *source) (n int) {
	b.Helper()
	if err := src.conn.QueryRow(b.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkIdleLatency is the time from a commit's return to the transaction.
func BenchmarkIdleLatency(b *testing.B) {
	src := newSource(b, pgtest.Shared(b).Database(b), table)
	s := src.open()
	i := 0
	var worst time.Duration
	for b.Loop() {
		i++
		src.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		at := time.Now()
		for {
			tx, ok := next(b, s).(*walstream.Tx)
			if ok {
				tx.Release()
				break
			}
		}
		worst = max(worst, time.Since(at))
		s.Confirm(s.Stats().Delivered)
	}
	b.ReportMetric(float64(worst.Microseconds()), "worst-us")
}

// Idle, a transaction arrives within a few milliseconds of its commit.
func TestIdleLatency(t *testing.T) {
	src := newSource(t, pgtest.Shared(t).Database(t), table)
	s := src.open()
	best, id := time.Hour, 0
	pgtest.Eventually(t, patience, func() error { // another process may have the processor
		id++
		src.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", id))
		at := time.Now()
		nextTx(t, s).Release()
		if best = min(best, time.Since(at)); best > 5*time.Millisecond {
			return errors.New("late: " + best.String())
		}
		return nil
	})
}
