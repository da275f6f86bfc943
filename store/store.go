// Package store is the sidecar Postgres: the only package that speaks SQL to
// it. A Writer appends what the decoder evaluated and moves the head; every
// committed flush is a checkpoint. Readers of the same tables come to it too,
// so that their shape is known in one place.
//
// It imports the root package, migrations and pgx, and never decoder, relay or
// syncrules: they state what they need as interfaces over root types.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/migrations"
)

// ErrLeadershipLost tells that a Writer's term is over: another decoder took
// the fence, or the session that held it ended. Nothing of the open flush
// became visible. Lead again to go on.
var ErrLeadershipLost = errors.New("this decoder no longer leads the sidecar")

// ErrOutcomeUnknown tells that the session ended during COMMIT, so that the
// flush may or may not be durable. The term is over: Lead again and begin from
// State. errors.Is finds ErrLeadershipLost in it too.
var ErrOutcomeUnknown = errors.New("the session ended during COMMIT, its outcome is unknown")

// Defaults of Options.
const (
	DefaultHistoryKeep   = 7 * 24 * time.Hour
	DefaultPieceBytes    = 8 << 20
	DefaultCacheBytes    = 48 << 20
	DefaultRulesKeep     = time.Hour
	DefaultHeartbeat     = 2 * time.Second
	DefaultLeaderSilence = 10 * time.Second
)

// Options change how a Writer works. The zero value is ready for production.
type Options struct {
	// SuppressUnchanged leaves out the PUT of an output whose data is what was
	// put last. It costs a digest for each row and a write of its row state
	// for each change of its data. Default: every update puts.
	SuppressUnchanged bool
	// HistoryKeep is how long ended outputs, ended lookups and thinned
	// checkpoints are kept. Default 7 days.
	HistoryKeep time.Duration
	// RulesKeep is how long a replaced rule set is fed, so that a roll-back is
	// instant. At most the ten newest are. Default 1 h; 1 µs for not at all.
	RulesKeep time.Duration
	// PieceBytes bounds what a flush keeps in memory before it is written into
	// the open transaction. Default 8 MiB.
	PieceBytes int
	// CacheBytes is about how much the states of rows may take that are kept in
	// memory between flushes: some 350 bytes for a row in one bucket. Names of
	// buckets take a quarter of it more. Default 48 MiB.
	CacheBytes int
	// Heartbeat is the leader's beat. Default 2 s.
	Heartbeat time.Duration
	// LeaderSilence is how long a leader's beat must stand still, by the
	// standby's own clock, before it is replaced. Default 10 s; at least three
	// heartbeats.
	LeaderSilence time.Duration
	// Logger gets changes of leadership and failures of upkeep. Default:
	// slog.Default().
	Logger *slog.Logger

	dropPoll   time.Duration // between looks for retired definitions
	smallTable int           // outputs of a table that is emptied through memory
}

func (o Options) withDefaults() (Options, error) {
	set := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.HistoryKeep, DefaultHistoryKeep)
	set(&o.RulesKeep, DefaultRulesKeep)
	set(&o.dropPoll, dropPoll)
	set(&o.Heartbeat, DefaultHeartbeat)
	set(&o.LeaderSilence, DefaultLeaderSilence)
	if o.smallTable == 0 {
		o.smallTable = smallTable
	}
	if o.PieceBytes == 0 {
		o.PieceBytes = DefaultPieceBytes
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.HistoryKeep < 0, o.RulesKeep < 0, o.Heartbeat < 0, o.LeaderSilence < 0, o.PieceBytes < 0, o.CacheBytes < 0:
		return o, errors.New("store options must not be negative")
	case o.LeaderSilence < 3*o.Heartbeat:
		return o, fmt.Errorf("leader silence %s must be at least three heartbeats of %s", o.LeaderSilence, o.Heartbeat)
	}
	return o, nil
}

// Store is a sidecar that was found ready. It may be used concurrently.
type Store struct {
	config *pgx.ConnConfig
	opts   Options
	notify notifyGate
}

// Open connects once to see that the sidecar can be reached and has a schema
// that this release can use.
func Open(ctx context.Context, uri string, opts Options) (*Store, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, fmt.Errorf("sidecar connection string: %w", err)
	}
	config.RuntimeParams["client_encoding"] = "UTF8"
	s := &Store{config: config, opts: opts}
	conn, err := s.connect(ctx, "millrace")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	state, err := migrations.Read(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := state.Usable(); err != nil {
		return nil, err
	}
	if state.Version > state.Latest {
		opts.Logger.Info("the sidecar's schema is newer than this release and serves it too", "migration", state.Version, "known", state.Latest)
	}
	return s, nil
}

// connect opens a session with settings that do not depend on the role's or
// the database's.
func (s *Store) connect(ctx context.Context, name string) (*pgx.Conn, error) {
	config := s.config.Copy()
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the sidecar: %w", err)
	}
	_, err = conn.Exec(ctx, `
		SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') <> 'remote_apply';
		SET search_path = pg_catalog;
		SET statement_timeout = 0;
		SET lock_timeout = 0;
		SET idle_in_transaction_session_timeout = 0;
		SET default_transaction_isolation = 'read committed';
		SET default_transaction_read_only = off;
		SET jit = off;
		SET plan_cache_mode = force_generic_plan`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up a sidecar session: %w", err), conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}
