package decoder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// A write checkpoint lets a device know that what it uploaded has come back
// down. The device asks after its upload was committed; then a logical message
// is written to each source. Whatever was committed before lies before the
// message, so a flush whose positions are beyond the messages contains it, and
// acknowledges the request (I3). The message also makes sure that such a flush
// comes soon, however idle the source is.

// emitTimeout bounds connecting to a source and writing a message there.
const emitTimeout = 10 * time.Second

// writeWatch writes the messages. It belongs to its goroutine.
type writeWatch struct {
	log     *slog.Logger
	events  chan<- event
	targets []*writeTarget
}

// writeTarget is a source that write checkpoints wait for.
type writeTarget struct {
	config  *SourceConfig
	id      millrace.SourceID
	source  *catalog.Source // nil while not connected
	failing bool
}

func newWriteWatch(c *Config, a *appender) *writeWatch {
	w := &writeWatch{log: c.Logger, events: a.events}
	for _, s := range a.sources {
		if len(c.WriteCheckpointSources) == 0 || slices.Contains(c.WriteCheckpointSources, s.config.Name) {
			w.targets = append(w.targets, &writeTarget{config: s.config, id: s.origin.id})
		}
	}
	return w
}

func (w *writeWatch) run(ctx context.Context, requests WriteRequests) error {
	defer func() {
		for _, t := range w.targets {
			t.close()
		}
	}()
	return requests.WatchWriteRequests(ctx, w.take)
}

// take writes the messages for requests that were stored before, and tells the
// appender what to wait for.
func (w *writeWatch) take(ctx context.Context, requests []millrace.WriteRequest) ([]millrace.SourcePosition, error) {
	heads := make([]millrace.SourcePosition, len(w.targets))
	g, emitting := errgroup.WithContext(ctx)
	for i, t := range w.targets {
		g.Go(func() error {
			lsn, err := t.emit(emitting)
			heads[i] = millrace.SourcePosition{Source: t.id, LSN: lsn}
			if err != nil && !t.failing && ctx.Err() == nil {
				w.log.Warn("write checkpoints wait for a source", "source", t.config.Name, "error", err)
			}
			t.failing = err != nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	select {
	case w.events <- writesEvent{requests, heads}:
		return heads, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *writeTarget) emit(ctx context.Context) (millrace.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, emitTimeout)
	defer cancel()
	if t.source == nil {
		source, err := catalog.Connect(ctx, catalog.Config{URI: t.config.URI, MaxConnections: 1})
		if err != nil {
			return 0, err
		}
		t.source = source
	}
	// Transactional: it reaches the reader at once.
	lsn, err := t.source.Emit(ctx, true, messagePrefix, "")
	if err != nil {
		t.close()
		return 0, fmt.Errorf("source %q: %w", t.config.Name, err)
	}
	return lsn, nil
}

func (t *writeTarget) close() {
	if t.source != nil {
		t.source.Close()
		t.source = nil
	}
}

// writesEvent tells the appender of requests and what they wait for.
type writesEvent struct {
	requests []millrace.WriteRequest
	heads    []millrace.SourcePosition
}

func (e writesEvent) handle(_ context.Context, a *appender) error {
	a.writes = append(a.writes, e)
	if len(a.writes) > maxPendingWrites {
		a.writes = a.writes.merge(maxPendingWrites / 2)
	}
	return nil
}

// maxPendingWrites bounds how many groups of requests wait one by one. Beyond
// it the oldest wait together: memory is then bounded by the number of devices.
const maxPendingWrites = 1000

// pendingWrites are requests that no flush contains yet.
type pendingWrites []writesEvent

// dominated tells whether the positions have reached all heads.
func (e *writesEvent) dominated(position func(millrace.SourceID) millrace.LSN) bool {
	for _, h := range e.heads {
		if position(h.Source) < h.LSN {
			return false
		}
	}
	return true
}

// merge makes one group of the first n, which waits for the last of them.
func (p pendingWrites) merge(n int) pendingWrites {
	ids := map[string]int64{}
	heads := map[millrace.SourceID]millrace.LSN{}
	for _, e := range p[:n] {
		for _, r := range e.requests {
			ids[r.User] = max(ids[r.User], r.ID)
		}
		for _, h := range e.heads {
			heads[h.Source] = max(heads[h.Source], h.LSN)
		}
	}
	var one writesEvent
	for user, id := range ids {
		one.requests = append(one.requests, millrace.WriteRequest{User: user, ID: id})
	}
	for source, lsn := range heads {
		one.heads = append(one.heads, millrace.SourcePosition{Source: source, LSN: lsn})
	}
	return append(pendingWrites{one}, p[n:]...)
}

// reached tells whether a flush at the positions would contain any request.
func (p pendingWrites) reached(position func(millrace.SourceID) millrace.LSN) bool {
	for i := range p {
		if p[i].dominated(position) {
			return true
		}
	}
	return false
}

// take removes the requests that a flush at the positions contains.
func (p *pendingWrites) take(position func(millrace.SourceID) millrace.LSN) (list []millrace.WriteRequest) {
	*p = slices.DeleteFunc(*p, func(e writesEvent) bool {
		if !e.dominated(position) {
			return false
		}
		list = append(list, e.requests...)
		return true
	})
	return list
}
