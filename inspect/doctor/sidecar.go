package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/store"
)

// connect opens a session with pinned settings. Errors have no secrets.
func connect(ctx context.Context, uri string) (*pgx.Conn, error) {
	if _, err := session.Config(uri, session.Plain); err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, session.ErrURI
	}
	session.Apply(&c.Config, session.Plain)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, session.Explain(&c.Config, err)
	}
	return conn, nil
}

// server is what is asked of the sidecar's server at once.
type server struct {
	version                                  int
	recovery, mayCreate, schema, reader      bool
	fsync, fullPages, syncCommit, autovacuum string
	system                                   string
	queue                                    float64
	connections, maxConnections              int
	oldest                                   int64
	role, database, encoding, autoOwner      string
}

const askServer = `
	SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
	       has_database_privilege(current_database(), 'CREATE'), to_regnamespace('millrace') IS NOT NULL, to_regrole('millrace_reader') IS NOT NULL,
	       current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), current_setting('autovacuum'),
	       (SELECT system_identifier::text FROM pg_control_system()), pg_notification_queue_usage(),
	       (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('max_connections')::int,
	       coalesce((SELECT extract(epoch FROM max(clock_timestamp() - xact_start))::bigint FROM pg_stat_activity
	                 WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()), 0),
	       current_user::text, current_database()::text, (SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()),
	       coalesce((SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'millrace'), '')`

func (s *server) ask(ctx context.Context, conn *pgx.Conn) error {
	return conn.QueryRow(ctx, askServer).Scan(&s.version, &s.recovery, &s.mayCreate, &s.schema, &s.reader, &s.fsync, &s.fullPages, &s.syncCommit, &s.autovacuum,
		&s.system, &s.queue, &s.connections, &s.maxConnections, &s.oldest, &s.role, &s.database, &s.encoding, &s.autoOwner)
}

// examineSidecar looks at the sidecar and its replica.
func examineSidecar(ctx context.Context, c *Config) []Finding {
	r := &report{about: "sidecar"}
	conn, err := connect(ctx, c.Sidecar)
	if err != nil {
		r.unreachable(err, "check address, role, password and pg_hba.conf of the sidecar (sidecar.uri)")
		return r.list
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var s server
	if err := s.ask(ctx, conn); err != nil {
		r.unreachable(err, "")
		return r.list
	}
	r.sidecarServer(&s)
	if s.schema && s.version >= 140000 && !s.recovery {
		if _, err := store.Open(ctx, c.Sidecar, store.Options{}); err != nil {
			r.add(Fatal, "", "schema millrace", err.Error(), "millrace migrate up")
		} else {
			r.health(ctx, conn)
		}
	}
	if c.SidecarReplica != "" {
		r.replica(ctx, c.SidecarReplica, s.system)
	}
	for i := range c.Sources {
		r.besideSource(ctx, &c.Sources[i], &s)
	}
	r.clock(ctx, conn)
	return r.done(fmt.Sprintf("PostgreSQL %d: ready", s.version/10000))
}

// sidecarServer judges what the server told of itself.
func (r *report) sidecarServer(s *server) {
	if s.version < 140000 {
		r.add(Fatal, "MR1002", "server", fmt.Sprintf("PostgreSQL %d is too old: 14 to 18 are supported", s.version/10000), "use a newer server for the sidecar")
	}
	if s.recovery {
		r.add(Fatal, "MR1006", "server", "it is a standby: the decoder cannot write to it", "set sidecar.uri to the primary, and sidecar.read_uri to this one")
	}
	if !s.schema {
		cure := "millrace migrate up"
		if !s.mayCreate {
			cure = fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s; then millrace migrate up", session.Ident(s.database), session.Ident(s.role))
		}
		r.add(Fatal, "", "schema millrace", "it does not exist", cure)
	} else if s.autoOwner != s.role {
		r.add(Warn, "", "schema millrace", "it belongs to "+s.autoOwner+", not to "+s.role+": migrations and new definitions may be refused",
			"connect as "+s.autoOwner+", or: GRANT "+session.Ident(s.autoOwner)+" TO "+session.Ident(s.role)+";")
	}
	if s.schema && !s.reader {
		r.add(Warn, "", "role millrace_reader", "it does not exist: nobody but the owner may read the views", "CREATE ROLE millrace_reader NOLOGIN; as an administrator, then millrace migrate up")
	}
	if s.encoding != "UTF8" {
		r.add(Fatal, "", "database "+s.database, "its encoding is "+s.encoding, "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0;")
	}
	for _, setting := range []struct{ name, value string }{{"fsync", s.fsync}, {"full_page_writes", s.fullPages}} {
		if setting.value == "off" {
			r.add(Fatal, "", setting.name, "it is off: after a crash of the server what was confirmed to the sources may be gone", "ALTER SYSTEM SET "+setting.name+" = on; SELECT pg_reload_conf();")
		}
	}
	if s.autovacuum == "off" {
		r.add(Fatal, "", "autovacuum", "it is off: the head and the totals of buckets are updated all the time, and would grow without end", "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();")
	}
	if s.queue > 0.5 {
		r.add(Warn, "", "notification queue", fmt.Sprintf("it is %.0f%% full: some session listens and has been in a transaction for long", 100*s.queue),
			"SELECT pid, state, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' ORDER BY xact_start; and end the oldest with pg_terminate_backend")
	}
	if free := s.maxConnections - s.connections; free < 10 {
		r.add(Warn, "", "max_connections", fmt.Sprintf("%d of %d connections are in use", s.connections, s.maxConnections), fmt.Sprintf("ALTER SYSTEM SET max_connections = %d; and restart the server", s.maxConnections+50))
	}
	if age := time.Duration(s.oldest) * time.Second; age > 10*time.Minute {
		r.add(Warn, "", "oldest snapshot", fmt.Sprintf("a transaction has been open for %v: dead rows of the head and of totals cannot be removed, and everything gets slower", age),
			"SELECT pid, usename, application_name, state, xact_start FROM pg_stat_activity WHERE backend_xmin IS NOT NULL ORDER BY xact_start; and end it with pg_terminate_backend")
	}
}

// health tells what the sidecar knows of itself.
func (r *report) health(ctx context.Context, conn *pgx.Conn) {
	var decoder *string
	var silent *int64
	var rows int64
	err := conn.QueryRow(ctx, `SELECT decoder, extract(epoch FROM clock_timestamp() - heartbeat_at)::bigint, row_errors FROM millrace.status`).Scan(&decoder, &silent, &rows)
	if err != nil {
		r.unreachable(err, "")
		return
	}
	if decoder == nil {
		r.add(Warn, "", "decoder", "none has ever worked on this sidecar", "millrace serve")
	} else if silent != nil && *silent > 30 {
		r.add(Warn, "", "decoder "+*decoder, fmt.Sprintf("its heart has not beaten for %v: nothing new comes from the sources", time.Duration(*silent)*time.Second), "start it: millrace serve --role decoder")
	}
	if rows > 0 {
		r.add(Warn, "", "millrace.row_errors", fmt.Sprintf("%d rows could not be evaluated or stored, and are with nobody", rows), "SELECT * FROM millrace.row_errors; tells which and why")
	}
	list, err := conn.Query(ctx, `SELECT source, coalesce(code, ''), coalesce(cure, ''), retained_bytes FROM millrace.slot_health WHERE code IS NOT NULL`)
	if err != nil {
		r.unreachable(err, "")
		return
	}
	var source, code, cure string
	var retained *int64
	if _, err := pgx.ForEachRow(list, []any{&source, &code, &cure, &retained}, func() error {
		r.add(Warn, code, "slot of source "+source, "it holds back WAL, see millrace.slot_health", cure)
		return nil
	}); err != nil {
		r.unreachable(err, "")
	}
}

// replica looks at the streaming replica that relays read.
func (r *report) replica(ctx context.Context, uri, primary string) {
	conn, err := connect(ctx, uri)
	if err != nil {
		r.unreachable(err, "check sidecar.read_uri")
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var s server
	if err := s.ask(ctx, conn); err != nil {
		r.unreachable(err, "")
		return
	}
	switch {
	case s.system != primary:
		r.add(Fatal, "", "sidecar.read_uri", "it is not a replica of the sidecar: their system identifiers differ", "set it to a streaming replica of sidecar.uri, or leave it out")
	case !s.recovery:
		r.add(Warn, "", "sidecar.read_uri", "it is the primary", "leave it out")
	}
}

// besideSource tells if the sidecar is on a source's server.
func (r *report) besideSource(ctx context.Context, source *Source, s *server) {
	conn, err := connect(ctx, source.URI)
	if err != nil {
		return // said by the source's own look
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var system, database string
	if conn.QueryRow(ctx, `SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text`).Scan(&system, &database) != nil || system != s.system {
		return
	}
	if database == s.database {
		r.add(Fatal, "MR1050", "database "+database, "it is the sidecar and source "+source.Name+" at once: every checkpoint would feed the slot that reads it", "create a database for the sidecar, on another server if possible")
		return
	}
	r.add(Warn, "MR1050", "server", "the sidecar is on the server of source "+source.Name+": they share WAL, disk and crashes, and restoring one restores the other", "for production, use a server of its own")
}
