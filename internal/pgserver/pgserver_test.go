package pgserver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// tempDir is a folder that another user's server can reach, unlike t.TempDir.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-pgserver-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func config(t *testing.T, dir string) Config {
	t.Helper()
	bin, err := Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Binaries: bin, Dir: dir, EndWithParent: true,
		Settings: map[string]string{"fsync": "off", "cluster_name": "it's ours"}}
}

func mustStart(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func show(t *testing.T, s *Server, setting string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URI("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var v string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStartAdoptStopStartAgain(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "deep", "pg"))
	s := mustStart(t, cfg)
	if s.Adopted() {
		t.Error("a new server counts as adopted")
	}
	if got := show(t, s, "cluster_name"); got != "it's ours" {
		t.Errorf("cluster_name = %q", got)
	}
	if s.Wait(cancelled()) == nil {
		t.Error("Wait says a running server has ended")
	}

	other := mustStart(t, cfg)
	if !other.Adopted() || other.PID() != s.PID() || other.URI("x") != s.URI("x") {
		t.Errorf("second start: adopted %v, pid %d want %d", other.Adopted(), other.PID(), s.PID())
	}
	if err := other.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("stopping twice: %v", err)
	}

	again := mustStart(t, cfg)
	if again.Adopted() || again.Port() != s.Port() {
		t.Errorf("third start: adopted %v, port %d want %d", again.Adopted(), again.Port(), s.Port())
	}
}

func TestStartAfterKillWithStalePidFile(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "pg"))
	s := mustStart(t, cfg)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	// The process id in the file may by now be anybody's: here it is ours.
	path := filepath.Join(s.DataDir(), "postmaster.pid")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := mustStart(t, cfg); again.Adopted() {
		t.Error("adopted a process that is no server")
	}
}

func TestStopIn(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "pg"))
	if err := StopIn(t.Context(), cfg.Dir); err != nil {
		t.Errorf("without a cluster: %v", err)
	}
	s := mustStart(t, cfg)
	if err := StopIn(t.Context(), cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := StopIn(t.Context(), cfg.Dir); err != nil {
		t.Errorf("with a stopped cluster: %v", err)
	}
}

func TestInterruptedCreationIsRepeated(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "pg"))
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "data", "base"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustStart(t, cfg)
}

func TestClusterOfAnotherVersionIsRefused(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "pg"))
	if err := mustStart(t, cfg).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Binaries.Major = 99
	_, err := Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "are version 99") {
		t.Errorf("error = %v", err)
	}
}

func TestStartReportsWhatTheServerSaid(t *testing.T) {
	cfg := config(t, filepath.Join(tempDir(t), "pg"))
	cfg.Settings = map[string]string{"wal_level": "nonsense"}
	_, err := Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "wal_level"`) {
		t.Errorf("error = %v", err)
	}
}

func TestUnreachableFolder(t *testing.T) {
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := account{name: "postgres", uid: 4711, gid: 4711, drop: true}.reach(filepath.Join(dir, "not", "there"))
	var closed *UnreachableError
	if !errors.As(err, &closed) || closed.Dir != dir || !strings.Contains(err.Error(), "chmod o+x "+dir) {
		t.Errorf("error = %v, want %s to be closed", err, dir)
	}
	if err := (account{uid: 4711, gid: 4711}).reach(dir); err != nil {
		t.Errorf("without a change of user: %v", err)
	}
}

func TestRootNeedsAnotherUser(t *testing.T) {
	only := func(known ...string) func(string) (*user.User, error) {
		return func(name string) (*user.User, error) {
			for _, k := range known {
				if k == name {
					return &user.User{Username: name, Uid: "7", Gid: "8"}, nil
				}
			}
			return nil, user.UnknownUserError(name)
		}
	}
	if _, err := dropTo(accountNames, only("root")); err == nil || !strings.Contains(err.Error(), "useradd --system postgres") {
		t.Errorf("error = %v", err)
	}
	a, err := dropTo(accountNames, only("nobody"))
	if err != nil || a.name != "nobody" || a.uid != 7 || a.gid != 8 {
		t.Errorf("account = %+v, error = %v", a, err)
	}
	if cred := a.credential(); cred == nil || cred.Uid != 7 || cred.Gid != 8 {
		t.Errorf("credential = %+v", cred)
	}
}

// fakeServer writes a folder whose postgres says it is the given version.
func fakeServer(t *testing.T, dir, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n",
		"initdb":   "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFinderOrder(t *testing.T) {
	root := t.TempDir()
	v12 := fakeServer(t, filepath.Join(root, "dist", "12", "bin"), "12.3")
	v14 := fakeServer(t, filepath.Join(root, "dist", "14", "bin"), "14.9 (Debian 14.9-1)")
	v17 := fakeServer(t, filepath.Join(root, "dist", "17", "bin"), "17beta1")
	path := fakeServer(t, filepath.Join(root, "path"), "15.1")
	empty := filepath.Join(root, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "link")
	if err := os.Mkdir(link, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.Symlink(filepath.Join(v14, name), filepath.Join(link, name)); err != nil {
			t.Fatal(err)
		}
	}
	dist := filepath.Join(root, "dist", "*", "bin")
	for _, tc := range []struct {
		name    string
		finder  Finder
		want    string
		wantErr string
	}{
		{name: "explicit before all", finder: Finder{Explicit: v14, Env: v17, Path: path}, want: v14},
		{name: "environment before path", finder: Finder{Env: v17, Path: path}, want: v17},
		{name: "path before distribution", finder: Finder{Path: empty + ":" + path, Patterns: []string{dist}}, want: path},
		{name: "newest of a distribution", finder: Finder{Path: empty, Patterns: []string{dist}}, want: v17},
		{name: "links lead to the real place", finder: Finder{Path: link}, want: v14},
		{name: "explicit without binaries", finder: Finder{Explicit: empty, Path: path}, wantErr: `has no program "postgres"`},
		{name: "environment without binaries", finder: Finder{Env: empty, Path: path}, wantErr: "MILLRACE_PG_BIN: "},
		{name: "nowhere", finder: Finder{Path: empty + ":relative:"}, wantErr: ErrNotFound.Error()},
		{name: "too old", finder: Finder{Path: v12}, wantErr: "PostgreSQL 12.3; version 14 or newer is needed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := tc.finder.Find(t.Context())
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error = %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || b.Dir != tc.want {
				t.Errorf("found %q (%v), want %q", b.Dir, err, tc.want)
			}
		})
	}
}

func FuzzParsePidFile(f *testing.F) {
	f.Add("4711\n/data\n1732\n5432\n\n127.0.0.1\n  1 2\nready   \n")
	f.Add("4711\n")
	f.Add("-1\n\n\nx")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePidFile(text)
		if err == nil && p.pid <= 0 {
			t.Errorf("pid %d accepted", p.pid)
		}
	})
}

func TestParsePidFile(t *testing.T) {
	p, err := parsePidFile("4711\n/data\n1732\n5432\n\n127.0.0.1\n  1 2\nready   \n")
	if want := (pidFile{pid: 4711, port: 5432, ready: true}); err != nil || p != want {
		t.Errorf("got %+v (%v), want %+v", p, err, want)
	}
	if p, err = parsePidFile("4711\n/data\n1732\n5432\n\n127.0.0.1\n  1 2\nstarting\n"); err != nil || p.ready {
		t.Errorf("starting server: %+v (%v)", p, err)
	}
}

// TestServerEndsWithItsParent runs itself as a child that starts a server and
// is killed.
func TestServerEndsWithItsParent(t *testing.T) {
	if dir := os.Getenv("PGSERVER_TEST_CHILD"); dir != "" {
		s, err := Start(t.Context(), config(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("ready\n")
		if err := s.Wait(t.Context()); err == nil {
			t.Error("the server ended before its parent")
		}
		return
	}
	if _, err := os.Stat("/proc/self/stat"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("only Linux ends a child with its parent")
	}
	dir := filepath.Join(tempDir(t), "pg")
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsParent$")
	cmd.Env = append(os.Environ(), "PGSERVER_TEST_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := out.Read(ready); err != nil || string(ready) != "ready\n" {
		t.Errorf("child said %q (%v)", ready, err)
	}
	p, err := readPidFile(filepath.Join(dir, "data"))
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	s := &Server{pid: p.pid}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
