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
	// Copies that are not gone on with.
	over    []overCopy
	dropped []droppedTable
	lookAt  millrace.LSN // where the stream is looked at again; 0 for nowhere
	first   *snapshot    // taken before the stream began, after the copies were registered
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
	e.session.lookAt = e.lookAt
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
	for _, c := range e.over {
		s.abandon(a, c)
	}
	for _, d := range e.dropped {
		if d.remove {
			a.batch.truncate(a.feed.scope(d.saved.ID, nil))
		}
		a.tables = append(a.tables, d.saved)
		a.schemaChanges = append(a.schemaChanges, d.change)
		a.began()
	}
	return nil
}

// abandon ends a copy that is not gone on with.
func (s *source) abandon(a *appender, over overCopy) {
	saved := over.saved
	if s.finished[saved.ID] {
		return
	}
	s.finished[saved.ID] = true
	if over.empty {
		a.log.Warn("a table is gone that was being copied; it counts as empty", "source", s.config.Name, "copy", saved.ID)
		a.batch.truncate(a.feed.scope(saved.Table, saved.Definitions))
	}
	saved.State, saved.DoneAt, saved.WaitFor = millrace.CopyDone, time.Now(), nil
	c := &copyRun{source: s, saved: saved, machine: newTableCopy(entryCondition{})}
	c.machine.resume(saved.Filenode, saved.EndPage, saved.Cursor)
	// An earlier session may be about to store it as it was.
	a.copies = slices.DeleteFunc(a.copies, func(o *copyRun) bool { return o.saved.ID == saved.ID })
	a.noteDirty(c)
}

// unveil replaces what definitions have of a table by its shadow, which is
// exact. From here on the table's stream goes into them.
func (s *source) unveil(a *appender, c *copyRun) {
	scope := a.feed.scope(c.table.saved.ID, c.saved.Definitions)
	scope.Shadow = c.saved.ID
	a.batch.replace(scope)
	if c.table.shadow == c {
		c.table.shadow = nil
	}
	for _, p := range s.eval.plans {
		if p != nil && p.table == c.table {
			p.bind(s.eval.feed, s.eval.origin, func(millrace.DefinitionID) bool { return true })
		}
	}
	for _, other := range c.table.copies {
		other.plan, other.rereadPlan = nil, nil
	}
}
