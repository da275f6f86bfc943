package inspect

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/syncrules"
)

// scanner reads the rows of the tables that the rules name, from one snapshot
// of each source, and evaluates them.
type scanner struct {
	tables   []*scannedTable
	views    []*catalog.View
	skipped  []SimulationProblem // tables that cannot be synced
	progress func(SimulationProgress)
}

// scannedTable is a table with the plans of the rules that read it.
type scannedTable struct {
	source  string // name of its source
	name    string // schema.name, with the source where there are several
	table   *catalog.Table
	view    *catalog.View
	plans   []*scannedPlan
	columns []int // to read, of table.Columns
	key     []int // of the row key, as positions in columns
}

// scannedPlan evaluates rows of a table.
type scannedPlan struct {
	plan      *syncrules.TablePlan
	evaluator *syncrules.Evaluator
	convert   []pgvalue.Converter // by position in columns; nil if not looked at
	row       []millrace.Value
}

// openScanner looks at the sources and opens their snapshots.
func openScanner(ctx context.Context, c *SimulationConfig) (s *scanner, err error) {
	s = &scanner{progress: c.Progress}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	matched := make([]bool, len(c.Rules.Tables()))
	for i := range c.Sources {
		src := &c.Sources[i]
		types := src.Catalog.Types()
		uses := func(schema, table string) bool {
			return slices.ContainsFunc(src.Tags, func(tag string) bool { return c.Rules.Uses(tag, schema, table) })
		}
		tables, err := src.Catalog.Tables(ctx, uses, types)
		if err != nil {
			return nil, err
		}
		for j, p := range c.Rules.Tables() {
			matched[j] = matched[j] || slices.ContainsFunc(tables, func(t catalog.Table) bool {
				return slices.ContainsFunc(src.Tags, func(tag string) bool {
					return p.Matches(tag, t.Schema, t.Name) || t.Root.Name != "" && p.Matches(tag, t.Root.Schema, t.Root.Name)
				})
			})
		}
		var list []*scannedTable
		for j := range tables {
			if t := s.bind(c, src, &tables[j], uses); t != nil {
				list = append(list, t)
			}
		}
		if len(list) == 0 {
			continue
		}
		lock := make([]*catalog.Table, len(list))
		for j, t := range list {
			lock[j] = t.table
		}
		view, err := src.Catalog.View(ctx, lock)
		if err != nil {
			return nil, err
		}
		s.views = append(s.views, view)
		for _, t := range list {
			t.view = view
		}
		s.tables = append(s.tables, list...)
	}
	s.noteMissing(c.Rules, matched)
	return s, nil
}

// noteMissing notes tables that the rules name and no source has.
func (s *scanner) noteMissing(rules *syncrules.Rules, matched []bool) {
	for i, p := range rules.Tables() {
		if !matched[i] && !p.SchemaPrefix && !p.NamePrefix {
			s.skipped = append(s.skipped, SimulationProblem{
				Object: p.Schema + "." + p.Name, Message: fmt.Sprintf("the source has no such table (line %d of the rules)", p.Line),
				Hint: "check the name, or make the table before deploying",
			})
		}
	}
}

func (s *scanner) close() {
	for _, v := range s.views {
		v.Close()
	}
}

// bind prepares the evaluation of a table; nil if it cannot be synced.
func (s *scanner) bind(c *SimulationConfig, src *Source, found *catalog.Table, uses func(schema, table string) bool) *scannedTable {
	t := &scannedTable{source: src.Name, name: found.TableName.String(), table: found}
	if len(c.Sources) > 1 {
		t.name = src.Name + "." + t.name
	}
	usable := true
	for _, f := range found.Findings {
		if f.Level != catalog.Warn && f.Code != rulecheck.Unpublished { // it will be, once the rules are deployed
			usable = false
			s.skipped = append(s.skipped, SimulationProblem{
				Object: t.name, Message: f.Code + ": " + f.Message + ": the table cannot be synced", Hint: f.Repair,
			})
		}
	}
	if !usable {
		return nil
	}
	// Partitions are read under the name of the partitioned table, if the rules
	// name that one.
	rule := found.TableName
	if found.Root.Name != "" && uses(found.Root.Schema, found.Root.Name) {
		rule = found.Root
	}
	names := make([]string, len(found.Columns))
	for i := range found.Columns {
		names[i] = found.Columns[i].Name
	}
	needed := make([]bool, len(names))
	for _, k := range found.Key {
		needed[k] = true
	}
	options := valueOptions(c.Rules.Options())
	for _, tag := range src.Tags {
		plan := c.Rules.Bind(syncrules.Table{Tag: tag, Source: src.Name, Schema: rule.Schema, Name: rule.Name, Columns: names})
		if plan == nil {
			continue
		}
		p := &scannedPlan{plan: plan, evaluator: plan.Evaluator(), row: make([]millrace.Value, len(names)), convert: make([]pgvalue.Converter, len(names))}
		for i, n := range plan.NeededColumns() {
			if n {
				needed[i] = true
				p.convert[i] = pgvalue.For(found.Columns[i].Type, options)
			}
		}
		t.plans = append(t.plans, p)
	}
	for i, n := range needed {
		if !n {
			continue
		}
		if slices.Contains(found.Key, i) {
			t.key = append(t.key, len(t.columns))
		}
		t.columns = append(t.columns, i)
	}
	return t
}

// valueOptions are the options of a rules file in the mapping's terms.
func valueOptions(o syncrules.ValueOptions) pgvalue.Options {
	return pgvalue.Options{TimestampsISO8601: o.TimestampsISO8601, CustomTypes: o.CustomPostgresTypes, FractionDigits: o.TimestampPrecision}
}

// reads lists the tables that a definition reads.
func (s *scanner) reads(definition int) (names []string) {
	for _, t := range s.tables {
		if slices.ContainsFunc(t.plans, func(p *scannedPlan) bool { return slices.Contains(p.plan.Definitions(), definition) }) {
			names = append(names, t.name)
		}
	}
	return names
}

// scannedRow is what a row evaluated to. It is valid until the next one.
type scannedRow struct {
	table *scannedTable
	n     int64 // of the table's rows, from 1
	out   *syncrules.Output
	tuple *pgoutput.Tuple
	err   error // the row could not be evaluated at all
}

// key is the row's key, as millrace.explain functions take it.
func (r *scannedRow) key() string {
	if len(r.table.key) == 0 {
		return ""
	}
	key, err := pgvalue.KeyText(r.tuple, r.table.key)
	if err != nil {
		return ""
	}
	return key
}

// scan reads the tables that wanted definitions read.
func (s *scanner) scan(ctx context.Context, purpose string, wanted func(definition int) bool, visit func(*scannedRow) error) error {
	for _, t := range s.tables {
		var plans []*scannedPlan
		for _, p := range t.plans {
			if slices.ContainsFunc(p.plan.Definitions(), wanted) {
				plans = append(plans, p)
			}
		}
		if len(plans) == 0 {
			continue
		}
		if err := s.scanTable(ctx, purpose, t, plans, visit); err != nil {
			return err
		}
	}
	return nil
}

// reportEvery is how many rows go by between two reports of progress.
const reportEvery = 1024

func (s *scanner) scanTable(ctx context.Context, purpose string, t *scannedTable, plans []*scannedPlan, visit func(*scannedRow) error) error {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = t.table.Columns[c].Name
	}
	at := SimulationProgress{Table: t.name, For: purpose, Estimate: int64(t.table.Rows)}
	report := func() {
		if s.progress != nil {
			s.progress(at)
		}
	}
	report()
	var (
		arena pgvalue.Arena
		out   syncrules.Output
	)
	row := scannedRow{table: t, out: &out}
	return t.view.Rows(ctx, t.table, names, func(tuple *pgoutput.Tuple) error {
		if at.Rows++; at.Rows%reportEvery == 0 {
			report()
		}
		row.tuple, row.n = tuple, at.Rows
		for _, p := range plans {
			arena.Reset()
			out.Reset()
			row.err = p.read(t, tuple, &arena)
			if row.err == nil {
				p.evaluator.Eval(p.row, &out)
			}
			if err := visit(&row); err != nil {
				return err
			}
		}
		return nil
	})
}

// read converts the columns that the plan looks at.
func (p *scannedPlan) read(t *scannedTable, tuple *pgoutput.Tuple, arena *pgvalue.Arena) error {
	for i, c := range t.columns {
		convert := p.convert[c]
		switch {
		case convert == nil:
		case tuple.Kind(i) == pgoutput.Null:
			p.row[c] = millrace.Null
		default:
			v, err := convert(tuple.Bytes(i), arena)
			if err != nil {
				return fmt.Errorf("column %s: %w", t.table.Columns[c].Name, err)
			}
			p.row[c] = v
		}
	}
	return nil
}
