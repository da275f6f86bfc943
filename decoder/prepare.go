package decoder

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/decoder/walstream"
)

// connect is one session from its first connection to its end.
func (r *runner) connect(ctx context.Context) error {
	config := r.source.config
	r.status.waits("connecting to the source")
	server, err := catalog.Connect(ctx, catalog.Config{
		URI: config.URI, Slot: config.Slot, Publication: config.Publication, Failover: config.Failover, OurSlots: r.config.slots(),
	})
	if err != nil {
		return err
	}
	defer server.Close()
	opened, err := r.prepare(ctx, server)
	if err != nil {
		return err
	}
	stream, err := walstream.Open(ctx, walstream.Config{
		URI:          config.URI,
		Slot:         config.Slot,
		Publications: []string{config.Publication},
		MaxMemory:    r.config.BatchMaxBytes,
		SpoolDir:     r.config.SpoolDir,
		SpoolMax:     r.config.SpoolMax,
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	r.status.waits("")
	s := newSession(r.source, r.events, r.config.SnapshotWorkers, r.config.SnapshotRate)
	s.stream, s.status = stream, r.status
	s.prober = newProber(probes{server, config.Slot, config.Publication, r.known.saved.PublicationOID}, r.config.Heartbeat)
	s.watch = func(ctx context.Context) error { return r.watchCatalog(ctx, server) }
	err = s.run(ctx, *opened, func(ctx context.Context, s *session) error {
		var reader chunkReader = server.Reader()
		if r.config.wrap != nil {
			reader = r.config.wrap(reader)
		}
		return r.readChunks(ctx, s, reader)
	})
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
func (r *runner) prepare(ctx context.Context, server *catalog.Source) (*openedEvent, error) {
	k := r.known
	r.status.waits("checking the source")
	found, err := r.preflight(ctx, server)
	if err != nil {
		return nil, err
	}
	head, err := server.Head(ctx) // after the catalog was read
	if err != nil {
		return nil, err
	}
	if err := r.prepareSlot(ctx, server); err != nil {
		return nil, err
	}
	r.status.waits("registering tables")
	p, err := r.prepareTables(ctx, found, head)
	if err != nil {
		return nil, err
	}
	if err := r.registerCopies(ctx, server, p, head); err != nil {
		return nil, err
	}
	first, err := server.CurrentSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	opened := &openedEvent{saved: k.saved, first: &first, dropped: p.dropped, lookAt: p.lookAt}
	opened.eval = r.newEvaluator(p.tables, r.types)
	opened.copies, opened.over = r.unfinished(p.tables)
	return opened, nil
}

func (r *runner) stop(code, object, text, cure string) error {
	return &SourceError{Code: code, Source: r.source.config.Name, Object: object, Text: text, Cure: cure}
}

// prepareSlot makes sure that the slot is there and is ours. It is recorded
// before it is made. One that is recorded without a consistent point, and so
// without data, is made again (RA-08).
func (r *runner) prepareSlot(ctx context.Context, server *catalog.Source) error {
	k, config := r.known, r.source.config
	now, err := server.Identify(ctx)
	if err != nil {
		return err
	}
	slot, err := server.InspectSlot(ctx, config.Slot)
	if err != nil {
		return err
	}
	if k.saved.ConsistentPoint != 0 {
		return r.checkHistory(ctx, server, now, slot)
	}
	if slot != nil && k.saved.Slot != config.Slot {
		return r.stop(codeSlot, "slot "+config.Slot, "a slot of this name exists that was not made for this sidecar",
			fmt.Sprintf("choose another name (sources.slot), or if nothing needs it: SELECT pg_drop_replication_slot('%s')", config.Slot))
	}
	k.saved.SystemID, k.saved.Timeline, k.saved.Database = now.SystemID, now.Timeline, now.Database
	k.saved.Slot, k.saved.Publication, k.saved.PublicationOID = config.Slot, config.Publication, now.PublicationOID
	if err := r.saveSource(ctx); err != nil {
		return err
	}
	if slot != nil {
		if err := server.TakeSlot(ctx, config.Slot); err != nil {
			return err
		}
		if err := server.DropSlot(ctx, config.Slot); err != nil {
			return err
		}
	}
	r.status.waits("creating the slot")
	create, cancel := context.WithTimeout(ctx, r.config.SlotTimeout)
	defer cancel()
	made, err := server.CreateSlot(create, config.Slot, r.status.waits)
	if err != nil {
		var late *catalog.SlotTimeoutError
		if errors.As(err, &late) && ctx.Err() == nil {
			return r.stop(codeSlot, "slot "+config.Slot, late.Error(), "end them (pg_stat_activity, pg_prepared_xacts)")
		}
		return r.finding(err)
	}
	k.saved.ConsistentPoint, k.saved.Exported = made.ConsistentPoint, made.Exported.String()
	return r.saveSource(ctx)
}

// checkHistory makes sure that the slot goes on where the sidecar stands, and
// that nobody reads it.
func (r *runner) checkHistory(ctx context.Context, server *catalog.Source, now catalog.Identity, slot *catalog.Slot) error {
	k := r.known
	if k.saved.Slot != r.source.config.Slot {
		return r.stop(codeSlot, "slot "+r.source.config.Slot, "the sidecar was filled through slot "+k.saved.Slot, "set sources.slot to that name; "+startOver)
	}
	stored := k.saved
	stored.Durable = max(stored.Durable, millrace.LSN(r.source.reached.Load()))
	switched, err := server.TimelineSwitch(ctx, stored.Timeline, now.Timeline)
	if err != nil {
		return err
	}
	var lost *catalog.HistoryError
	switch err := catalog.CheckHistory(&stored, now, slot, switched); {
	case errors.As(err, &lost):
		return r.restartHistory(ctx, server, lost)
	case err != nil:
		return err
	}
	if k.saved.Timeline != now.Timeline || k.saved.PublicationOID != now.PublicationOID {
		k.saved.Timeline, k.saved.PublicationOID = now.Timeline, now.PublicationOID
		if err := r.saveSource(ctx); err != nil {
			return err
		}
	}
	if err := server.TakeSlot(ctx, k.saved.Slot); err != nil {
		return err
	}
	if on := r.source.config.Failover; now.Version >= catalog.FailoverVersion && slot.Failover != on {
		return server.SetFailover(ctx, k.saved.Slot, on)
	}
	return nil
}

func (r *runner) saveSource(ctx context.Context) error {
	err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) error {
		return s.SaveSource(ctx, &r.known.saved)
	})
	if err != nil {
		return fmt.Errorf("store source %q: %w", r.source.config.Name, err)
	}
	return nil
}

// newEvaluator makes the evaluator of a session.
func (r *runner) newEvaluator(tables []*tableState, types pgvalue.Types) *evaluator {
	e := &evaluator{
		source: r.source.config.Name,
		origin: &r.source.origin,
		log:    r.config.Logger,
		feed:   r.feed,
		types:  types,
		tables: map[uint32]*tableState{},
		plans:  map[uint32]*tablePlan{},
		unlike: map[uint32]*changedError{},
		absent: maps.Clone(r.known.absent),
	}
	for _, t := range tables {
		e.tables[t.saved.OID] = t
		e.partitions = e.partitions || t.found.Root.Name != ""
	}
	return e
}
