// Package migrations holds the sidecar's schema as golang-migrate files and
// applies them: NNNN_verb_object.up.sql and .down.sql, never edited after a
// release. Tables and indexes are made here; functions and views live in
// package sql and are applied again as a whole after every Up.
//
// Each file is sent as one message, so it is one transaction, and its last
// statement notes its number in the comment of the schema. A run that was
// interrupted between the file and the bookkeeping is thus repaired by the
// next one.
package migrations

import (
	"context"
	stdsql "database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/millrace/millrace/sql"
)

// Latest is the number of the newest migration: the version of the schema
// this release works with.
const Latest = 17

// advisoryLock is held while the schema changes: "millrace" in ASCII. It is
// the only advisory lock of ours on the sidecar; golang-migrate takes one of
// its own inside it.
const advisoryLock = 0x6d696c6c72616365

const minServerVersion = 140000

//go:embed *.sql
var files embed.FS

// State is where the schema stands.
type State struct {
	Version int  // number of the last migration applied, 0 if there is none
	Latest  int  // number of the newest migration this release knows
	Oldest  int  // the schema serves releases that know this migration or a later one
	Dirty   bool // a run is under way, or was interrupted; Up repairs it
}

// Usable says why this release cannot work with the schema; nil if it can: the
// schema is the release's own, or a newer one that was made to serve it too.
func (s State) Usable() error {
	switch {
	case s.Version < s.Latest:
		return fmt.Errorf("the sidecar's schema is at migration %d of %d: run \"millrace migrate up\"", s.Version, s.Latest)
	case s.Oldest > s.Latest:
		return fmt.Errorf("the sidecar's schema is at migration %d, for releases that know %d; this release knows %d: use the release that made it, or a newer one",
			s.Version, s.Oldest, s.Latest)
	}
	return nil
}

// Up brings the schema to Latest and applies the functions and views again.
// It waits for a run that is under way elsewhere. Running it again is
// harmless. A newer schema is left as it is, functions included, if it serves
// this release too, and refused otherwise.
func Up(ctx context.Context, uri string) error {
	return run(ctx, uri, func(conn *pgx.Conn, m *migrate.Migrate) error {
		state, err := read(ctx, conn)
		if err != nil {
			return err
		}
		if state.Version > Latest {
			return state.Usable()
		}
		if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
			return err
		}
		return sql.Apply(ctx, conn)
	})
}

// Down undoes the newest migration, with the data it holds, and removes all
// functions and views: they belong to the newest schema, and the release that
// fits the older one makes its own at its Up. At version 0 it does nothing.
func Down(ctx context.Context, uri string) error {
	return run(ctx, uri, func(conn *pgx.Conn, m *migrate.Migrate) error {
		state, err := read(ctx, conn)
		if err != nil || state.Version == 0 {
			return err
		}
		if state.Version > Latest {
			return fmt.Errorf("the sidecar's schema is at migration %d, this release knows %d: only the release that made it can take it back", state.Version, Latest)
		}
		if err := sql.Drop(ctx, conn); err != nil {
			return err
		}
		return m.Steps(-1)
	})
}

// Status tells where the schema stands, changing nothing.
func Status(ctx context.Context, uri string) (State, error) {
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return State{}, fmt.Errorf("connect to the sidecar: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return Read(ctx, conn)
}

// Read tells where the schema stands over an open connection.
func Read(ctx context.Context, conn *pgx.Conn) (State, error) {
	state, err := read(ctx, conn)
	if err != nil {
		return State{}, fmt.Errorf("read the sidecar's schema version: %w", err)
	}
	return state, nil
}

func read(ctx context.Context, conn *pgx.Conn) (State, error) {
	state := State{Latest: Latest}
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('millrace.schema_migrations') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return state, err
	}
	var comment string
	err := conn.QueryRow(ctx, `SELECT version, dirty, coalesce(obj_description('millrace'::regnamespace, 'pg_namespace'), '') FROM millrace.schema_migrations`).
		Scan(&state.Version, &state.Dirty, &comment)
	if errors.Is(err, pgx.ErrNoRows) {
		return state, nil
	}
	// The comment changes with the schema, the table before and after it.
	noted, oldest := readMark(comment)
	if state.Dirty || state.Version < 0 {
		state.Version = noted
	}
	if state.Oldest = state.Version; noted == state.Version {
		state.Oldest = oldest
	}
	return state, err
}

// run holds the advisory lock around f, and the repair before it.
func run(ctx context.Context, uri string, f func(*pgx.Conn, *migrate.Migrate) error) error {
	config, err := pgx.ParseConfig(uri)
	if err != nil {
		return fmt.Errorf("sidecar connection string: %w", err)
	}
	config.RuntimeParams["application_name"] = "millrace migrate"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the sidecar: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := prepare(ctx, conn); err != nil {
		return err
	}
	m, db, err := open(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	defer m.Close()
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()

	if err := repair(ctx, conn, m); err != nil {
		return fmt.Errorf("repair an interrupted migration: %w", err)
	}
	if err := f(conn, m); err != nil {
		// A file that failed has changed nothing: undo the mark it left.
		return errors.Join(explain(err), repair(context.WithoutCancel(ctx), conn, m))
	}
	return ctx.Err()
}

// prepare takes the advisory lock and makes the schema.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	var version int
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fmt.Errorf("read the sidecar's server version: %w", err)
	}
	if version < minServerVersion {
		return fmt.Errorf("the sidecar runs PostgreSQL %d, 14 or newer is needed", version/10000)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(advisoryLock)); err != nil {
		return fmt.Errorf("wait for another migration run: %w", err)
	}
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT to_regnamespace('millrace') IS NOT NULL`).Scan(&exists); err != nil {
		return fmt.Errorf("look for schema millrace: %w", err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, `CREATE SCHEMA millrace`); err != nil {
		return fmt.Errorf("create schema millrace (the role needs CREATE on the database, or a schema of that name that it owns): %w", err)
	}
	return nil
}

func open(ctx context.Context, config *pgx.ConnConfig) (*migrate.Migrate, *stdsql.DB, error) {
	source, err := iofs.New(files, ".")
	if err != nil {
		return nil, nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	db := stdlib.OpenDB(*config)
	if err := db.PingContext(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("connect to the sidecar: %w", err), db.Close())
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{SchemaName: "millrace"})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("prepare the migration table: %w", err), db.Close())
	}
	m, err := migrate.NewWithInstance("embedded", source, "sidecar", driver)
	if err != nil {
		return nil, nil, errors.Join(err, driver.Close(), db.Close())
	}
	m.LockTimeout = time.Minute
	return m, db, nil
}

var appliedMark = regexp.MustCompile(`At migration (\d+)(?:, for releases since (\d+))?\.$`)

// readMark reads from the schema's comment which migration it is at and what
// releases it serves, by the newest migration they know: without a word of it,
// none before. 0, 0 if it says nothing.
func readMark(comment string) (applied, oldest int) {
	match := appliedMark.FindStringSubmatch(comment)
	if match == nil {
		return 0, 0
	}
	applied, _ = strconv.Atoi(match[1]) // digits; out of range is no migration
	if oldest = applied; match[2] != "" {
		oldest, _ = strconv.Atoi(match[2])
	}
	return applied, oldest
}

// repair sets the version to what the schema's comment says, if a run was
// interrupted.
func repair(ctx context.Context, conn *pgx.Conn, m *migrate.Migrate) error {
	state, err := read(ctx, conn)
	if err != nil || !state.Dirty {
		return err
	}
	var comment string
	err = conn.QueryRow(ctx, `SELECT coalesce(obj_description('millrace'::regnamespace, 'pg_namespace'), '')`).Scan(&comment)
	if err != nil {
		return err
	}
	applied, _ := readMark(comment)
	// A down file notes the number below its own, which may have been left out.
	for applied > 0 && applied <= Latest {
		if found, err := fs.Glob(files, fmt.Sprintf("%04d_*.up.sql", applied)); err != nil || len(found) > 0 {
			break
		}
		applied--
	}
	if applied == 0 {
		applied = database.NilVersion
	}
	return m.Force(applied)
}

// explain turns golang-migrate's error, which quotes the whole file, into one
// that says what the server said.
func explain(err error) error {
	var failed database.Error
	if !errors.As(err, &failed) {
		return err
	}
	var pgErr *pgconn.PgError
	if errors.As(failed.OrigErr, &pgErr) {
		return fmt.Errorf("migrate the sidecar: line %d of a migration: %w", failed.Line, pgErr)
	}
	return fmt.Errorf("migrate the sidecar: %w", failed.OrigErr)
}
