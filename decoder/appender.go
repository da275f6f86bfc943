package decoder

import (
	"context"
	"log/slog"
	"time"

	"github.com/millrace/millrace"
)

// appender takes the events of all sources in the order they come, evaluates
// them into batches and hands these to the writer: while one batch is written
// the next is evaluated. It is the one place where the order of history is
// decided. Everything but its channels belongs to its goroutine.
type appender struct {
	config  *Config
	log     *slog.Logger
	writer  *writer
	feed    *feed
	sources []*source

	events chan event
	free   []*batch
	given  int // batches handed to the writer and not done
	batch  *batch
	policy flushPolicy

	// The open flush, beside what is in the batch:
	pieces    bool // earlier batches of it were handed over
	handed    int  // batches handed over so far, of all flushes
	published time.Time
	copies    []*copyRun // whose state is to be stored
	tables    []*millrace.SourceTable
	writes    pendingWrites

	schemaChanges []millrace.SchemaChange

	build millrace.Span // of the rule set that is being built

	// changing: the rules change, the work ends once all of it is durable.
	changing bool
	queue    []event
	timer    *time.Timer
}

// event is something a source's goroutines tell the appender.
type event interface {
	// handle is called at a transaction boundary of every source.
	handle(ctx context.Context, a *appender) error
}

// Batches: one being evaluated, one being written, one ready between them.
const batchCount = 3

const (
	maxQueue     = 512
	eventsRoom   = 1024
	flushChanges = 10_000
)

func newAppender(c *Config, w *writer, f *feed) *appender {
	a := &appender{
		config: c,
		log:    c.Logger,
		writer: w,
		feed:   f,
		events: make(chan event, eventsRoom),
		timer:  time.NewTimer(time.Hour),
		policy: flushPolicy{every: c.positions},
	}
	for range batchCount {
		a.free = append(a.free, &batch{})
	}
	a.batch = a.takeFree()
	return a
}

func (a *appender) takeFree() *batch {
	b := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	return b
}

// run works until the context ends or something fails that ends the term.
func (a *appender) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case w := <-a.writer.done:
			a.written(w)
		case e := <-a.events:
			if err := a.take(ctx, e); err != nil {
				return err
			}
		case <-a.timer.C:
		}
		if err := a.settle(ctx); err != nil {
			return err
		}
	}
}

// take handles an event and those that wait behind it, so that kept values can
// be asked for together.
func (a *appender) take(ctx context.Context, e event) error {
	a.queue = append(a.queue[:0], e)
more:
	for len(a.queue) < maxQueue {
		select {
		case e := <-a.events:
			a.queue = append(a.queue, e)
		default:
			break more
		}
	}
	if err := a.prefetch(ctx, a.queue); err != nil {
		return err
	}
	for i, e := range a.queue {
		a.queue[i] = nil
		if err := e.handle(ctx, a); err != nil {
			return err
		}
		if err := a.flushFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

// flushFull flushes when the batch is full, or when batches were handed over
// since the last flush: their sidecar transaction is open, and may not stay so
// for as long as there is something to write. To be called at a transaction
// boundary.
func (a *appender) flushFull(ctx context.Context) error {
	if a.pieces || a.batch.full(a.config.BatchMaxBytes) {
		return a.flush(ctx, 0)
	}
	return nil
}

// changeEvent tells that the rules change.
type changeEvent struct{}

func (changeEvent) handle(_ context.Context, a *appender) error {
	a.changing = true
	return nil
}

// changeRules ends the work with errRulesChanged, at the end of a transaction
// and when all that was evaluated is durable. It may be called again.
func (a *appender) changeRules(ctx context.Context) {
	select {
	case a.events <- changeEvent{}:
	case <-ctx.Done():
	}
}

// endFeed flushes what is open, and ends the work when it is durable.
func (a *appender) endFeed(ctx context.Context) error {
	if a.hasWork() || a.moved() {
		if err := a.flush(ctx, 0); err != nil {
			return err
		}
	}
	for a.given > 0 {
		select {
		case w := <-a.writer.done:
			a.written(w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errRulesChanged
}

// settle does what has become due: chunks to merge or to read, a rule set to
// activate, a flush.
func (a *appender) settle(ctx context.Context) error {
	if a.changing {
		return a.endFeed(ctx)
	}
	for _, s := range a.sources {
		if err := s.advanceCopies(ctx, a); err != nil {
			return err
		}
	}
	if err := a.activate(ctx); err != nil {
		return err
	}
	now := time.Now()
	wait := a.policy.wait(now, a.batch.began, a.hasWork(), a.given > 0)
	if wait <= 0 {
		return a.flush(ctx, 0)
	}
	if !a.hasWork() && a.given == 0 && a.writes.reached(a.servedOf) {
		return a.flush(ctx, 0)
	}
	if !a.hasWork() && a.given == 0 && a.moved() {
		if wait = a.policy.positions(now, a.wantsPositions()); wait <= 0 {
			return a.flush(ctx, 0)
		}
	}
	a.timer.Reset(wait)
	return nil
}

// hasWork tells whether there is anything but positions to flush.
func (a *appender) hasWork() bool {
	return len(a.batch.changes) > 0 || a.pieces || len(a.copies) > 0 || len(a.tables) > 0
}

// servedOf is how far clients are shown what a source commits: not at all while
// a new history of it is built, and what is served is of the lost one.
func (a *appender) servedOf(id millrace.SourceID) millrace.LSN {
	for _, s := range a.sources {
		if s.saved.ID == id && !a.feed.frozen(&s.origin) {
			return s.position
		}
	}
	return 0
}

// moved tells whether a source's position is beyond what is durable.
func (a *appender) moved() bool {
	for _, s := range a.sources {
		if s.position > s.flushed {
			return true
		}
	}
	return false
}

// wantsPositions tells whether a server asks for a confirmation that needs a
// checkpoint: it may be shutting down.
func (a *appender) wantsPositions() bool {
	for _, s := range a.sources {
		waits := s.session != nil && s.session.lookAt != 0 && s.position >= s.session.lookAt
		if (s.nagged >= nagging || waits) && s.position > s.flushed {
			return true
		}
	}
	return false
}

// full tells whether a batch should be handed over.
func (b *batch) full(maxBytes int64) bool {
	return len(b.changes) >= flushChanges || b.bytes >= maxBytes
}

// began notes when the oldest change of the flush came in.
func (a *appender) began() {
	if a.batch.began.IsZero() {
		a.batch.began = time.Now()
	}
}

// piece hands the batch over if it is full, in the middle of a transaction or a
// chunk.
func (a *appender) piece(ctx context.Context) error {
	if !a.batch.full(a.config.BatchMaxBytes) {
		return nil
	}
	a.pieces = true
	return a.handOver(ctx)
}

// flush closes the flush. To be called at a transaction boundary.
func (a *appender) flush(ctx context.Context, activate millrace.RuleSetID) error {
	f := &millrace.Flush{Activate: activate, Published: a.published}
	a.batch.applied = map[millrace.SourceID]millrace.LSN{}
	for _, s := range a.sources {
		if s.position > s.flushed {
			s.flushed = s.position
			f.Positions = append(f.Positions, millrace.SourcePosition{Source: s.saved.ID, LSN: s.position})
			a.batch.applied[s.saved.ID] = s.position
		}
		s.nagged = 0
	}
	if activate == 0 {
		f.Acknowledge = a.writes.take(a.servedOf)
	}
	for _, c := range a.copies {
		c.store(f)
		c.storeRereads(f)
	}
	a.copies = a.copies[:0]
	f.Tables, f.SchemaChanges = a.tables, a.schemaChanges
	a.tables, a.schemaChanges = nil, nil
	for _, s := range a.sources {
		for _, c := range s.copies {
			c.storeRereads(f)
		}
	}
	a.published = time.Time{}
	a.pieces = false
	a.batch.flush = f
	return a.handOver(ctx)
}

// handOver gives the batch to the writer and goes on with a free one, waiting
// for one if need be: this is the back-pressure.
func (a *appender) handOver(ctx context.Context) error {
	if err := a.post(ctx, job{batch: a.batch}); err != nil {
		return err
	}
	a.given++
	a.handed++
	for _, s := range a.sources {
		s.wide.handedOver()
	}
	for len(a.free) == 0 {
		select {
		case w := <-a.writer.done:
			a.written(w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a.batch = a.takeFree()
	return nil
}

// post gives the writer a job.
func (a *appender) post(ctx context.Context, j job) error {
	for {
		select {
		case a.writer.work <- j:
			return nil
		case w := <-a.writer.done:
			a.written(w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// written takes back a batch, and if it closed a flush, tells the sources what
// is durable.
func (a *appender) written(w written) {
	a.given--
	for _, s := range a.sources {
		if s.session != nil {
			s.session.stream.Progress() // whatever it waits for is moving
		}
	}
	if w.batch.flush != nil {
		a.policy.committed(time.Now(), w.took)
		for _, s := range a.sources {
			if lsn, ok := w.batch.applied[s.saved.ID]; ok {
				s.durable = lsn
				s.reached.Store(uint64(lsn))
				s.confirm()
			}
		}
	}
	w.batch.reset()
	a.free = append(a.free, w.batch)
}

// noteDirty puts a copy among those stored with the flush.
func (a *appender) noteDirty(c *copyRun) {
	for _, other := range a.copies {
		if other == c {
			return
		}
	}
	a.copies = append(a.copies, c)
	a.began()
}
