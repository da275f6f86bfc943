package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/config"
)

// spoolDir is where large source transactions wait: what the configuration
// says, or a folder of this user and this sidecar in the temporary folder. The
// decoder removes files there that a crash left, so no two sidecars may share
// one. Spool files hold customers' rows: nobody else may look or put anything
// there.
func spoolDir(cfg *config.Config) (string, error) {
	if cfg.Decoder.SpoolDir != "" {
		return cfg.Decoder.SpoolDir, nil
	}
	pc, err := pgconn.ParseConfig(string(cfg.Sidecar.URI))
	if err != nil {
		return "", fmt.Errorf("sidecar.uri %s is no connection string", cfg.Sidecar.URI)
	}
	mine := filepath.Join(os.TempDir(), "millrace-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(mine, 0o700); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("make a folder for spool files: %w; name another with decoder.spool_dir", err)
	}
	fi, err := os.Lstat(mine)
	if err != nil {
		return "", fmt.Errorf("make a folder for spool files: %w; name another with decoder.spool_dir", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || (ok && int(st.Uid) != os.Geteuid()) || fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s is not a folder of this user alone: remove it, or name another with decoder.spool_dir", mine)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s:%d/%s", pc.Host, pc.Port, pc.Database))
	return filepath.Join(mine, hex.EncodeToString(sum[:6])), nil
}
