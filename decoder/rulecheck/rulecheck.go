// Package rulecheck compares sync rules with the tables of a source. It is the
// one check that `millrace validate` shows before a deploy and that the decoder
// logs at it. It does no I/O: the caller looks at the source.
package rulecheck

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

// Rules are compiled rules with the text they were compiled from.
type Rules struct {
	File     string // name for messages
	Text     []byte
	Compiled *syncrules.Rules
}

// Unpublished is the finding that a table is not in the publication, which
// somebody who has not deployed yet does not want to hear.
const Unpublished = "MR1014"

// Names warns of tables and columns that the rules name and the source has not,
// of columns whose values lose something on their way, and of comparisons that
// never hold. tags are the connection tags that mean the source; tables are
// those of the source, with their types (catalog.Source.Tables), at least all
// that the rules name: more of them make better hints. The result is sorted by
// position; nothing in it is fatal.
func Names(r Rules, tags []string, tables []catalog.Table) syncrules.Diagnostics {
	return r.Compiled.Check(Tables(r.Compiled, tags, tables), tags...)
}

// Source is Names, and what the catalog finds wrong with each table at the
// place that names it, but for findings with a code of skip.
func Source(r Rules, tags []string, tables []catalog.Table, skip ...string) syncrules.Diagnostics {
	found := Names(r, tags, tables)
	for _, p := range r.Compiled.Tables() {
		if !slices.Contains(tags, p.Tag) {
			continue
		}
		for i := range tables {
			if t := &tables[i]; p.Matches(p.Tag, t.Schema, t.Name) || t.Root.Name != "" && p.Matches(p.Tag, t.Root.Schema, t.Root.Name) {
				found = append(found, r.findings(p, t, skip)...)
			}
		}
	}
	Sort(found)
	return found
}

// Sort sorts diagnostics by position.
func Sort(list syncrules.Diagnostics) {
	slices.SortStableFunc(list, func(a, b syncrules.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
}

// Tables describes tables of a source in the rules' terms, under each of the tags
// that mean it.
func Tables(rules *syncrules.Rules, tags []string, tables []catalog.Table) []syncrules.Table {
	custom := rules.Options().CustomPostgresTypes
	var list []syncrules.Table
	for i := range tables {
		t := &tables[i]
		st := syncrules.Table{Schema: t.Schema, Name: t.Name}
		for _, c := range t.Columns {
			st.Columns = append(st.Columns, c.Name)
			st.Types = append(st.Types, typeName(c, custom))
		}
		for _, tag := range tags {
			st.Tag = tag
			list = append(list, st)
			if t.Root.Name != "" { // rules may name the partitioned table
				root := st
				root.Schema, root.Name = t.Root.Schema, t.Root.Name
				list = append(list, root)
			}
		}
	}
	return list
}

// typeName is the type that a column's values are mapped as: of a domain that
// is decoded its base.
func typeName(c catalog.Column, custom bool) string {
	if c.Type == nil || c.Type.Kind != pgvalue.Domain {
		return c.TypeName
	}
	if !custom {
		return "text"
	}
	t := c.Type
	for t.Kind == pgvalue.Domain {
		t = t.Element
	}
	if t.Kind == pgvalue.Array {
		return t.Element.Name + "[]"
	}
	return t.Name
}

// findings are what is wrong with a table, at the place that names it.
func (r Rules) findings(p syncrules.TablePattern, t *catalog.Table, skip []string) (list syncrules.Diagnostics) {
	start := offsetOf(r.Text, p.Line, p.Column)
	for _, f := range t.Findings {
		if slices.Contains(skip, f.Code) {
			continue
		}
		list = append(list, syncrules.Diagnostic{
			Severity: syncrules.Warning, File: r.File,
			Start: start, End: start + len(p.Name),
			Line: p.Line, Column: p.Column, EndLine: p.Line, EndColumn: p.Column + utf8.RuneCountInString(p.Name),
			Message: fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message), Hint: f.Repair,
		})
	}
	return list
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
