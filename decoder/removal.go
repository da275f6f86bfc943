package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace"
)

// A source that is taken out of the configuration leaves its rows where they are:
// it may come back. If it never will, somebody asks for their removal. The request
// waits in the sidecar until a decoder carries it out, between two rounds, when
// nothing is fed.

// removeSources carries out the requests to remove a source, and tells whether
// there was one: then the state that was read does not hold any more. A crash in
// the middle does no harm, since the request stays until the source has ended.
func removeSources(ctx context.Context, c *Config, sidecar Sidecar, f *feed, state *millrace.DecoderState) (removed bool, err error) {
	for i := range state.Sources {
		s := &state.Sources[i]
		if !s.RemovalRequested || !s.LostAt.IsZero() {
			continue
		}
		if slices.ContainsFunc(c.Sources, func(o SourceConfig) bool { return o.Name == s.Name }) {
			c.Logger.Warn("a source is not removed: this decoder's configuration has it", "source", s.Name,
				"cure", "take it out of sources, restart every decoder, and ask again")
			if err := sidecar.KeepSource(ctx, s.ID); err != nil {
				return false, fmt.Errorf("refuse to remove source %q: %w", s.Name, err)
			}
			continue
		}
		if err := removeSource(ctx, sidecar, f, state, s); err != nil {
			return false, fmt.Errorf("remove source %q: %w", s.Name, err)
		}
		c.Logger.Info("a source is removed, with its rows", "source", s.Name, "slot", s.Slot)
		removed = true
	}
	return removed, nil
}

// removeSource takes the rows of a source, those of its lost histories included,
// out of everything that is fed, and ends it.
func removeSource(ctx context.Context, sidecar Sidecar, f *feed, state *millrace.DecoderState, s *millrace.Source) error {
	ids := map[millrace.SourceID]bool{s.ID: true}
	for _, o := range state.Sources {
		if !o.LostAt.IsZero() && o.Was == s.Name {
			ids[o.ID] = true
		}
	}
	var changes []millrace.Change
	for _, t := range state.Tables {
		if ids[t.Source] {
			changes = append(changes, millrace.Change{Scope: f.scope(t.ID, nil), Kind: millrace.ChangeTruncate})
		}
	}
	if len(changes) > 0 {
		if err := sidecar.Apply(ctx, changes); err != nil {
			return errors.Join(err, sidecar.Rollback(context.WithoutCancel(ctx)))
		}
	}
	_, err := sidecar.Commit(ctx, &millrace.Flush{SchemaChanges: []millrace.SchemaChange{{
		Source: s.ID, Object: "source " + s.Name, Change: "somebody asked for its removal (millrace source remove)", Action: "its rows are removed",
	}}})
	if err != nil {
		return err
	}
	return sidecar.RemoveSource(ctx, s.ID)
}
