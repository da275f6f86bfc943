package clientsdk

import (
	"context"
	"database/sql"
	"fmt"
)

// Tx is an open local write transaction. It is used by one goroutine, inside
// the function it was given to.
type Tx struct {
	t *txn
}

// Transaction runs fn in a write transaction: everything it writes is committed
// together, queued as one upload transaction, and shown together. An error of
// fn rolls everything back and is returned. Writes wait for each other; keep fn
// short, and call no other method of the DB in it.
func (db *DB) Transaction(ctx context.Context, fn func(*Tx) error) error {
	return db.store.local(ctx, fn)
}

// Execute runs one statement in a transaction of its own.
func (db *DB) Execute(ctx context.Context, query string, args ...any) (sql.Result, error) {
	var res sql.Result
	err := db.Transaction(ctx, func(tx *Tx) (err error) {
		res, err = tx.Execute(ctx, query, args...)
		return err
	})
	return res, err
}

// Query reads. It never waits for writes, and sees one consistent state for as
// long as the rows are open; close them.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.store.readers.QueryContext(ctx, query, args...)
}

// QueryRow is Query for at most one row.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return db.store.readers.QueryRowContext(ctx, query, args...)
}

// Execute runs one statement. For statements on tables of the schema the
// result's RowsAffected is 0: they are views.
func (tx *Tx) Execute(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if tx.t.broken != nil {
		return nil, tx.t.broken
	}
	res, err := tx.t.s.conn.ExecContext(ctx, query, args...)
	if err != nil && ctx.Err() != nil {
		tx.t.broken = fmt.Errorf("the transaction was interrupted: %w", ctx.Err())
	}
	return res, err
}

// Query reads inside the transaction; ctx does not interrupt it. Close the rows
// before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if tx.t.broken != nil {
		return nil, tx.t.broken
	}
	return tx.t.s.conn.QueryContext(context.WithoutCancel(ctx), query, args...)
}

// QueryRow is Query for at most one row.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.t.s.conn.QueryRowContext(context.WithoutCancel(ctx), query, args...)
}

// local runs a local write transaction.
func (s *store) local(ctx context.Context, fn func(*Tx) error) error {
	return s.write(ctx, true, func(t *txn) error {
		if err := t.exec(`UPDATE mr_state SET tx = tx + 1`); err != nil {
			return fmt.Errorf("number the transaction: %w", err)
		}
		return fn(&Tx{t})
	})
}
