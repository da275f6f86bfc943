package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// Sidecar is what a term of leadership works with.
type Sidecar interface {
	Sink
	Registry
}

// Run is one term of leadership: it deploys the rules if their content is new,
// keeps every source connected, copies what has to be copied, and appends what
// the sources commit, until ctx ends or the sidecar fails. It returns ctx's
// error or the sidecar's.
//
// People change the rules while it runs: what they ask for is stored in the
// sidecar. Then the sources are let go at the end of a transaction, once all
// that was read of them is durable, and connected again with the new feed. It
// takes a moment, in which relays serve what there is.
//
// An error of a source does not end the term. It is reported, and the source is
// tried again. If it came in the middle of a transaction of which a part is on
// its way to the sidecar, all sources begin again with what is durable.
//
// After an error of the sidecar the outcome of the last flush may be unknown.
// Run may be called again at once: it begins with what is durable.
func Run(ctx context.Context, c Config, sidecar Sidecar) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	if err := deployFile(ctx, &c, sidecar); err != nil {
		return err
	}
	if err := renewRules(ctx, &c, sidecar); err != nil {
		return err
	}
	t := &carried{rests: map[string]rest{}, missed: map[millrace.SourceID]bool{}}
	for {
		err := round(ctx, &c, sidecar, t)
		var torn *tornError
		var restart *restartError
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, errRulesChanged), errors.As(err, &restart):
			continue
		case !errors.As(err, &torn):
			return err
		}
		// The writer has rolled back what was open: everything begins again with
		// what is durable, and the others go on while this source rests.
		until := time.Now()
		if !looksAgain(torn.err) {
			until = until.Add(c.stopped)
		}
		t.rests[torn.source] = rest{until, torn.err}
	}
}

// errRulesChanged ends a round, with nothing open and nothing under way.
var errRulesChanged = errors.New("the rules change")

// tornError is an error of a source in the middle of a transaction of which a
// part is on its way to the sidecar: what is open there has to be dropped.
type tornError struct {
	source string
	err    error
}

func (e *tornError) Error() string { return fmt.Sprintf("source %s: %v", e.source, e.err) }
func (e *tornError) Unwrap() error { return e.err }

// carried is what outlives a round.
type carried struct {
	rests  map[string]rest            // by source
	missed map[millrace.SourceID]bool // sources that were told not to be configured
}

// rest is how long a source is left alone, and why.
type rest struct {
	until time.Time
	err   error
}

// round works on one feed until ctx ends, the sidecar fails, a transaction is
// torn or the rules change. A source is left alone until it has rested.
func round(ctx context.Context, c *Config, sidecar Sidecar, t *carried) error {
	f, state, err := openFeed(ctx, c, sidecar)
	if err != nil {
		return err
	}
	if removed, err := removeSources(ctx, c, sidecar, f, state); err != nil {
		return err
	} else if removed {
		return errRulesChanged
	}
	if err := registerSources(ctx, c, sidecar, state, t.missed); err != nil {
		return err
	}
	w := newWriter(sidecar, batchCount)
	w.trace = flushSpan{tracer: c.Tracer, sources: map[millrace.SourceID]string{}}
	a := newAppender(c, w, f)
	var runners []*runner
	for i := range c.Sources {
		s, k := openSource(c, i, state)
		s.status = newStatus(s.saved.ID)
		s.builds = f.newFrom(s.origin.tags)
		a.sources = append(a.sources, s)
		w.trace.sources[s.saved.ID] = s.config.Name
		r := &runner{config: c, source: s, writer: w, events: a.events, feed: f, status: s.status, known: k, rest: t.rests[s.config.Name]}
		if looksAgain(r.rest.err) {
			k.lookFor(r.rest.err)
		} else {
			s.status.fail(r.rest.err)
		}
		runners = append(runners, r)
	}
	if set := f.building(); set != nil {
		a.awaits(set) // no event comes while every source is down
	}
	defer a.drain()
	a.traceBuild()
	defer a.endTraces()
	writing, ctx := errgroup.WithContext(ctx)
	writing.Go(func() error { return w.run(ctx) })
	writing.Go(func() error {
		g, ctx := errgroup.WithContext(ctx)
		for _, r := range runners {
			g.Go(func() error { return r.run(ctx) })
			g.Go(func() error { return r.status.run(ctx, sidecar, c.Logger) })
		}
		g.Go(func() error { return a.run(ctx) })
		g.Go(func() error { return sidecar.WatchRules(ctx, func() { a.changeRules(ctx) }) })
		if counter, ok := sidecar.(SharedIDs); ok {
			shared := sharedDefinitions(f, a.sources)
			g.Go(func() error { return countSharedIDs(ctx, counter, shared, c.Logger) })
		}
		if requests, ok := sidecar.(WriteRequests); ok {
			watch := newWriteWatch(c, a)
			g.Go(func() error { return watch.run(ctx, requests) })
		}
		err := g.Wait()
		var torn *tornError
		var restart *restartError
		if errors.Is(err, errRulesChanged) || errors.As(err, &torn) || errors.As(err, &restart) {
			w.finish() // what it is at is not cut short: the term goes on
		}
		return err
	})
	return writing.Wait()
}

// registerSources stores the sources that are new, in the order of the
// configuration, and warns, once a term, of those that are not in it any more.
func registerSources(ctx context.Context, c *Config, sidecar Sidecar, state *millrace.DecoderState, missed map[millrace.SourceID]bool) error {
	stored := map[string]*millrace.Source{}
	for i := range state.Sources {
		stored[state.Sources[i].Name] = &state.Sources[i]
	}
	var plain [][]string // tags of sources whose rows may go without a subkey
	for i := range c.Sources {
		if s := stored[c.Sources[i].Name]; s != nil && s.PlainIDs {
			plain = append(plain, c.Sources[i].Tags)
		}
	}
	for i := range c.Sources {
		config := &c.Sources[i]
		if stored[config.Name] != nil {
			delete(stored, config.Name)
			continue
		}
		s := millrace.Source{Name: config.Name, PlainIDs: !slices.ContainsFunc(plain, func(tags []string) bool { return overlap(tags, config.Tags) })}
		if err := sidecar.SaveSource(ctx, &s); err != nil {
			return fmt.Errorf("register source %q: %w", s.Name, err)
		}
		if s.PlainIDs {
			plain = append(plain, config.Tags)
		}
		state.Sources = append(state.Sources, s)
	}
	for _, s := range state.Sources {
		if stored[s.Name] == nil || !s.LostAt.IsZero() || missed[s.ID] {
			continue
		}
		missed[s.ID] = true
		c.Logger.Warn("a source is not configured any more: the rows that came from it stay as they are, and its slot holds back WAL there",
			"source", s.Name, "slot", s.Slot,
			"cure", fmt.Sprintf("put it back into sources, or remove its rows with \"millrace source remove %s\" and drop its slot there", s.Name))
	}
	return nil
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(t string) bool { return slices.Contains(b, t) })
}

// known is what the sidecar remembers of a source; it belongs to the source's
// runner.
type known struct {
	saved   millrace.Source
	tables  []*millrace.SourceTable
	copies  []millrace.Copy
	rereads map[millrace.CopyID][]string
	fresh   map[millrace.CopyID]bool               // registered just now, no session has streamed since
	absent  map[lookedUp]bool                      // what the stream told of and was looked up since
	forced  map[uint32]bool                        // tables, by oid, of which the stream told something new
	noticed map[string]millrace.LSN                // differences to the catalog, and where the source stood then
	rules   map[millrace.TableID]catalog.TableName // under which name the rules read a table
	shown   map[string]bool                        // findings logged
	print   string                                 // of the catalog when the session began

	recopies  []millrace.Recopy // of the source's tables
	lookAgain time.Time         // when a table may be copied that was copied too often; zero for never

	lostAt   []time.Time // when earlier histories of the source were lost
	keepSize string      // max_slot_wal_keep_size when WAL was found to be removed before a copy was done
}

// lookFor notes what an error says that the next look at the catalog is about.
func (k *known) lookFor(err error) {
	var appeared *appearedError
	if errors.As(err, &appeared) {
		k.absent[appeared.lookedUp] = true
		if !appeared.isType {
			k.forced[appeared.oid] = true
		}
	}
	var changed *changedError
	if errors.As(err, &changed) {
		k.forced[changed.oid] = true
	}
}

// openSource makes the appender's side of a configured source.
func openSource(c *Config, i int, state *millrace.DecoderState) (*source, *known) {
	config := &c.Sources[i]
	k := &known{
		saved:   millrace.Source{Name: config.Name},
		rereads: map[millrace.CopyID][]string{},
		fresh:   map[millrace.CopyID]bool{},
		absent:  map[lookedUp]bool{},
		forced:  map[uint32]bool{},
		noticed: map[string]millrace.LSN{},
		rules:   map[millrace.TableID]catalog.TableName{},
		shown:   map[string]bool{},
	}
	for _, s := range state.Sources {
		switch {
		case !s.LostAt.IsZero() && s.Was == config.Name:
			k.lostAt = append(k.lostAt, s.LostAt)
		case s.Name == config.Name:
			k.saved = s
		}
	}
	ids := map[millrace.TableID]bool{}
	for _, t := range state.Tables {
		if t.Source == k.saved.ID {
			ids[t.ID] = true
			k.tables = append(k.tables, &t)
		}
	}
	for _, cp := range state.Copies {
		if ids[cp.Table] {
			k.copies = append(k.copies, cp)
		}
	}
	for _, r := range state.Recopies {
		if ids[r.Table] {
			k.recopies = append(k.recopies, r)
		}
	}
	for _, r := range state.Rereads {
		k.rereads[r.Copy] = append(k.rereads[r.Copy], r.Key)
	}
	s := &source{
		config: config,
		origin: origin{name: config.Name, tags: config.Tags},
		saved:  k.saved,
		tables: map[millrace.TableID]*tableState{},
		wide:   newWideCache(),
		unseen: unseen{without: c.without},

		fixedPages: c.fixedPages,
		finished:   map[millrace.CopyID]bool{},
	}
	s.origin.id, s.origin.subkeys = k.saved.ID, !k.saved.PlainIDs
	s.position, s.flushed, s.durable = k.saved.Durable, k.saved.Durable, k.saved.Durable
	return s, k
}

// drain gives back what events hold that nobody will handle.
func (a *appender) drain() {
	for {
		select {
		case e := <-a.events:
			if t, ok := e.(txEvent); ok {
				t.tx.Release()
			}
		default:
			return
		}
	}
}
