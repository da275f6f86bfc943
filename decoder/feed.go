package decoder

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

// ruleset is a deployed rule set, compiled.
type ruleset struct {
	set   millrace.RuleSet
	rules *syncrules.Rules
	ids   []millrace.DefinitionID // of the rules' definitions, by index
}

// compileRules compiles a rules file. An error lists what is wrong with it.
func compileRules(file, content string) (*syncrules.Rules, syncrules.Diagnostics, error) {
	rules, diagnostics := syncrules.Compile(file, []byte(content))
	if rules == nil {
		return nil, diagnostics, rulesError(file, content, diagnostics)
	}
	return rules, diagnostics, nil
}

func rulesError(file, content string, diagnostics syncrules.Diagnostics) error {
	var b strings.Builder
	diagnostics.Render(&b, []byte(content))
	return fmt.Errorf("%w: %s\n%s", ErrRules, file, strings.TrimSpace(b.String()))
}

// openRuleset compiles what was deployed, with the meaning it had then, and finds
// the ids of its definitions.
func openRuleset(set millrace.RuleSet) (*ruleset, error) {
	name := fmt.Sprintf("rule set %d", set.ID)
	rules, diagnostics, err := syncrules.CompileDeployed(name, []byte(set.Content), set.Hashes())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if rules == nil {
		return nil, rulesError(name, set.Content, diagnostics)
	}
	byKey := map[string]millrace.DefinitionID{}
	for _, d := range set.Definitions {
		byKey[d.Key] = d.ID
	}
	r := &ruleset{set: set, rules: rules}
	for _, d := range rules.Definitions() {
		id, ok := byKey[d.Key]
		if !ok {
			return nil, fmt.Errorf("rule set %d has no definition %q in the sidecar: its content was compiled by another release; deploy it again with a changed content", set.ID, d.Key)
		}
		r.ids = append(r.ids, id)
	}
	return r, nil
}

// feed is what the stream keeps up to date: the rule sets served, being built
// and retired, each definition once.
type feed struct {
	sets []*ruleset
}

// uses tells whether any rule set reads the table of a source known by tags.
func (f *feed) uses(tags []string, schema, table string) bool {
	for _, s := range f.sets {
		for _, tag := range tags {
			if s.rules.Uses(tag, schema, table) {
				return true
			}
		}
	}
	return false
}

// patterns are the tables that any rule set names of a source known by tags.
func (f *feed) patterns(tags []string) []syncrules.TablePattern {
	var all []syncrules.TablePattern
	for _, s := range f.sets {
		for _, p := range s.rules.Tables() {
			if slices.Contains(tags, p.Tag) {
				all = append(all, p)
			}
		}
	}
	return all
}

// served is the rule set in force, if there is one.
func (f *feed) served() *ruleset {
	for _, s := range f.sets {
		if s.set.State == millrace.RuleSetActive {
			return s
		}
	}
	return nil
}

// frozen tells whether a definition in force that reads a source is not fed by
// it, since it has what a lost history of the source told.
func (f *feed) frozen(o *origin) bool {
	set := f.served()
	if set == nil || len(set.set.Without) == 0 {
		return false
	}
	return slices.ContainsFunc(set.rules.Reads(o.tags), func(i int) bool {
		return slices.Contains(set.set.Without[set.ids[i]], o.id)
	})
}

// target says for which definitions a row of a table is evaluated, and how.
type target struct {
	scope       *millrace.Scope
	subkeys     bool // no row goes without
	evaluations []evaluation
}

// evaluation is what one rule set makes of a row. Rule sets may want values in
// different forms.
type evaluation struct {
	evaluator *syncrules.Evaluator
	needed    []bool
	names     []string // of the columns
	convert   []pgvalue.Converter
	values    pgvalue.Arena // of the row at hand
	row       []millrace.Value
	ids       []millrace.DefinitionID // by index of the rules' definitions; 0: not of this target
}

// origin is a source as rules see it. It does not change during a term.
type origin struct {
	id   millrace.SourceID
	name string
	tags []string // connection tags that mean it
	// subkeys: no row is sent without a subkey, since another source with one of
	// the tags may have a row of the same id.
	subkeys bool
}

// bind makes the target of a table for the definitions that want accepts. It
// is nil if there are none.
func (f *feed) bind(o *origin, id millrace.TableID, table catalog.TableName, columns []planColumn, want func(millrace.DefinitionID) bool) *target {
	t := &target{scope: &millrace.Scope{Table: id}, subkeys: o.subkeys}
	names := make([]string, len(columns))
	for i := range columns {
		names[i] = columns[i].name
	}
	taken := map[millrace.DefinitionID]bool{} // by an earlier rule set
	for _, set := range f.sets {
		for id, sources := range set.set.Without {
			if slices.Contains(sources, o.id) {
				taken[id] = true // by a history that is lost
			}
		}
	}
	for _, set := range f.sets {
		var ids []millrace.DefinitionID
		for _, tag := range o.tags {
			plan := set.rules.Bind(syncrules.Table{Tag: tag, Source: o.name, Schema: table.Schema, Name: table.Name, Columns: names})
			if plan == nil {
				continue
			}
			if e := newEvaluation(set, plan, columns, func(id millrace.DefinitionID) bool { return !taken[id] && want(id) }); e != nil {
				t.evaluations = append(t.evaluations, *e)
				ids = append(ids, e.ids...)
			}
		}
		for _, id := range ids {
			if id != 0 && !taken[id] {
				taken[id] = true
				set.addTo(t.scope, id)
			}
		}
	}
	if len(t.evaluations) == 0 {
		return nil
	}
	sortScope(t.scope)
	return t
}

// addTo appends a definition to the list of its kind.
func (r *ruleset) addTo(scope *millrace.Scope, id millrace.DefinitionID) {
	switch r.rules.Definitions()[slices.Index(r.ids, id)].Kind {
	case millrace.BucketDefinition:
		scope.Buckets = append(scope.Buckets, id)
	case millrace.LookupDefinition:
		scope.Lookups = append(scope.Lookups, id)
	case millrace.EventDefinition:
		scope.Events = append(scope.Events, id)
	}
}

func sortScope(scope *millrace.Scope) {
	slices.Sort(scope.Buckets)
	slices.Sort(scope.Lookups)
	slices.Sort(scope.Events)
}

// definitionsIn are all definitions of a scope.
func definitionsIn(scope *millrace.Scope) []millrace.DefinitionID {
	return slices.Concat(scope.Buckets, scope.Lookups, scope.Events)
}

// scope has all of some definitions that are still fed; of all that are, for
// nil.
func (f *feed) scope(table millrace.TableID, ids []millrace.DefinitionID) *millrace.Scope {
	scope := &millrace.Scope{Table: table}
	taken := map[millrace.DefinitionID]bool{}
	for _, set := range f.sets {
		for _, id := range set.ids {
			if taken[id] || ids != nil && !slices.Contains(ids, id) {
				continue
			}
			taken[id] = true
			set.addTo(scope, id)
		}
	}
	sortScope(scope)
	return scope
}

// newEvaluation binds one rule set's plan of a table; nil if want accepts none
// of its definitions.
func newEvaluation(set *ruleset, plan *syncrules.TablePlan, columns []planColumn, want func(millrace.DefinitionID) bool) *evaluation {
	e := &evaluation{ids: make([]millrace.DefinitionID, len(set.ids))}
	any := false
	for _, i := range plan.Definitions() {
		if id := set.ids[i]; want(id) {
			e.ids[i], any = id, true
		}
	}
	if !any {
		return nil
	}
	e.evaluator = plan.Evaluator()
	e.needed = plan.NeededColumns()
	e.row = make([]millrace.Value, len(columns))
	e.names = make([]string, len(columns))
	for i := range columns {
		e.names[i] = columns[i].name
	}
	e.convert = make([]pgvalue.Converter, len(columns))
	options := valueOptions(set.rules.Options())
	for i := range columns {
		if e.needed[i] {
			e.convert[i] = pgvalue.For(columns[i].typ, options)
		}
	}
	return e
}

// typeOf describes a type; one of which nothing is known has texts.
func typeOf(types pgvalue.Types, oid uint32) *pgvalue.Type {
	if t := types.Type(oid); t != nil {
		return t
	}
	return pgvalue.Unknown(oid)
}

// builtinTypes does where types do not matter.
type builtinTypes struct{}

// Type describes a type of pg_catalog.
func (builtinTypes) Type(oid uint32) *pgvalue.Type { return pgvalue.Builtin(oid) }

// valueOptions are the options of a rules file in the mapping's terms.
func valueOptions(o syncrules.ValueOptions) pgvalue.Options {
	return pgvalue.Options{TimestampsISO8601: o.TimestampsISO8601, CustomTypes: o.CustomPostgresTypes, FractionDigits: o.TimestampPrecision}
}

// maxRowBytes is the largest row data that is synced. A larger row is not
// visible and is listed among the errors; the stream goes on (P32).
const maxRowBytes = 15 << 20

// maxErrorBytes bounds what is kept of an error's text.
const maxErrorBytes = 500

// upsert evaluates the cells of a row and appends the change, which is given
// back for its wide values to be set; it is valid until the next append.
func (t *target) upsert(b *batch, key string, cells []cell) *millrace.Change {
	outputs, lookups, marks, errs := len(b.outputs), len(b.lookups), len(b.marks), len(b.errors)
	for i := range t.evaluations {
		t.evaluations[i].run(b, t.scope.Table, t.subkeys, key, cells)
	}
	if len(b.errors) > errs {
		b.dropFailed(outputs, lookups, errs)
	}
	b.changes = append(b.changes, millrace.Change{
		Scope:   t.scope,
		Kind:    millrace.ChangeUpsert,
		Key:     key,
		Outputs: b.outputs[outputs:len(b.outputs):len(b.outputs)],
		Lookups: b.lookups[lookups:len(b.lookups):len(b.lookups)],
		Marks:   b.marks[marks:len(b.marks):len(b.marks)],
		Errors:  b.errors[errs:len(b.errors):len(b.errors)],
	})
	b.bytes += int64(len(key)) + changeOverhead
	return &b.changes[len(b.changes)-1]
}

// upsertKnown is upsert for the definitions whose columns are known, which are
// added to given.
func (t *target) upsertKnown(b *batch, key string, cells []cell, given map[millrace.DefinitionID]bool) {
	known := map[millrace.DefinitionID]bool{}
	for _, knows := range []bool{true, false} { // a definition may read the table by several rules
		for i := range t.evaluations {
			if e := &t.evaluations[i]; e.knows(cells) == knows {
				for _, id := range e.ids {
					known[id] = knows
				}
			}
		}
	}
	some := target{scope: &millrace.Scope{Table: t.scope.Table, Shadow: t.scope.Shadow}, subkeys: t.subkeys}
	unknown := func(id millrace.DefinitionID) bool { return !known[id] }
	some.scope.Buckets = slices.DeleteFunc(slices.Clone(t.scope.Buckets), unknown)
	some.scope.Lookups = slices.DeleteFunc(slices.Clone(t.scope.Lookups), unknown)
	if len(some.scope.Buckets)+len(some.scope.Lookups) == 0 {
		return
	}
	for i := range t.evaluations {
		if e := t.evaluations[i]; e.knows(cells) {
			e.ids = slices.Clone(e.ids)
			for j, id := range e.ids {
				if unknown(id) {
					e.ids[j] = 0
				}
			}
			some.evaluations = append(some.evaluations, e)
		}
	}
	for _, id := range slices.Concat(some.scope.Buckets, some.scope.Lookups) {
		given[id] = true
	}
	some.upsert(b, key, cells)
}

// knows tells whether all columns that the evaluation reads are known.
func (e *evaluation) knows(cells []cell) bool {
	for i, needed := range e.needed {
		if needed && !cells[i].known {
			return false
		}
	}
	return true
}

// fail appends a change that leaves the row without output, but in the
// definitions to skip, where it stays what it is.
func (t *target) fail(b *batch, key string, skip func(millrace.DefinitionID) bool, message string) {
	first := len(b.errors)
	scope := &millrace.Scope{Table: t.scope.Table, Shadow: t.scope.Shadow}
	failing := func(all []millrace.DefinitionID) (ids []millrace.DefinitionID) {
		for _, id := range all {
			if !skip(id) {
				ids = append(ids, id)
				b.errors = append(b.errors, millrace.RowError{Definition: id, Message: clip(message)})
			}
		}
		return ids
	}
	scope.Buckets, scope.Lookups, scope.Events = failing(t.scope.Buckets), failing(t.scope.Lookups), failing(t.scope.Events)
	if len(b.errors) == first {
		return
	}
	b.changes = append(b.changes, millrace.Change{
		Scope: scope, Kind: millrace.ChangeUpsert, Key: key, Errors: b.errors[first:len(b.errors):len(b.errors)],
	})
	b.bytes += int64(len(key)) + changeOverhead
}

func (e *evaluation) run(b *batch, table millrace.TableID, subkeys bool, key string, cells []cell) {
	e.values.Reset()
	for i, needed := range e.needed {
		switch {
		case !needed:
		case cells[i].null:
			e.row[i] = millrace.Null
		case !utf8.Valid(cells[i].text):
			e.fail(b, fmt.Sprintf("column %s holds bytes that are not valid UTF-8, which no client can hold (the source's encoding is SQL_ASCII)", e.names[i]))
			return
		default:
			v, err := e.convert[i](cells[i].text, &e.values)
			if err != nil {
				e.fail(b, err.Error())
				return
			}
			e.row[i] = v
		}
	}
	rows, lookups, marks, errs := len(b.out.Rows), len(b.out.Lookups), len(b.out.Marks), len(b.out.Errors)
	e.evaluator.Eval(e.row, &b.out)
	subkey := ""
	for i := range b.out.Rows[rows:] {
		r := &b.out.Rows[rows+i]
		id := e.ids[r.Definition]
		if id == 0 {
			continue
		}
		if len(r.Data) > maxRowBytes {
			b.errors = append(b.errors, millrace.RowError{Definition: id, Message: fmt.Sprintf(
				"the row's data takes %d bytes, at most %d are synced: leave long columns out of the query or keep them elsewhere", len(r.Data), maxRowBytes)})
			continue
		}
		o := millrace.Output{Definition: id, Bucket: r.Bucket, Type: r.Type, RowID: r.RowID, Data: r.Data}
		if subkeys || !r.SingleTable || r.RowID != key {
			if subkey == "" {
				subkey = b.text.keep(millrace.AppendSubkey(b.text.room(len(key)+12), table, key))
			}
			o.Subkey = subkey
		}
		b.outputs = append(b.outputs, o)
		b.bytes += int64(len(r.Data)+len(r.Bucket)+len(r.RowID)) + outputOverhead
	}
	for i := range b.out.Lookups[lookups:] {
		l := &b.out.Lookups[lookups+i]
		if id := e.ids[l.Definition]; id != 0 {
			b.lookups = append(b.lookups, millrace.Lookup{Definition: id, Key: l.Key, Outputs: l.Outputs})
			b.bytes += int64(len(l.Key)+len(l.Outputs)) + outputOverhead
		}
	}
	for i := range b.out.Marks[marks:] {
		m := &b.out.Marks[marks+i]
		if id := e.ids[m.Definition]; id != 0 {
			b.marks = append(b.marks, millrace.WriteMark{Definition: id, User: m.User, ID: m.Checkpoint})
			b.bytes += int64(len(m.User)) + outputOverhead
		}
	}
	for i := range b.out.Errors[errs:] {
		f := &b.out.Errors[errs+i]
		if id := e.ids[f.Definition]; id != 0 {
			b.errors = append(b.errors, millrace.RowError{Definition: id, Message: clip(f.Message)})
		}
	}
}

// outputOverhead is about what an output takes beside its texts.
const outputOverhead = 100

// fail gives all definitions of the evaluation the error.
func (e *evaluation) fail(b *batch, message string) {
	for _, id := range e.ids {
		if id != 0 {
			b.errors = append(b.errors, millrace.RowError{Definition: id, Message: clip(message)})
		}
	}
}

// dropFailed takes away what definitions with an error put out for the row.
func (b *batch) dropFailed(outputs, lookups, errs int) {
	failed := func(id millrace.DefinitionID) bool {
		return slices.ContainsFunc(b.errors[errs:], func(e millrace.RowError) bool { return e.Definition == id })
	}
	b.outputs = append(b.outputs[:outputs], slices.DeleteFunc(b.outputs[outputs:], func(o millrace.Output) bool { return failed(o.Definition) })...)
	b.lookups = append(b.lookups[:lookups], slices.DeleteFunc(b.lookups[lookups:], func(l millrace.Lookup) bool { return failed(l.Definition) })...)
}

func clip(message string) string {
	if len(message) <= maxErrorBytes {
		return message
	}
	return strings.ToValidUTF8(message[:maxErrorBytes-3], "") + "…"
}
