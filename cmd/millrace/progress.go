package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progress shows how far something is that takes longer than two seconds: on a
// terminal as a bar in place, elsewhere as a line every five seconds.
type progress struct {
	out       io.Writer
	terminal  bool
	showAfter time.Duration
	every     time.Duration

	mu          sync.Mutex // guards what follows
	what        string
	done, total int64 // total is 0 or less if it is not known
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, terminal: isTerminal(out), showAfter: 2 * time.Second, every: 5 * time.Second}
	if p.terminal {
		p.every = 200 * time.Millisecond
	}
	return p
}

// report sets what is shown next. It may be called from any goroutine.
func (p *progress) report(what string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.done, p.total = what, done, total
}

// during shows progress while f runs.
func (p *progress) during(f func() error) error {
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { p.show(done) })
	err := f()
	close(done)
	wait.Wait()
	return err
}

func (p *progress) show(done <-chan struct{}) {
	wait := time.NewTimer(p.showAfter)
	defer wait.Stop()
	start := time.Now()
	shown := false
	for {
		select {
		case <-done:
			if shown && p.terminal {
				fmt.Fprint(p.out, "\r\x1b[K")
			}
			return
		case <-wait.C:
		}
		text := p.line(time.Since(start))
		if p.terminal {
			fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		} else {
			fmt.Fprintln(p.out, text)
		}
		shown = true
		wait.Reset(p.every)
	}
}

const barWidth = 24

func (p *progress) line(elapsed time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.what
	if text == "" {
		text = "working"
	}
	switch {
	case p.total > 0:
		// An estimate may be too small.
		share := min(float64(p.done)/float64(p.total), 0.99)
		if p.terminal {
			full := int(share * barWidth)
			text += " [" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
		}
		text += fmt.Sprintf(" %d %%, %d of about %d rows", int(share*100), p.done, p.total)
	case p.done > 0:
		text += fmt.Sprintf(" %d rows", p.done)
	}
	return fmt.Sprintf("%s, %v", text, elapsed.Round(time.Second))
}
