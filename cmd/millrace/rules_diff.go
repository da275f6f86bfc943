package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/store"
	"github.com/millrace/millrace/syncrules"
)

// What a deploy does to a definition.
const (
	kept    = "kept"    // with its history; clients keep what they have
	added   = "added"   // built
	changed = "changed" // built; the one of that name is retired
	retired = "retired"
)

// rulesDiff is what a deploy would do.
type rulesDiff struct {
	// RuleSet is compared with: the one in force; 0 if there is none.
	RuleSet     millrace.RuleSetID `json:"rule_set"`
	Definitions []definitionDiff   `json:"definitions"`
	Kept        int                `json:"kept"`
	Built       int                `json:"built"`
	Retired     int                `json:"retired"`
	// Tables are read once each, for all that is built from them.
	Tables []tableEstimate `json:"tables"`
	// Rows are about how many are copied, by the sources' statistics; -1 if
	// that is not known.
	Rows int64 `json:"rows"`
	// Unknown says why Rows may be wrong.
	Unknown string `json:"unknown,omitempty"`
}

type definitionDiff struct {
	Change string `json:"change"`
	Kind   string `json:"kind"`
	Key    string `json:"key"`
	Name   string `json:"name"`
	// Ready: there is a history of this content, so nothing is copied.
	Ready bool `json:"ready,omitempty"`
}

type tableEstimate struct {
	Source string `json:"source"`
	Table  string `json:"table"`
	Rows   int64  `json:"rows"` // -1: the source has no statistics
}

// compare finds out what a deploy of the rules would do now.
// What the sources lack for them is printed as warnings.
func (s *rulesSession) compare(ctx context.Context, file string, content []byte, rules *syncrules.Rules) (*rulesDiff, *store.DeployedRules, error) {
	deployed, err := s.rules.Deployed(ctx)
	if err != nil {
		return nil, nil, err
	}
	d, build := diffRules(rules.Definitions(), deployed)
	if len(build) > 0 {
		s.estimate(ctx, d, rulecheck.Rules{File: file, Text: content, Compiled: rules}, build)
	}
	return d, deployed, nil
}

// diffRules compares definitions by content. build has the indexes of those to
// be built.
func diffRules(definitions []syncrules.Definition, deployed *store.DeployedRules) (d *rulesDiff, build map[int]bool) {
	d, build = &rulesDiff{}, map[int]bool{}
	var active []millrace.Definition
	if deployed.Active != nil {
		d.RuleSet, active = deployed.Active.ID, deployed.Active.Definitions
	}
	in := func(list []millrace.Definition, kind millrace.DefinitionKind, hash string) bool {
		return slices.ContainsFunc(list, func(o millrace.Definition) bool { return o.Kind == kind && o.Hash == hash })
	}
	keys := map[string]bool{}
	for i, n := range definitions {
		keys[n.Key] = true
		e := definitionDiff{Change: kept, Kind: string(n.Kind), Key: n.Key, Name: n.Name}
		if in(active, n.Kind, n.Hash) {
			d.Kept++
		} else {
			e.Change = added
			if slices.ContainsFunc(active, func(o millrace.Definition) bool { return o.Key == n.Key }) {
				e.Change = changed
			}
			if e.Ready = in(deployed.Fed, n.Kind, n.Hash); !e.Ready {
				build[i] = true
				d.Built++
			}
		}
		d.Definitions = append(d.Definitions, e)
	}
	for _, o := range active {
		if slices.ContainsFunc(definitions, func(n syncrules.Definition) bool { return n.Kind == o.Kind && n.Hash == o.Hash }) {
			continue
		}
		d.Retired++
		if !keys[o.Key] {
			d.Definitions = append(d.Definitions, definitionDiff{Change: retired, Kind: string(o.Kind), Key: o.Key, Name: o.Name})
		}
	}
	return d, build
}

// estimate asks the sources how many rows there are to copy. A source that
// cannot be asked does not hinder a deploy.
func (s *rulesSession) estimate(ctx context.Context, d *rulesDiff, rules rulecheck.Rules, build map[int]bool) {
	var unknown []string
	for _, source := range s.sources {
		tables, err := readTables(ctx, string(source.URI))
		if err != nil {
			unknown = append(unknown, fmt.Sprintf("source %s cannot be asked: %s", source.Name, message(err)))
			continue
		}
		if found := rulecheck.Source(rules, source.Tags, tables, rulecheck.Unpublished); len(found) > 0 {
			fmt.Fprintln(s.env.stderr, rendered(found, rules.Text))
		}
		for _, t := range tablesToCopy(source.Tags, tables, rules.Compiled, build) {
			t.Source = source.Name
			if d.Tables = append(d.Tables, t); t.Rows < 0 {
				unknown = append(unknown, t.Table+" has no statistics (ANALYZE makes them)")
				continue
			}
			d.Rows += t.Rows
		}
	}
	if d.Unknown = strings.Join(unknown, "; "); d.Unknown != "" && d.Rows == 0 {
		d.Rows = -1
	}
}

// readTables reads the tables of a source: all of them, since a similar name
// makes a hint.
func readTables(ctx context.Context, uri string) ([]catalog.Table, error) {
	server, err := catalog.Connect(ctx, catalog.Config{URI: uri, MaxConnections: 1})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	tables, err := server.Tables(ctx, func(string, string) bool { return true }, server.Types())
	if err != nil {
		return nil, fmt.Errorf("look at the source's tables: %w", err)
	}
	return tables, nil
}

// tablesToCopy lists the tables that definitions to be built read.
func tablesToCopy(tags []string, tables []catalog.Table, rules *syncrules.Rules, build map[int]bool) []tableEstimate {
	uses := func(schema, table string) bool {
		return slices.ContainsFunc(tags, func(tag string) bool { return rules.Uses(tag, schema, table) })
	}
	var list []tableEstimate
	for _, t := range tables {
		if t.Kind != 'r' {
			continue // a partitioned table's rows are in its partitions
		}
		name := t.TableName
		if t.Root.Name != "" && uses(t.Root.Schema, t.Root.Name) {
			name = t.Root
		}
		var columns []string
		for _, c := range t.Columns {
			columns = append(columns, c.Name)
		}
		read := slices.ContainsFunc(tags, func(tag string) bool {
			plan := rules.Bind(syncrules.Table{Tag: tag, Schema: name.Schema, Name: name.Name, Columns: columns})
			return plan != nil && slices.ContainsFunc(plan.Definitions(), func(i int) bool { return build[i] })
		})
		if read {
			list = append(list, tableEstimate{Table: t.TableName.String(), Rows: int64(math.Round(t.Rows))})
		}
	}
	return list
}

// print writes the diff for people.
func (d *rulesDiff) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if d.RuleSet == 0 {
		fmt.Fprintln(w, "No rules are in force yet.")
	} else {
		fmt.Fprintf(w, "Compared with rule set %d, which is in force:\n", d.RuleSet)
	}
	for _, e := range d.Definitions {
		note := ""
		if e.Ready {
			note = "\tready: it is fed already"
		}
		fmt.Fprintf(w, "  %s\t%s%s\n", e.Change, e.Key, note)
	}
	for _, t := range d.Tables {
		rows := "an unknown number of rows"
		if t.Rows >= 0 {
			rows = fmt.Sprintf("about %s rows", grouped(t.Rows))
		}
		fmt.Fprintf(w, "  to copy\t%s of %s, source %s\n", rows, t.Table, t.Source)
	}
	rows := "No rows to copy."
	switch {
	case d.Rows < 0:
		rows = "The number of rows to copy is not known: " + d.Unknown + "."
	case d.Unknown != "":
		rows = fmt.Sprintf("About %s rows to copy or more: %s.", grouped(d.Rows), d.Unknown)
	case d.Built > 0:
		rows = fmt.Sprintf("About %s rows to copy.", grouped(d.Rows))
	}
	fmt.Fprintf(w, "%d kept, %d to build, %d retired. %s\n", d.Kept, d.Built, d.Retired, rows)
	return w.Flush()
}

// grouped is a number with its thousands apart.
func grouped(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
