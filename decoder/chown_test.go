package decoder

import (
	"os"
	"syscall"
	"testing"
)

// chownLike gives a file the owner of another: servers run as another user than
// tests that run as root.
func chownLike(t *testing.T, file string, like os.FileInfo) {
	t.Helper()
	if stat, ok := like.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
		if err := os.Chown(file, int(stat.Uid), int(stat.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}
