// Package sql holds the functions and views of the sidecar, the surface that
// people query with psql, and applies them. A file is named after what it
// answers; the number before it gives the order. Everything is CREATE OR
// REPLACE: applying again is harmless. Tables and indexes are in package
// migrations.
package sql

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed [0-9]*.sql
var files embed.FS

// Apply makes all functions and views and grants the rights to read them, in
// one transaction. The schema must be at the newest migration.
func Apply(ctx context.Context, conn *pgx.Conn) error {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return fmt.Errorf("read embedded functions: %w", err)
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, name := range names {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				return fmt.Errorf("read embedded functions: %w", err)
			}
			if _, err := tx.Exec(ctx, string(text)); err != nil {
				return fmt.Errorf("apply sql/%s: %w", name, err)
			}
		}
		return nil
	})
}

// Drop removes all functions and views of the schema.
func Drop(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT format('DROP VIEW IF EXISTS millrace.%I CASCADE', relname) FROM pg_class
		WHERE relnamespace = 'millrace'::regnamespace AND relkind = 'v'
		UNION ALL
		SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', oid::regprocedure) FROM pg_proc
		WHERE pronamespace = 'millrace'::regnamespace`)
	if err != nil {
		return fmt.Errorf("list functions and views: %w", err)
	}
	drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list functions and views: %w", err)
	}
	if len(drops) == 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, strings.Join(drops, ";")); err != nil {
		return fmt.Errorf("drop functions and views: %w", err)
	}
	return nil
}
