package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/syncrules"
)

// checkAgainstSource warns of what the rules name and the database lacks.
func checkAgainstSource(ctx context.Context, uri, file string, src []byte, rules *syncrules.Rules) (syncrules.Diagnostics, error) {
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("reach the source: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text
		FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'`)
	if err != nil {
		return nil, fmt.Errorf("list the source's tables: %w", err)
	}
	type table struct{ Schema, Name string }
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return nil, fmt.Errorf("list the source's tables: %w", err)
	}
	var found syncrules.Diagnostics
	for _, p := range rules.Tables() {
		exists := false
		for _, t := range tables {
			exists = exists || p.Matches(p.Tag, t.Schema, t.Name)
		}
		if exists {
			continue
		}
		hint := "create it, or correct the name; names are case-sensitive and in schema public unless another is given"
		start := offsetOf(src, p.Line, p.Column)
		found = append(found, syncrules.Diagnostic{
			Severity: syncrules.Warning, File: file,
			Start: start, End: start + len(p.Name),
			Line: p.Line, Column: p.Column, EndLine: p.Line, EndColumn: p.Column + len([]rune(p.Name)),
			Message: fmt.Sprintf("the source has no table %s.%s", p.Schema, p.Name), Hint: hint,
		})
	}
	return found, nil
}

// offsetOf is the byte offset of a line and a column, both from 1; columns
// count characters.
func offsetOf(src []byte, line, column int) int {
	for i, r := range string(src) {
		switch {
		case line <= 1 && column <= 1:
			return i
		case r == '\n':
			line--
		case line <= 1:
			column--
		}
	}
	return len(src)
}
