package clientsdk

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var files atomic.Int64

// tempDir is a directory for a database, in memory where the system has such a
// place: tests commit a lot.
func tempDir(tb testing.TB) string {
	tb.Helper()
	if _, err := os.Stat("/dev/shm"); err != nil {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "millrace-clientsdk-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func tempFile(tb testing.TB) string {
	return filepath.Join(tempDir(tb), "db"+strconv.FormatInt(files.Add(1), 10)+".sqlite")
}

// testStore opens a store on a new file.
func testStore(tb testing.TB, schema Schema) *store {
	tb.Helper()
	return reopenStore(tb, tempFile(tb), schema)
}

func reopenStore(tb testing.TB, path string, schema Schema) *store {
	tb.Helper()
	ctx := context.Background()
	s, err := openStore(ctx, "sqlite", path, 2, func() string { return "client-1" }, func() int64 { return 1000 })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if s != nil {
			if err := s.close(); err != nil {
				tb.Error(err)
			}
		}
	})
	if err := s.applySchema(ctx, &schema); err != nil {
		tb.Fatal(err)
	}
	return s
}
