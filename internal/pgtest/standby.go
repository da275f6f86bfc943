package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/internal/pgserver"
)

// Standby starts a streaming replica of the server, with settings that win over
// the server's. It is made by pg_basebackup; where the server's programs come
// without that, the server is stopped for a moment to be copied. Like a base
// backup, the replica has no replication slots. It is removed when the test
// ends, and may outlive the server.
func (s *Server) Standby(tb testing.TB, settings map[string]string) *Server {
	tb.Helper()
	s.notShared(tb, "Standby")
	ctx, cancel := context.WithTimeout(context.Background(), 3*callTimeout)
	defer cancel()
	replica, err := s.replica(ctx, settings)
	if err != nil {
		tb.Fatal("pgtest.Standby:", err)
	}
	data := filepath.Join(replica.cfg.Dir, filepath.Base(s.DataDir()))
	if program := filepath.Join(s.cfg.Binaries.Dir, "pg_basebackup"); fileExists(program) {
		err = run(ctx, program, "--dbname", s.server.URI("postgres"), "--pgdata", data, "--checkpoint", "fast", "--wal-method", "stream")
	} else {
		s.Stop(tb)
		err = run(ctx, "cp", "-a", s.DataDir(), data)
		s.Start(tb)
		err = errors.Join(err, emptyDir(filepath.Join(data, "pg_replslot")))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o600)
	}
	if err == nil {
		err = run(ctx, "chown", "-R", "--reference", s.DataDir(), data)
	}
	if err == nil {
		replica.server, err = pgserver.Start(ctx, replica.cfg)
	}
	if err != nil {
		tb.Fatal("pgtest.Standby:", errors.Join(err, os.RemoveAll(replica.dir)))
	}
	tb.Cleanup(func() {
		if err := replica.remove(); err != nil {
			tb.Error("pgtest:", err)
		}
	})
	return replica
}

// Promote makes a replica a primary of its own.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	if err := s.exec("postgres", "SELECT pg_promote(true, 50)"); err != nil {
		tb.Fatal("pgtest.Promote:", err)
	}
}

// replica makes the folder of a replica, with the server's passwords.
func (s *Server) replica(ctx context.Context, settings map[string]string) (*Server, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-standby-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	r := &Server{dir: dir, cfg: s.cfg}
	r.cfg.Dir = filepath.Join(dir, "pg")
	r.cfg.Settings = map[string]string{"primary_conninfo": s.server.URI("postgres"), "hot_standby": "on"}
	for _, m := range []map[string]string{s.cfg.Settings, settings} {
		for k, v := range m {
			r.cfg.Settings[k] = v
		}
	}
	err = errors.Join(os.Chmod(dir, 0o711), os.Mkdir(r.cfg.Dir, 0o755)) // another user's server has to get to its folder
	if err == nil {
		err = run(ctx, "cp", "-a", filepath.Join(s.cfg.Dir, "password"), r.cfg.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, out)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// emptyDir removes what is in a folder.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
