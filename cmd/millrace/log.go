package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

const redacted = "xxxxx"

var (
	uriPassword = regexp.MustCompile(`(postgres(?:ql)?://[^\s:/@]*:)[^\s@]*@`)
	keyPassword = regexp.MustCompile(`(?i)((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'"]+)`)
	anyToken    = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`)
	secretNames = regexp.MustCompile(`(?i)(^|_)(password|passwd|secret|token|jwt|authorization|cookie|private_key)$`)
)

// redact hides passwords in connection strings, and tokens.
func redact(s string) string {
	if strings.Contains(s, "://") {
		s = uriPassword.ReplaceAllString(s, "${1}"+redacted+"@")
	}
	if strings.Contains(s, "=") {
		s = keyPassword.ReplaceAllString(s, "${1}"+redacted)
	}
	if strings.Contains(s, "eyJ") {
		s = anyToken.ReplaceAllString(s, redacted)
	}
	return s
}

// redacting is a slog.Handler that lets no secret through to the next.
type redacting struct{ next slog.Handler }

func (h redacting) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h redacting) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, redact(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(redactAttr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h redacting) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = redactAttr(a)
	}
	return redacting{h.next.WithAttrs(clean)}
}

func (h redacting) WithGroup(name string) slog.Handler { return redacting{h.next.WithGroup(name)} }

func redactAttr(a slog.Attr) slog.Attr {
	if secretNames.MatchString(a.Key) {
		return slog.String(a.Key, redacted)
	}
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, redact(v.String()))
	case slog.KindGroup:
		group := v.Group()
		clean := make([]slog.Attr, len(group))
		for i, g := range group {
			clean[i] = redactAttr(g)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(clean...)}
	case slog.KindAny:
		return slog.String(a.Key, redact(fmt.Sprint(v.Any())))
	default:
		return slog.Attr{Key: a.Key, Value: v}
	}
}

// logLevel is a level of the configuration, which has been checked.
func logLevel(name string) slog.Level {
	level := slog.LevelInfo
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo
	}
	return level
}

// newLogger writes to w as text or json.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	return slog.New(redacting{newHandler(w, format, level)})
}

func newHandler(w io.Writer, format string, level slog.Level) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// both is a slog.Handler that gives each record to two.
type both [2]slog.Handler

func (h both) Enabled(ctx context.Context, l slog.Level) bool {
	return h[0].Enabled(ctx, l) || h[1].Enabled(ctx, l)
}

func (h both) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, one := range h {
		if one.Enabled(ctx, r.Level) {
			errs = append(errs, one.Handle(ctx, r.Clone()))
		}
	}
	return errors.Join(errs...)
}

func (h both) WithAttrs(attrs []slog.Attr) slog.Handler {
	return both{h[0].WithAttrs(attrs), h[1].WithAttrs(attrs)}
}

func (h both) WithGroup(name string) slog.Handler {
	return both{h[0].WithGroup(name), h[1].WithGroup(name)}
}
