// Command millrace syncs Postgres to SQLite on clients. This package only
// wires: it reads flags and configuration, puts the other packages together,
// and translates errors into messages and exit codes. One file for each
// subcommand.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgserver"
)

// version is set by the linker.
var version = ""

// Exit codes.
const (
	exitOK          = 0
	exitFinding     = 1 // a negative finding, or a failure of ours
	exitUsage       = 2 // wrong flags or configuration
	exitUnreachable = 3 // something cannot be reached
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends the process at once.
	go func() { <-ctx.Done(); stop() }()
	os.Exit(Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Run runs the command line and returns the exit code. It returns when ctx
// ends.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	env := &environment{stdout: stdout, stderr: stderr}
	root := newRoot(env)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !env.ran {
		// Cobra found the mistake, before any command ran.
		err = usage(fmt.Errorf("%w; see `millrace --help`", err))
	}
	code := exitCode(err)
	if text := message(err); text != "" {
		var explained *session.ConnectError
		if code == exitUnreachable && isConnect(err) && !errors.As(err, &explained) {
			text += ": is the server running, and are its address and the user right?"
		}
		fmt.Fprintf(stderr, "millrace: %s\n", text)
	}
	return code
}

// message is an error for people: no secrets, and what the Postgres driver
// spreads over several lines, once for each address, in one.
func message(err error) string {
	text := redact(err.Error())
	if !isConnect(err) {
		return text
	}
	var parts []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !slices.Contains(parts, line) {
			parts = append(parts, line)
		}
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), ":; ", ": ")
}

// isConnect tells whether a Postgres server could not be connected to.
func isConnect(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}

// environment is what commands share.
type environment struct {
	stdout, stderr io.Writer
	ran            bool // a command's own code was reached
}

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "Sync Postgres to SQLite on clients",
		Long:          "Millrace keeps SQLite databases on clients in sync with Postgres.\n\n`millrace dev` runs everything on this machine, with a to-do demo.",
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			env.ran = true
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newDev(env),
		newServe(env),
		newMigrate(env),
		newValidate(env),
		newSimulate(env), newVerify(env), newExplain(env), newRemains(env),
		newRules(env),
		newGen(env),
		newToken(env),
		newDoctor(env),
		newSidecar(env),
		newSource(env),
		newStatus(env),
		newCompact(env),
		newVersion(env),
		newFetch(env),
		newProbe(env),
	)
	return root
}

// coded is an error with an exit code.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

func usage(err error) error   { return &coded{exitUsage, err} }
func finding(err error) error { return &coded{exitFinding, err} }

// errShown is a negative finding that was printed already.
var errShown = finding(errors.New(""))

func exitCode(err error) int {
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	var findings config.Errors
	if errors.As(err, &findings) || errors.Is(err, devserver.ErrSchemaNeedsRules) || errors.Is(err, session.ErrURI) {
		return exitUsage
	}
	var network *net.OpError
	if isConnect(err) || errors.As(err, &network) || errors.Is(err, pgserver.ErrNotFound) {
		return exitUnreachable
	}
	return exitFinding
}

func versionText() string {
	v := version
	if v == "" {
		v = "unknown"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			v = info.Main.Version
		}
	}
	return "millrace " + v
}

// printJSON writes what --json asks for.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false) // it is for programs, not for pages
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
