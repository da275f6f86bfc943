package devserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/pgserver"
)

// The databases on the two servers.
const (
	sourceDatabase  = "app"
	sidecarDatabase = "millrace"
)

// startServers finds PostgreSQL and starts both servers at the same time, or
// adopts those left running.
func (d *dev) startServers(ctx context.Context) error {
	bin, err := d.binaries(ctx)
	if err != nil {
		return err
	}
	d.psql = bin.Psql()
	start := func(ctx context.Context, name string, settings map[string]string) (*pgserver.Server, error) {
		s, err := pgserver.Start(ctx, pgserver.Config{Binaries: bin, Dir: d.home.cluster(name), Settings: settings})
		if err != nil {
			return nil, fmt.Errorf("start the %s PostgreSQL: %w", name, err)
		}
		return s, nil
	}
	err = d.show.step(fmt.Sprintf("Starting source and sidecar PostgreSQL %s", bin.Version), func() error {
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() (err error) {
			d.source, err = start(groupCtx, "source", map[string]string{"wal_level": "logical"})
			return err
		})
		group.Go(func() (err error) {
			d.sidecar, err = start(groupCtx, "sidecar", nil)
			return err
		})
		return group.Wait()
	})
	if err != nil {
		return err
	}
	if d.source.Adopted() || d.sidecar.Adopted() {
		d.show.note("Servers left running by an earlier start were adopted.")
	}
	if d.home.base != d.home.dir {
		d.show.note("The databases are in " + d.home.base + ": PostgreSQL does not run as root, and its user cannot enter " + d.home.dir + ".")
	}
	return nil
}

// stopServers stops what was started.
func (d *dev) stopServers(ctx context.Context) error {
	if d.source == nil && d.sidecar == nil {
		return nil
	}
	return d.show.step("Stopping PostgreSQL (the data stay in "+d.Dir+")", func() error {
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		var group errgroup.Group
		for _, s := range []*pgserver.Server{d.source, d.sidecar} {
			if s != nil {
				group.Go(func() error { return s.Stop(ctx) })
			}
		}
		return group.Wait()
	})
}

// schemaError is a schema that the database refused.
type schemaError struct {
	line int // in the schema, from 1; 0 unknown
	err  *pgconn.PgError
}

func (e *schemaError) Error() string {
	if e.line == 0 {
		return e.err.Error()
	}
	return fmt.Sprintf("line %d: %v", e.line, e.err)
}

func (e *schemaError) Unwrap() error { return e.err }

// createDatabase makes a database with a schema unless it is there, and tells
// whether it did. A database gets its name when its schema is complete, so an
// interruption leaves none that is half made.
func createDatabase(ctx context.Context, s *pgserver.Server, name string, schema []byte) (made bool, err error) {
	admin, err := pgx.Connect(ctx, s.URI("postgres"))
	if err != nil {
		return false, fmt.Errorf("make database %q: %w", name, err)
	}
	defer admin.Close(ctx)
	if err := admin.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&made); err != nil || !made {
		return false, wrap(err, "look for database %q", name)
	}
	unfinished, final := pgx.Identifier{name + "_new"}.Sanitize(), pgx.Identifier{name}.Sanitize()
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + unfinished + " WITH (FORCE)", "CREATE DATABASE " + unfinished} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return false, fmt.Errorf("make database %q: %w", name, err)
		}
	}
	if err := applySchema(ctx, s.URI(name+"_new"), schema); err != nil {
		return false, err
	}
	if _, err := admin.Exec(ctx, "ALTER DATABASE "+unfinished+" RENAME TO "+final); err != nil {
		return false, fmt.Errorf("make database %q: %w", name, err)
	}
	return true, nil
}

// applySchema runs the text as one transaction.
func applySchema(ctx context.Context, uri string, schema []byte) error {
	if len(schema) == 0 {
		return nil
	}
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return fmt.Errorf("apply the schema: %w", err)
	}
	defer conn.Close(ctx)
	err = conn.PgConn().Exec(ctx, string(schema)).Close()
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return &schemaError{line: lineOf(schema, pe.Position), err: pe}
	}
	return wrap(err, "apply the schema")
}

// lineOf is the line of a position that counts characters from 1.
func lineOf(text []byte, position int32) int {
	if position <= 0 {
		return 0
	}
	line := 1
	for _, r := range string(text) {
		if position--; position <= 0 {
			break
		}
		if r == '\n' {
			line++
		}
	}
	return line
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
