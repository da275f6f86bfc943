package sql_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func migrated(tb testing.TB) *pgx.Conn {
	tb.Helper()
	uri := pgtest.Shared(tb).Database(tb)
	if err := migrations.Up(tb.Context(), uri); err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(tb.Context(), uri)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func value[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	tb.Helper()
	var v T
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

// TestChecksumVectors holds Go and SQL to the same file.
func TestChecksumVectors(t *testing.T) {
	text, err := os.ReadFile("../testdata/checksums.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		CRC32C []struct {
			Text string
			CRC  int64
		}
		FMix32 []struct{ In, Out int64 }
		Ops    []struct {
			Kind, Type, ID, Subkey string
			Data                   *string
			Checksum               millrace.Checksum
		}
		Sum millrace.Checksum
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors.CRC32C) == 0 || len(vectors.FMix32) == 0 || len(vectors.Ops) == 0 {
		t.Fatal("the file has no vectors")
	}
	conn := migrated(t)
	for _, v := range vectors.CRC32C {
		if got := value[int64](t, conn, `SELECT millrace.crc32c($1)`, []byte(v.Text)); got != v.CRC {
			t.Errorf("crc32c(%.20q) = %d, want %d", v.Text, got, v.CRC)
		}
	}
	for _, v := range vectors.FMix32 {
		if got := value[int64](t, conn, `SELECT millrace.fmix32($1)`, v.In); got != v.Out {
			t.Errorf("fmix32(%d) = %d, want %d", v.In, got, v.Out)
		}
	}
	var sum millrace.Checksum
	var signed []int32
	for _, v := range vectors.Ops {
		kind, inGo := 2, millrace.RemoveChecksum(v.Type, v.ID, v.Subkey)
		if v.Kind == "PUT" {
			kind, inGo = 1, millrace.PutChecksum(v.Type, v.ID, v.Subkey, *v.Data)
		}
		inSQL := value[int32](t, conn, `SELECT millrace.op_checksum($1, $2, $3, nullif($4, ''), $5)`, kind, v.Type, v.ID, v.Subkey, v.Data)
		if inGo != v.Checksum || millrace.Checksum(inSQL) != v.Checksum {
			t.Errorf("%s %s/%s/%s: %d in Go, %d in SQL, want %d", v.Kind, v.Type, v.ID, v.Subkey, inGo, millrace.Checksum(inSQL), v.Checksum)
		}
		sum += inGo
		signed = append(signed, inSQL)
	}
	inSQL := value[int32](t, conn, `SELECT millrace.wrap32(sum(c)) FROM unnest($1::int[]) c`, signed)
	if sum != vectors.Sum || millrace.Checksum(inSQL) != vectors.Sum {
		t.Errorf("sum: %d in Go, %d in SQL, want %d", sum, millrace.Checksum(inSQL), vectors.Sum)
	}
}
