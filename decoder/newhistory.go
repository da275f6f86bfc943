package decoder

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// A source's history is lost when its stream cannot be joined to what the
// sidecar has: the slot is gone, its WAL was removed, the server went back in
// time or is another one, the sidecar was restored. Then the source is
// registered once more, under its name, with a slot of its own, and the rules
// are deployed once more, with new definitions in the place of those that read
// it. These are copied like any others; what clients have stays as it is, and
// goes on to get the rows of the other sources, until the new ones are exact.

const (
	// maxRestarts of a source within restartWindow are no accident: somebody
	// else uses the slot, or the source removes WAL faster than it is read.
	maxRestarts   = 3
	restartWindow = time.Hour
)

// restartHistory begins a new history, unless that would not end well.
func (r *runner) restartHistory(ctx context.Context, server *catalog.Source, lost *catalog.HistoryError) error {
	k := r.known
	object := "slot " + k.saved.Slot
	code := codeHistory
	if lost.Removed {
		code = codeSlot
		if err := r.refuseRemoved(ctx, server, lost); err != nil {
			return err
		}
	}
	recent := 0
	for _, at := range k.lostAt {
		if time.Since(at) < restartWindow {
			recent++
		}
	}
	if recent >= maxRestarts {
		return r.stop(code, object, fmt.Sprintf("%s; its history was lost %d times within an hour", lost.Reason, recent),
			"make sure that no other reader uses the slot and that the source keeps enough WAL (max_slot_wal_keep_size); it is tried again after a while")
	}
	content := r.feed.sets[0]
	if b := r.feed.building(); b != nil {
		content = b
	}
	restart := millrace.HistoryRestart{Source: k.saved.ID, Reason: lost.Reason, Restored: lost.Ahead, Content: content.set.Content}
	for _, d := range content.rules.Definitions() {
		restart.Definitions = append(restart.Definitions, millrace.Definition{Kind: d.Kind, Key: d.Key, Name: d.Name, Hash: d.Hash})
	}
	for _, set := range r.feed.sets {
		for _, i := range set.rules.Reads(r.source.origin.tags) {
			if id := set.ids[i]; !slices.Contains(restart.Lost, id) {
				restart.Lost = append(restart.Lost, id)
			}
		}
	}
	restarted := &restartError{r.source.config.Name, lost}
	err := r.writer.call(ctx, func(ctx context.Context, s Sidecar) error {
		if err := s.RestartHistory(ctx, restart); err != nil {
			return fmt.Errorf("begin a new history of source %q: %w", r.source.config.Name, err)
		}
		r.config.Logger.Warn("the history of a source is lost; its tables are copied again, and clients keep what they have until that is done",
			"code", code, "source", r.source.config.Name, "reason", lost.Reason, "definitions", len(restart.Lost))
		// An error ends the writer: whatever others are about to store, such as
		// copies, or that another source's history is lost too, was decided by
		// rule sets and definitions that are not what they were.
		return restarted
	})
	return err
}

// refuseRemoved refuses to copy everything again while the source removes WAL
// before a copy is done: it would fail the same way, again and again. Once more
// WAL is kept, or the decoder was started again, it is tried.
func (r *runner) refuseRemoved(ctx context.Context, server *catalog.Source, lost *catalog.HistoryError) error {
	k := r.known
	unfinished := slices.ContainsFunc(k.copies, func(c millrace.Copy) bool {
		return c.State != millrace.CopyDone && !r.source.finished[c.ID]
	})
	if !unfinished {
		return nil
	}
	keep, err := server.Setting(ctx, "max_slot_wal_keep_size")
	if err != nil {
		return err
	}
	if k.keepSize == "" {
		k.keepSize = keep
	}
	if k.keepSize != keep {
		return nil
	}
	return r.stop(codeSlot, "slot "+k.saved.Slot, fmt.Sprintf("%s before its tables were copied, with max_slot_wal_keep_size = %s", lost.Reason, keep),
		"raise it on the source: ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf(); copying then begins again by itself")
}
