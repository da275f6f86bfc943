package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// preparation is what a look at the catalog gives.
type preparation struct {
	tables  []*tableState
	dropped []droppedTable
	// stored and changes are stored together with the copies.
	stored  []*millrace.SourceTable
	changes []millrace.SchemaChange
	// lookAt is the position of the stream at which to look again: what differs
	// now may be ahead of it. 0 if nothing differs.
	lookAt millrace.LSN
}

// droppedTable is a table that is gone, or that the rules do not read any more.
type droppedTable struct {
	saved  *millrace.SourceTable // as it is to be stored
	remove bool                  // its rows
	change millrace.SchemaChange
}

// prepareTables compares the catalog with the tables that are known. The
// catalog shows the present and the stream the past: what differs is acted upon
// when the stream has come to where the source stood when the catalog was read,
// or has told of the change itself. Tables that cannot be synced are left out:
// the findings say why.
func (r *runner) prepareTables(ctx context.Context, found []catalog.Table, head millrace.LSN) (*preparation, error) {
	k := r.known
	var oids []uint32
	for i := range found {
		oids = append(oids, found[i].OID)
	}
	toast, err := toastSizes(ctx, r.source.config.URI, oids)
	if err != nil {
		return nil, err
	}
	k.lookAgain = time.Time{}
	p := &preparation{}
	noticed := map[string]millrace.LSN{}
	due := func(d *difference) bool {
		forced := k.forced[d.saved.OID] || d.found != nil && k.forced[d.found.OID]
		at := k.noticed[d.key()]
		if forced || at != 0 && millrace.LSN(r.source.reached.Load()) >= at {
			return true
		}
		if at == 0 {
			at = head
			r.config.Logger.Info("a table of the source has changed; it is looked at again when the stream has come there",
				"source", r.source.config.Name, "table", d.object(), "change", d.what)
		}
		noticed[d.key()] = at
		if p.lookAt == 0 || at < p.lookAt {
			p.lookAt = at
		}
		return false
	}
	var left []error
	pairs, rest := pair(found, k.tables)
	for i := range found {
		f, saved := &found[i], pairs[i]
		t := &tableState{saved: saved, found: f, rule: r.ruleName(f), bounded: f.AllColumns, toasted: toast[f.OID] > 0}
		synced := saved != nil && len(saved.Columns) > 0
		if err := r.unusable(f, synced); err != nil {
			d := &difference{saved: saved, found: f, what: err.Error()}
			switch {
			case !synced:
				k.absent[lookedUp{oid: f.OID}] = true
				left = append(left, err)
				p.needs(r.source.saved.ID, f, err)
			case due(d):
				k.absent[lookedUp{oid: f.OID}] = true
				left = append(left, err)
				p.lost(r, d, err)
			default:
				p.tables = append(p.tables, r.outdated(saved))
			}
			continue
		}
		delete(k.absent, lookedUp{oid: f.OID})
		if synced {
			reads := func(columns []planColumn) map[string]bool { return r.feed.reads(&r.source.origin, t.rule, columns) }
			d := &difference{saved: saved, found: f}
			d.what, d.copy = compareTable(saved, f, reads)
			if d.what == "" && k.forced[f.OID] {
				d.what, d.copy = "the stream told of it otherwise for some time", true
			}
			if d.what != "" && !due(d) {
				p.tables = append(p.tables, r.outdated(saved))
				continue
			}
			if err := r.copiedTooOften(saved, f); err != nil && d.copy {
				k.absent[lookedUp{oid: f.OID}] = true
				left = append(left, err)
				p.lost(r, d, err)
				continue
			}
			p.take(r, t, d)
		} else {
			if err := r.copiedTooOften(saved, f); err != nil {
				k.absent[lookedUp{oid: f.OID}] = true
				left = append(left, err)
				p.needs(k.saved.ID, f, err)
				continue
			}
			if saved == nil {
				// Without its columns until its copies are registered: a crash
				// between must not make it a table whose rows are there already.
				saved = &millrace.SourceTable{Source: k.saved.ID, OID: f.OID, Schema: f.Schema, Name: f.Name, Identity: f.Identity}
				if err := r.saveTable(ctx, saved); err != nil {
					return nil, err
				}
				k.tables = append(k.tables, saved)
				pairs[i] = saved
				t.again = "the table has appeared"
			} else if t.again = "the table can be synced again"; saved.OID != f.OID {
				t.again = "the table was made again"
			}
			t.isNew = true
			t.saved = describeTable(saved, f)
			p.stored = append(p.stored, t.saved)
		}
		k.rules[t.saved.ID] = t.rule
		p.tables = append(p.tables, t)
	}
	if err := r.forgetUnused(ctx, pairs); err != nil {
		return nil, err
	}
	for _, saved := range rest {
		if !slices.Contains(k.tables, saved) {
			continue // no rules use it
		}
		d := &difference{saved: saved, what: "the table is gone, or the rules do not read it by its new name"}
		if len(saved.Columns) > 0 && !due(d) {
			p.tables = append(p.tables, r.outdated(saved))
			continue
		}
		p.drop(r, d)
	}
	k.noticed = noticed
	clear(k.forced)
	r.status.lasts(errors.Join(left...))
	return p, nil
}

// describeTable is a known table as it is found now. Columns of which rows written
// before have other values than were told are counted on.
func describeTable(saved *millrace.SourceTable, f *catalog.Table) *millrace.SourceTable {
	st := f.SourceTable()
	st.ID, st.Source = saved.ID, saved.Source
	most := 0
	for _, c := range saved.Columns {
		most = max(most, c.Rewrites)
	}
	for i := range st.Columns {
		c := &st.Columns[i]
		was := slices.IndexFunc(saved.Columns, func(s millrace.SourceColumn) bool { return s.Number == c.Number })
		switch {
		case saved.OID != f.OID && len(saved.Columns) > 0:
			c.Rewrites = most + 1
		case was >= 0:
			s := &saved.Columns[was]
			if c.Rewrites = s.Rewrites; (s.TypeOID != c.TypeOID || s.Type != c.Type) && !sameText(s, &f.Columns[i]) {
				c.Rewrites++
			}
		}
	}
	return &st
}

// ruleName is the name under which the rules read a table.
func (r *runner) ruleName(f *catalog.Table) catalog.TableName {
	if f.Root.Name != "" && r.feed.uses(r.source.origin.tags, f.Root.Schema, f.Root.Name) {
		return f.Root
	}
	return f.TableName
}

// outdated is a table as it was before a change that the stream has not come to.
func (r *runner) outdated(saved *millrace.SourceTable) *tableState {
	rule, ok := r.known.rules[saved.ID]
	if !ok {
		rule = catalog.TableName{Schema: saved.Schema, Name: saved.Name}
	}
	building := r.feed.building()
	return &tableState{saved: saved, found: &catalog.Table{OID: saved.OID, TableName: catalog.TableName{Schema: saved.Schema, Name: saved.Name}},
		rule: rule, outdated: true, uncopied: func(id millrace.DefinitionID) bool {
			return building != nil && r.feed.isNew(building, id) && !r.known.isCopied(building.set.ID, saved.ID, id)
		}}
}

// take accepts how a table is now.
func (p *preparation) take(r *runner, t *tableState, d *difference) {
	if d.what == "" {
		if d.saved.Member != d.found.Member {
			t.saved = describeTable(d.saved, d.found)
			p.stored = append(p.stored, t.saved)
		}
		return
	}
	t.saved = describeTable(d.saved, d.found)
	p.stored = append(p.stored, t.saved)
	if d.copy {
		t.again = d.what
		return
	}
	r.config.Logger.Info("a table of the source has changed; nothing has to be read again",
		"source", r.source.config.Name, "table", d.object(), "change", d.what)
	p.changes = append(p.changes, millrace.SchemaChange{Source: d.saved.Source, Object: d.object(), Change: d.what,
		Action: "taken as it is: what was synced before stays right"})
}

// needs notes that a table that is not synced needs a person.
func (p *preparation) needs(source millrace.SourceID, f *catalog.Table, err error) {
	c := millrace.SchemaChange{Source: source, Object: f.String(), Change: err.Error(), Action: "not synced until that is done"}
	var stop *SourceError
	if errors.As(err, &stop) {
		c.Code, c.Change, c.Cure = stop.Code, stop.Text, stop.Cure
	}
	p.changes = append(p.changes, c)
}

// lost gives up a table that cannot be followed any more. When it can be, it
// is copied again.
func (p *preparation) lost(r *runner, d *difference, err error) {
	marked := *d.saved
	marked.Columns = nil
	p.needs(marked.Source, d.found, err)
	c := &p.changes[len(p.changes)-1]
	c.Action = "its rows stay as they were; when that is done, it is copied again"
	if c.Code == codeLoop {
		c.Action = "its rows stay as they were until then"
	}
	if !d.found.Published && r.config.OnDrop == dropRemoves {
		c.Action = "its rows are removed; when that is done, it is copied again"
		p.dropped = append(p.dropped, droppedTable{saved: &marked, remove: true, change: *c})
		p.changes = p.changes[:len(p.changes)-1]
	} else {
		p.stored = append(p.stored, &marked)
	}
	r.known.replaceTable(&marked)
	r.config.Logger.Warn("a table cannot be followed any more", "source", r.source.config.Name, "table", d.object(), "reason", err, "action", c.Action)
}

// drop gives up a table that is gone.
func (p *preparation) drop(r *runner, d *difference) {
	marked := *d.saved
	marked.OID, marked.Columns = 0, nil
	remove := r.config.OnDrop == dropRemoves
	action := "its rows are removed"
	if !remove {
		action = "its rows stay, since decoder.on_drop is keep"
	}
	p.dropped = append(p.dropped, droppedTable{saved: &marked, remove: remove, change: millrace.SchemaChange{
		Source: marked.Source, Object: d.object(), Change: d.what, Action: action}})
	r.known.replaceTable(&marked)
	r.config.Logger.Warn("a table is gone", "source", r.source.config.Name, "table", d.object(), "action", action)
}

func (k *known) replaceTable(t *millrace.SourceTable) {
	for i := range k.tables {
		if k.tables[i].ID == t.ID {
			k.tables[i] = t
			return
		}
	}
	k.tables = append(k.tables, t)
}

// forgetUnused takes away the tables that no rules name any more, if nothing
// that is fed has rows of them. Nothing told of them is taken in from now on,
// so what is known of them becomes wrong.
func (r *runner) forgetUnused(ctx context.Context, found []*millrace.SourceTable) error {
	k := r.known
	var unused, forgotten []millrace.TableID
	for _, t := range k.tables {
		if !slices.Contains(found, t) && !r.feed.uses(r.source.origin.tags, t.Schema, t.Name) {
			unused = append(unused, t.ID)
		}
	}
	if len(unused) == 0 {
		return nil
	}
	err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) (err error) {
		forgotten, err = s.ForgetTables(ctx, unused)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget tables that no rules use: %w", err)
	}
	k.tables = slices.DeleteFunc(k.tables, func(t *millrace.SourceTable) bool { return slices.Contains(forgotten, t.ID) })
	return nil
}

func (r *runner) saveTable(ctx context.Context, t *millrace.SourceTable) error {
	err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) error { return s.SaveTable(ctx, t) })
	if err != nil {
		return fmt.Errorf("store table %s.%s: %w", t.Schema, t.Name, err)
	}
	return nil
}

// unusable is the error of a table that cannot be synced; nil if it can. One
// that is synced does not need the rights of a copy.
func (r *runner) unusable(f *catalog.Table, synced bool) error {
	for _, finding := range f.Findings {
		if finding.Level == catalog.Warn || synced && (finding.Code == "MR1015" || finding.Code == "MR1016") {
			continue
		}
		return r.finding(finding)
	}
	switch {
	case !f.Published:
		return r.stop("MR1014", "table "+f.TableName.String(), "it is not in the publication", "ALTER PUBLICATION … ADD TABLE "+f.TableName.SQL())
	case !f.Heap:
		return r.stop("MR1019", "table "+f.TableName.String(), "its access method is not heap", "use heap tables in the rules")
	}
	return nil
}

// registerCopies registers, in one flush, the copies that the rule set being
// built needs, and those of tables that have appeared. The stream is applied to
// them from the durable position on. For the first of a slot the snapshot that
// was exported with it says what must be visible; others wait until all is
// finished that runs now.
// head is where the source stood after its catalog was read.
func (r *runner) registerCopies(ctx context.Context, server *catalog.Source, p *preparation, head millrace.LSN) error {
	k := r.known
	running, err := server.CurrentSnapshot(ctx)
	if err != nil {
		return err
	}
	building, served := r.feed.building(), r.feed.served()
	var copies []*millrace.Copy
	for _, t := range p.tables {
		if t.outdated {
			continue
		}
		set := building
		want := func(millrace.DefinitionID) bool { return true }
		all, err := newTablePlan(r.feed, &r.source.origin, t, columnsOf(t.found), builtinTypes{}, want)
		if err != nil {
			return err
		}
		onlyNew := building != nil && !slices.ContainsFunc(all.definitions(), func(id millrace.DefinitionID) bool { return !r.feed.isNew(building, id) })
		shadow := false
		switch {
		case t.again != "" && !(t.isNew && onlyNew):
			// Definitions have rows of it, or are served.
			if set = served; set == nil {
				set = building
			}
			shadow = true
		case building != nil:
			want = func(id millrace.DefinitionID) bool {
				return r.feed.isNew(building, id) && !k.isCopied(building.set.ID, t.saved.ID, id)
			}
		default:
			continue
		}
		plan, err := newTablePlan(r.feed, &r.source.origin, t, columnsOf(t.found), builtinTypes{}, want)
		if err != nil {
			return err
		}
		again := !shadow && t.isNew && slices.ContainsFunc(k.copies, func(c millrace.Copy) bool {
			return c.Table == t.saved.ID && c.RuleSet == set.set.ID && c.State != millrace.CopyDone
		})
		if len(plan.targets) == 0 || again {
			continue
		}
		c := &millrace.Copy{
			RuleSet: set.set.ID, Table: t.saved.ID, State: millrace.CopyWaiting, Estimate: int64(t.found.Rows),
			Definitions: plan.definitions(), StartedAt: time.Now(),
		}
		if shadow {
			// Also definitions that read it by another name before.
			k.recopies = append(k.recopies, millrace.Recopy{Table: c.Table, Change: t.again, At: r.config.now()})
			c.Shadow, c.Definitions = true, definitionsIn(r.feed.scope(t.saved.ID, nil))
			p.changes = append(p.changes, millrace.SchemaChange{Source: t.saved.Source, Object: t.found.String(), Change: t.again, CopyOf: c,
				Action: "copied; its rows replace what was synced of it when the copy is exact"})
			r.config.Logger.Info("a table of the source is copied beside what is served", "source", r.source.config.Name,
				"table", t.found.String(), "reason", t.again, "rows", c.Estimate)
		}
		if k.saved.Durable != 0 {
			if c.WaitFor = slices.Clone(running.InProgress); len(c.WaitFor) == 0 {
				c.State = millrace.CopyRunning
			}
			if c.Shadow {
				c.Since = head // what is running now is waited for
			}
		}
		copies = append(copies, c)
	}
	return r.commitCopies(ctx, copies, p)
}

// isCopied tells whether a copy for a rule set, done or not, fills a definition
// from a table.
func (k *known) isCopied(set millrace.RuleSetID, table millrace.TableID, id millrace.DefinitionID) bool {
	return slices.ContainsFunc(k.copies, func(c millrace.Copy) bool {
		return c.RuleSet == set && c.Table == table && slices.Contains(c.Definitions, id)
	})
}

// commitCopies stores new copies, and with the first of a slot its position.
func (r *runner) commitCopies(ctx context.Context, copies []*millrace.Copy, p *preparation) error {
	k := r.known
	flush := &millrace.Flush{Copies: copies, Tables: p.stored, SchemaChanges: r.news(p.changes)}
	if k.saved.Durable == 0 {
		flush.Positions = []millrace.SourcePosition{{Source: k.saved.ID, LSN: k.saved.ConsistentPoint}}
	}
	if len(copies)+len(flush.Positions)+len(flush.Tables)+len(flush.SchemaChanges) > 0 {
		err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) error {
			_, err := s.Commit(ctx, flush)
			return err
		})
		if err != nil {
			return fmt.Errorf("register copies: %w", err)
		}
	}
	if k.saved.Durable == 0 {
		k.saved.Durable = k.saved.ConsistentPoint
	}
	for _, c := range copies {
		if c.ID == 0 {
			return errors.New("the sidecar gave a copy no number")
		}
		k.copies = append(k.copies, *c)
		k.fresh[c.ID] = true
	}
	for _, t := range p.stored {
		k.replaceTable(t)
	}
	return nil
}

// news are the schema changes that were not told yet in this term.
func (r *runner) news(changes []millrace.SchemaChange) []millrace.SchemaChange {
	return slices.DeleteFunc(slices.Clone(changes), func(c millrace.SchemaChange) bool {
		key := c.Object + " " + c.Code + " " + c.Change
		told := c.Code != "" && r.known.shown[key]
		r.known.shown[key] = true
		return told
	})
}

// unfinished pairs the copies that are not done with their tables. The others
// are over: their tables are not synced any more, or a later copy into a shadow
// does their work.
func (r *runner) unfinished(tables []*tableState) (copies []openedCopy, over []overCopy) {
	k := r.known
	later := map[millrace.TableID]millrace.CopyID{}
	for _, c := range k.copies {
		if c.State != millrace.CopyDone && c.Shadow {
			later[c.Table] = max(later[c.Table], c.ID)
		}
	}
	for n := range k.copies {
		c := k.copies[n]
		if c.State == millrace.CopyDone {
			continue
		}
		i := slices.IndexFunc(tables, func(t *tableState) bool { return t.saved.ID == c.Table })
		switch {
		case i < 0:
			over = append(over, overCopy{c, !c.Shadow})
			k.copies[n].State = millrace.CopyDone
		case c.ID < later[c.Table]:
			over = append(over, overCopy{c, false})
			k.copies[n].State = millrace.CopyDone
		default:
			copies = append(copies, openedCopy{tables[i], c, k.rereads[c.ID], k.fresh[c.ID]})
			delete(k.fresh, c.ID)
		}
	}
	return copies, over
}

// overCopy is a copy that is not gone on with. empty: what it brought goes.
type overCopy struct {
	saved millrace.Copy
	empty bool
}

func columnsOf(t *catalog.Table) []planColumn {
	columns := make([]planColumn, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	return columns
}
