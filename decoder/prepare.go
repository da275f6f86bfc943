package decoder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/decoder/walstream"
)

// openedEvent tells that a session is about to stream, and what it found.
type openedEvent struct {
	session *session
	saved   millrace.Source
	eval    *evaluator
	// Copies to begin or to go on with.
	copies []openedCopy
	first  *snapshot // taken before the stream began, after the copies were registered
}

type openedCopy struct {
	table   *tableState
	saved   millrace.Copy
	rereads []string
}

func (e openedEvent) handle(ctx context.Context, a *appender) error {
	s := e.session.source
	s.session = e.session
	s.saved = e.saved
	s.eval = e.eval
	s.eval.wide = s.wide
	s.opened = true
	if s.position < e.saved.Durable {
		s.position, s.flushed, s.durable = e.saved.Durable, e.saved.Durable, e.saved.Durable
	}
	s.unseen.reset()
	s.unseen.observe(e.first)
	entry := afterAll(e.first)
	if e.saved.Exported != "" {
		exported, err := parseSnapshot(e.saved.Exported)
		if err != nil {
			return err
		}
		entry = afterExport(exported)
	}
	clear(s.tables)
	for _, t := range s.eval.tables {
		s.tables[t.saved.ID] = t
	}
	s.eval.fetch = func(refs []millrace.RowRef) error { return a.fetch(ctx, s, refs) }
	s.eval.retable = func(t *tableState) error { return a.saveTable(ctx, t) }
	old := s.copies
	s.copies = nil
	for _, o := range e.copies {
		if s.finished[o.saved.ID] {
			continue
		}
		c := resumeCopy(s, o.table, o.saved, o.rereads, a.config)
		// What an earlier session of this term knew is newer than what is stored.
		if i := slices.IndexFunc(old, func(c *copyRun) bool { return c.saved.ID == o.saved.ID }); i >= 0 {
			c.saved, c.machine, c.pages, c.toasted = old[i].saved, old[i].machine, old[i].pages, old[i].toasted
		}
		if !c.machine.entered {
			c.machine.entry = entry
			if len(o.saved.WaitFor) > 0 {
				c.machine.entry = afterAll(e.first)
			}
		}
		c.machine.observe(e.first)
		c.noteEntered(a)
	}
	return nil
}

// connect is one session from its first connection to its end.
func (r *runner) connect(ctx context.Context) error {
	r.status.waits("connecting to the source")
	server, err := r.open(ctx, r.source.config)
	if err != nil {
		return err
	}
	defer server.Close()
	opened, err := r.prepare(ctx, server)
	if err != nil {
		return err
	}
	stream, err := walstream.Open(ctx, walstream.Config{
		URI:          r.source.config.URI,
		Slot:         r.source.config.Slot,
		Publications: []string{r.source.config.Publication},
		MaxMemory:    r.config.BatchMaxBytes,
		SpoolDir:     r.config.SpoolDir,
		SpoolMax:     r.config.SpoolMax,
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	r.status.waits("")
	s := newSession(r.source, r.events, r.config.SnapshotWorkers)
	s.stream, s.status = stream, r.status
	s.prober = newProber(server, r.config.Heartbeat)
	err = s.run(ctx, *opened, func(ctx context.Context, s *session) error { return r.readChunks(ctx, s) })
	// The appender must have let go of the session before the stream is closed
	// and the next one is prepared.
	closed := closedEvent{s, make(chan struct{})}
	if post := s.post(ctx, closed); post != nil {
		return post
	}
	select {
	case <-closed.handled:
	case <-ctx.Done():
	}
	return err
}

// prepare checks the source, makes what is missing there (publication, slot),
// and registers tables and copies in the sidecar. Each step is stored before
// the next, so that a crash anywhere leaves nothing unknown (P16, P17).
func (r *runner) prepare(ctx context.Context, server server) (*openedEvent, error) {
	k, config := r.known, r.source.config
	r.status.waits("checking the source")
	found, err := server.Inspect(ctx, config, r.feed.patterns(r.source.tags))
	if err != nil {
		return nil, err
	}
	if k.saved.SystemID != "" && k.saved.SystemID != found.SystemID {
		return nil, r.stop(codeHistory, "", "this is another database cluster than the one that was synced", startOver)
	}
	k.saved.SystemID, k.saved.Timeline, k.saved.Database = found.SystemID, found.Timeline, found.Database
	k.saved.Publication, k.saved.PublicationOID = config.Publication, found.PublicationOID
	if err := r.prepareSlot(ctx, server); err != nil {
		return nil, err
	}
	tables, err := r.prepareTables(ctx, found)
	if err != nil {
		return nil, err
	}
	if err := r.registerCopies(ctx, server, tables); err != nil {
		return nil, err
	}
	first, err := takeSnapshot(ctx, server)
	if err != nil {
		return nil, err
	}
	opened := &openedEvent{saved: k.saved, first: first}
	opened.eval = r.newEvaluator(tables, found.Types)
	for _, c := range k.copies {
		for _, t := range tables {
			if t.saved.ID == c.Table && c.State != millrace.CopyDone {
				opened.copies = append(opened.copies, openedCopy{t, c, k.rereads[c.ID]})
			}
		}
	}
	return opened, nil
}

func (r *runner) stop(code, object, text, cure string) error {
	return &SourceError{Code: code, Source: r.source.config.Name, Object: object, Text: text, Cure: cure}
}

// prepareSlot makes sure that the slot is there and is ours. It is recorded
// before it is made. One that is recorded without a consistent point, and so
// without data, is made again (RA-08).
func (r *runner) prepareSlot(ctx context.Context, server server) error {
	k, config := r.known, r.source.config
	slot, err := server.InspectSlot(ctx, config.Slot)
	if err != nil {
		return err
	}
	if k.saved.ConsistentPoint != 0 {
		return r.checkSlot(ctx, server, slot)
	}
	recorded := k.saved.Slot == config.Slot
	if slot != nil && !recorded {
		return r.stop(codeSlot, "slot "+config.Slot, "a slot of this name exists that was not made for this sidecar",
			fmt.Sprintf("choose another name (sources.slot), or if nothing needs it: SELECT pg_drop_replication_slot('%s')", config.Slot))
	}
	if !recorded {
		k.saved.Slot = config.Slot
		if err := r.saveSource(ctx); err != nil {
			return err
		}
	}
	if slot != nil {
		if err := server.DropSlot(ctx, config.Slot); err != nil {
			return err
		}
	}
	create, cancel := context.WithTimeout(ctx, r.config.SlotTimeout)
	defer cancel()
	point, exported, err := server.CreateSlot(create, config.Slot, r.status.waits)
	if err != nil {
		if create.Err() != nil && ctx.Err() == nil {
			return r.stop(codeSlot, "slot "+config.Slot,
				fmt.Sprintf("transactions that were running held up its creation for %v", r.config.SlotTimeout), "end them (pg_stat_activity, pg_prepared_xacts)")
		}
		return err
	}
	k.saved.ConsistentPoint, k.saved.Exported = point, exported
	return r.saveSource(ctx)
}

// checkSlot compares the slot with what is stored (P70, P71, P88).
func (r *runner) checkSlot(ctx context.Context, server server, slot *slotState) error {
	k := r.known
	object := "slot " + k.saved.Slot
	switch {
	case slot == nil:
		return r.stop(codeSlot, object, "it is gone, and with it the changes since "+k.saved.Durable.String(), startOver)
	case slot.Lost:
		return r.stop(codeSlot, object, "the source has removed WAL that it needs (wal_status "+slot.Status+")", "raise max_slot_wal_keep_size; "+startOver)
	}
	durable := max(k.saved.Durable, millrace.LSN(r.source.reached.Load()))
	head, err := server.Head(ctx)
	switch {
	case err != nil:
		return err
	case durable != 0 && slot.Confirmed > durable:
		return r.stop(codeHistory, object, fmt.Sprintf("it is confirmed up to %v, but the sidecar holds everything only up to %v: changes between are lost", slot.Confirmed, durable), startOver)
	case head < durable:
		return r.stop(codeHistory, object, fmt.Sprintf("the source is at %v, before %v which was synced: it went back in time", head, durable), startOver)
	}
	if slot.ActivePID != 0 {
		return server.TakeSlot(ctx, k.saved.Slot, slot.ActivePID)
	}
	return nil
}

func (r *runner) saveSource(ctx context.Context) error {
	return r.writer.call(ctx, func(ctx context.Context, s Sidecar) error {
		return s.SaveSource(ctx, &r.known.saved)
	})
}

// prepareTables compares the catalog with the tables that are known, and
// stores the new ones.
func (r *runner) prepareTables(ctx context.Context, found *inspection) ([]*tableState, error) {
	k := r.known
	var tables []*tableState
	for _, f := range found.Tables {
		t := &tableState{bounded: f.Bounded}
		for _, saved := range k.tables {
			switch {
			case saved.OID == f.Saved.OID:
				t.saved = saved
			case saved.Schema == f.Saved.Schema && saved.Name == f.Saved.Name:
				return nil, r.stop(codeReplaced, "table "+f.Saved.Schema+"."+f.Saved.Name, "the table was dropped and made again", startOver)
			}
		}
		if t.saved == nil {
			t.saved = &f.Saved
			t.saved.Source = k.saved.ID
			err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) error { return s.SaveTable(ctx, t.saved) })
			if err != nil {
				return nil, fmt.Errorf("register table %s.%s: %w", t.saved.Schema, t.saved.Name, err)
			}
			k.tables = append(k.tables, t.saved)
			t.isNew = true
		}
		t.estimate = f.Estimate
		tables = append(tables, t)
	}
	for _, saved := range k.tables {
		gone := !slices.ContainsFunc(tables, func(t *tableState) bool { return t.saved == saved })
		if gone && r.feed.uses(r.source.tags, saved.Schema, saved.Name) {
			r.config.Logger.Warn("a table that was synced is not on the source any more, or is not published; its rows stay as they were",
				"source", r.source.config.Name, "table", saved.Schema+"."+saved.Name)
		}
	}
	return tables, nil
}

// registerCopies registers, in one flush, the copies that the rule set being
// built needs, and those of tables that have appeared. The stream is applied to
// them from the durable position on. For the first of a slot the snapshot that
// was exported with it says what must be visible; others wait until all is
// finished that runs now.
func (r *runner) registerCopies(ctx context.Context, server server, tables []*tableState) error {
	k := r.known
	running, err := takeSnapshot(ctx, server)
	if err != nil {
		return err
	}
	var copies []*millrace.Copy
	building := r.feed.building()
	registered := building != nil && slices.ContainsFunc(k.copies, func(c millrace.Copy) bool { return c.RuleSet == building.set.ID })
	for _, t := range tables {
		set := building
		want := func(id millrace.DefinitionID) bool {
			return !registered && building != nil && r.feed.isNew(building, id)
		}
		if t.isNew && r.feed.served() != nil {
			// Its rows come into definitions that are served.
			if set == nil {
				set = r.feed.served()
			}
			want = func(millrace.DefinitionID) bool { return true }
		}
		p, err := newTablePlan(r.feed, r.source.tags, t, columnsOf(t.saved), builtinTypes{}, want)
		if err != nil {
			return err
		}
		t.isNew = false
		if p.target == nil {
			continue
		}
		c := &millrace.Copy{
			RuleSet: set.set.ID, Table: t.saved.ID, State: millrace.CopyWaiting, Estimate: t.estimate,
			Definitions: slices.Concat(p.target.scope.Buckets, p.target.scope.Lookups), StartedAt: time.Now(),
		}
		if k.saved.Durable != 0 {
			for _, x := range running.xip {
				c.WaitFor = append(c.WaitFor, uint64(x))
			}
			if len(c.WaitFor) == 0 {
				c.State = millrace.CopyRunning
			}
		}
		copies = append(copies, c)
	}
	flush := &millrace.Flush{Copies: copies}
	if k.saved.Durable == 0 {
		flush.Positions = []millrace.SourcePosition{{Source: k.saved.ID, LSN: k.saved.ConsistentPoint}}
	}
	if len(copies) == 0 && len(flush.Positions) == 0 {
		return nil
	}
	err = r.writer.call(ctx, func(ctx context.Context, s Sidecar) error {
		_, err := s.Commit(ctx, flush)
		return err
	})
	if err != nil {
		return fmt.Errorf("register copies: %w", err)
	}
	if k.saved.Durable == 0 {
		k.saved.Durable = k.saved.ConsistentPoint
	}
	for _, c := range copies {
		k.copies = append(k.copies, *c)
	}
	return nil
}

func columnsOf(t *millrace.SourceTable) []planColumn {
	columns := make([]planColumn, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	return columns
}

// newEvaluator makes the evaluator of a session.
func (r *runner) newEvaluator(tables []*tableState, types pgvalue.Types) *evaluator {
	e := &evaluator{
		source: r.source.config.Name,
		tags:   r.source.tags,
		log:    r.config.Logger,
		feed:   r.feed,
		types:  types,
		tables: map[uint32]*tableState{},
		plans:  map[uint32]*tablePlan{},
		absent: maps.Clone(r.known.absent),
	}
	for _, t := range tables {
		e.tables[t.saved.OID] = t
	}
	return e
}

// takeSnapshot is the source's present snapshot.
func takeSnapshot(ctx context.Context, p probe) (*snapshot, error) {
	text, err := p.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return parseSnapshot(text)
}
