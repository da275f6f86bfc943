package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// Config says which source.
type Config struct {
	// URI is the connection string; required.
	URI string
	// Slot and Publication are the names of ours; required for what concerns
	// them.
	Slot, Publication string
	// Failover: the slot is to be synchronized to standbys (17 and newer).
	Failover bool
	// OurSlots are all slots that are configured anywhere on this server, beside
	// Slot: others that look like ours are reported.
	OurSlots []string
	// MaxConnections of the pool; default 3. Readers come on top.
	MaxConnections int
}

// Source is a source Postgres.
type Source struct {
	config Config
	pool   *pgxpool.Pool
}

// Connect makes the pool and checks that a connection can be had. Errors are
// *session.ConnectError or session.ErrURI, without secrets.
func Connect(ctx context.Context, c Config) (*Source, error) {
	// The driver's own text for a bad URI may quote a password.
	if _, err := session.Config(c.URI, session.Plain); err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig(c.URI)
	if err != nil {
		return nil, session.ErrURI
	}
	session.Apply(&pc.ConnConfig.Config, session.Plain)
	// Our messages and our DDL must not wait for a standby that is away.
	pc.ConnConfig.RuntimeParams["synchronous_commit"] = "local"
	pc.MaxConns = 3
	if c.MaxConnections > 0 {
		pc.MaxConns = int32(min(c.MaxConnections, 100))
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, session.Explain(&pc.ConnConfig.Config, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, session.Explain(&pc.ConnConfig.Config, err)
	}
	return &Source{config: c, pool: pool}, nil
}

// Close closes all connections of the pool.
func (s *Source) Close() { s.pool.Close() }

// explain says what a failed operation was. Errors of connecting get their
// readable form.
func (s *Source) explain(operation string, err error) error {
	if err == nil {
		return nil
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		err = session.Explain(&s.pool.Config().ConnConfig.Config, err)
	}
	return fmt.Errorf("source: %s: %w", operation, err)
}

// Identity says which cluster and database a source is. Positions of different
// identities never compare (P7).
type Identity struct {
	SystemID    string
	Timeline    int32
	Database    string
	DatabaseOID uint32
	// PublicationOID is 0 if there is no such publication. Made again under the
	// same name it is another one: changes between the two are lost (P75).
	PublicationOID uint32
	Version        int // server_version_num, for example 150018
	WALLevel       string
	InRecovery     bool
	Encoding       string // of the database
	Head           millrace.LSN
}

// Identify reads the identity.
func (s *Source) Identify(ctx context.Context) (Identity, error) {
	var (
		id   Identity
		head string
	)
	err := s.pool.QueryRow(ctx, `
		SELECT (SELECT system_identifier::text FROM pg_control_system()),
		       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
		            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END,
		       d.datname::text, d.oid,
		       coalesce((SELECT oid FROM pg_publication WHERE pubname = $1), 0::oid),
		       current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
		       pg_encoding_to_char(d.encoding)::text,
		       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text
		FROM pg_database d WHERE d.datname = current_database()`, s.config.Publication).
		Scan(&id.SystemID, &id.Timeline, &id.Database, &id.DatabaseOID, &id.PublicationOID,
			&id.Version, &id.WALLevel, &id.InRecovery, &id.Encoding, &head)
	if err == nil {
		id.Head, err = millrace.ParseLSN(head)
	}
	return id, s.explain("identify", err)
}

// Head is the position behind everything that any session can see now (P5).
func (s *Source) Head(ctx context.Context) (millrace.LSN, error) {
	return s.position(ctx, "read head", "SELECT pg_current_wal_insert_lsn()::text")
}

// Emit writes a logical message and returns its position. A transactional one
// comes to the reader as a transaction, at once; the other kind may lie
// unflushed for as long as wal_writer_delay.
func (s *Source) Emit(ctx context.Context, transactional bool, prefix, content string) (millrace.LSN, error) {
	return s.position(ctx, "emit message", "SELECT pg_logical_emit_message($1, $2, $3)::text", transactional, prefix, content)
}

func (s *Source) position(ctx context.Context, operation, sql string, args ...any) (millrace.LSN, error) {
	var text string
	if err := s.pool.QueryRow(ctx, sql, args...).Scan(&text); err != nil {
		return 0, s.explain(operation, err)
	}
	lsn, err := millrace.ParseLSN(text)
	return lsn, s.explain(operation, err)
}

// CurrentSnapshot tells which transactions are visible now.
func (s *Source) CurrentSnapshot(ctx context.Context) (Snapshot, error) {
	var text string
	if err := s.pool.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text); err != nil {
		return Snapshot{}, s.explain("read snapshot", err)
	}
	snap, err := ParseSnapshot(text)
	return snap, s.explain("read snapshot", err)
}

// Plan is what a copy of a table begins with.
type Plan struct {
	Filenode uint32
	Pages    uint32  // size now; a copy reads the pages below
	Rows     float64 // estimate of the last ANALYZE or VACUUM, -1 unknown
}

// Plan reads size and file of a table.
func (s *Source) Plan(ctx context.Context, table uint32) (Plan, error) {
	var (
		p     Plan
		pages int64
		node  *uint32
	)
	err := s.pool.QueryRow(ctx, `
		SELECT pg_relation_filenode(c.oid), pg_relation_size(c.oid) / current_setting('block_size')::int, c.reltuples::float8
		FROM pg_class c WHERE c.oid = $1`, table).Scan(&node, &pages, &p.Rows)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && node == nil:
		return p, fmt.Errorf("source: plan copy: %w: no table with oid %d", ErrTableChanged, table)
	case err != nil:
		return p, s.explain("plan copy", err)
	}
	p.Filenode, p.Pages = *node, uint32(pages)
	return p, nil
}

// Setting reads a setting of the server as a person would write it.
func (s *Source) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.pool.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value)
	return value, s.explain("read setting "+name, err)
}
