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

// prepareTables compares the catalog with the tables that are known, and
// stores the new ones. Tables that cannot be synced are left out: the findings
// say why.
func (r *runner) prepareTables(ctx context.Context, found []catalog.Table) ([]*tableState, error) {
	k := r.known
	var oids []uint32
	for i := range found {
		oids = append(oids, found[i].OID)
	}
	toast, err := toastSizes(ctx, r.source.config.URI, oids)
	if err != nil {
		return nil, err
	}
	var tables []*tableState
	var left []error
	for i := range found {
		f := &found[i]
		saved, err := r.savedTable(f)
		if err != nil {
			return nil, err
		}
		if !f.Usable() || !f.Heap {
			if saved == nil {
				k.absent[lookedUp{oid: f.OID}] = true
				left = append(left, r.unusable(f))
				continue
			}
			return nil, r.unusable(f)
		}
		delete(k.absent, lookedUp{oid: f.OID})
		t := &tableState{saved: saved, found: f, rule: f.TableName, bounded: f.AllColumns, toasted: toast[f.OID] > 0}
		if f.Root.Name != "" && r.feed.uses(r.source.origin.tags, f.Root.Schema, f.Root.Name) {
			t.rule = f.Root
		}
		if saved == nil || len(saved.Columns) == 0 {
			// Without its columns until its copies are registered: a crash
			// between must not make it a table whose rows are there already.
			st := f.SourceTable()
			st.Source, st.Columns = k.saved.ID, nil
			if saved != nil {
				st.ID = saved.ID
			}
			if err := r.saveTable(ctx, &st); err != nil {
				return nil, err
			}
			full := f.SourceTable()
			full.ID, full.Source = st.ID, st.Source
			t.saved, t.isNew = &full, true
		}
		tables = append(tables, t)
	}
	r.status.lasts(errors.Join(left...))
	missing := slices.DeleteFunc(slices.Clone(k.tables), func(saved *millrace.SourceTable) bool {
		return slices.ContainsFunc(found, func(t catalog.Table) bool { return t.OID == saved.OID })
	})
	if err := r.forgetUnused(ctx, missing); err != nil {
		return nil, err
	}
	for _, saved := range missing {
		name := saved.Schema + "." + saved.Name
		if slices.Contains(k.tables, saved) && !k.shown["gone "+name] {
			k.shown["gone "+name] = true
			r.config.Logger.Warn("a table that was synced is not on the source any more; its rows stay as they were", "source", r.source.config.Name, "table", name)
		}
	}
	return tables, nil
}

// forgetUnused takes away the tables that no rules name any more. Nothing told
// of them is taken in from now on, so what is known of them becomes wrong.
func (r *runner) forgetUnused(ctx context.Context, missing []*millrace.SourceTable) error {
	var unused, forgotten []millrace.TableID
	for _, t := range missing {
		if !r.feed.uses(r.source.origin.tags, t.Schema, t.Name) {
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
	k := r.known
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

// savedTable finds a table among those known; nil if it is new.
func (r *runner) savedTable(f *catalog.Table) (*millrace.SourceTable, error) {
	object := "table " + f.TableName.String()
	for _, saved := range r.known.tables {
		sameName := saved.Schema == f.Schema && saved.Name == f.Name
		switch {
		case saved.OID != f.OID && !sameName:
			continue
		case saved.OID != f.OID:
			return nil, r.stop(codeReplaced, object, "the table was dropped and made again", startOver)
		case !sameName:
			return nil, r.stop(codeRenamed, object, fmt.Sprintf("the table was %s.%s before", saved.Schema, saved.Name), startOver)
		case f.Usable() && len(saved.Columns) > 0 && (saved.Identity != f.Identity || !slices.Equal(saved.KeyColumns, f.KeyColumns())):
			return nil, r.stop(codeIdentity, object, fmt.Sprintf("its rows were identified by %q (%s) and are by %q (%s) now",
				saved.KeyColumns, saved.Identity, f.KeyColumns(), f.Identity), startOver)
		}
		return saved, nil
	}
	return nil, nil
}

// unusable is the error of a table that cannot be synced.
func (r *runner) unusable(f *catalog.Table) error {
	for _, finding := range f.Findings {
		if finding.Level != catalog.Warn {
			return r.finding(finding)
		}
	}
	if !f.Published {
		return r.stop("MR1014", "table "+f.TableName.String(), "it is not in the publication", "ALTER PUBLICATION … ADD TABLE "+f.TableName.SQL())
	}
	return r.stop("MR1019", "table "+f.TableName.String(), "its access method is not heap", "use heap tables in the rules")
}

// registerCopies registers, in one flush, the copies that the rule set being
// built needs, and those of tables that have appeared. The stream is applied to
// them from the durable position on. For the first of a slot the snapshot that
// was exported with it says what must be visible; others wait until all is
// finished that runs now.
func (r *runner) registerCopies(ctx context.Context, server *catalog.Source, tables []*tableState) error {
	k := r.known
	running, err := server.CurrentSnapshot(ctx)
	if err != nil {
		return err
	}
	building, served := r.feed.building(), r.feed.served()
	var copies []*millrace.Copy
	for _, t := range tables {
		set := building
		var want func(millrace.DefinitionID) bool
		switch {
		case t.isNew && served != nil:
			// Its rows come into definitions that are served.
			if set == nil {
				set = served
			}
			want = func(millrace.DefinitionID) bool { return true }
		case building != nil:
			want = func(id millrace.DefinitionID) bool {
				return r.feed.isNew(building, id) && !k.isCopied(building.set.ID, t.saved.ID, id)
			}
		default:
			continue
		}
		p, err := newTablePlan(r.feed, &r.source.origin, t, columnsOf(t.found), builtinTypes{}, want)
		if err != nil {
			return err
		}
		again := t.isNew && slices.ContainsFunc(k.copies, func(c millrace.Copy) bool {
			return c.Table == t.saved.ID && c.RuleSet == set.set.ID && c.State != millrace.CopyDone
		})
		if p.target == nil || again {
			continue
		}
		c := &millrace.Copy{
			RuleSet: set.set.ID, Table: t.saved.ID, State: millrace.CopyWaiting, Estimate: int64(t.found.Rows),
			Definitions: slices.Concat(p.target.scope.Buckets, p.target.scope.Lookups), StartedAt: time.Now(),
		}
		if k.saved.Durable != 0 {
			if c.WaitFor = slices.Clone(running.InProgress); len(c.WaitFor) == 0 {
				c.State = millrace.CopyRunning
			}
		}
		copies = append(copies, c)
	}
	return r.commitCopies(ctx, copies, tables)
}

// isCopied tells whether a copy for a rule set, done or not, fills a definition
// from a table.
func (k *known) isCopied(set millrace.RuleSetID, table millrace.TableID, id millrace.DefinitionID) bool {
	return slices.ContainsFunc(k.copies, func(c millrace.Copy) bool {
		return c.RuleSet == set && c.Table == table && slices.Contains(c.Definitions, id)
	})
}

// commitCopies stores new copies, and with the first of a slot its position.
func (r *runner) commitCopies(ctx context.Context, copies []*millrace.Copy, tables []*tableState) error {
	k := r.known
	flush := &millrace.Flush{Copies: copies}
	if k.saved.Durable == 0 {
		flush.Positions = []millrace.SourcePosition{{Source: k.saved.ID, LSN: k.saved.ConsistentPoint}}
	}
	if len(copies)+len(flush.Positions) > 0 {
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
	for _, t := range tables {
		if !t.isNew {
			continue
		}
		if err := r.saveTable(ctx, t.saved); err != nil {
			return err
		}
		t.isNew = false
		k.tables = slices.DeleteFunc(k.tables, func(o *millrace.SourceTable) bool { return o.ID == t.saved.ID })
		k.tables = append(k.tables, t.saved)
	}
	return nil
}

// unfinished pairs the copies that are not done with their tables. Those of
// tables that are not there any more are gone.
func (r *runner) unfinished(tables []*tableState, found []catalog.Table) (copies []openedCopy, gone []millrace.Copy) {
	k := r.known
	for _, c := range k.copies {
		if c.State == millrace.CopyDone {
			continue
		}
		if i := slices.IndexFunc(tables, func(t *tableState) bool { return t.saved.ID == c.Table }); i >= 0 {
			copies = append(copies, openedCopy{tables[i], c, k.rereads[c.ID], k.fresh[c.ID]})
			delete(k.fresh, c.ID)
			continue
		}
		i := slices.IndexFunc(k.tables, func(t *millrace.SourceTable) bool { return t.ID == c.Table })
		if i >= 0 && !slices.ContainsFunc(found, func(t catalog.Table) bool { return t.OID == k.tables[i].OID }) {
			gone = append(gone, c)
		}
	}
	return copies, gone
}

func columnsOf(t *catalog.Table) []planColumn {
	columns := make([]planColumn, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	return columns
}
