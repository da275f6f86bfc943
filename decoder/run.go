package decoder

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace"
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
// An error of a source does not end the term, with the exception of one in the
// middle of a transaction of which a part is on its way to the sidecar. It is
// reported, and the source is tried again.
//
// After an error of the sidecar the outcome of the last flush may be unknown.
// Run may be called again at once: it begins with what is durable.
func Run(ctx context.Context, c Config, sidecar Sidecar) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	state, err := sidecar.State(ctx)
	if err != nil {
		return fmt.Errorf("read the state of the sidecar: %w", err)
	}
	f, err := deploy(ctx, &c, sidecar, state)
	if err != nil {
		return err
	}
	w := newWriter(sidecar, batchCount)
	a := newAppender(&c, w, f)
	g, ctx := errgroup.WithContext(ctx)
	for i := range c.Sources {
		s, k := openSource(&c, i, state)
		if s.saved.ID == 0 {
			if err := sidecar.SaveSource(ctx, &s.saved); err != nil {
				return fmt.Errorf("register source %q: %w", s.config.Name, err)
			}
		}
		s.status = newStatus(s.saved.ID)
		a.sources = append(a.sources, s)
		r := &runner{config: &c, source: s, writer: w, events: a.events, feed: f, status: s.status, known: k}
		g.Go(func() error { return r.run(ctx) })
		g.Go(func() error { return s.status.run(ctx, sidecar, c.Logger) })
	}
	g.Go(func() error { return w.run(ctx) })
	g.Go(func() error { return a.run(ctx) })
	if requests, ok := sidecar.(WriteRequests); ok {
		watch := newWriteWatch(&c, a)
		g.Go(func() error { return watch.run(ctx, requests) })
	}
	err = g.Wait()
	a.drain()
	return err
}

// known is what the sidecar remembers of a source; it belongs to the source's
// runner.
type known struct {
	saved   millrace.Source
	tables  []*millrace.SourceTable
	copies  []millrace.Copy
	rereads map[millrace.CopyID][]string
	fresh   map[millrace.CopyID]bool // registered just now, no session has streamed since
	absent  map[lookedUp]bool        // what the stream told of and was looked up since
	shown   map[string]bool          // findings logged
}

// openSource makes the appender's side of a configured source.
func openSource(c *Config, i int, state *millrace.DecoderState) (*source, *known) {
	config := &c.Sources[i]
	k := &known{
		saved:   millrace.Source{Name: config.Name},
		rereads: map[millrace.CopyID][]string{},
		fresh:   map[millrace.CopyID]bool{},
		absent:  map[lookedUp]bool{},
		shown:   map[string]bool{},
	}
	for _, s := range state.Sources {
		if s.Name == config.Name {
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
	for _, r := range state.Rereads {
		k.rereads[r.Copy] = append(k.rereads[r.Copy], r.Key)
	}
	s := &source{
		config: config,
		tags:   []string{config.Name},
		saved:  k.saved,
		tables: map[millrace.TableID]*tableState{},
		wide:   newWideCache(),
		unseen: unseen{without: c.without},

		fixedPages: c.fixedPages,
		finished:   map[millrace.CopyID]bool{},
	}
	if i == 0 && config.Name != "default" {
		// Rules that name no connection mean the first source.
		s.tags = append(s.tags, "default")
	}
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
