package catalog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// ChunkRequest says which rows of a table to read: pages [FromPage, ToPage), or
// the rows with Keys. Columns and Filter are those of the stream, so that a
// copied row is what the stream would send (P24).
type ChunkRequest struct {
	Table   uint32 // oid
	Name    TableName
	Columns []string // published columns in attribute order
	Filter  string   // the publication's row filter, or empty

	FromPage, ToPage uint32

	// Keys of rows, each a text for every key column. If not nil pages are not
	// looked at.
	Keys       [][]string
	KeyColumns []string
	KeyTypes   []string // of the key columns, as format_type() gives them
}

// Chunk is where and when a chunk was read.
type Chunk struct {
	Snapshot Snapshot     // of which the rows are
	Head     millrace.LSN // behind everything visible in Snapshot
	Filenode uint32
	Pages    uint32 // size of the table
	Rows     int
	Bytes    int64
}

// LockTimeout is how long one attempt waits for a table.
const LockTimeout = 2 * time.Second

// Reader reads chunks over one connection, which it makes when it needs one.
// Not for concurrent use.
type Reader struct {
	source *Source
	conn   *pgconn.PgConn
}

// Reader gives a reader. It connects with the first chunk.
func (s *Source) Reader() *Reader { return &Reader{source: s} }

// Close ends the connection.
func (r *Reader) Close() {
	if r.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.conn.Close(ctx)
	r.conn = nil
}

// ReadChunk reads a chunk in one transaction: the table locked against DDL
// before the snapshot is taken, then snapshot and head, then the rows, each of
// which is given to row. The tuple and its bytes are valid during that call. A
// table that cannot be locked is tried again until ctx ends.
//
// The table being gone or another one is ErrTableChanged. After any error the
// rows given so far must be forgotten; the next chunk uses a new connection.
func (r *Reader) ReadChunk(ctx context.Context, req *ChunkRequest, row func(*pgoutput.Tuple) error) (Chunk, error) {
	wait := 50 * time.Millisecond
	for {
		chunk, err := r.attempt(ctx, req, row)
		if err == nil {
			return chunk, nil
		}
		r.Close()
		var locked *lockedError
		if !errors.As(err, &locked) {
			return chunk, fmt.Errorf("source: copy %s: %w", req.Name, err)
		}
		if ctxErr := pause(ctx, wait); ctxErr != nil {
			return chunk, fmt.Errorf("source: copy %s: the table is locked by another session: %w", req.Name, ctxErr)
		}
		wait = min(2*wait, LockTimeout)
	}
}

type lockedError struct{ err error }

func (e *lockedError) Error() string { return e.err.Error() }
func (e *lockedError) Unwrap() error { return e.err }

func (r *Reader) attempt(ctx context.Context, req *ChunkRequest, row func(*pgoutput.Tuple) error) (Chunk, error) {
	if err := r.connect(ctx); err != nil {
		return Chunk{}, err
	}
	if err := r.exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ONLY "+req.Name.SQL()+" IN ACCESS SHARE MODE"); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			switch pg.Code {
			case "55P03":
				return Chunk{}, &lockedError{err}
			case "42P01", "3F000", "42809":
				return Chunk{}, fmt.Errorf("%w: %s", ErrTableChanged, pg.Message)
			}
		}
		return Chunk{}, err
	}
	chunk, err := r.look(ctx, req)
	if err != nil {
		return chunk, err
	}
	reader := copyReader{columns: len(req.Columns), row: row}
	if _, err := r.conn.CopyTo(ctx, &reader, copySQL(req)); err != nil {
		if reader.err != nil {
			return chunk, reader.err
		}
		return chunk, err
	}
	if err := reader.close(); err != nil {
		return chunk, err
	}
	chunk.Rows, chunk.Bytes = reader.rows, reader.bytes
	return chunk, r.exec(ctx, "COMMIT")
}

func (r *Reader) connect(ctx context.Context) error {
	if r.conn != nil {
		return nil
	}
	pc, err := session.Config(r.source.config.URI, session.ReadOnly)
	if err != nil {
		return err
	}
	// A policy that hides rows must fail loudly (P9).
	pc.RuntimeParams["row_security"] = "off"
	pc.RuntimeParams["lock_timeout"] = fmt.Sprint(LockTimeout.Milliseconds())
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return session.Explain(pc, err)
	}
	r.conn = conn
	return nil
}

func (r *Reader) exec(ctx context.Context, sql string) error {
	_, err := r.conn.Exec(ctx, sql).ReadAll()
	return err
}

// look takes the snapshot and reads what belongs to it.
func (r *Reader) look(ctx context.Context, req *ChunkRequest) (Chunk, error) {
	var chunk Chunk
	results, err := r.conn.Exec(ctx, fmt.Sprintf(`
		SELECT pg_current_snapshot(), pg_current_wal_insert_lsn(), to_regclass(%s)::oid,
		       pg_relation_filenode(%d), pg_relation_size(%d) / current_setting('block_size')::int`,
		session.Literal(req.Name.SQL()), req.Table, req.Table)).ReadAll()
	if err != nil {
		return chunk, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return chunk, errors.New("server gave no snapshot")
	}
	row := results[0].Rows[0]
	if string(row[2]) != fmt.Sprint(req.Table) || row[3] == nil || row[4] == nil {
		return chunk, fmt.Errorf("%w: the name stands for another table now", ErrTableChanged)
	}
	var filenode, pages uint64
	if chunk.Snapshot, err = ParseSnapshot(string(row[0])); err != nil {
		return chunk, err
	}
	if chunk.Head, err = millrace.ParseLSN(string(row[1])); err != nil {
		return chunk, err
	}
	if _, err := fmt.Sscan(string(row[3])+" "+string(row[4]), &filenode, &pages); err != nil {
		return chunk, fmt.Errorf("file and size: %w", err)
	}
	chunk.Filenode, chunk.Pages = uint32(filenode), uint32(min(pages, math.MaxUint32))
	return chunk, nil
}

func copySQL(req *ChunkRequest) string {
	var b strings.Builder
	b.WriteString("COPY (SELECT ")
	for i, c := range req.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(session.Ident(c))
	}
	b.WriteString(" FROM ONLY " + req.Name.SQL() + " WHERE ")
	if req.Keys != nil {
		writeKeys(&b, req)
	} else {
		fmt.Fprintf(&b, "ctid >= '(%d,0)' AND ctid < '(%d,0)'", req.FromPage, req.ToPage)
	}
	if req.Filter != "" {
		b.WriteString(" AND (" + req.Filter + ")")
	}
	b.WriteString(") TO STDOUT")
	return b.String()
}

func writeKeys(b *strings.Builder, req *ChunkRequest) {
	if len(req.Keys) == 0 {
		b.WriteString("false")
		return
	}
	b.WriteByte('(')
	for i, c := range req.KeyColumns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(session.Ident(c))
	}
	b.WriteString(") IN (")
	for i, key := range req.Keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j, text := range key {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString(session.Literal(text) + "::" + req.KeyTypes[j])
		}
		b.WriteByte(')')
	}
	b.WriteByte(')')
}
