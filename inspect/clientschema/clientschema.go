// Package clientschema writes the schema that a client's SDK wants, from sync
// rules and the tables of the sources, so that nobody has to write it by hand and
// keep it right.
package clientschema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/syncrules"
)

// Source is a source whose tables the rules read.
type Source struct {
	// Tags are the connection tags of the rules that mean this source.
	Tags   []string
	Tables []catalog.Table // at least all that the rules name, with their types
}

// Schema is what a client has.
type Schema struct {
	Tables []syncrules.ClientTable
}

// Of gives the schema of rules. It fails if the rules name a table that no source
// has, since a part of the schema would be missing without a word, and if a name
// cannot be one of a client's.
func Of(rules *syncrules.Rules, sources []Source) (*Schema, error) {
	var tables []syncrules.Table
	for _, s := range sources {
		tables = append(tables, rulecheck.Tables(rules, s.Tags, s.Tables)...)
	}
	var errs []error
	for _, p := range rules.Tables() {
		if p.SchemaPrefix || p.NamePrefix {
			continue
		}
		if !slices.ContainsFunc(tables, func(t syncrules.Table) bool { return p.Matches(t.Tag, t.Schema, t.Name) }) {
			errs = append(errs, fmt.Errorf("line %d, column %d: no source has the table %s.%s", p.Line, p.Column, p.Schema, p.Name))
		}
	}
	s := &Schema{Tables: rules.ClientTables(tables)}
	errs = append(errs, s.check()...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// check finds names that no client can have.
func (s *Schema) check() (errs []error) {
	seen := map[string]string{}
	for _, t := range s.Tables {
		if err := checkName(t.Name); err != nil {
			errs = append(errs, fmt.Errorf("table %q: %w", t.Name, err))
		}
		if other, ok := seen[strings.ToLower(t.Name)]; ok {
			errs = append(errs, fmt.Errorf("tables %q and %q differ only in case, which SQLite ignores; give one another name with FROM … AS", other, t.Name))
		}
		seen[strings.ToLower(t.Name)] = t.Name
		columns := map[string]string{}
		for _, c := range t.Columns {
			if err := checkName(c.Name); err != nil {
				errs = append(errs, fmt.Errorf("table %q, column %q: %w", t.Name, c.Name, err))
			}
			if other, ok := columns[strings.ToLower(c.Name)]; ok {
				errs = append(errs, fmt.Errorf("table %q: columns %q and %q differ only in case, which SQLite ignores; give one another name with AS", t.Name, other, c.Name))
			}
			columns[strings.ToLower(c.Name)] = c.Name
		}
	}
	return errs
}

// maxNameBytes is what the SDKs allow.
const maxNameBytes = 128

func checkName(name string) error {
	const cure = "; give it another name with AS"
	low := strings.ToLower(name)
	switch {
	case name == "":
		return errors.New("the name is empty" + cure)
	case len(name) > maxNameBytes:
		return fmt.Errorf("the name is longer than %d bytes"+cure, maxNameBytes)
	case strings.HasPrefix(low, "mr_"), strings.HasPrefix(low, "sqlite_"):
		return errors.New("names that start with mr_ or sqlite_ are the client's" + cure)
	case strings.ContainsAny(name, "\"'\\`[]") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 }):
		return errors.New("the name has a quote, bracket, backslash or control character" + cure)
	}
	return nil
}

// checkOfficial finds names that the PowerSync SDKs refuse.
func (s *Schema) checkOfficial() error {
	var errs []error
	check := func(what, name string) {
		if strings.ContainsAny(name, "%,.#") || strings.ContainsFunc(name, unicode.IsSpace) {
			errs = append(errs, fmt.Errorf("%s %q: the PowerSync SDKs take no name with a space, %%, comma, dot or #; give it another name with AS", what, name))
		}
	}
	for _, t := range s.Tables {
		check("table", t.Name)
		for _, c := range t.Columns {
			check(fmt.Sprintf("table %q, column", t.Name), c.Name)
		}
	}
	return errors.Join(errs...)
}

// kindName is text, integer or real.
func kindName(k millrace.ValueKind) string {
	switch k {
	case millrace.KindInteger:
		return "integer"
	case millrace.KindReal:
		return "real"
	case millrace.KindNull, millrace.KindText, millrace.KindBlob:
	}
	return "text"
}

// remark is what a comment says of a column: its type in PostgreSQL, unless the
// kind says as much.
func remark(c syncrules.ClientColumn) string {
	if c.From == kindName(c.Kind) {
		return ""
	}
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, c.From)
	return strings.ReplaceAll(clean, "*/", "* /")
}
