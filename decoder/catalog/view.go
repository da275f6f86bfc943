package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// viewLockTimeout is how long a view waits for tables that another session
// changes.
const viewLockTimeout = 10 * time.Second

// View is one consistent state of some tables: a read-only transaction that
// sees the same rows however often they are read. It is for questions; what is
// merged with the stream is read in chunks (Reader). Not for concurrent use.
type View struct {
	conn *pgconn.PgConn
}

// View opens a view of the tables, which are locked against DDL (ACCESS SHARE)
// until it is closed. Errors of connecting are *session.ConnectError.
func (s *Source) View(ctx context.Context, tables []*Table) (*View, error) {
	pc, err := session.Config(s.config.URI, session.ReadOnly)
	if err != nil {
		return nil, err
	}
	// A policy that hides rows must fail loudly (P9).
	pc.RuntimeParams["row_security"] = "off"
	pc.RuntimeParams["lock_timeout"] = fmt.Sprint(viewLockTimeout.Milliseconds())
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, session.Explain(pc, err)
	}
	v := &View{conn: conn}
	if err := v.open(ctx, tables); err != nil {
		v.Close()
		return nil, fmt.Errorf("source: open a snapshot: %w", err)
	}
	return v, nil
}

func (v *View) open(ctx context.Context, tables []*Table) error {
	var b strings.Builder
	b.WriteString("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	for _, t := range tables {
		b.WriteString("; LOCK TABLE ONLY " + t.SQL() + " IN ACCESS SHARE MODE")
	}
	for _, t := range tables {
		fmt.Fprintf(&b, "; SELECT %s::regclass::oid = %d", session.Literal(t.SQL()), t.OID)
	}
	// The first query that is no LOCK takes the snapshot.
	b.WriteString("; SELECT pg_current_snapshot()")
	results, err := v.conn.Exec(ctx, b.String()).ReadAll()
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return fmt.Errorf("a table of the rules is locked by another session: try again when it is done: %w", err)
	}
	if err != nil {
		return err
	}
	if len(results) != 2*len(tables)+2 {
		return errors.New("the server gave no snapshot")
	}
	for i, t := range tables {
		if r := results[1+len(tables)+i].Rows; len(r) != 1 || string(r[0][0]) != "t" {
			return fmt.Errorf("%w: %s stands for another table now", ErrTableChanged, t.TableName)
		}
	}
	return nil
}

// Rows gives the rows of a table to row, which takes the named columns in the
// order given; a tuple is valid during that call. An error of row ends the
// reading and is returned. Only rows that the publication's filter passes are
// read. After an error the view is of no use any more.
func (v *View) Rows(ctx context.Context, t *Table, columns []string, row func(*pgoutput.Tuple) error) error {
	var b strings.Builder
	b.WriteString("COPY (SELECT ")
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(session.Ident(c))
	}
	b.WriteString(" FROM ONLY " + t.SQL())
	if t.Filter != "" {
		b.WriteString(" WHERE (" + t.Filter + ")")
	}
	b.WriteString(") TO STDOUT")
	reader := copyReader{columns: len(columns), row: row}
	if _, err := v.conn.CopyTo(ctx, &reader, b.String()); err != nil {
		if reader.err != nil {
			err = reader.err
		}
		return fmt.Errorf("source: read %s: %w", t.TableName, err)
	}
	return reader.close()
}

// Head is an insert position of the source behind everything the view shows.
func (v *View) Head(ctx context.Context) (millrace.LSN, error) {
	results, err := v.conn.Exec(ctx, "SELECT pg_current_wal_insert_lsn()").ReadAll()
	if err != nil {
		return 0, fmt.Errorf("source: read its position: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return 0, errors.New("source: read its position: the server gave none")
	}
	return millrace.ParseLSN(string(results[0].Rows[0][0]))
}

// Close ends the transaction and its connection.
func (v *View) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = v.conn.Close(ctx)
}
