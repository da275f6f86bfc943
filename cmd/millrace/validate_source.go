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

// checkAgainstSource warns of tables that the rules name and the database
// lacks, and of those that cannot be followed.
func checkAgainstSource(ctx context.Context, uri, file string, src []byte, rules *syncrules.Rules) (syncrules.Diagnostics, error) {
	source, err := catalog.Connect(ctx, catalog.Config{URI: uri})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	patterns := rules.Tables()
	tables, err := source.Tables(ctx, func(schema, name string) bool {
		for _, p := range patterns {
			if p.Matches(p.Tag, schema, name) {
				return true
			}
		}
		return false
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("look at the source's tables: %w", err)
	}
	var found syncrules.Diagnostics
	for _, p := range patterns {
		warn := func(message, hint string) {
			start := offsetOf(src, p.Line, p.Column)
			found = append(found, syncrules.Diagnostic{
				Severity: syncrules.Warning, File: file,
				Start: start, End: start + len(p.Name),
				Line: p.Line, Column: p.Column, EndLine: p.Line, EndColumn: p.Column + utf8.RuneCountInString(p.Name),
				Message: message, Hint: hint,
			})
		}
		exists := false
		for _, t := range tables {
			if !p.Matches(p.Tag, t.Schema, t.Name) && !p.Matches(p.Tag, t.Root.Schema, t.Root.Name) {
				continue
			}
			exists = true
			for _, f := range t.Findings {
				if f.Code != notPublished {
					warn(fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message), f.Repair)
				}
			}
		}
		if !exists {
			warn(fmt.Sprintf("the source has no table %s.%s", p.Schema, p.Name),
				"create it, or correct the name: names are case-sensitive, and in schema public unless another is given")
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
