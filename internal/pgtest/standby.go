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

// Standby starts a streaming replica of the server, which is stopped for a
// moment to be copied. The replica is removed when the test ends.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	s.Stop(tb)
	replica, err := s.copy()
	s.Start(tb)
	if err != nil {
		tb.Fatal("pgtest.Standby:", err)
	}
	replica.cfg.Settings["primary_conninfo"] = s.server.URI("postgres")
	replica.cfg.Settings["hot_standby"] = "on"
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	if replica.server, err = pgserver.Start(ctx, replica.cfg); err != nil {
		tb.Fatal("pgtest.Standby:", errors.Join(err, os.RemoveAll(replica.dir)))
	}
	tb.Cleanup(func() {
		if err := replica.remove(); err != nil {
			tb.Error("pgtest:", err)
		}
	})
	return replica
}

// copy copies the stopped server's files for a standby.
func (s *Server) copy() (*Server, error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-standby-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // another user's server has to get to its folder
		return nil, err
	}
	replica := &Server{dir: dir, cfg: s.cfg}
	replica.cfg.Dir = filepath.Join(dir, "pg")
	replica.cfg.Settings = map[string]string{}
	for k, v := range s.cfg.Settings {
		replica.cfg.Settings[k] = v
	}
	if out, err := exec.Command("cp", "-a", s.cfg.Dir, replica.cfg.Dir).CombinedOutput(); err != nil {
		return nil, errors.Join(err, errors.New(string(out)), os.RemoveAll(dir))
	}
	signal := filepath.Join(replica.cfg.Dir, filepath.Base(s.DataDir()), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return replica, nil
}
