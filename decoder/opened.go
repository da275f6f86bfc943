package decoder

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// openedEvent tells that a session is about to stream, and what it found.
type openedEvent struct {
	session *session
	saved   millrace.Source
	eval    *evaluator
	// Copies to begin or to go on with.
	copies []openedCopy
	// Copies of tables that are not there any more.
	gone  []millrace.Copy
	first *snapshot // taken before the stream began, after the copies were registered
}

type openedCopy struct {
	table   *tableState
	saved   millrace.Copy
	rereads []string
	fresh   bool // registered just now: nothing of the table was streamed since
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
		exported, err := catalog.ParseSnapshot(e.saved.Exported)
		if err != nil {
			return err
		}
		entry = afterExport(&exported)
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
			c.seen = old[i].seen
		} else if o.fresh {
			c.seen.begin()
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
	for _, c := range e.gone {
		s.abandon(a, c)
	}
	return nil
}

// abandon ends the copy of a table that is gone: it has no rows.
func (s *source) abandon(a *appender, saved millrace.Copy) {
	if s.finished[saved.ID] {
		return
	}
	s.finished[saved.ID] = true
	a.log.Warn("a table is gone that was being copied; it counts as empty", "source", s.config.Name, "copy", saved.ID)
	scope := &millrace.Scope{Table: saved.Table}
	for _, id := range saved.Definitions {
		for _, set := range a.feed.sets {
			if slices.Contains(set.ids, id) {
				scope.Buckets, scope.Lookups = set.addTo(id, scope.Buckets, scope.Lookups)
				break
			}
		}
	}
	a.batch.truncate(scope)
	saved.State, saved.DoneAt, saved.WaitFor = millrace.CopyDone, time.Now(), nil
	c := &copyRun{source: s, saved: saved, machine: newTableCopy(entryCondition{})}
	c.machine.resume(saved.Filenode, saved.EndPage, saved.Cursor)
	a.noteDirty(c)
}
