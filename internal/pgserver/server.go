package pgserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Superuser is the name of the clusters' superuser.
const Superuser = "postgres"

// Times and sizes.
const (
	startTimeout = 60 * time.Second      // until ready, crash recovery included
	stopTimeout  = 30 * time.Second      // fast stop; after it the server is killed
	pollInterval = 20 * time.Millisecond // between looks at the pid file
	maxLogBytes  = 8 << 20               // an older log is moved to log.1 at start
	portTries    = 100                   // looks at whether the port of before is free again
	portAttempts = 5                     // when a free port was taken before the server could bind it
	confFile     = "millrace.conf"       // included by postgresql.conf
)

// Config says what to run.
type Config struct {
	Binaries Binaries
	// Dir holds everything: data, log, password. Made if missing.
	Dir string
	// Settings go into the server's configuration; they win over the
	// defaults this package sets.
	Settings map[string]string
	// EndWithParent makes the server end when this process ends, however it
	// ends. Linux only, ignored elsewhere.
	EndWithParent bool
}

// Server is a running PostgreSQL. Its methods are for one goroutine at a time,
// but for Wait, URI and PID.
type Server struct {
	cfg      Config
	account  account
	password string
	port     int
	pid      int
	adopted  bool
	// exited is closed when a server started by this process has ended; nil
	// for an adopted one.
	exited chan struct{}
}

// Start makes the cluster if Dir has none, and returns once the server accepts
// connections. A server that runs on this Dir already is adopted instead, with
// the settings it has. The port stays the same over restarts if it is free.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	a, err := currentAccount()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.Dir, cfg.Binaries.Dir} {
		if err := a.reach(dir); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("PostgreSQL in %s was not ready after %v, see %s", cfg.Dir, startTimeout, filepath.Join(cfg.Dir, "log")))
	defer cancel()
	s := &Server{cfg: cfg, account: a}
	if err := s.create(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	if ok, err := s.adopt(ctx); err != nil {
		return nil, withCause(ctx, err)
	} else if ok {
		return s, nil
	}
	if err := s.launch(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	return s, nil
}

// withCause puts the reason a context ended for in the place of the bare
// "deadline exceeded".
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// DataDir is the cluster's data directory.
func (s *Server) DataDir() string { return filepath.Join(s.cfg.Dir, "data") }

// LogFile is where the server writes its log.
func (s *Server) LogFile() string { return filepath.Join(s.cfg.Dir, "log") }

func (s *Server) passwordFile() string { return filepath.Join(s.cfg.Dir, "password") }

// Adopted tells whether the server was running already.
func (s *Server) Adopted() bool { return s.adopted }

// PID is the postmaster's process id.
func (s *Server) PID() int { return s.pid }

// Port is the TCP port on 127.0.0.1.
func (s *Server) Port() int { return s.port }

// URI is the connection string of the superuser for a database. It holds the
// password.
func (s *Server) URI(database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(Superuser, s.password),
		Host:   net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:   "/" + database,
	}
	return u.String()
}

// Wait returns nil when the server has ended, or the context's error.
func (s *Server) Wait(ctx context.Context) error {
	for {
		if s.ended() {
			return nil
		}
		interval := time.NewTimer(10 * pollInterval)
		select {
		case <-ctx.Done():
			interval.Stop()
			return ctx.Err()
		case <-s.exited: // nil, so never ready, for an adopted server
			interval.Stop()
			return nil
		case <-interval.C:
		}
	}
}

// ErrKilled is in the chain of the error of Stop if it had to kill.
var ErrKilled = errors.New("did not stop in time and was killed")

// Stop stops the server fast: clients are disconnected, data is flushed. If
// that takes too long the server is killed and an error says so. It is no
// error if the server has ended already.
func (s *Server) Stop(ctx context.Context) error {
	if s.ended() {
		return nil
	}
	if err := syscall.Kill(s.pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop PostgreSQL (pid %d): %w", s.pid, err)
	}
	wait, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if s.Wait(wait) == nil {
		return nil
	}
	if err := s.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("PostgreSQL (pid %d) %w; its data is safe and will be recovered at the next start, see %s", s.pid, ErrKilled, s.LogFile())
}

// Kill ends the postmaster at once, as a crash would (kill -9), and waits
// until it is gone. Its backends end by themselves a moment later.
func (s *Server) Kill() error {
	if s.ended() {
		return nil
	}
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill PostgreSQL (pid %d): %w", s.pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		return fmt.Errorf("PostgreSQL (pid %d) is still there after kill -9", s.pid)
	}
	return nil
}

// ended tells whether the postmaster is gone.
func (s *Server) ended() bool {
	if s.exited == nil {
		return !alive(s.pid)
	}
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// create makes the cluster unless it is there. A folder whose making was
// interrupted is made again: the password file is written last.
func (s *Server) create(ctx context.Context) error {
	switch b, err := os.ReadFile(s.passwordFile()); {
	case err == nil:
		s.password = strings.TrimSpace(string(b))
		return s.checkVersion()
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read the cluster's password: %w", err)
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("make the cluster's folder: %w", err)
	}
	if err := os.RemoveAll(s.DataDir()); err != nil {
		return fmt.Errorf("remove a half-made cluster: %w", err)
	}
	if err := os.Mkdir(s.DataDir(), 0o700); err != nil {
		return fmt.Errorf("make the cluster's folder: %w", err)
	}
	secret := make([]byte, 12)
	rand.Read(secret) // never fails
	s.password = hex.EncodeToString(secret)
	pwfile := filepath.Join(s.cfg.Dir, "password.new")
	if err := os.WriteFile(pwfile, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the cluster's password: %w", err)
	}
	if s.account.drop {
		for _, path := range []string{s.DataDir(), pwfile} {
			if err := os.Chown(path, s.account.uid, s.account.gid); err != nil {
				return fmt.Errorf("give the cluster to user %q: %w", s.account.name, err)
			}
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.cfg.Binaries.Dir, "initdb"),
		"-D", s.DataDir(), "-U", Superuser, "--pwfile="+pwfile, "--auth=scram-sha-256",
		"-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Dir = s.cfg.Dir
	cmd.Env = serverEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account.credential(), Setsid: true}
	if out, err := cmd.CombinedOutput(); ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		return fmt.Errorf("initdb in %s: %w\n%s", s.cfg.Dir, err, tail(out))
	}
	conf, err := os.OpenFile(filepath.Join(s.DataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	_, err = fmt.Fprintf(conf, "\ninclude_if_exists = '%s'\n", confFile)
	if err := errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	if s.account.drop {
		if err := os.Chown(pwfile, os.Geteuid(), os.Getegid()); err != nil {
			return fmt.Errorf("keep the cluster's password: %w", err)
		}
	}
	if err := os.Rename(pwfile, s.passwordFile()); err != nil {
		return fmt.Errorf("keep the cluster's password: %w", err)
	}
	return nil
}

// checkVersion refuses binaries of another major version than the cluster's.
func (s *Server) checkVersion() error {
	b, err := os.ReadFile(filepath.Join(s.DataDir(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("%s is no PostgreSQL cluster any more: %w", s.DataDir(), err)
	}
	if v := strings.TrimSpace(string(b)); v != strconv.Itoa(s.cfg.Binaries.Major) {
		return fmt.Errorf("the cluster in %s was made by PostgreSQL %s and the binaries in %s are version %d: name the folder of version %s, or start over with a fresh cluster", s.cfg.Dir, v, s.cfg.Binaries.Dir, s.cfg.Binaries.Major, v)
	}
	return nil
}

// launch starts the server, on the port it had last if that is free.
func (s *Server) launch(ctx context.Context) error {
	portFile := filepath.Join(s.cfg.Dir, "port")
	port := 0
	if b, err := os.ReadFile(portFile); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 && n < 1<<16 {
			port = n
		}
	}
	// A backend that was just made when the server was killed may hold the port
	// for a moment.
	for tries := 0; port != 0 && !portFree(port) && tries < portTries; tries++ {
		if !pause(ctx, pollInterval) {
			return ctx.Err()
		}
	}
	for attempt := 1; ; attempt++ {
		if port == 0 || !portFree(port) {
			var err error
			if port, err = freePort(); err != nil {
				return fmt.Errorf("find a free port: %w", err)
			}
		}
		if err := os.WriteFile(portFile, []byte(strconv.Itoa(port)+"\n"), 0o644); err != nil {
			return fmt.Errorf("keep the server's port: %w", err)
		}
		s.port = port
		if err := s.writeConf(); err != nil {
			return err
		}
		err := s.run(ctx)
		var early *earlyExit
		if err == nil || !errors.As(err, &early) || ctx.Err() != nil {
			return err
		}
		switch {
		case strings.Contains(early.log, "could not bind") && attempt < portAttempts:
			port = 0
		case strings.Contains(early.log, "pre-existing shared memory block"):
			// Backends of a killed server are still ending.
			if !pause(ctx, 10*pollInterval) {
				return err
			}
		default:
			return err
		}
	}
}

// writeConf writes the settings. They are in a file, so that the cluster can
// also be started by hand.
func (s *Server) writeConf() error {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": "",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
	}
	for k, v := range s.cfg.Settings {
		settings[k] = v
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Written at every start.\n")
	for _, k := range sortedKeys(settings) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(settings[k], "'", "''"))
	}
	path := filepath.Join(s.DataDir(), confFile)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	if s.account.drop {
		if err := os.Chown(path, s.account.uid, s.account.gid); err != nil {
			return fmt.Errorf("configure the cluster: %w", err)
		}
	}
	return nil
}

// earlyExit is a server that ended before it was ready.
type earlyExit struct {
	dir, log string
	state    error
}

func (e *earlyExit) Error() string {
	return fmt.Sprintf("PostgreSQL in %s ended while starting (%v):\n%s", e.dir, e.state, e.log)
}

// run starts the process and waits until it is ready.
func (s *Server) run(ctx context.Context) error {
	if fi, err := os.Stat(s.LogFile()); err == nil && fi.Size() > maxLogBytes {
		if err := os.Rename(s.LogFile(), s.LogFile()+".1"); err != nil {
			return fmt.Errorf("rotate the server's log: %w", err)
		}
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	logStart, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	cmd := exec.Command(filepath.Join(s.cfg.Binaries.Dir, "postgres"), "-D", s.DataDir())
	cmd.Dir = s.DataDir()
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C in our terminal is not for the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account.credential(), Setsid: true}
	exited, waitErr, err := start(cmd, s.cfg.EndWithParent)
	if err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	s.pid, s.exited, s.adopted = cmd.Process.Pid, exited, false
	for {
		if p, err := readPidFile(s.DataDir()); err == nil && p.pid == s.pid && p.ready {
			return nil
		}
		select {
		case <-exited:
			text := make([]byte, 4096)
			n, _ := log.ReadAt(text, logStart) // what there is will do for a message
			return &earlyExit{dir: s.cfg.Dir, log: tail(text[:n]), state: *waitErr}
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), s.Kill())
		case <-time.After(pollInterval):
		}
	}
}

// serverEnv is the environment of the server's programs: nothing that would
// change their messages or where they connect to.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "TMPDIR=" + os.TempDir()}
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// freePort prefers ports below those that systems give to outgoing connections:
// one of these could take the port while the server is down.
func freePort() (int, error) {
	for range 20 {
		if port := 15_000 + mathrand.IntN(17_000); portFree(port) {
			return port, nil
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// pause waits, and tells whether the context is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// tail is the end of a program's output, for messages.
func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}
