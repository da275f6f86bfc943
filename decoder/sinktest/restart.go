package sinktest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace"
)

// RestartHistory puts a source in the place of one whose history is lost, and
// stores the rule set to build.
func (s *Sidecar) RestartHistory(ctx context.Context, r millrace.HistoryRestart) error {
	return s.save(ctx, func() error {
		i := slices.IndexFunc(s.sources, func(o millrace.Source) bool { return o.ID == r.Source })
		if i < 0 || !s.sources[i].LostAt.IsZero() {
			return fmt.Errorf("source %d is unknown or lost already", r.Source)
		}
		old := &s.sources[i]
		next := millrace.Source{ID: millrace.SourceID(len(s.sources) + 1), Name: old.Name, Slot: old.Slot, PlainIDs: old.PlainIDs}
		old.Was, old.LostAt, old.Name = old.Name, time.Now(), fmt.Sprintf("%s (history %d)", old.Name, old.ID)
		s.sources = append(s.sources, next)
		for i := range s.definitions {
			d := &s.definitions[i]
			if slices.Contains(r.Lost, d.ID) {
				d.Hash = fmt.Sprintf("%s~%d", d.Hash, next.ID)
			}
			s.without[d.ID] = append(s.without[d.ID], next.ID)
		}
		for i := range s.sets {
			s.sets[i].Definitions = slices.Clone(s.sets[i].Definitions)
			for j := range s.sets[i].Definitions {
				if d := &s.sets[i].Definitions[j]; slices.Contains(r.Lost, d.ID) {
					d.Hash = fmt.Sprintf("%s~%d", d.Hash, next.ID)
				}
			}
		}
		for id, c := range s.copies {
			t := slices.IndexFunc(s.tables, func(t millrace.SourceTable) bool { return t.ID == c.Table })
			if s.tables[t].Source == r.Source {
				delete(s.copies, id)
			}
		}
		s.deploy(r.Content, r.Definitions)
		return nil
	})
}
