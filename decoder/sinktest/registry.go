package sinktest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace/millrace"
)

// State gives what a new term starts from.
func (s *Sidecar) State(ctx context.Context) (*millrace.DecoderState, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.drop()
	s.mu.Lock()
	defer s.mu.Unlock()
	state := &millrace.DecoderState{
		Head:        s.head,
		Sources:     slices.Clone(s.sources),
		Tables:      slices.DeleteFunc(slices.Clone(s.tables), func(t millrace.SourceTable) bool { return s.forgotten[t.ID] }),
		RuleSets:    slices.DeleteFunc(slices.Clone(s.sets), func(set millrace.RuleSet) bool { return !live(&set) }),
		Definitions: slices.Clone(s.definitions),
		Recopies:    slices.Clone(s.recopies),
	}
	for i := range state.RuleSets {
		set := &state.RuleSets[i]
		set.Without = map[millrace.DefinitionID][]millrace.SourceID{}
		for _, d := range set.Definitions {
			set.Without[d.ID] = slices.Clone(s.without[d.ID])
		}
	}
	building := map[millrace.RuleSetID]bool{}
	for _, set := range s.sets {
		building[set.ID] = set.State == millrace.RuleSetBuilding
	}
	for _, id := range slices.Sorted(maps.Keys(s.copies)) {
		if c := s.copies[id]; c.State != millrace.CopyDone || building[c.RuleSet] {
			state.Copies = append(state.Copies, c)
		}
	}
	for r := range s.rereads {
		state.Rereads = append(state.Rereads, r)
	}
	return state, nil
}

func (s *Sidecar) save(ctx context.Context, f func() error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if len(s.pending) > 0 {
		return fmt.Errorf("the registry is written while a flush is open")
	}
	if err := s.fault(BeforeSave); err != nil {
		return err
	}
	s.mu.Lock()
	err = f()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.fault(AfterSave)
}

// SaveSource stores a source by name.
func (s *Sidecar) SaveSource(ctx context.Context, src *millrace.Source) error {
	return s.save(ctx, func() error {
		i := slices.IndexFunc(s.sources, func(o millrace.Source) bool { return o.Name == src.Name })
		if i < 0 {
			src.ID = millrace.SourceID(len(s.sources) + 1)
			s.sources = append(s.sources, *src)
			return nil
		}
		src.ID = s.sources[i].ID
		durable := max(s.sources[i].Durable, src.Durable)
		s.sources[i] = *src
		s.sources[i].Durable = durable
		return nil
	})
}

// RequestRemoval asks for the removal of a source, as a person does.
func (s *Sidecar) RequestRemoval(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sources {
		if s.sources[i].Name == name {
			s.sources[i].RemovalRequested = true
		}
	}
	s.wake()
}

// RemoveSource ends a source; its rows must be gone.
func (s *Sidecar) RemoveSource(ctx context.Context, id millrace.SourceID) error {
	return s.save(ctx, func() error {
		src := &s.sources[id-1]
		for _, t := range s.tables {
			if t.Source != id {
				continue
			}
			if s.fed(t.ID) {
				return fmt.Errorf("source %s is removed, and %s.%s still has rows", src.Name, t.Schema, t.Name)
			}
			s.forgotten[t.ID] = true
			for n, c := range s.copies {
				if c.Table == t.ID {
					delete(s.copies, n)
				}
			}
		}
		src.Was, src.LostAt, src.RemovalRequested = src.Name, time.Now(), false
		src.Name = fmt.Sprintf("%s (removed %d)", src.Was, id)
		return nil
	})
}

// KeepSource forgets a request to remove a source.
func (s *Sidecar) KeepSource(ctx context.Context, id millrace.SourceID) error {
	return s.save(ctx, func() error {
		s.sources[id-1].RemovalRequested = false
		return nil
	})
}

// SaveTable stores a source table.
func (s *Sidecar) SaveTable(ctx context.Context, t *millrace.SourceTable) error {
	return s.save(ctx, func() error {
		if t.ID == 0 {
			t.ID = millrace.TableID(len(s.tables) + 1)
			s.tables = append(s.tables, *t)
			return nil
		}
		i := slices.IndexFunc(s.tables, func(o millrace.SourceTable) bool { return o.ID == t.ID })
		if i < 0 {
			return fmt.Errorf("table %d is unknown", t.ID)
		}
		s.tables[i] = *t
		return nil
	})
}

// Report keeps the newest report of a source.
func (s *Sidecar) Report(_ context.Context, r millrace.SourceReport) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[r.Source] = r
	return nil
}
