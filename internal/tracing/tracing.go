// Package tracing sends spans to an OpenTelemetry collector, by OTLP over HTTP.
// It is the one place that knows OpenTelemetry: the others record spans through
// millrace.Tracer.
//
// A collector that is slow or away never slows the product: spans wait in a
// bounded queue and are dropped when it is full.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace"
)

// Config says where spans go.
type Config struct {
	// Endpoint is the collector's URL; without a path that ends in /v1/traces,
	// that is added.
	Endpoint string
	// Sample is the share of traces that are recorded, from 0 to 1. Those that
	// begin in a process which recorded them, and those in Always, are recorded
	// whatever it is.
	Sample float64
	// Always are the names of first spans that are rare and always recorded.
	Always []string
	// Version and Instance describe this process.
	Version, Instance string
	Log               *slog.Logger
}

// Bounds of what waits for the collector.
const (
	queueSpans    = 4096
	batchSpans    = 512
	batchWait     = 2 * time.Second
	exportTimeout = 10 * time.Second
)

// Provider is a millrace.Tracer that sends what it records to a collector.
type Provider struct {
	sdk    *sdktrace.TracerProvider
	tracer trace.Tracer
}

var _ millrace.Tracer = (*Provider)(nil)

// New begins to send in the background; it waits for nothing. Shutdown must be
// called. Headers, certificates and the like are taken from the environment
// (OTEL_EXPORTER_OTLP_HEADERS …), as are OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES.
func New(ctx context.Context, c Config) (*Provider, error) {
	endpoint, err := tracesURL(c.Endpoint)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}))
	if err != nil {
		return nil, fmt.Errorf("prepare sending traces to %s: %w", withoutUser(endpoint), err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", "millrace"),
			attribute.String("service.version", c.Version),
			attribute.String("service.instance.id", c.Instance)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv())
	if err != nil {
		c.Log.Warn("what the environment says of traces is left out", "error", err)
	}
	// What the library tells beside that, such as spans a collector refused.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { c.Log.Debug("sending traces", "error", err) }))
	sdk := sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSampler(newSampler(c)),
		sdktrace.WithSpanProcessor(sdktrace.NewBatchSpanProcessor(
			&reporting{SpanExporter: exporter, log: c.Log, endpoint: withoutUser(endpoint)},
			sdktrace.WithMaxQueueSize(queueSpans), sdktrace.WithMaxExportBatchSize(batchSpans),
			sdktrace.WithBatchTimeout(batchWait), sdktrace.WithExportTimeout(2*exportTimeout))))
	return &Provider{sdk: sdk, tracer: sdk.Tracer("github.com/millrace/millrace", trace.WithInstrumentationVersion(c.Version))}, nil
}

// Shutdown sends what waits, as long as ctx allows, and ends.
func (p *Provider) Shutdown(ctx context.Context) error { return p.sdk.Shutdown(ctx) }

// tracesURL is where a collector's URL takes traces.
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("the endpoint of traces is no http(s) URL")
	}
	const path = "/v1/traces"
	if !strings.HasSuffix(u.Path, path) {
		u.Path = strings.TrimSuffix(u.Path, "/") + path
	}
	return u.String(), nil
}

// withoutUser is a URL that may be logged.
func withoutUser(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// newSampler decides at the first span of a trace; the others follow.
func newSampler(c Config) sdktrace.Sampler {
	always := map[string]bool{}
	for _, name := range c.Always {
		always[name] = true
	}
	return sdktrace.ParentBased(byName{always, sdktrace.TraceIDRatioBased(c.Sample)})
}

// byName samples some spans always and leaves the others to the next sampler.
type byName struct {
	always map[string]bool
	sdktrace.Sampler
}

func (s byName) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if s.always[p.Name] {
		return sdktrace.AlwaysSample().ShouldSample(p)
	}
	return s.Sampler.ShouldSample(p)
}

// Begin implements millrace.Tracer.
func (p *Provider) Begin(name string, at time.Time, parent millrace.RemoteSpan) millrace.SpanRecorder {
	ctx := context.Background()
	if parent.Parent != "" {
		carrier := propagation.MapCarrier{"traceparent": parent.Parent, "tracestate": parent.State}
		ctx = propagation.TraceContext{}.Extract(ctx, carrier)
	}
	kind := trace.SpanKindInternal
	if trace.SpanContextFromContext(ctx).IsRemote() {
		kind = trace.SpanKindServer
	}
	return p.begin(ctx, name, at, kind)
}

func (p *Provider) begin(ctx context.Context, name string, at time.Time, kind trace.SpanKind) millrace.SpanRecorder {
	_, span := p.tracer.Start(ctx, name, trace.WithTimestamp(at), trace.WithSpanKind(kind))
	if !span.IsRecording() {
		return nil
	}
	return &recorder{p, span}
}

// recorder is one span.
type recorder struct {
	provider *Provider
	span     trace.Span
}

// Child implements millrace.SpanRecorder.
func (r *recorder) Child(name string, at time.Time) millrace.SpanRecorder {
	return r.provider.begin(trace.ContextWithSpan(context.Background(), r.span), name, at, trace.SpanKindInternal)
}

// Set implements millrace.SpanRecorder.
func (r *recorder) Set(attrs ...slog.Attr) {
	list := make([]attribute.KeyValue, 0, len(attrs))
	for _, a := range attrs {
		key := attribute.Key(a.Key)
		if !strings.Contains(a.Key, ".") {
			key = "millrace." + key
		}
		switch v := a.Value.Resolve(); v.Kind() {
		case slog.KindInt64:
			list = append(list, key.Int64(v.Int64()))
		case slog.KindUint64:
			list = append(list, key.Int64(int64(v.Uint64())))
		case slog.KindBool:
			list = append(list, key.Bool(v.Bool()))
		case slog.KindFloat64:
			list = append(list, key.Float64(v.Float64()))
		case slog.KindDuration:
			list = append(list, key.Float64(v.Duration().Seconds()))
		default:
			list = append(list, key.String(v.String()))
		}
	}
	r.span.SetAttributes(list...)
}

// End implements millrace.SpanRecorder. Texts of errors may quote rows, so only
// the kind is recorded.
func (r *recorder) End(err error) {
	if err != nil {
		r.span.SetAttributes(attribute.String("error.type", errorType(err)))
		r.span.SetStatus(codes.Error, "")
	}
	r.span.End()
}

// errorType is an error's code, if it has one.
func errorType(err error) string {
	var coded interface{ ErrorCode() string }
	var state interface{ SQLState() string }
	switch {
	case errors.As(err, &coded):
		return coded.ErrorCode()
	case errors.As(err, &state):
		return "SQLSTATE " + state.SQLState()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "_OTHER" // as OpenTelemetry names what has no class
}

// reporting logs when sending begins to fail and when it works again, each once.
type reporting struct {
	sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string

	mu      sync.Mutex
	failing bool
	dropped int // spans, since it began
}

// ExportSpans implements sdktrace.SpanExporter. It returns no error: there is
// nobody who could do more about it.
func (e *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil && e.failing:
		e.log.Info("the trace collector takes spans again", "endpoint", e.endpoint, "lost", e.dropped)
		e.failing, e.dropped = false, 0
	case err != nil && !e.failing:
		e.log.Warn("the trace collector takes no spans; they are dropped, and all else goes on", "endpoint", e.endpoint, "error", err)
		e.failing = true
	}
	if err != nil {
		e.dropped += len(spans)
	}
	return nil
}
