package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder"
	"github.com/millrace/millrace/internal/tracing"
)

// tracingEnd bounds how long the end of the process waits for the collector.
const tracingEnd = 3 * time.Second

// newTracer begins to send traces, if the configuration says where; else the
// tracer is nil. end must be called when nothing records any more.
func newTracer(ctx context.Context, cfg *config.Config, log *slog.Logger) (tracer millrace.Tracer, end func(), err error) {
	if cfg.Telemetry.OTLPEndpoint == "" {
		return nil, func() {}, nil
	}
	provider, err := tracing.New(ctx, tracing.Config{
		Endpoint: cfg.Telemetry.OTLPEndpoint,
		Sample:   cfg.Telemetry.TraceSample,
		Always:   decoder.AlwaysTraced,
		Version:  strings.TrimPrefix(versionText(), "millrace "),
		Instance: processName(),
		Log:      log,
	})
	if err != nil {
		return nil, nil, usage(err)
	}
	log.Info("sending traces", "sample", cfg.Telemetry.TraceSample)
	return provider, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracingEnd)
		defer cancel()
		if err := provider.Shutdown(ending); err != nil {
			log.Debug("the last traces were not sent", "error", err)
		}
	}, nil
}
