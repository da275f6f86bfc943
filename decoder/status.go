package decoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	connecting "github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/walstream"
)

// status collects what the status views show of a source. It may be used from
// any goroutine.
type status struct {
	source millrace.SourceID
	now    func() time.Time
	wake   chan struct{} // a change that should be seen at once

	mu     sync.Mutex
	report millrace.SourceReport
	copies string // what the copies are at
	setup  string // what the session waits for before it streams
	held   string // the large transaction that all sources wait for
	// lasting is shown while there is no other error: progress does not cure it.
	lasting error
	rate    walRate
}

// slotReport is the head of a source and the state of its slot.
type slotReport struct {
	Head     millrace.LSN
	Restart  millrace.LSN
	Retained int64
	SafeWAL  int64
	State    string
}

func newStatus(id millrace.SourceID) *status {
	return &status{
		source: id, now: time.Now, wake: make(chan struct{}, 1),
		report: millrace.SourceReport{Source: id, Retained: -1, SafeWAL: -1, WALRate: -1},
	}
}

func (s *status) received(lsn millrace.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Received = max(s.report.Received, lsn)
}

// progress clears the last error: the source goes on.
func (s *status) progress(applied, confirmed millrace.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Applied = max(s.report.Applied, applied)
	s.report.Confirmed = max(s.report.Confirmed, confirmed)
	if applied > 0 && s.report.ErrorCode != "" {
		s.report.ErrorCode, s.report.Error = "", ""
		s.hurry()
	}
}

func (s *status) slot(r slotReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Head, s.report.HeadAt = r.Head, s.now()
	s.report.Retained, s.report.SlotState = r.Retained, r.State
	s.report.Restart, s.report.SafeWAL = r.Restart, r.SafeWAL
	s.report.WALRate = s.rate.add(s.report.HeadAt, r.Head)
}

// found shows what stops nothing but should be looked after.
func (s *status) found(findings []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Findings = findings
}

// fail shows an error until progress is made.
func (s *status) fail(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.ErrorCode = errorCode(err)
	s.report.Error = strings.TrimPrefix(err.Error(), s.report.ErrorCode+": ") // the code has a column of its own
	s.hurry()
}

// lasts shows what is wrong with tables as long as the session does.
func (s *status) lasts(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lasting = err
	s.hurry()
}

// waits shows what the session waits for before it can stream; empty for
// nothing.
func (s *status) waits(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.setup != text {
		s.setup = text
		s.hurry()
	}
}

// heldUp shows which large transaction is being written before anything else
// can be.
func (s *status) heldUp(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = text
}

// holds shows which rule set being built waits for the source; 0 for none.
func (s *status) holds(set millrace.RuleSetID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report.Holds != set {
		s.report.Holds = set
		s.hurry()
	}
}

// copying shows what the copies are at.
func (s *status) copying(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copies = text
}

func (s *status) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// errorCode is the code that status views show for an error.
func errorCode(err error) string {
	var source *SourceError
	var finding catalog.Finding
	var connect *connecting.ConnectError
	switch {
	case errors.As(err, &connect):
		return connect.Code()
	case errors.As(err, &source):
		return source.Code
	case errors.As(err, &finding):
		return finding.Code
	case errors.Is(err, walstream.ErrHistoryLost), errors.Is(err, walstream.ErrSlotActive):
		return codeSlot
	}
	return codeStream
}

// run reports at every change and every reportEvery, until the context ends.
func (s *status) run(ctx context.Context, r Registry, log *slog.Logger) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		s.mu.Lock()
		report := s.report
		var waits []string
		for _, text := range []string{s.setup, s.held, s.copies} {
			if text != "" {
				waits = append(waits, text)
			}
		}
		report.WaitingFor = strings.Join(waits, "; ")
		if report.ErrorCode == "" && s.lasting != nil {
			report.ErrorCode, report.Error = errorCode(s.lasting), s.lasting.Error()
		}
		s.mu.Unlock()
		if err := r.Report(ctx, report); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// The sink's connection decides about the term.
			log.Warn("the sidecar did not take a status report", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// describe says in words what a copy is at and what it waits for.
func (c *copyRun) describe() string {
	m := c.machine
	var b strings.Builder
	fmt.Fprintf(&b, "copying table %s: ", c.name())
	switch {
	case !m.entered:
		b.WriteString("not begun")
	case !m.planned:
		b.WriteString("beginning")
	default:
		fmt.Fprintf(&b, "%d of %d pages, %d rows", m.cursor, m.endPage, c.saved.Rows)
		if n := len(m.reread); n > 0 {
			fmt.Fprintf(&b, ", %d rows to read again", n)
		}
	}
	if x, ok := m.waitingFor(); ok {
		fmt.Fprintf(&b, ", waits until transaction %d is visible on the source (open, prepared, or held by a synchronous standby: see pg_stat_activity.backend_xid and pg_prepared_xacts)", x)
	}
	return b.String()
}
