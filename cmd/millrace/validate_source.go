package main

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/syncrules"
)

// notPublished is the finding that a table is not in the publication: nobody
// has asked for one here.
const notPublished = "MR1014"

// checkAgainstSource warns of tables and columns that the rules name and the
// database lacks, and of tables that cannot be followed.
func checkAgainstSource(ctx context.Context, uri, file string, src []byte, rules *syncrules.Rules) (syncrules.Diagnostics, error) {
	source, err := catalog.Connect(ctx, catalog.Config{URI: uri})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	// All tables, not only those the rules match: a similar name makes a hint.
	tables, err := source.Tables(ctx, func(string, string) bool { return true }, nil)
	if err != nil {
		return nil, fmt.Errorf("look at the source's tables: %w", err)
	}
	var known []syncrules.Table
	for _, t := range tables {
		st := syncrules.Table{Schema: t.Schema, Name: t.Name}
		for _, c := range t.Columns {
			st.Columns = append(st.Columns, c.Name)
		}
		known = append(known, st)
		if t.Root.Name != "" { // rules may name the partitioned table
			st.Schema, st.Name = t.Root.Schema, t.Root.Name
			known = append(known, st)
		}
	}
	found := rules.Check(known)
	for _, p := range rules.Tables() {
		for _, t := range tables {
			if !p.Matches(p.Tag, t.Schema, t.Name) && !p.Matches(p.Tag, t.Root.Schema, t.Root.Name) {
				continue
			}
			for _, f := range t.Findings {
				if f.Code != notPublished {
					found = append(found, syncrules.Diagnostic{
						Severity: syncrules.Warning, File: file,
						Start: offsetOf(src, p.Line, p.Column), End: offsetOf(src, p.Line, p.Column) + len(p.Name),
						Line: p.Line, Column: p.Column, EndLine: p.Line, EndColumn: p.Column + utf8.RuneCountInString(p.Name),
						Message: fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message), Hint: f.Repair,
					})
				}
			}
		}
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
