// Package devserver is `millrace dev`: a private source and a private sidecar
// PostgreSQL under one folder, the to-do demo's data, tokens for its users, and
// what a person needs to look at all of it. What syncs the two is handed in by
// the caller, so this package knows neither decoder nor store.
//
// Everything survives: Ctrl-C stops cleanly, servers left running by a kill -9
// are adopted by the next start, and the data stay until Fresh is asked for.
package devserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/demo/backend"
	"github.com/millrace/millrace/internal/pgserver"
)

// stopTimeout is how long the engine and the servers get to stop.
const stopTimeout = 60 * time.Second

// ErrSchemaNeedsRules means that a schema was given without rules.
var ErrSchemaNeedsRules = errors.New("--schema needs --rules as well: the demo's rules name the demo's tables")

// Options say what to run. Serve, Listener and Out are required.
type Options struct {
	Dir string // where everything lives; defaults to .millrace
	// RulesFile and SchemaFile replace the demo's; empty uses the demo's. A
	// schema of one's own needs rules of one's own.
	RulesFile, SchemaFile string
	PGBin                 string // folder of the PostgreSQL programs; empty searches
	Fresh                 bool   // drop the data of earlier runs first
	// Listener is the address of the HTTP server, open already. Serve gets it;
	// Run closes it in any case.
	Listener net.Listener
	// Serve migrates the sidecar, then syncs source and sidecar until the
	// context ends. Its HTTP server also serves the demo.
	Serve func(ctx context.Context, cfg *config.Config, l net.Listener, demo Routes, log *slog.Logger) error
	// Check judges the text of the rules before anything is started.
	Check func(file string, src []byte) error
	// Fetch gets PostgreSQL's programs into a folder when the machine has
	// none, see FetchBinaries.
	Fetch func(ctx context.Context, dir string) error
	// Out is where a person looks. Terminal says whether it is one.
	Out      io.Writer
	Terminal bool
	// NewLog makes the log, given the folder's log file. Defaults to text.
	NewLog func(file io.Writer) *slog.Logger
	// Started is when the program was, for the time it took. Defaults to now.
	Started time.Time
}

// Routes are more handlers for an HTTP server, by the pattern of ServeMux.
type Routes map[string]http.Handler

// Run runs the development servers until the context ends, which is no error.
func Run(ctx context.Context, opts Options) error {
	defer opts.Listener.Close() // Serve closes it too; closing twice is harmless
	if opts.Dir == "" {
		opts.Dir = ".millrace"
	}
	if opts.Started.IsZero() {
		opts.Started = time.Now()
	}
	rules, schema, err := readInputs(opts)
	if err != nil {
		return err
	}
	home, err := openHome(opts.Dir)
	if err != nil {
		return err
	}
	defer home.close()
	if err := home.claim(opts.Listener.Addr().String()); err != nil {
		return err
	}
	d := &dev{Options: opts, home: home, show: newProgress(opts.Out, opts.Terminal), rules: rules, schema: schema}
	if opts.Fresh {
		if err := d.show.step("Removing the data of earlier runs", func() error { return home.wipe(ctx) }); err != nil {
			return err
		}
	}
	file, err := openLog(home.dir)
	if err != nil {
		return err
	}
	defer file.Close()
	if d.log = slog.New(slog.NewTextHandler(file, nil)); opts.NewLog != nil {
		d.log = opts.NewLog(file)
	}
	return d.run(ctx)
}

// readInputs reads and checks what a person gave, before anything is started.
// rules is the path of the rules, or empty for the demo's.
func readInputs(opts Options) (rules string, schema []byte, err error) {
	rulesName, rulesText := "demo/sync.yaml", []byte(demo.Rules)
	if opts.RulesFile != "" {
		if rules, err = filepath.Abs(opts.RulesFile); err != nil {
			return "", nil, fmt.Errorf("rules file: %w", err)
		}
		rulesName = opts.RulesFile
		if rulesText, err = os.ReadFile(rules); err != nil {
			return "", nil, fmt.Errorf("read the rules: %w", err)
		}
	}
	if opts.Check != nil {
		if err := opts.Check(rulesName, rulesText); err != nil {
			return "", nil, err
		}
	}
	schema = []byte(demo.Schema + demo.Seed)
	if opts.SchemaFile != "" {
		if opts.RulesFile == "" {
			return "", nil, ErrSchemaNeedsRules
		}
		if schema, err = os.ReadFile(opts.SchemaFile); err != nil {
			return "", nil, fmt.Errorf("read the schema: %w", err)
		}
	}
	return rules, schema, nil
}

type dev struct {
	Options
	home   *home
	show   *progress
	log    *slog.Logger
	rules  string // path
	schema []byte

	source, sidecar *pgserver.Server
	psql            string
	key             Key
	tokens          map[string]string
	cfg             *config.Config
}

// run starts everything, waits, and stops in the reverse order. What fails
// because ctx ended is no error; what fails while stopping is.
func (d *dev) run(ctx context.Context) error {
	err := d.work(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	d.home.removeDevFile()
	return errors.Join(err, d.stopServers(context.WithoutCancel(ctx)))
}

// work starts everything in order and waits until something ends.
func (d *dev) work(ctx context.Context) error {
	if err := d.startServers(ctx); err != nil {
		return err
	}
	if err := d.show.step("Preparing the databases", func() error { return d.prepare(ctx) }); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, d.source.URI(sourceDatabase))
	if err != nil {
		return fmt.Errorf("connect the demo's backend to the source: %w", err)
	}
	defer pool.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		return d.Serve(ctx, d.cfg, d.Listener, d.demo(pool), d.log)
	})
	group.Go(func() error { return d.watch(ctx, "source", d.source) })
	group.Go(func() error { return d.watch(ctx, "sidecar", d.sidecar) })
	group.Go(func() error { return d.announce(ctx) })
	return group.Wait()
}

// demo is the app, its backend and its tokens; nothing with a schema of one's
// own.
func (d *dev) demo(pool *pgxpool.Pool) Routes {
	if d.SchemaFile != "" {
		return nil
	}
	routes := appRoutes()
	routes[uploadPath] = backend.New(backend.Config{Pool: pool, Verify: d.key.Verify, Logger: d.log})
	routes["GET "+sessionPath] = &sessions{key: d.key, users: readUsers(pool), log: d.log}
	return routes
}

// watch ends the whole if a server ends by itself.
func (d *dev) watch(ctx context.Context, name string, s *pgserver.Server) error {
	if s.Wait(ctx) == nil && ctx.Err() == nil {
		return fmt.Errorf("the %s PostgreSQL ended unexpectedly: see %s, then start again", name, s.LogFile())
	}
	return nil
}

// prepare makes the databases, the rules file, the key and the configuration.
func (d *dev) prepare(ctx context.Context) error {
	sum := sha256.Sum256(d.schema)
	made, err := createDatabase(ctx, d.source, sourceDatabase, d.schema)
	if err != nil {
		var se *schemaError
		if errors.As(err, &se) && d.SchemaFile != "" {
			return fmt.Errorf("apply %s: %w", d.SchemaFile, err)
		}
		return err
	}
	if warn, err := d.home.schemaChanged(made, hex.EncodeToString(sum[:])); err != nil {
		return err
	} else if warn {
		d.show.note("The source was made from another schema; its data stay as they are. Start with --fresh to apply the new one.")
	}
	if _, err := createDatabase(ctx, d.sidecar, sidecarDatabase, nil); err != nil {
		return err
	}
	if d.key, err = LoadKey(d.home.dir); err != nil {
		return err
	}
	d.tokens = make(map[string]string, len(demoUsers))
	for _, user := range demoUsers {
		if d.tokens[user], err = d.key.Sign(user, nil, tokenLifetime, time.Now()); err != nil {
			return err
		}
	}
	if d.rules == "" {
		d.rules = filepath.Join(d.home.dir, "sync.yaml")
		if err := writeNew(d.rules, demo.Rules); err != nil {
			return fmt.Errorf("write the demo's rules: %w", err)
		}
	}
	d.cfg, err = d.configure()
	return err
}

// writeNew writes a file that is not there yet: people change the demo's rules,
// and what they wrote stays.
func writeNew(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, content)
	return errors.Join(err, f.Close())
}

// configure is the millrace.yaml of the development servers.
func (d *dev) configure() (*config.Config, error) {
	cfg := databases(d.source.URI(sourceDatabase), d.sidecar.URI(sidecarDatabase), d.rules)
	cfg.Decoder.SpoolDir = d.home.path(spoolName)
	cfg.WriteCheckpointSources = []string{"main"}
	cfg.Relay.Listen = d.Listener.Addr().String()
	cfg.Relay.MaxConnections = 1000 // of one developer; the default asks for more open files than most systems give
	cfg.Auth.Audience = []string{audience}
	jwk, err := d.key.JWK()
	if err != nil {
		return nil, err
	}
	cfg.Auth.Keys = []config.JWK{config.JWK(jwk)}
	return cfg, nil
}

// databases is the part of a configuration that says what is synced.
func databases(source, sidecar, rules string) *config.Config {
	cfg := config.Default()
	cfg.Sources = []config.Source{{Name: "main", Tags: []string{"main", "default"}, URI: config.URI(source), Slot: "millrace_main", Publication: "millrace"}}
	cfg.Sidecar.URI = config.URI(sidecar)
	cfg.Rules = rules
	return &cfg
}

// Config is the configuration of the servers, as far as the file tells it: their
// databases and rules.
func (f DevFile) Config() *config.Config { return databases(f.SourceURI, f.SidecarURI, f.Rules) }

// announce waits for the first checkpoint with rules in force, then tells
// people and scripts.
func (d *dev) announce(ctx context.Context) error {
	var first firstOps
	err := d.show.stepProgress("Building the buckets", func(report func(string)) error {
		var err error
		first, err = d.awaitOps(ctx, report)
		return err
	})
	if err != nil {
		return err
	}
	file := DevFile{
		URL:        d.url(),
		ConsoleURL: d.url() + ConsolePath,
		SourceURI:  d.source.URI(sourceDatabase),
		SidecarURI: d.sidecar.URI(sidecarDatabase),
		Rules:      d.rules,
		Tokens:     d.tokens,
		PID:        os.Getpid(),
	}
	if d.SchemaFile == "" {
		file.UploadURL = d.url() + uploadPath
	}
	if err := d.home.writeDevFile(file); err != nil {
		return err
	}
	_, err = io.WriteString(d.Out, d.banner(first))
	return err
}

func (d *dev) url() string { return "http://" + d.Listener.Addr().String() }

// firstOps is what the sidecar holds when it is ready.
type firstOps struct {
	ops    int64
	bucket string // one that alice gets, empty if unknown
}

// awaitOps polls the sidecar until a rule set is in force.
func (d *dev) awaitOps(ctx context.Context, report func(string)) (firstOps, error) {
	for {
		first, done, err := lookForOps(ctx, d.sidecar.URI(sidecarDatabase), report)
		if done {
			return first, nil
		}
		if ctx.Err() != nil {
			return firstOps{}, context.Cause(ctx)
		}
		if err != nil {
			d.log.Debug("the sidecar is not ready", "error", err)
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return firstOps{}, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// lookForOps asks once, on a connection of its own: the schema may just be
// changing.
func lookForOps(ctx context.Context, uri string, report func(string)) (first firstOps, done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return first, false, err
	}
	defer conn.Close(ctx)
	var copied, estimate *int64
	var obstacle string
	if err := conn.QueryRow(ctx, progressQuery).Scan(&done, &first.ops, &copied, &estimate, &obstacle); err != nil {
		return first, false, err
	}
	switch {
	case done:
	case obstacle != "":
		report(obstacle)
		return first, false, nil
	case copied != nil && estimate != nil && *estimate > 0:
		report(fmt.Sprintf("%s of about %s rows", thousands(*copied), thousands(*estimate)))
		return first, false, nil
	default:
		return first, false, nil
	}
	err = conn.QueryRow(ctx, bucketQuery, exampleList).Scan(&first.bucket)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil // rules of one's own, without a bucket that holds todos
	}
	return first, err == nil, err
}
