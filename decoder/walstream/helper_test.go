package walstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/walstream"
	"github.com/millrace/millrace/internal/pgtest"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// source is a database with a slot and a publication for all its tables.
type source struct {
	t    testing.TB
	uri  string
	conn *pgx.Conn
	slot string
}

func newSource(t testing.TB, uri string, setup ...string) *source {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	// The database's name is unique, a slot's has to be.
	s := &source{t: t, uri: uri, slot: strings.TrimPrefix(u.Path, "/")}
	s.conn = s.connect()
	s.exec(setup...)
	s.exec("CREATE PUBLICATION p FOR ALL TABLES")
	s.exec("SELECT pg_create_logical_replication_slot('" + s.slot + "', 'pgoutput')")
	return s
}

func (s *source) connect() *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.uri)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (s *source) exec(sql ...string) {
	s.t.Helper()
	for _, q := range sql {
		if _, err := s.conn.Exec(s.t.Context(), q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

func (s *source) text(sql string) string {
	s.t.Helper()
	var v string
	if err := s.conn.QueryRow(s.t.Context(), sql).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (s *source) open(change ...func(*walstream.Config)) *walstream.Stream {
	s.t.Helper()
	c := walstream.Config{URI: s.uri, Slot: s.slot, Publications: []string{"p"}, SpoolDir: s.t.TempDir()}
	for _, f := range change {
		f(&c)
	}
	var stream *walstream.Stream
	pgtest.Eventually(s.t, patience, func() (err error) {
		stream, err = walstream.Open(s.t.Context(), c)
		if err != nil && !errors.Is(err, walstream.ErrSlotActive) {
			s.t.Fatal(err)
		}
		return err
	})
	s.t.Cleanup(stream.Close)
	return stream
}

// next gives the next event of any kind.
func next(t testing.TB, s *walstream.Stream) walstream.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return nextWithin(ctx, t, s)
}

func nextWithin(ctx context.Context, t testing.TB, s *walstream.Stream) walstream.Event {
	t.Helper()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// nextTx skips keepalives.
func nextTx(t testing.TB, s *walstream.Stream) *walstream.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if tx, ok := nextWithin(ctx, t, s).(*walstream.Tx); ok {
			return tx
		}
	}
}

// end reads until the stream's error.
func end(t testing.TB, s *walstream.Stream, confirm bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for {
		e, err := s.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal("the stream did not end")
			}
			return err
		}
		if confirm {
			s.Confirm(position(e))
		}
		if tx, ok := e.(*walstream.Tx); ok {
			tx.Release()
		}
	}
}

func position(e walstream.Event) millrace.LSN {
	switch e := e.(type) {
	case *walstream.Tx:
		return e.EndLSN
	case walstream.Keepalive:
		return e.WALEnd
	}
	return 0
}

// rows gives the first columns of inserted rows, and other messages as their
// kind.
func rows(t testing.TB, tx *walstream.Tx) string {
	t.Helper()
	var out []string
	var ins pgoutput.Insert
	for m, err := range tx.Messages() {
		if err != nil {
			t.Fatal(err)
		}
		switch k, err := pgoutput.KindOf(m.Data); k {
		case pgoutput.KindInsert:
			if err := pgoutput.ParseInsert(m.Data, &ins); err != nil {
				t.Fatal(err)
			}
			out = append(out, string(ins.New.Bytes(0)))
		case pgoutput.KindMessage:
			msg, err := pgoutput.ParseMessage(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s=%s", msg.Prefix, msg.Content))
		default:
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, k.String())
		}
	}
	return strings.Join(out, " ")
}

// count parses every row and gives their number and the sum of key lengths.
func count(t testing.TB, tx *walstream.Tx) (n int) {
	t.Helper()
	var ins pgoutput.Insert
	var last []byte
	for m, err := range tx.Messages() {
		if err != nil {
			t.Fatal(err)
		}
		if pgoutput.Kind(m.Data[0]) != pgoutput.KindInsert {
			continue
		}
		if err := pgoutput.ParseInsert(m.Data, &ins); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(last, ins.New.Bytes(0)) {
			t.Fatalf("row %s twice", last)
		}
		last = append(last[:0], ins.New.Bytes(0)...)
		n++
	}
	return n
}
