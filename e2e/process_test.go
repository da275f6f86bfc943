package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary builds the product once per test process, or takes E2E_BINARY.
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("E2E_BINARY"); path != "" {
		return path, nil
	}
	path := filepath.Join(scratch, "millrace")
	args := []string{"build", "-o", path}
	if os.Getenv("E2E_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/millrace/millrace/cmd/millrace")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return path, nil
})

// scratch is a folder of this test process; TestMain makes and removes it.
var scratch string

// process is the binary, running.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *logFile
	done chan struct{} // closed once the process has ended
}

// logFile is a process's output: kept on disk, its end shown on failure.
type logFile struct {
	path string
	file *os.File
}

func newLog(t testing.TB, name string) *logFile {
	t.Helper()
	dir := os.Getenv("E2E_KEEP_LOGS")
	if dir == "" {
		dir = t.TempDir()
	}
	clean := strings.NewReplacer("/", "_", " ", "_").Replace(t.Name())
	f, err := os.CreateTemp(dir, clean+"-"+name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	return &logFile{path: f.Name(), file: f}
}

func (l *logFile) text() string {
	b, err := os.ReadFile(l.path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// tail is the last n lines.
func (l *logFile) tail(n int) string {
	lines := strings.Split(strings.TrimRight(l.text(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// start runs the binary in the background. When the test ends it is killed and,
// if the test failed, the end of its log is shown.
func start(t testing.TB, name string, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return startBinary(t, path, name, args...)
}

func startBinary(t testing.TB, path, name string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: newLog(t, name), done: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = cleanEnvironment()
	p.cmd.Stdout, p.cmd.Stderr = p.log.file, p.log.file
	p.cmd.SysProcAttr = endWithParent()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the outcome is in ProcessState
		_ = p.log.file.Close()
	}()
	t.Cleanup(func() {
		p.kill9(t)
		if t.Failed() {
			t.Logf("end of %s's log (%v):\n%s", name, p.cmd.ProcessState, p.log.tail(60))
		}
		if text := p.log.text(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "goroutine ") || strings.Contains(text, "panic:") {
			t.Errorf("%s's log holds a stack trace:\n%s", name, p.log.tail(120))
		}
	})
	return p
}

// cleanEnvironment leaves out what would configure the binary or its
// connections behind the test's back.
func cleanEnvironment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "PG") {
			env = append(env, e)
		}
	}
	return env
}

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %v to %s: %v", sig, p.name, err)
	}
}

// kill9 kills the process, waking it first if it was stopped, and waits.
func (p *process) kill9(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s survives SIGKILL", p.name)
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// terminate asks the process to end and returns its exit code.
func (p *process) terminate(t testing.TB, within time.Duration) int {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	return p.exitCode(t, within)
}

// exitCode waits for the process to end by itself.
func (p *process) exitCode(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("%s is still running after %v; its log ends:\n%s", p.name, within, p.log.tail(30))
		return -1
	}
}

// run runs the binary to its end and returns what it printed and its exit code.
func run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return runBinary(t, path, args...)
}

func runBinary(t testing.TB, path string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = cleanEnvironment()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Fatalf("millrace %s does not end:\n%s%s", strings.Join(args, " "), out.String(), errOut.String())
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}
