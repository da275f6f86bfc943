package devserver

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// When progress of a step is shown, and how often.
const (
	showAfter      = 2 * time.Second
	terminalUpdate = 200 * time.Millisecond
	logUpdate      = 5 * time.Second
)

// progress tells a person what is being done. A step is one line; one that
// takes longer than two seconds shows its time and how far it is: on a terminal
// in place, elsewhere as a line every five seconds.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu     sync.Mutex // guards detail
	detail string
}

func newProgress(out io.Writer, terminal bool) *progress {
	return &progress{out: out, terminal: terminal, now: time.Now}
}

// note is a line of its own.
func (p *progress) note(text string) { fmt.Fprintf(p.out, "  %s\n", text) }

// step runs f under a title.
func (p *progress) step(title string, f func() error) error {
	return p.stepProgress(title, func(func(string)) error { return f() })
}

// stepProgress runs f under a title; f may report how far it is.
func (p *progress) stepProgress(title string, f func(report func(string)) error) error {
	start := p.now()
	p.report("")
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { p.tick(title, start, done) })
	err := f(p.report)
	close(done)
	wait.Wait()
	text := "  " + title
	if took := p.now().Sub(start).Round(100 * time.Millisecond); took > 0 {
		text += fmt.Sprintf(" … %v", took)
	}
	switch {
	case err != nil && p.terminal:
		fmt.Fprintf(p.out, "\r\x1b[K")
	case err != nil:
	case p.terminal:
		fmt.Fprintf(p.out, "\r\x1b[K%s\n", text)
	default:
		fmt.Fprintln(p.out, text)
	}
	return err
}

func (p *progress) report(detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detail = detail
}

// tick shows the step while it runs.
func (p *progress) tick(title string, start time.Time, done <-chan struct{}) {
	every := logUpdate
	if p.terminal {
		every = terminalUpdate
		fmt.Fprintf(p.out, "  %s …", title)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		elapsed := p.now().Sub(start)
		if elapsed < showAfter {
			continue
		}
		p.mu.Lock()
		text := fmt.Sprintf("  %s … %v", title, elapsed.Round(time.Second))
		if p.detail != "" {
			text += ", " + p.detail
		}
		p.mu.Unlock()
		if p.terminal {
			fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		} else {
			fmt.Fprintln(p.out, text)
		}
	}
}
