package clientsdk

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/millrace/millrace"
)

// formatVersion is the version of the internal tables.
const formatVersion = 1

// openTarget is the gate's target while a local write has no write checkpoint
// yet: nothing the server says reaches it.
const openTarget = math.MaxInt64

// internalTables is the storage layout. See
// SPEC.md, "Storage".
const internalTables = `
CREATE TABLE IF NOT EXISTS mr_state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  format INTEGER NOT NULL,
  client_id TEXT NOT NULL,
  tx INTEGER NOT NULL DEFAULT 0,        -- number of the newest local transaction
  target INTEGER NOT NULL DEFAULT 0,    -- the gate: write checkpoint that must be seen before publishing
  custom INTEGER NOT NULL DEFAULT 0,    -- 1: target is the backend's number; has a meaning while target is one
  seen INTEGER NOT NULL DEFAULT 0,      -- write checkpoint of the newest validated completion
  complete INTEGER NOT NULL DEFAULT 0,  -- op id of the newest validated full completion
  pending INTEGER NOT NULL DEFAULT 0,   -- 1: what is stored is exactly that completion, and it is not published yet
  views TEXT NOT NULL DEFAULT ''        -- fingerprint of the app schema the views were made from
);
CREATE TABLE IF NOT EXISTS mr_buckets (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE,                     -- null: dropped; its published rows go with the next full publication
  position INTEGER NOT NULL DEFAULT 0,  -- every op up to here is stored
  settled INTEGER NOT NULL DEFAULT 0,   -- 1: was in a validated completion, so every op up to mr_state.complete is stored too
  checksum INTEGER NOT NULL DEFAULT 0,  -- sum of the stored ops since the last CLEAR
  published INTEGER NOT NULL DEFAULT 0, -- rows up to here are what readers see; newer ones are staged
  cleared INTEGER NOT NULL DEFAULT 0,   -- a staged CLEAR: rows up to here are void once published
  at_last INTEGER NOT NULL DEFAULT 0,   -- ops at the last completion, for progress
  since INTEGER NOT NULL DEFAULT 0      -- ops received since then
);
CREATE TABLE IF NOT EXISTS mr_rows (
  bucket INTEGER NOT NULL,              -- 0: a local write that the published state does not contain
  op_id INTEGER NOT NULL,               -- for a local write the number of its upload queue entry
  type TEXT NOT NULL,
  id TEXT NOT NULL,
  subkey TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  data TEXT,                            -- JSON object; null: removed
  shown INTEGER NOT NULL                -- 1: this is the version readers see
);
CREATE UNIQUE INDEX IF NOT EXISTS mr_rows_op ON mr_rows (bucket, op_id);
CREATE INDEX IF NOT EXISTS mr_rows_row ON mr_rows (type, id);
CREATE TABLE IF NOT EXISTS mr_local (
  type TEXT NOT NULL,
  id TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (type, id)
);
CREATE TABLE IF NOT EXISTS mr_queue (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tx INTEGER NOT NULL,                  -- local transaction; uploaded as a whole
  op TEXT NOT NULL,                     -- PUT, PATCH, DELETE
  type TEXT NOT NULL,
  row_id TEXT NOT NULL,
  data TEXT,                            -- JSON object; null for DELETE
  attempts INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  last_attempt INTEGER                  -- unix milliseconds
);
CREATE INDEX IF NOT EXISTS mr_queue_tx ON mr_queue (tx);
CREATE TABLE IF NOT EXISTS mr_rejected (
  id INTEGER PRIMARY KEY,
  tx INTEGER NOT NULL,
  op TEXT NOT NULL,
  type TEXT NOT NULL,
  row_id TEXT NOT NULL,
  data TEXT,
  reason TEXT NOT NULL,
  at INTEGER NOT NULL                   -- unix milliseconds
);
CREATE TABLE IF NOT EXISTS mr_synced (
  priority INTEGER PRIMARY KEY,         -- -1: everything
  op_id INTEGER NOT NULL,
  at INTEGER NOT NULL                   -- unix milliseconds
);
CREATE TABLE IF NOT EXISTS mr_streams (
  name TEXT NOT NULL,
  params TEXT NOT NULL,                 -- canonical JSON object
  priority INTEGER NOT NULL,            -- -1: the stream's own
  ttl INTEGER NOT NULL,                 -- milliseconds to keep it after its last subscriber left
  expires INTEGER,                      -- unix milliseconds; null while subscribed
  PRIMARY KEY (name, params)
);
CREATE TABLE IF NOT EXISTS mr_changes (type TEXT PRIMARY KEY) WITHOUT ROWID;
`

// fullPriority stands for "everything" in mr_synced.
const fullPriority = -1

// store is the local database: internal tables, one writing connection and a
// pool of reading ones. All writes go through write, one at a time.
type store struct {
	readers *sql.DB
	writers *sql.DB
	clock   func() int64 // unix milliseconds

	closed  chan struct{} // closed by close
	writing chan struct{} // holds one token while nobody writes; guards all below
	conn    *sql.Conn
	durable bool // the writing connection's synchronous setting is full
	stmts   map[string]*sql.Stmt
	buckets map[string]*bucket                 // by name, the live ones; nil: to be loaded
	changed func(types []string, durable bool) // told after each commit

	// unpruned counts the ops staged since the last pruning, due at pruneAfter.
	unpruned, pruneAfter int
}

// syncState is the row of mr_state. Triggers write it too, so it is never cached.
type syncState struct {
	clientID string
	target   int64
	seen     int64
	complete millrace.OpID
	pending  bool
}

// bucket is the cached row of a live bucket. Counts are of ops.
type bucket struct {
	id        int64
	name      string
	position  millrace.OpID
	settled   bool
	checksum  millrace.Checksum
	published millrace.OpID
	cleared   millrace.OpID
	atLast    int64
	since     int64
	count     int64 // at the target; not stored

	// fresh describes the staged rows, if all of them were staged since the
	// bucket was loaded; nil if that is not known.
	fresh *staging
}

// staging counts a bucket's staged rows.
type staging struct {
	rows  int64
	types map[string]struct{}
	last  string // the newest row's type
}

func newStaging() *staging { return &staging{types: map[string]struct{}{}} }

// staged tells whether the bucket holds anything readers do not see yet.
func (b *bucket) staged() bool { return b.position > b.published || b.cleared > 0 }

func openStore(ctx context.Context, driverName, path string, readers int, clientID func() string, clock func() int64) (*store, error) {
	s := &store{clock: clock, closed: make(chan struct{}), writing: make(chan struct{}, 1), stmts: map[string]*sql.Stmt{}, changed: func([]string, bool) {}, pruneAfter: defaultPruneAfter}
	var err error
	if s.writers, err = openPool(driverName, path, writerSetup, 1); err != nil {
		return nil, err
	}
	if s.conn, err = s.writers.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), s.writers.Close())
	}
	s.writing <- struct{}{}
	if err := s.createTables(ctx, clientID); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), s.close())
	}
	if s.readers, err = openPool(driverName, path, readerSetup, readers); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *store) createTables(ctx context.Context, clientID func() string) error {
	return s.write(ctx, false, func(t *txn) error {
		if _, err := s.conn.ExecContext(ctx, internalTables); err != nil {
			return err
		}
		if err := t.exec(`INSERT INTO mr_state (one, format, client_id) VALUES (1, ?, ?) ON CONFLICT DO NOTHING`, formatVersion, clientID()); err != nil {
			return err
		}
		var format int
		if err := t.row(`SELECT format FROM mr_state`).Scan(&format); err != nil {
			return err
		}
		if format != formatVersion {
			return fmt.Errorf("the file has storage format %d, this SDK reads %d: use the SDK that wrote it, or delete the file and sync again", format, formatVersion)
		}
		// Files of before custom write checkpoints.
		var there bool
		if err := t.row(`SELECT EXISTS (SELECT 1 FROM pragma_table_info('mr_state') WHERE name = 'custom')`).Scan(&there); err != nil {
			return err
		}
		if !there {
			if err := t.exec(`ALTER TABLE mr_state ADD COLUMN custom INTEGER NOT NULL DEFAULT 0`); err != nil {
				return err
			}
		}
		return t.exec(`CREATE TEMP TABLE mr_touched (type TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (type, id)) WITHOUT ROWID`)
	})
}

// close closes all connections; a write in progress is waited for.
func (s *store) close() error {
	<-s.writing // never given back
	close(s.closed)
	var errs []error
	for _, st := range s.stmts {
		errs = append(errs, st.Close())
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	errs = append(errs, s.conn.Close(), s.writers.Close())
	return errors.Join(errs...)
}

// txn is the open write transaction. It is used by one goroutine.
type txn struct {
	s   *store
	ctx context.Context
	// broken: a statement of the app was interrupted, upon which SQLite rolls
	// the whole transaction back.
	broken error
}

// write runs fn in a transaction of its own: all of it is committed, or none.
// durable survives a power cut; otherwise only a crash of the process.
func (s *store) write(ctx context.Context, durable bool, fn func(*txn) error) error {
	select {
	case <-s.writing:
	case <-s.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.writing <- struct{}{} }()
	// The frame of the transaction is not to be interrupted: a BEGIN or COMMIT
	// reported as cancelled may have happened.
	frame := context.WithoutCancel(ctx)
	if err := s.setDurable(frame, durable); err != nil {
		return err
	}
	if _, err := s.conn.ExecContext(frame, `BEGIN IMMEDIATE`); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	t := &txn{s: s, ctx: ctx}
	committed := false
	defer func() {
		if committed {
			return
		}
		s.buckets = nil // whatever was cached may be ahead of the tables
		// It fails if SQLite has rolled back by itself, which is as good.
		s.conn.ExecContext(frame, `ROLLBACK`) //nolint:errcheck // see above
	}()
	if err := fn(t); err != nil {
		return err
	}
	if t.broken != nil {
		return t.broken
	}
	types, err := t.takeChanges()
	if err != nil {
		return err
	}
	if _, err := s.conn.ExecContext(frame, `COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	if len(types) > 0 {
		s.changed(types, durable)
	}
	return nil
}

// setDurable chooses whether a commit waits for the disk.
func (s *store) setDurable(ctx context.Context, durable bool) error {
	if s.durable == durable {
		return nil
	}
	q := `PRAGMA synchronous = normal`
	if durable {
		q = `PRAGMA synchronous = full`
	}
	if _, err := s.conn.ExecContext(ctx, q); err != nil {
		return fmt.Errorf("%s: %w", q, err)
	}
	s.durable = durable
	return nil
}

func (t *txn) takeChanges() ([]string, error) {
	types, err := t.strings(`SELECT type FROM mr_changes`)
	if err != nil || len(types) == 0 {
		return nil, err
	}
	return types, t.exec(`DELETE FROM mr_changes`)
}

// stmt gives the prepared statement of a text, made once. The statement runs
// without the caller's cancellation: a statement of the SDK itself is short,
// and watching a context costs more than running it.
func (t *txn) stmt(q string) (*sql.Stmt, error) {
	if st := t.s.stmts[q]; st != nil {
		return st, nil
	}
	st, err := t.s.conn.PrepareContext(context.WithoutCancel(t.ctx), q)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", q, err)
	}
	t.s.stmts[q] = st
	return st, nil
}

func (t *txn) exec(q string, args ...any) error {
	_, err := t.affected(q, args...)
	return err
}

func (t *txn) affected(q string, args ...any) (int64, error) {
	st, err := t.stmt(q)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.WithoutCancel(t.ctx), args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", q, err)
	}
	return res.RowsAffected()
}

func (t *txn) row(q string, args ...any) scanner {
	st, err := t.stmt(q)
	if err != nil {
		return failedRow{err}
	}
	return st.QueryRowContext(context.WithoutCancel(t.ctx), args...)
}

type scanner interface{ Scan(...any) error }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }

func (t *txn) query(q string, args ...any) (*sql.Rows, error) {
	st, err := t.stmt(q)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(context.WithoutCancel(t.ctx), args...)
}

func (t *txn) strings(q string, args ...any) ([]string, error) {
	rows, err := t.query(q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func (t *txn) state() (st syncState, err error) {
	err = t.row(`SELECT client_id, target, seen, complete, pending FROM mr_state`).
		Scan(&st.clientID, &st.target, &st.seen, &st.complete, &st.pending)
	if err != nil {
		return st, fmt.Errorf("read sync state: %w", err)
	}
	return st, nil
}

// load fills the cache of buckets from the table.
func (t *txn) load() error {
	s := t.s
	if s.buckets != nil {
		return nil
	}
	rows, err := t.query(`SELECT id, name, position, settled, checksum, published, cleared, at_last, since FROM mr_buckets WHERE name IS NOT NULL`)
	if err != nil {
		return err
	}
	defer rows.Close()
	buckets := map[string]*bucket{}
	for rows.Next() {
		b := &bucket{}
		if err := rows.Scan(&b.id, &b.name, &b.position, &b.settled, &b.checksum, &b.published, &b.cleared, &b.atLast, &b.since); err != nil {
			return fmt.Errorf("read buckets: %w", err)
		}
		if !b.staged() {
			b.fresh = newStaging()
		}
		buckets[b.name] = b
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read buckets: %w", err)
	}
	s.buckets = buckets
	return nil
}

// save writes a bucket's cached row back.
func (t *txn) save(b *bucket) error {
	return t.exec(`UPDATE mr_buckets SET position = ?, settled = ?, checksum = ?, published = ?, cleared = ?, at_last = ?, since = ? WHERE id = ?`,
		int64(b.position), b.settled, int64(b.checksum), int64(b.published), int64(b.cleared), b.atLast, b.since, b.id)
}

// sqlText writes s as an SQL string literal, sqlName as a quoted identifier.
func sqlText(s string) string { return "'" + doubled(s, '\'') + "'" }
func sqlName(s string) string { return `"` + doubled(s, '"') + `"` }

func doubled(s string, q byte) string {
	out := make([]byte, 0, len(s)+2)
	for i := range len(s) {
		if s[i] == q {
			out = append(out, q)
		}
		out = append(out, s[i])
	}
	return string(out)
}
