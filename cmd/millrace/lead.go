package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder"
	"github.com/millrace/millrace/store"
)

// Waiting between terms of leadership.
const (
	firstWait    = 200 * time.Millisecond
	longestWait  = 15 * time.Second
	calmTerm     = time.Minute      // a term this long was a good one: waiting begins anew
	progressWait = time.Second      // at most this after a term that brought new checkpoints
	repeatAfter  = 5 * time.Minute  // the same failure is logged again after this
	closeTimeout = 10 * time.Second // for giving leadership back
)

// lead works as the decoder whenever it can: win leadership, run a term, and
// again, until ctx ends, which is no error. Failures are waited out, but for
// rules that do not compile: waiting does not mend them.
func lead(ctx context.Context, cfg *config.Config, h *health, m *compactionMeters, tracer millrace.Tracer, log *slog.Logger) error {
	dcfg, err := decoderConfig(cfg, log)
	if err != nil {
		return err
	}
	dcfg.Tracer = tracer
	opts := store.Options{
		SuppressUnchanged: cfg.Decoder.SuppressUnchanged,
		HistoryKeep:       cfg.History.Keep,
		RulesKeep:         max(cfg.RulesKeep, time.Microsecond), // the zero value would be the default
		PieceBytes:        int(cfg.Decoder.BatchMaxBytes),
		Logger:            log,
	}
	failures := failureLog{log: log, now: time.Now}
	wait := firstWait
	for {
		began := time.Now()
		progress, err := term(ctx, cfg, opts, dcfg, h, m, log)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, decoder.ErrRules):
			return finding(err)
		case time.Since(began) > calmTerm:
			wait = firstWait
		case progress:
			wait = min(wait, progressWait)
		}
		if err == nil {
			err = errors.New("the term of leadership ended")
		}
		h.set("waiting", message(err))
		failures.report(err)
		if !pause(ctx, jitter(wait)) {
			return nil
		}
		wait = min(2*wait, longestWait)
	}
}

// term opens the sidecar, waits for leadership and decodes until something
// fails. progress tells whether a source came further meanwhile.
func term(ctx context.Context, cfg *config.Config, opts store.Options, dcfg decoder.Config, h *health, m *compactionMeters, log *slog.Logger) (progress bool, err error) {
	st, err := store.Open(ctx, string(cfg.Sidecar.URI), opts)
	if err != nil {
		return false, fmt.Errorf("open the sidecar: %w", err)
	}
	h.set("standing by", "")
	w, err := st.Lead(ctx, processName())
	if err != nil {
		return false, fmt.Errorf("win leadership: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if closeErr := w.Close(closing); closeErr != nil && err == nil {
			err = fmt.Errorf("end the term: %w", closeErr)
		}
	}()
	h.set("decoding", "")
	sidecar := &observed{Writer: w, health: h}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return decoder.Run(ctx, dcfg, sidecar) })
	compaction := compactionOptions(cfg)
	compaction.Done = m.round
	group.Go(func() error { return w.Compact(ctx, compaction) })
	err = group.Wait()
	return sidecar.progress, err
}

// observed is a sidecar whose reports also reach the probes, and that
// remembers whether it came further.
type observed struct {
	*store.Writer
	health   *health
	progress bool // read once decoder.Run has returned
}

func (s *observed) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	c, err := s.Writer.Commit(ctx, f)
	if err == nil && (len(f.Positions) > 0 || len(f.Copies) > 0) {
		s.progress = true
	}
	return c, err
}

func (s *observed) Report(ctx context.Context, r millrace.SourceReport) error {
	s.health.report(r)
	return s.Writer.Report(ctx, r)
}

func decoderConfig(cfg *config.Config, log *slog.Logger) (decoder.Config, error) {
	rules, err := os.ReadFile(cfg.Rules)
	if err != nil {
		return decoder.Config{}, usage(fmt.Errorf("read the rules: %w; the key rules says where they are", err))
	}
	spool, err := spoolDir(cfg)
	if err != nil {
		return decoder.Config{}, err
	}
	d := decoder.Config{
		RulesFile:       cfg.Rules,
		Rules:           string(rules),
		BatchMaxBytes:   int64(cfg.Decoder.BatchMaxBytes),
		SpoolDir:        spool,
		SpoolMax:        int64(cfg.Decoder.SpoolMax),
		SnapshotWorkers: int(cfg.Decoder.SnapshotWorkers),
		SnapshotRate:    int64(cfg.Decoder.SnapshotRate),
		Heartbeat:       heartbeat(cfg),
		OnDrop:          cfg.Decoder.OnDrop,
		Logger:          log,

		WriteCheckpointSources: cfg.WriteCheckpointSources,
	}
	d.Sources = decoderSources(cfg)
	return d, nil
}

// heartbeat is negative for never, which is 0 in the file.
func heartbeat(cfg *config.Config) time.Duration {
	if cfg.Decoder.Heartbeat == 0 {
		return -1
	}
	return cfg.Decoder.Heartbeat
}

func decoderSources(cfg *config.Config) (list []decoder.SourceConfig) {
	for _, s := range cfg.Sources {
		list = append(list, decoder.SourceConfig{
			Name: s.Name, Tags: s.Tags, URI: string(s.URI), Slot: s.Slot, Publication: s.Publication, Failover: s.Failover,
		})
	}
	return list
}

// failureLog logs a failure once, and again only after a while, so that what
// lasts does not flood the log.
type failureLog struct {
	log  *slog.Logger
	now  func() time.Time
	last string
	at   time.Time
}

func (f *failureLog) report(err error) {
	text := message(err)
	if text == f.last && f.now().Sub(f.at) < repeatAfter {
		f.log.Debug("still failing, trying again", "error", text)
		return
	}
	f.last, f.at = text, f.now()
	f.log.Error("cannot sync, trying again until it works", "error", text)
}

// processName tells people which process leads.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// jitter is d, less up to a third.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/3) }

// pause waits, and tells whether ctx is still alive.
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

var passwordPair = regexp.MustCompile(`(?i)\s*\b(ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|\S*)`)

// withoutPassword is a connection string that may be shown anywhere.
func withoutPassword(uri config.URI) string {
	u, err := url.Parse(string(uri))
	if err != nil || u.Scheme == "" {
		return passwordPair.ReplaceAllString(uri.String(), "")
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	if q.Has("password") || q.Has("sslpassword") {
		q.Del("password")
		q.Del("sslpassword")
		u.RawQuery = q.Encode()
	}
	return u.String()
}
