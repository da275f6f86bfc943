package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// startWithin is how long a first start may take, from the built binary to the
// first op. It takes two to four seconds on an idle machine; on a busy one the
// better of two counts.
const startWithin = 15 * time.Second

// testDir is the folder of this test process; TestMain makes and removes it.
var testDir string

func TestMain(m *testing.M) {
	var err error
	if testDir, err = os.MkdirTemp("", "millrace-cmd-"); err == nil {
		err = os.Chmod(testDir, 0o711) // PostgreSQL runs as another user when we are root
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := pgtest.Run(m)
	if err := os.RemoveAll(testDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// builtBinary builds the program once, or takes TEST_BINARY.
var builtBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("TEST_BINARY"); path != "" {
		return path, nil
	}
	path := filepath.Join(testDir, "millrace")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := builtBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newDir is a folder for development servers; what still runs in it is stopped
// in the end.
func newDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp(testDir, "dev-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "d")
	t.Cleanup(func() { stopClusters(t, dir) })
	return dir
}

func stopClusters(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"source", "sidecar"} {
		if err := pgserver.StopIn(context.Background(), filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// output is a process's output while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// program is the binary, running.
type program struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	dir  string
}

// environ is the environment without what would configure the program.
func environ(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "PG") {
			env = append(env, e)
		}
	}
	return append(env, more...)
}

func launch(t *testing.T, cmd *exec.Cmd, dir string) *program {
	t.Helper()
	p := &program{cmd: cmd, out: &output{}, done: make(chan struct{}), dir: dir}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if cmd.Env == nil {
		cmd.Env = environ()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the outcome is in ProcessState
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // usually over already
		<-p.done
		if t.Failed() {
			t.Logf("it said:\n%s", p.out)
		}
		if strings.Contains(p.out.String(), "goroutine ") {
			t.Errorf("a stack trace:\n%s", p.out)
		}
	})
	return p
}

func startDev(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	args = append([]string{"dev", "--data", dir, "--listen", "127.0.0.1:0"}, args...)
	return launch(t, exec.Command(binary(t), args...), dir)
}

// ready waits for dev.json.
func (p *program) ready(t *testing.T) devserver.DevFile {
	t.Helper()
	var f devserver.DevFile
	pgtest.Eventually(t, 2*time.Minute, func() error {
		var err error
		if f, err = devserver.ReadDevFile(p.dir); err != nil {
			if !p.running() {
				t.Fatalf("it ended with %v", p.cmd.ProcessState)
			}
			return err
		}
		if f.PID != p.cmd.Process.Pid {
			return fmt.Errorf("dev.json is of process %d", f.PID)
		}
		return nil
	})
	return f
}

func (p *program) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end sends a signal and returns the exit code.
func (p *program) end(t *testing.T, s os.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	return p.exitCode(t)
}

func (p *program) exitCode(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func query[T any](t *testing.T, uri, sql string, args ...any) T {
	t.Helper()
	v, err := tryQuery[T](t, uri, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func tryQuery[T any](t *testing.T, uri, sql string, args ...any) (v T, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return v, err
	}
	defer conn.Close(ctx)
	return v, conn.QueryRow(ctx, sql, args...).Scan(&v)
}

func execSQL(t *testing.T, uri, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

const addTodo = `INSERT INTO todos (list_id, title, created_by)
	VALUES ('00000000-0000-4000-a000-000000000001', $1, 'alice') RETURNING id::text`

// arrives waits until a to-do is a row of some bucket on the sidecar.
func arrives(t *testing.T, f devserver.DevFile, id string) {
	t.Helper()
	pgtest.Eventually(t, 20*time.Second, func() error {
		n, err := tryQuery[int](t, f.SidecarURI, `
			SELECT count(*) FROM millrace.buckets AS b, LATERAL millrace.bucket_rows(b.bucket) AS r
			WHERE b.name LIKE '%00000000-0000-4000-a000-000000000001%' AND r.type = 'todos' AND r.row_id = $1`, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("to-do %s is in no bucket", id)
		}
		return err
	})
}

func reachable(uri string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return false
	}
	_ = conn.Close(ctx) // it was only asked whether it answers
	return true
}

func TestDevLifecycle(t *testing.T) {
	dir := newDir(t)
	binaryPath := binary(t) // built before the clock starts
	began := time.Now()
	p := startDev(t, dir)
	f := p.ready(t)
	took := time.Since(began)
	if n := query[int](t, f.SidecarURI, "SELECT sum(rows)::int FROM millrace.buckets"); n < 440 {
		t.Errorf("%d rows in buckets, want all lists and to-dos", n)
	}
	for _, want := range []string{f.URL, f.SourceURI, f.SidecarURI, f.Tokens["alice"], f.Tokens["bob"], "My first change"} {
		if want == "" || !strings.Contains(p.out.String(), want) {
			t.Errorf("%q is not shown", want)
		}
	}
	first := query[string](t, f.SourceURI, addTodo, "first")
	arrives(t, f, first)
	checkHTTP(t, f)
	t.Run("second start in the same folder", func(t *testing.T) {
		second := startDev(t, dir)
		if code := second.exitCode(t); code != exitFinding {
			t.Errorf("exit code %d", code)
		}
		if want := fmt.Sprintf("another millrace dev uses %s (pid %d, ", dir, f.PID); !strings.Contains(second.out.String(), want) {
			t.Errorf("it does not say %q", want)
		}
	})
	t.Run("commands that use the folder", func(t *testing.T) {
		for _, args := range [][]string{{"status", "--data", dir}, {"status", "--data", dir, "--json"}, {"token", "--data", dir, "--sub", "carol"}, {"validate", "../../demo/sync.yaml", "--source", f.SourceURI}} {
			out, err := exec.CommandContext(t.Context(), binaryPath, args...).CombinedOutput()
			if err != nil || len(out) == 0 {
				t.Errorf("%v: %v\n%s", args, err, out)
			}
			if args[0] == "validate" && strings.Contains(string(out), "has no table") {
				t.Errorf("the demo's rules miss a table:\n%s", out)
			}
		}
	})

	if code := p.end(t, os.Interrupt); code != exitOK {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	for _, uri := range []string{f.SourceURI, f.SidecarURI} {
		if reachable(uri) {
			t.Error("a server is still running after Ctrl-C")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dev.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dev.json is still there (%v)", err)
	}

	p = startDev(t, dir)
	again := p.ready(t)
	if again.SourceURI != f.SourceURI || again.SidecarURI != f.SidecarURI {
		t.Error("the addresses changed")
	}
	arrives(t, again, first) // still there

	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if !reachable(f.SourceURI) || !reachable(f.SidecarURI) {
		t.Fatal("kill -9 of millrace took the servers along")
	}
	second := query[string](t, f.SourceURI, addTodo, "while it was down")
	p = startDev(t, dir)
	f = p.ready(t)
	arrives(t, f, first)
	arrives(t, f, second)
	if !strings.Contains(p.out.String(), "adopted") {
		t.Error("the servers were not adopted")
	}

	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	began = time.Now()
	p = startDev(t, dir, "--fresh")
	fresh := p.ready(t)
	if took = min(took, time.Since(began)); took > startWithin {
		t.Errorf("the first op took %v, want less than %v", took, startWithin)
	}
	t.Logf("first op after %v", took)
	if n := query[int](t, fresh.SourceURI, "SELECT count(*) FROM todos"); n != 400 {
		t.Errorf("%d to-dos after --fresh, want 400", n)
	}
	if reachable(f.SourceURI) && f.SourceURI != fresh.SourceURI {
		t.Error("the old server is still running")
	}
	if code := p.end(t, syscall.SIGTERM); code != exitOK {
		t.Errorf("SIGTERM: exit code %d", code)
	}
}

func checkHTTP(t *testing.T, f devserver.DevFile) {
	t.Helper()
	get := func(path string) (int, string) {
		t.Helper()
		res, err := http.Get(f.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	if code, page := get("/"); code != http.StatusOK || !strings.Contains(page, "<title>Millrace") {
		t.Errorf("the demo's page: %d\n%s", code, page)
	}
	code, page := get("/status")
	if code != http.StatusOK || !strings.Contains(page, "psql postgres://postgres@127.0.0.1:") {
		t.Errorf("start page: %d\n%s", code, page)
	}
	for _, secret := range []string{f.Tokens["alice"], password(t, f.SourceURI), password(t, f.SidecarURI)} {
		if strings.Contains(page, secret) {
			t.Error("the start page shows a secret")
		}
	}
	for _, probe := range []string{"startup", "liveness", "readiness"} {
		if code, body := get("/probes/" + probe); code != http.StatusOK || !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %s", probe, code, body)
		}
	}
	upload := func(token, todo string) int {
		t.Helper()
		body := `{"transactions": [{"id": "1", "ops": [{"op": "PUT", "type": "todos", "id": "` + todo + `", "data": {"list_id": "00000000-0000-4000-a000-000000000001", "title": "uploaded"}}]}]}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.UploadURL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	const uploaded = "22222222-2222-4222-8222-222222222222"
	if code := upload("nonsense", uploaded); code != http.StatusUnauthorized {
		t.Errorf("upload with a bad token: %d", code)
	}
	if code := upload(f.Tokens["alice"], uploaded); code != http.StatusOK {
		t.Errorf("upload: %d", code)
	} else {
		arrives(t, f, uploaded)
	}
	var session struct {
		Token string
		Users []struct{ ID, Name string }
	}
	if code, body := get("/demo/session?user=carol"); code != http.StatusOK || json.Unmarshal([]byte(body), &session) != nil {
		t.Errorf("the page's session: %d %s", code, body)
	}
	if code := upload(session.Token, uploaded); code != http.StatusForbidden || len(session.Users) != 8 {
		t.Errorf("carol changes a to-do of alice's: %d; users %v", code, session.Users)
	}
	if code, body := get("/sync/stream"); code != http.StatusNotFound || !json.Valid([]byte(body)) || !strings.Contains(body, "PSYNC_S2002") {
		t.Errorf("/sync/stream: %d %s", code, body)
	}
}

func password(t *testing.T, uri string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Password
}

func TestDevInterruptedWhileStarting(t *testing.T) {
	dir := newDir(t)
	p := startDev(t, dir)
	pgtest.Eventually(t, 20*time.Second, func() error {
		_, err := os.Stat(filepath.Join(dir, "source"))
		return err
	})
	if code := p.end(t, os.Interrupt); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	p = startDev(t, dir)
	f := p.ready(t)
	if n := query[int](t, f.SourceURI, "SELECT count(*) FROM todos"); n != 400 {
		t.Errorf("%d to-dos, want 400", n)
	}
}

func TestDevAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run as an ordinary user already")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	dir := newDir(t)
	if err := os.Chown(filepath.Dir(dir), uid, uid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "dev", "--data", dir, "--listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	cmd.Dir = "/"
	cmd.Env = environ("HOME=/nonexistent")
	p := launch(t, cmd, dir)
	f := p.ready(t)
	arrives(t, f, query[string](t, f.SourceURI, addTodo, "by nobody"))
	fi, err := os.Stat(filepath.Join(dir, "source", "data", "PG_VERSION"))
	if err != nil || int(fi.Sys().(*syscall.Stat_t).Uid) != uid {
		t.Errorf("the cluster is not the user's (%v)", err)
	}
	if code := p.end(t, os.Interrupt); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestDevAsRootInAClosedFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has PostgreSQL run as another user")
	}
	closed := filepath.Join(testDir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "d")
	p := startDev(t, dir)
	t.Cleanup(func() {
		if base, err := os.ReadFile(filepath.Join(dir, "clusters")); err == nil {
			stopClusters(t, strings.TrimSpace(string(base)))
			if err := os.RemoveAll(strings.TrimSpace(string(base))); err != nil {
				t.Error(err)
			}
		}
	})
	f := p.ready(t)
	arrives(t, f, query[string](t, f.SourceURI, addTodo, "in a closed folder"))
	if !strings.Contains(p.out.String(), "The databases are in /var/lib/millrace-dev/") {
		t.Error("it does not say where the databases are")
	}
	if code := p.end(t, os.Interrupt); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestDevMisfortunes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	foreign := newDir(t)
	if err := os.MkdirAll(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	badRules := write("bad.yaml", "bucket_definitions:\n  a:\n    data:\n      - SELEC * FROM todos\n")
	rules := write("good.yaml", "bucket_definitions:\n  a:\n    data:\n      - SELECT * FROM todos\n")
	badSchema := write("bad.sql", "CREATE TABLE todos (id text PRIMARY KEY);\n\nCREATE TABL x ();\n")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"port in use", []string{"--data", newDir(t), "--listen", taken.Addr().String()}, exitUnreachable,
			[]string{"the address " + taken.Addr().String() + " is in use by ", fmt.Sprintf("(pid %d)", os.Getpid()), "--listen"}},
		{"no address", []string{"--listen", "nonsense"}, exitUsage, []string{"nonsense", "for example 127.0.0.1:8080"}},
		{"folder of somebody else", []string{"--data", foreign}, exitFinding, []string{"thesis.txt", "--data"}},
		{"fresh in a folder of somebody else", []string{"--data", foreign, "--fresh"}, exitFinding, []string{"thesis.txt", "--data"}},
		{"no programs in the folder named", []string{"--data", newDir(t), "--pg-bin", dir}, exitFinding, []string{dir, `has no program "postgres"`, "such as"}},
		{"rules that do not compile", []string{"--data", newDir(t), "--rules", badRules}, exitFinding, []string{badRules + ":4:", "^"}},
		{"rules that are not there", []string{"--data", newDir(t), "--rules", dir + "/none"}, exitFinding, []string{dir + "/none"}},
		{"schema without rules", []string{"--data", newDir(t), "--schema", badSchema}, exitUsage, []string{"--rules"}},
		{"schema that does not apply", []string{"--data", newDir(t), "--schema", badSchema, "--rules", rules}, exitFinding, []string{badSchema + ": line 3:", "syntax error"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"dev", "--listen", "127.0.0.1:0"}, tc.args...)
			p := launch(t, exec.Command(binary(t), args...), "")
			if code := p.exitCode(t); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, want := range tc.want {
				if !strings.Contains(p.out.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, p.out)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Join(foreign, "thesis.txt")); err != nil {
		t.Errorf("somebody else's file: %v", err)
	}
}

// A machine without PostgreSQL that cannot fetch it either: the folders of
// distributions are hidden in a mount namespace.
func TestDevWithoutPostgres(t *testing.T) {
	const hide = `for d in /usr/lib/postgresql /usr/libexec/postgresql* /usr/pgsql-*; do [ ! -d "$d" ] || mount -t tmpfs none "$d" || exit 77; done; exec "$@"`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", hide, "sh", binary(t), "dev", "--data", newDir(t), "--listen", "127.0.0.1:0")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MILLRACE_PG_REPOSITORY=http://127.0.0.1:1", "HOME=" + t.TempDir()}
	if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
		t.Skip("hiding PostgreSQL needs root and unshare")
	}
	p := launch(t, cmd, "")
	code := p.exitCode(t)
	if code == 77 || strings.Contains(p.out.String(), "unshare failed") {
		t.Skipf("this system does not let root hide PostgreSQL: %s", p.out)
	}
	if code != exitUnreachable {
		t.Errorf("exit code %d, want %d", code, exitUnreachable)
	}
	for _, want := range []string{"could not be fetched", "http://127.0.0.1:1", "apt-get install postgresql", "--pg-bin", "MILLRACE_PG_BIN"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, p.out)
		}
	}
}
