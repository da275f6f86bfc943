package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// lineProcess is a process that does what it is told: a line of JSON with an id
// goes in, a line {id, value} or {id, error} comes out. It ends when its input
// does.
type lineProcess struct {
	name   string // for messages
	in     *json.Encoder
	out    *bufio.Scanner
	log    *logFile
	number int
}

const (
	lineMax     = 64 << 20
	lineEnd     = 30 * time.Second // for ending by itself
	lineTimeout = 5 * time.Minute  // a process that hangs ends the test instead of keeping it
)

// startLineProcess starts the command; it is ended with the test, and what it
// says on stderr is shown if the test failed.
func startLineProcess(t testing.TB, name string, cmd *exec.Cmd) *lineProcess {
	t.Helper()
	p := &lineProcess{name: name, log: newLog(t, name)}
	cmd.SysProcAttr = endWithParent()
	cmd.Stderr = p.log.file
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = json.NewEncoder(in), bufio.NewScanner(out)
	p.out.Buffer(nil, lineMax)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// One that does not answer is killed, which ends a read as well.
		stuck := time.AfterFunc(lineEnd, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		_ = in.Close() // asks it to end
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process %s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", name, p.log.tail(80))
		}
		_ = p.log.file.Close()
	})
	limit := time.AfterFunc(lineTimeout, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { limit.Stop() })
	return p
}

// ask sends a line, whose id is given to it before, and decodes the answer's
// value, unless value is nil. about says for messages what was asked. An error of
// the answer is returned; whatever else goes wrong ends t.
func (p *lineProcess) ask(t testing.TB, about string, line any, id *int, value any) error {
	t.Helper()
	p.number++
	*id = p.number
	if err := p.in.Encode(line); err != nil {
		t.Fatalf("%s: %v", about, err)
	}
	if !p.out.Scan() {
		t.Fatalf("%s: the process %s ended (%v)", about, p.name, p.out.Err())
	}
	var answer struct {
		ID    int             `json:"id"`
		Value json.RawMessage `json:"value"`
		Error string          `json:"error"`
	}
	if err := json.Unmarshal(p.out.Bytes(), &answer); err != nil || answer.ID != p.number {
		t.Fatalf("%s: answered %s (%v)", about, p.out.Bytes(), err)
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", about, answer.Error)
	}
	if value == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Value, value); err != nil {
		t.Fatalf("%s: %v in %s", about, err, answer.Value)
	}
	return nil
}
