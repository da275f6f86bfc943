package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/decoder/catalog"
	dbsession "github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/decoder/walstream"
	"github.com/millrace/millrace/syncrules"
)

// maxFindings are shown of a source.
const maxFindings = 50

// messagePrefix marks our logical messages.
const messagePrefix = "millrace"

// preflight checks the source, sets up the publication and lists the tables
// that the rules read. Tables that cannot be synced are left out and shown.
func (r *runner) preflight(ctx context.Context, server *catalog.Source) ([]catalog.Table, error) {
	patterns := r.feed.patterns(r.source.origin.tags)
	match := func(schema, table string) bool { return r.feed.uses(r.source.origin.tags, schema, table) }
	wanted := namedTables(patterns)
	findings, tables, err := server.Preflight(ctx, match, wanted)
	if err != nil {
		return nil, err
	}
	var missing []catalog.TableName
	for _, t := range tables {
		if t.Kind == 'r' && t.Persistence == 'p' && !t.Published {
			missing = append(missing, t.TableName)
		}
	}
	unpublished := slices.ContainsFunc(findings, func(f catalog.Finding) bool { return f.Code == "MR1010" })
	others := slices.DeleteFunc(slices.Clone(findings), func(f catalog.Finding) bool { return f.Code == "MR1010" })
	if err := catalog.Worst(others); err != nil {
		var f catalog.Finding
		if errors.As(err, &f) && (f.Code == "MR1011" || f.Code == "MR1012") {
			if err := r.distrustPublication(ctx); err != nil {
				return nil, err
			}
		}
		return nil, r.finding(err)
	}
	if unpublished || len(missing) > 0 {
		change, err := server.EnsurePublication(ctx, missing)
		var denied *catalog.PublicationError
		switch {
		case errors.As(err, &denied) && !unpublished: // the tables concerned are left out
		case errors.As(err, &denied):
			return nil, &SourceError{Code: "MR1010", Source: r.source.config.Name, Text: err.Error()}
		case err != nil:
			return nil, err
		}
		if change.Created || len(change.Added) > 0 {
			r.config.Logger.Info("publication set up on the source", "source", r.source.config.Name,
				"publication", r.source.config.Publication, "created", change.Created, "tables", names(missing))
		}
		if findings, tables, err = server.Preflight(ctx, match, wanted); err != nil {
			return nil, err
		}
	}
	if err := catalog.Worst(findings); err != nil {
		return nil, r.finding(err)
	}
	var lines []string
	for _, f := range findings {
		if len(lines) < maxFindings {
			lines = append(lines, f.Error())
		}
		if !r.known.shown[f.String()] {
			r.known.shown[f.String()] = true
			r.config.Logger.Warn(f.Message, "source", r.source.config.Name, "code", f.Code, "object", f.Object, "repair", f.Repair)
		}
	}
	r.status.found(lines)
	r.types = server.Types()
	var types []uint32
	for l := range r.known.absent {
		if l.isType {
			types = append(types, l.oid)
		}
	}
	if err := r.types.Load(ctx, types...); err != nil {
		return nil, err
	}
	if tables, err = server.Tables(ctx, match, r.types); err != nil {
		return nil, err
	}
	r.checkRules(tables)
	r.known.print = fingerprint(findings, tables)
	return tables, nil
}

// watchCatalog ends the session when the catalog says something else of the
// tables than when the session began: DDL tells nothing in the stream until
// the next row of the table.
func (r *runner) watchCatalog(ctx context.Context, server *catalog.Source) error {
	patterns := r.feed.patterns(r.source.origin.tags)
	match := func(schema, table string) bool { return r.feed.uses(r.source.origin.tags, schema, table) }
	tick := time.NewTicker(r.config.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if at := r.known.lookAgain; !at.IsZero() && !r.config.now().Before(at) {
			return errLookAgain
		}
		findings, tables, err := server.Preflight(ctx, match, namedTables(patterns))
		if err != nil {
			return err
		}
		if fingerprint(findings, tables) != r.known.print {
			return errLookAgain
		}
	}
}

// checkRules logs, once, where the rules that are built or served do not fit
// the source. What is wrong with whole tables was logged as findings.
func (r *runner) checkRules(tables []catalog.Table) {
	set := r.feed.building()
	if set == nil {
		set = r.feed.served()
	}
	if set == nil {
		return
	}
	rules := rulecheck.Rules{File: fmt.Sprintf("rule set %d", set.set.ID), Text: []byte(set.set.Content), Compiled: set.rules}
	for _, d := range rulecheck.Names(rules, r.source.origin.tags, tables) {
		if r.known.shown[d.String()] {
			continue
		}
		r.known.shown[d.String()] = true
		r.config.Logger.Warn(d.Message, "source", r.source.config.Name, "rule_set", set.set.ID, "line", d.Line, "column", d.Column, "hint", d.Hint)
	}
}

// distrustPublication remembers that the publication does not publish
// everything: what is changed meanwhile never comes, so that history does not
// go on once it is repaired.
func (r *runner) distrustPublication(ctx context.Context) error {
	if r.known.saved.ConsistentPoint == 0 || r.known.saved.PublicationOID == noPublication {
		return nil
	}
	r.known.saved.PublicationOID = noPublication
	return r.saveSource(ctx)
}

// noPublication is the oid of no publication.
const noPublication = 1<<32 - 1

func names(tables []catalog.TableName) []string {
	var list []string
	for _, t := range tables {
		list = append(list, t.String())
	}
	return list
}

// finding makes a finding the error that stops the source.
func (r *runner) finding(err error) error {
	var f catalog.Finding
	if !errors.As(err, &f) {
		return err
	}
	cure := f.Repair
	if cure != "" {
		cure = "to repair: " + cure
	}
	return &SourceError{Code: f.Code, Source: r.source.config.Name, Object: f.Object, Text: f.Message, Cure: cure}
}

// namedTables are the tables that rules name without wildcards.
func namedTables(patterns []syncrules.TablePattern) []catalog.TableName {
	var list []catalog.TableName
	for _, p := range patterns {
		if name := (catalog.TableName{Schema: p.Schema, Name: p.Name}); !p.SchemaPrefix && !p.NamePrefix && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// toastSizes reads how large the TOAST relations of tables are. A table whose
// TOAST relation is empty has no value out of line, whatever its rows' sizes.
func toastSizes(ctx context.Context, uri string, tables []uint32) (map[uint32]int64, error) {
	config, err := dbsession.Config(uri, dbsession.ReadOnly)
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, dbsession.Explain(config, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	list := "{"
	for i, oid := range tables {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprint(oid)
	}
	result := conn.ExecParams(ctx, `SELECT oid, CASE WHEN reltoastrelid = 0 THEN 0 ELSE pg_relation_size(reltoastrelid) END
		FROM pg_class WHERE oid = ANY($1::oid[])`, [][]byte{[]byte(list + "}")}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read sizes of TOAST relations: %w", result.Err)
	}
	sizes := map[uint32]int64{}
	for _, row := range result.Rows {
		var oid uint32
		var size int64
		if _, err := fmt.Sscan(string(row[0])+" "+string(row[1]), &oid, &size); err != nil {
			return nil, fmt.Errorf("read sizes of TOAST relations: %w", err)
		}
		sizes[oid] = size
	}
	return sizes, nil
}

// probes is the source as the prober sees it.
type probes struct {
	*catalog.Source
	slot           string
	publication    string
	publicationOID uint32 // as it was when the session began
}

// Message writes a logical message that comes back as a transaction.
func (p probes) Message(ctx context.Context) error {
	_, err := p.Emit(ctx, true, messagePrefix, "")
	return err
}

// Slot describes head and slot for the status views.
func (p probes) Slot(ctx context.Context) (slotReport, error) {
	head, err := p.Head(ctx)
	if err != nil {
		return slotReport{}, err
	}
	report := slotReport{Head: head, Retained: -1, SafeWAL: -1}
	slot, err := p.InspectSlot(ctx, p.slot)
	if err != nil {
		return report, err
	}
	if slot == nil {
		return report, fmt.Errorf("%w: slot %q is gone", walstream.ErrHistoryLost, p.slot)
	}
	if slot.Lost {
		return report, fmt.Errorf("%w: slot %q is invalidated (%s)", walstream.ErrHistoryLost, p.slot, slot.Why())
	}
	switch oid, complete, err := p.PublicationOID(ctx); {
	case err != nil:
		return report, err
	case oid != p.publicationOID:
		return report, fmt.Errorf("publication %q was dropped, or made again", p.publication)
	case !complete:
		return report, fmt.Errorf("publication %q does not publish all of insert, update, delete and truncate of each partition any more", p.publication)
	}
	report.Retained, report.State = slot.Retained, slot.Status
	report.Restart, report.SafeWAL = slot.Restart, slot.SafeWAL
	return report, nil
}
