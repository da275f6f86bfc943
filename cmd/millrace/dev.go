package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/migrations"
)

func newDev(env *environment) *cobra.Command {
	started := time.Now()
	var (
		opts    devserver.Options
		address string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine, with a to-do demo",
		Long: `Run a private source and a private sidecar PostgreSQL with the to-do demo's
data, and sync them. A save of the rules file deploys it. Ctrl-C stops
everything cleanly; the data stay for the next start. PostgreSQL is found in --pg-bin, MILLRACE_PG_BIN, PATH and the usual
folders, or fetched.`,
		Example: "  millrace dev\n  millrace dev --schema app.sql --rules sync.yaml --data /tmp/app",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			listener, err := listen(ctx, address, "--listen")
			if err != nil {
				return err
			}
			opts.Listener = listener
			opts.Out, opts.Terminal = env.stdout, isTerminal(env.stdout)
			opts.Started = started
			opts.Check = checkRules
			opts.Fetch = fetchPostgres
			opts.NewLog = func(file io.Writer) *slog.Logger { return devLog(file, env.stderr, verbose) }
			opts.Serve = func(ctx context.Context, cfg *config.Config, l net.Listener, demo devserver.Routes, log *slog.Logger) error {
				return serveDev(ctx, cfg, l, demo, env.stdout, log)
			}
			return devserver.Run(ctx, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Dir, "data", ".millrace", "folder for everything")
	f.StringVar(&address, "listen", "127.0.0.1:8080", "address of the HTTP server")
	f.StringVar(&opts.RulesFile, "rules", "", "sync rules (default: the demo's)")
	f.StringVar(&opts.SchemaFile, "schema", "", "SQL that makes the source's tables, and data if you like (default: the demo's)")
	f.StringVar(&opts.PGBin, "pg-bin", "", "folder of PostgreSQL's programs (default: searched for)")
	f.BoolVar(&opts.Fresh, "fresh", false, "remove the data of earlier runs first")
	f.BoolVarP(&verbose, "verbose", "v", false, "show the whole log on the terminal")
	return cmd
}

// serveDev is what `millrace serve` does, after migrating. A save of the rules
// file deploys it.
func serveDev(ctx context.Context, cfg *config.Config, l net.Listener, demo devserver.Routes, out io.Writer, log *slog.Logger) error {
	if err := migrations.Up(ctx, string(cfg.Sidecar.URI)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { watchRulesFile(ctx, cfg, out, log) })
	return serve(ctx, cfg, l, roleAll, demo, log)
}

// devLog writes everything to the folder's log. The terminal gets what a
// person has to know, or all of it.
func devLog(file, terminal io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(redacting{both{
		newHandler(file, "text", slog.LevelInfo),
		newHandler(terminal, "text", level),
	}})
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
