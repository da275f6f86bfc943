package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/migrations"
)

// role is which parts a process runs.
type role string

const (
	roleAll     role = "all"
	roleDecoder role = "decoder"
	roleRelay   role = "relay"
)

// HTTP limits.
const (
	headerTimeout   = 10 * time.Second
	requestTimeout  = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeaderBytes  = 64 << 10
)

func newServe(env *environment) *cobra.Command {
	var (
		file, address, roleText string
		migrate                 bool
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run in production, against existing databases",
		Long: `Run in production, against the databases of the configuration. Several may run
on one sidecar: one decoder works, the others stand by.

With --role decoder there is an HTTP server for the probes only if --listen
says where.`,
		Example: "  millrace migrate up -c millrace.yaml && millrace serve -c millrace.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			r := role(roleText)
			switch r {
			case roleAll, roleDecoder, roleRelay:
			default:
				return usage(fmt.Errorf("--role %q is not one of all, decoder, relay", roleText))
			}
			if r != roleRelay { // relays serve what a decoder deployed
				rules, err := os.ReadFile(cfg.Rules)
				if err != nil {
					return usage(fmt.Errorf("read the rules: %w; the key rules says where they are", err))
				}
				if err := checkRules(cfg.Rules, rules); err != nil {
					return err
				}
			}
			if address == "" && r != roleDecoder {
				address = cfg.Relay.Listen
			}
			var listener net.Listener
			if address != "" {
				if listener, err = listen(ctx, address, "--listen or relay.listen"); err != nil {
					return err
				}
				defer listener.Close()
			}
			if migrate {
				if err := migrations.Up(ctx, string(cfg.Sidecar.URI)); err != nil {
					return err
				}
			}
			limitMemory(cfg, r)
			log := newLogger(env.stderr, cfg.Telemetry.LogFormat, logLevel(cfg.Telemetry.LogLevel))
			for _, w := range cfg.Warnings {
				log.Warn(w)
			}
			return serve(ctx, cfg, listener, r, nil, log)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", defaultConfig, "the configuration file")
	f.StringVar(&roleText, "role", string(roleAll), "what to run: all, decoder or relay")
	f.StringVar(&address, "listen", "", "address of the HTTP server (default: relay.listen; none with --role decoder)")
	f.BoolVar(&migrate, "migrate", false, "bring the sidecar's schema up first")
	return cmd
}

// serve runs the decoder, the relay, or both, and, if there is a listener, the
// HTTP server, until ctx ends or one of them cannot go on. more is the demo's, in
// development: it may take the place of the start page.
func serve(ctx context.Context, cfg *config.Config, l net.Listener, r role, more devserver.Routes, log *slog.Logger) error {
	h := newHealth()
	tracer, endTracing, err := newTracer(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer endTracing()
	var clients http.Handler
	var serveClients func(context.Context) error
	var clientMetrics prometheus.Gatherer
	if r != roleDecoder {
		rel, closeRelay, err := newRelay(ctx, cfg, l.Addr().String(), tracer, log)
		if err != nil {
			return err
		}
		defer closeRelay()
		clients, serveClients, h.clients, clientMetrics = rel.Handler(), rel.Run, rel.Ready, rel.Metrics()
	}
	own := prometheus.NewRegistry()
	var compaction *compactionMeters
	if r != roleRelay {
		compaction = newCompactionMeters(own)
	}
	metrics, closeMetrics := newMetrics(cfg, own, clientMetrics, log)
	defer closeMetrics()
	group, ctx := errgroup.WithContext(ctx)
	if address := cfg.Telemetry.MetricsListen; address != "" {
		ml, err := listen(ctx, address, "telemetry.metrics_listen")
		if err != nil {
			return err
		}
		defer ml.Close()
		mux := http.NewServeMux()
		mux.Handle("GET "+metricsPath, metrics)
		group.Go(func() error { return serveHTTP(ctx, ml, mux, log) })
		log.Info("serving metrics", "address", ml.Addr().String())
		metrics = nil
	}
	if l != nil {
		page := startPage{Version: versionText(), Rules: cfg.Rules, Sidecar: pageDatabase{"sidecar", withoutPassword(cfg.Sidecar.URI)}}
		for _, s := range cfg.Sources {
			page.Sources = append(page.Sources, pageDatabase{s.Name, withoutPassword(s.URI)})
		}
		mux := newMux(h, page, clients, more)
		mux.Handle("/api/", newAPI(cfg, log))
		if metrics != nil {
			mux.Handle("GET "+metricsPath, metrics)
		}
		group.Go(func() error { return serveHTTP(ctx, l, mux, log) })
		log.Info("listening", "address", l.Addr().String(), "role", string(r))
	}
	if serveClients != nil {
		group.Go(func() error { return serveClients(ctx) })
	}
	if r == roleRelay {
		h.set("serving", "")
	} else {
		group.Go(func() error { return lead(ctx, cfg, h, compaction, tracer, log) })
		if max := cfg.Decoder.SlotMaxLag; max > 0 {
			fuse := &decoder.Fuse{Sources: decoderSources(cfg), MaxLag: int64(max), Logger: log}
			group.Go(func() error {
				if err := fuse.Run(ctx); ctx.Err() == nil {
					return err
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// serveHTTP serves until ctx ends, then lets requests finish.
func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(stopping)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-failed // http.ErrServerClosed
	return err
}
