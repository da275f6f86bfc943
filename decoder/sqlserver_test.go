package decoder

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	dbsession "github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/syncrules"
)

type sqlServer struct {
	conn *pgx.Conn
	uri  string
}

func openSQL(ctx context.Context, c *SourceConfig) (server, error) {
	config, err := pgx.ParseConfig(c.URI)
	if err != nil {
		return nil, err
	}
	dbsession.Apply(&config.Config, dbsession.Plain)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "set synchronous_commit=local")
	return &sqlServer{conn, c.URI}, err
}

func (s *sqlServer) Close() { _ = s.conn.Close(context.Background()) }

func (s *sqlServer) text(ctx context.Context, q string, args ...any) (string, error) {
	var t string
	err := s.conn.QueryRow(ctx, q, args...).Scan(&t)
	return t, err
}

func (s *sqlServer) Snapshot(ctx context.Context) (string, error) {
	return s.text(ctx, "select pg_current_snapshot()::text")
}

func (s *sqlServer) Message(ctx context.Context) error {
	_, err := s.text(ctx, "select pg_logical_emit_message(true,'millrace','')::text")
	return err
}

func (s *sqlServer) Slot(ctx context.Context) (slotReport, error) {
	head, err := s.Head(ctx)
	return slotReport{Head: head, Retained: -1}, err
}

func (s *sqlServer) Head(ctx context.Context) (millrace.LSN, error) {
	t, err := s.text(ctx, "select pg_current_wal_insert_lsn()::text")
	if err != nil {
		return 0, err
	}
	return millrace.ParseLSN(t)
}

func (s *sqlServer) Inspect(ctx context.Context, c *SourceConfig, patterns []syncrules.TablePattern) (*inspection, error) {
	f := &inspection{Timeline: 1, Types: builtinTypes{}}
	err := s.conn.QueryRow(ctx, "select system_identifier::text, current_database() from pg_control_system()").Scan(&f.SystemID, &f.Database)
	if err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `select c.oid, n.nspname::text, c.relname::text, c.relreplident::text, a.attname::text, a.atttypid,
		coalesce(a.attnum = any(i.indkey::int2[]), false)
		from pg_class c join pg_namespace n on n.oid=c.relnamespace join pg_attribute a on a.attrelid=c.oid and a.attnum>0 and not attisdropped
		left join pg_index i on i.indrelid=c.oid and case when relreplident = 'i' then indisreplident else indisprimary end
		where relkind='r' and nspname not like 'pg\_%' and nspname <> 'information_schema' order by c.oid, a.attnum`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var oid, typ uint32
		var schema, name, ident, att string
		var key bool
		if err := rows.Scan(&oid, &schema, &name, &ident, &att, &typ, &key); err != nil {
			return nil, err
		}
		uses := false
		for _, p := range patterns {
			uses = uses || p.Matches(p.Tag, schema, name)
		}
		if !uses {
			continue
		}
		if n := len(f.Tables); n == 0 || f.Tables[n-1].Saved.OID != oid {
			f.Tables = append(f.Tables, foundTable{Bounded: true, Estimate: -1, Saved: millrace.SourceTable{
				OID: oid, Schema: schema, Name: name, Identity: identities[ident[0]]}})
		}
		t := &f.Tables[len(f.Tables)-1].Saved
		t.Columns = append(t.Columns, millrace.SourceColumn{Name: att, TypeOID: typ})
		if key {
			t.KeyColumns = append(t.KeyColumns, att)
		}
	}
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	if _, err := s.conn.Exec(ctx, "create publication "+c.Publication); err == nil {
		for _, t := range f.Tables {
			if _, err := s.conn.Exec(ctx, "alter publication "+c.Publication+" add table "+pgx.Identifier{t.Saved.Schema, t.Saved.Name}.Sanitize()); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func (s *sqlServer) InspectSlot(ctx context.Context, name string) (*slotState, error) {
	var lsn, status string
	var pid *int32
	err := s.conn.QueryRow(ctx, "select coalesce(confirmed_flush_lsn,'0/0')::text, active_pid, coalesce(wal_status,'lost') from pg_replication_slots where slot_name=$1", name).Scan(&lsn, &pid, &status)
	if err == pgx.ErrNoRows {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := &slotState{Status: status, Lost: status == "lost"}
	if pid != nil {
		st.ActivePID = uint32(*pid)
	}
	st.Confirmed, err = millrace.ParseLSN(lsn)
	return st, err
}

func (s *sqlServer) CreateSlot(ctx context.Context, name string, _ func(string)) (millrace.LSN, string, error) {
	config, err := dbsession.Config(s.uri, dbsession.Replication)
	if err != nil {
		return 0, "", err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close(context.Background())
	r, err := pglogrepl.CreateReplicationSlot(ctx, conn, name, "pgoutput", pglogrepl.CreateReplicationSlotOptions{SnapshotAction: "EXPORT_SNAPSHOT"})
	if err != nil {
		return 0, "", err
	}
	if _, err := s.conn.Exec(ctx, "begin isolation level repeatable read; set transaction snapshot '"+r.SnapshotName+"'"); err != nil {
		return 0, "", err
	}
	text, err := s.Snapshot(ctx)
	if err != nil {
		return 0, "", err
	}
	if _, err := s.conn.Exec(ctx, "commit"); err != nil {
		return 0, "", err
	}
	lsn, err := millrace.ParseLSN(r.ConsistentPoint)
	return lsn, text, err
}

func (s *sqlServer) DropSlot(ctx context.Context, name string) error {
	_, err := s.conn.Exec(ctx, "select pg_drop_replication_slot($1)", name)
	return err
}

func (s *sqlServer) TakeSlot(ctx context.Context, _ string, pid uint32) error {
	_, err := s.conn.Exec(ctx, "select pg_terminate_backend($1)", int32(pid))
	return err
}

type sqlReader struct{ conn *pgx.Conn }

func openSQLReader(ctx context.Context, c *SourceConfig) (chunkReader, error) {
	config, err := pgx.ParseConfig(c.URI)
	if err != nil {
		return nil, err
	}
	dbsession.Apply(&config.Config, dbsession.ReadOnly)
	conn, err := pgx.ConnectConfig(ctx, config)
	return &sqlReader{conn}, err
}

func (r *sqlReader) Close() { _ = r.conn.Close(context.Background()) }

type memRows struct{ rows [][]cell }

func (m memRows) each(f func([]cell) error) error {
	for _, r := range m.rows {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

func (r *sqlReader) ReadChunk(ctx context.Context, t *millrace.SourceTable, result *chunkResult) error {
	name := pgx.Identifier{t.Schema, t.Name}.Sanitize()
	if _, err := r.conn.Exec(ctx, "begin isolation level repeatable read; lock table "+name+" in access share mode"); err != nil {
		return err
	}
	defer r.conn.Exec(context.Background(), "rollback") //nolint:errcheck // test
	var snap, head string
	var pages, filenode, toast int64
	err := r.conn.QueryRow(ctx, `select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, pg_relation_filenode(c.oid)::int8,
		pg_relation_size(c.oid)/8192, coalesce(pg_relation_size(nullif(reltoastrelid,0)),0) from pg_class c where oid=$1`, t.OID).Scan(&snap, &head, &filenode, &pages, &toast)
	if err != nil {
		return err
	}
	result.filenode, result.pages, result.toast = uint32(filenode), uint32(pages), toast
	if result.snapshot, err = parseSnapshot(snap); err != nil {
		return err
	}
	if result.head, err = millrace.ParseLSN(head); err != nil {
		return err
	}
	where := fmt.Sprintf("ctid >= '(%d,0)' and ctid < '(%d,0)'", result.chunk.from, result.chunk.to)
	if result.chunk.keys != nil {
		if len(t.KeyColumns) != 1 {
			return fmt.Errorf("composite key")
		}
		var quoted []string
		for _, k := range result.chunk.keys {
			quoted = append(quoted, "'"+strings.ReplaceAll(k, "'", "''")+"'")
		}
		where = pgx.Identifier{t.KeyColumns[0]}.Sanitize() + " in (" + strings.Join(quoted, ",") + ")"
	}
	var names []string
	for _, c := range t.Columns {
		names = append(names, pgx.Identifier{c.Name}.Sanitize())
	}
	res := r.conn.PgConn().ExecParams(ctx, "select "+strings.Join(names, ",")+" from only "+name+" where "+where, nil, nil, nil, nil).Read()
	if res.Err != nil {
		return res.Err
	}
	for _, f := range res.FieldDescriptions {
		result.columns = append(result.columns, planColumn{name: f.Name, typeOID: f.DataTypeOID})
	}
	var m memRows
	for _, row := range res.Rows {
		cells := make([]cell, len(row))
		for i, v := range row {
			cells[i] = cell{known: true, null: v == nil, text: v}
			result.bytes += int64(len(v))
		}
		m.rows = append(m.rows, cells)
	}
	result.rows = m
	return nil
}
