package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// pidFile is what a postmaster.pid says.
type pidFile struct {
	pid   int
	port  int
	ready bool // accepts connections
}

// readPidFile reads the data directory's postmaster.pid. Lines: pid, data
// directory, start time, port, socket directory, listen address, shared
// memory key, status.
func readPidFile(dataDir string) (pidFile, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	return parsePidFile(string(b))
}

func parsePidFile(text string) (pidFile, error) {
	lines := strings.Split(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 {
		return pidFile{}, fmt.Errorf("postmaster.pid starts with %q, which is no process id", lines[0])
	}
	p := pidFile{pid: pid}
	if len(lines) > 3 {
		if p.port, err = strconv.Atoi(strings.TrimSpace(lines[3])); err != nil {
			return pidFile{}, fmt.Errorf("postmaster.pid has port %q", lines[3])
		}
	}
	if len(lines) > 7 {
		status := strings.TrimSpace(lines[7])
		p.ready = status == "ready" || status == "standby"
	}
	return p, nil
}

// adopt takes over a server that runs on the data directory. It tells whether
// there was one. A pid file left by a crash is removed if its process id now
// belongs to something else.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	for {
		p, err := readPidFile(s.DataDir())
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, nil
		case err != nil: // being written, or damaged: PostgreSQL judges it at start
			return false, nil
		case !alive(p.pid):
			return false, nil
		case !isPostgres(p.pid):
			if err := os.Remove(filepath.Join(s.DataDir(), "postmaster.pid")); err != nil {
				return false, fmt.Errorf("remove the pid file of a server that is gone: %w", err)
			}
			return false, nil
		}
		if p.ready {
			s.pid, s.port, s.exited, s.adopted = p.pid, p.port, nil, true
			if err := s.identify(ctx); err == nil {
				return true, nil
			} else if alive(p.pid) && ctx.Err() == nil {
				var pe *pgconn.PgError
				if errors.As(err, &pe) && pe.Code == "57P03" { // starting up or shutting down
					continue
				}
				return false, fmt.Errorf("a server (pid %d) runs on %s but cannot be used: %w", p.pid, s.DataDir(), err)
			}
		}
		if !pause(ctx, pollInterval) {
			return false, context.Cause(ctx)
		}
	}
}

// identify connects and makes sure that this is the server of our data
// directory.
func (s *Server) identify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.URI("postgres")+"?sslmode=disable")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	res := conn.ExecParams(ctx, "SELECT current_setting('data_directory')", nil, nil, nil, nil).Read()
	if res.Err != nil {
		return res.Err
	}
	if len(res.Rows) != 1 {
		return errors.New("it does not tell its data directory")
	}
	theirs, err := os.Stat(string(res.Rows[0][0]))
	if err != nil {
		return fmt.Errorf("its data directory: %w", err)
	}
	ours, err := os.Stat(s.DataDir())
	if err != nil {
		return fmt.Errorf("our data directory: %w", err)
	}
	if !os.SameFile(theirs, ours) {
		return fmt.Errorf("port %d belongs to a server with the data directory %s", s.port, res.Rows[0][0])
	}
	return nil
}

// alive tells whether a process exists that has not ended.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	// A process that ended but was not waited for by its parent counts as gone.
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) {
			return stat[i+2] != 'Z' && stat[i+2] != 'X'
		}
	}
	return true
}

// isPostgres tells whether a process may be a postmaster; true where that
// cannot be known.
func isPostgres(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return true
	}
	name := strings.TrimSpace(string(comm))
	return name == "postgres" || name == "postmaster"
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// StopIn stops the server that runs on the cluster in dir, if one does.
func StopIn(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("folder %q: %w", dir, err)
	}
	s := &Server{cfg: Config{Dir: dir}}
	password, err := os.ReadFile(s.passwordFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil // no cluster
	} else if err != nil {
		return fmt.Errorf("read the cluster's password: %w", err)
	}
	s.password = strings.TrimSpace(string(password))
	ctx, cancel := context.WithTimeout(ctx, startTimeout+stopTimeout)
	defer cancel()
	if ok, err := s.adopt(ctx); err != nil || !ok {
		return err
	}
	return s.Stop(ctx)
}
