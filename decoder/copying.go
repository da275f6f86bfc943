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

// copyRun is a copy of a table under way: the state machine, and what is
// around it. It belongs to the appender's goroutine.
type copyRun struct {
	source  *source
	table   *tableState
	saved   millrace.Copy // as it is to be stored
	machine *tableCopy
	seen    seenRows

	pages uint32 // of the next chunk
	// toasted: values may be out of line in rows whose size does not show it,
	// written before the stream told of them.
	toasted  bool
	results  map[*chunk]*chunkResult
	retry    time.Time // no chunk is asked for before
	failures int       // of chunks, in a row

	plan, rereadPlan *tablePlan // of the chunks' columns

	span millrace.Span // while it goes on in one session
}

// chunkResult is what reading a chunk brought.
type chunkResult struct {
	catalog.Chunk // snapshot, head, filenode, size

	chunk   *chunk
	columns []planColumn
	rows    chunkRows
	err     error

	began, done time.Time // reading
}

const (
	chunkTarget = 4 << 20 // bytes of a chunk
	firstPages  = 16      // long values may make much of them
	minPages    = 1
	maxPages    = 16_384
	rereadKeys  = 1_000
	chunkAgain  = time.Second
	maxFailures = 3
	chunksAhead = 2 // chunks asked for and not merged, for each worker
)

// chunkEvent is a chunk that was read, or could not be.
type chunkEvent struct {
	session *session
	copy    *copyRun
	result  *chunkResult
}

func (e chunkEvent) handle(_ context.Context, a *appender) error {
	c, r := e.copy, e.result
	s := c.source
	if s.session != e.session {
		r.rows.close()
		return nil
	}
	e.session.idle++
	if r.err != nil {
		c.machine.failed(r.chunk)
		c.retry = time.Now().Add(chunkAgain)
		if errors.Is(r.err, errChunkTooLarge) && !s.fixedPages {
			c.pages = max(1, c.pages/16)
		}
		e.session.copyFailed(c, r.err)
		c.traceChunk(r, time.Time{}, 0, r.err)
		if c.failures++; c.failures >= maxFailures || errors.Is(r.err, catalog.ErrTableChanged) {
			// The catalog may have changed: the next session looks again.
			e.session.fail(fmt.Errorf("copy of table %s: %w", c.name(), r.err))
		}
		return nil
	}
	c.failures = 0
	c.machine.answer(r.chunk, &r.Snapshot, r.Filenode, r.Pages)
	c.results[r.chunk] = r
	c.adapt(r)
	s.observe(a, &r.Snapshot)
	return nil
}

// adapt brings the size of chunks nearer to the target.
func (c *copyRun) adapt(r *chunkResult) {
	if c.source.fixedPages || r.chunk.keys != nil || r.chunk.to <= r.chunk.from {
		return
	}
	perPage := max(1, r.Bytes/int64(r.chunk.to-r.chunk.from))
	pages := uint32(min(maxPages, max(minPages, chunkTarget/perPage)))
	c.pages = min(pages, 4*c.pages)
}

// advanceCopies merges the chunks that the stream has reached and asks for
// more. It is called at a transaction boundary.
func (s *source) advanceCopies(ctx context.Context, a *appender) error {
	if s.session == nil {
		return nil
	}
	for _, c := range s.copies {
		if err := c.mergeReady(ctx, a); err != nil {
			return fmt.Errorf("copy of %s.%s: %w", c.table.saved.Schema, c.table.saved.Name, err)
		}
	}
	s.finishCopies(a)
	now := time.Now()
	s.describe(now)
	behind := false
	for _, c := range s.copies {
		for !c.table.outdated && s.session.idle > 0 && len(c.machine.outstanding) < chunksAhead*s.session.workers && now.After(c.retry) {
			ch := c.machine.ask(c.pages, rereadKeys)
			if ch == nil {
				break
			}
			s.session.idle--
			c.trace(a)
			s.session.read(c, ch)
		}
		for _, r := range c.results {
			behind = behind || r.Head > s.unseen.at
		}
	}
	behind = behind || s.session.lookAt > s.unseen.at
	s.session.need(s.pollNeed(), behind)
	return nil
}

// pollNeed is how often the source's snapshot is asked for.
func (s *source) pollNeed() pollRate {
	for _, c := range s.copies {
		if c.machine.newest == nil {
			return pollFast
		}
		if _, waiting := c.machine.waitingFor(); waiting || !c.machine.entered {
			return pollFast
		}
	}
	if len(s.unseen.list) > 0 {
		return pollSlow
	}
	return pollNever
}

// mergeReady merges, in the order they were asked for, the chunks that the
// stream has reached.
func (c *copyRun) mergeReady(ctx context.Context, a *appender) error {
	for len(c.machine.outstanding) > 0 {
		ch := c.machine.outstanding[0]
		r := c.results[ch]
		if r == nil || r.Head > c.source.unseen.at {
			return nil
		}
		delete(c.results, ch)
		switch c.machine.judge(ch, r.Filenode, r.Pages) {
		case mergeChunk:
			err := c.merge(ctx, a, r)
			r.rows.close()
			if err == nil {
				err = a.flushFull(ctx)
			}
			if err != nil {
				return err
			}
		case restartCopy:
			c.seen.forget()
			a.log.Info("a table was rewritten while it is copied; it is read again from its first page",
				"source", c.source.config.Name, "table", c.name())
			a.noteDirty(c)
			r.rows.close()
		case repeatChunk, discardChunk:
			r.rows.close()
		}
	}
	return nil
}

// fills tells whether the copy brings the rows of a definition.
func (c *copyRun) fills(id millrace.DefinitionID) bool {
	return slices.Contains(c.saved.Definitions, id)
}

func (c *copyRun) name() string { return c.table.saved.Schema + "." + c.table.saved.Name }

// merge evaluates the rows of a chunk that the stream has nothing newer of.
// They are in the same flush as the cursor.
func (c *copyRun) merge(ctx context.Context, a *appender, r *chunkResult) error {
	plan, err := c.chunkPlan(r)
	if err != nil {
		return err
	}
	merged, began := int64(0), time.Now()
	// What the copy was for may have been replaced since, or be of a history that
	// is lost: its rows have nowhere to go then, and it ends like any other.
	rows := r.rows.each
	if len(plan.targets) == 0 {
		rows = func(func([]cell) error) error { return nil }
	}
	err = rows(func(cells []cell) error {
		key, err := plan.rowKey(&a.batch.text, cells)
		if err != nil {
			return err
		}
		if c.machine.drops(r.chunk, key) {
			return nil
		}
		merged++
		change := plan.upsert(a.batch, key, cells)
		change.New = r.chunk.keys == nil && !c.saved.Shadow && c.firstSight(key)
		if plan.wide && (c.toasted || !plan.narrow(cells)) {
			if record := plan.wideRecord(cells); record != nil {
				c.source.eval.storeWide(plan, a.batch, change, key, record)
			}
		}
		c.machine.complete(key)
		return a.piece(ctx)
	})
	if err != nil {
		return err
	}
	c.machine.merged(r.chunk)
	c.source.merged.Add(1)
	c.traceChunk(r, began, merged, nil)
	c.saved.Rows += merged
	if r.chunk.keys == nil && merged > 0 && c.saved.Estimate < c.saved.Rows {
		c.saved.Estimate = c.saved.Rows
	}
	a.noteDirty(c)
	return nil
}

// firstSight tells whether a row of a chunk of pages is certain to have nothing
// yet in the definitions being filled: they were empty when this copy was
// registered, and neither the stream nor a chunk has brought the row since. A
// row can be in two chunks of pages only if the stream has told of a change of
// it between them.
func (c *copyRun) firstSight(key string) bool {
	return c.table.unique() && c.seen.unknown(key)
}

// chunkPlan binds the chunk's columns: for the definitions being built, and if
// rows are read again, for all that the table feeds, since they are exact.
func (c *copyRun) chunkPlan(r *chunkResult) (*tablePlan, error) {
	cached := &c.plan
	want := c.fills
	if r.chunk.keys != nil {
		cached = &c.rereadPlan
		want = func(millrace.DefinitionID) bool { return true }
	}
	if p := *cached; p != nil && sameColumns(p.columns, r.columns) {
		return p, nil
	}
	s := c.source
	p, err := newTablePlan(s.eval.feed, &s.origin, c.table, r.columns, s.eval.types, want)
	if err != nil {
		return nil, err
	}
	*cached = p
	return p, nil
}

func sameColumns(a, b []planColumn) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !sameColumn(a[i], b[i]) {
			return false
		}
	}
	return true
}

// noteEntered records that the entry condition holds.
func (c *copyRun) noteEntered(a *appender) {
	if !c.machine.entered || c.saved.State != millrace.CopyWaiting {
		return
	}
	c.saved.State = millrace.CopyRunning
	c.saved.WaitFor = nil
	c.saved.StartedAt = time.Now()
	a.noteDirty(c)
}

// finishCopies takes the exact ones out.
func (s *source) finishCopies(a *appender) {
	rest := s.copies[:0]
	for _, c := range s.copies {
		if !c.machine.done() || c.saved.State == millrace.CopyWaiting {
			rest = append(rest, c)
			continue
		}
		c.saved.State = millrace.CopyDone
		c.saved.DoneAt = time.Now()
		c.table.copies = without(c.table.copies, c)
		s.finished[c.saved.ID] = true
		if c.saved.Shadow {
			s.unveil(a, c)
		}
		a.noteDirty(c)
		c.endTrace(nil)
		a.log.Info("table copied", "source", s.config.Name, "table", c.name(), "rows", c.saved.Rows, "took", c.saved.DoneAt.Sub(c.saved.StartedAt))
	}
	clear(s.copies[len(rest):])
	s.copies = rest
}

func without(list []*copyRun, c *copyRun) []*copyRun {
	var rest []*copyRun
	for _, other := range list {
		if other != c {
			rest = append(rest, other)
		}
	}
	return rest
}

// store puts the copy's present state into a flush.
func (c *copyRun) store(f *millrace.Flush) {
	m := c.machine
	c.saved.Cursor, c.saved.EndPage, c.saved.Filenode = m.cursor, m.endPage, 0
	if m.planned {
		c.saved.Filenode = m.filenode
	}
	saved := c.saved
	f.Copies = append(f.Copies, &saved)
}

// storeRereads puts the changes of the re-read list into a flush.
func (c *copyRun) storeRereads(f *millrace.Flush) {
	for key, added := range c.machine.takeChanges() {
		r := millrace.Reread{Copy: c.saved.ID, Key: key}
		if added {
			f.RereadAdd = append(f.RereadAdd, r)
		} else {
			f.RereadDone = append(f.RereadDone, r)
		}
	}
}

// interrupted forgets what lives as long as a session.
func (c *copyRun) interrupted() {
	c.endTrace(errInterrupted)
	c.machine.interrupted(c.machine.entry)
	for _, r := range c.results {
		r.rows.close()
	}
	clear(c.results)
}

// resumeCopy makes the run of a stored copy.
func resumeCopy(s *source, t *tableState, saved millrace.Copy, rereads []string, config *Config) *copyRun {
	c := &copyRun{
		source: s, table: t, saved: saved,
		machine: newTableCopy(entryCondition{}),
		pages:   config.pages,
		toasted: t.toasted || !t.bounded,
		results: map[*chunk]*chunkResult{},
	}
	c.machine.without, c.machine.maxKeys = config.without, config.maxKeys
	switch {
	case saved.State == millrace.CopyWaiting:
	case saved.Filenode == 0:
		c.machine.entered = true
	default:
		c.machine.resume(saved.Filenode, saved.EndPage, saved.Cursor)
	}
	for _, key := range rereads {
		c.machine.reread[key] = false
	}
	t.copies = append(t.copies, c)
	if saved.Shadow {
		t.shadow = c
	}
	s.copies = append(s.copies, c)
	return c
}
