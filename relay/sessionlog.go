package relay

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// log is the relay's log with the session it is about: "session" is the id that
// the view millrace.sessions shows beside the relay's.
func (s *session) log() *slog.Logger {
	return s.relay.log.With("session", s.id, "user", s.subject, "client", s.clientID)
}

func (s *session) logOpened(ctx context.Context) {
	if s.relay.log.Enabled(ctx, slog.LevelDebug) {
		s.log().Debug("a client connected", "transport", s.kind, "sdk", s.agent)
	}
}

// logEnded tells in one line what there was.
func (s *session) logEnded(ctx context.Context) {
	if !s.relay.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	s.log().Info("a client left", "transport", s.kind, "sdk", s.agent, "why", s.why(),
		"seconds", time.Since(s.since).Round(time.Millisecond).Seconds(), "buckets", s.buckets.Load(), "ops", s.ops.Load(), "bytes", s.bytes.Load(),
		"sent", s.sent.Load(), "acknowledged", s.acknowledged.Load())
}

// why is how the session ended.
func (s *session) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.broke
	if s.end != nil {
		err = *s.end
	}
	var e ending
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &e) && e.text == errGone.text {
		return errGone.text
	}
	return err.Error()
}
