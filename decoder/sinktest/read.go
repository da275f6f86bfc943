package sinktest

import (
	"maps"
	"slices"

	"github.com/millrace/millrace"
)

// Active is the rule set in force; ok is false while there is none.
func (s *Sidecar) Active() (set millrace.RuleSet, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.sets {
		if set.State == millrace.RuleSetActive {
			return set, true
		}
	}
	return set, false
}

// Content is the rows of a definition's buckets with their data.
func (s *Sidecar) Content(id millrace.DefinitionID) map[Identity]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.content[id])
}

// Lookups are the entries of a lookup definition, in no order.
func (s *Sidecar) Lookups(id millrace.DefinitionID) []millrace.Lookup {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []millrace.Lookup
	for _, table := range s.rows {
		for _, r := range table {
			for l := range r.lookups {
				if l.Definition == id {
					all = append(all, l)
				}
			}
		}
	}
	return all
}

// Mark is the custom write checkpoint a device has of an event.
func (s *Sidecar) Mark(id millrace.DefinitionID, user string) Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[Device{id, user}]
}

// Errors are the messages of rows that could not be evaluated, by row.
func (s *Sidecar) Errors() map[millrace.RowRef]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[millrace.RowRef]string{}
	for id, table := range s.rows {
		for key, r := range table {
			for _, message := range r.errors {
				all[millrace.RowRef{Table: id, Key: key}] = message
			}
		}
	}
	return all
}

// Source is what is stored of a source.
func (s *Sidecar) Source(name string) millrace.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sources, func(o millrace.Source) bool { return o.Name == name })
	if i < 0 {
		return millrace.Source{}
	}
	return s.sources[i]
}

// Copies are all copies there were, by id.
func (s *Sidecar) Copies() []millrace.Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []millrace.Copy
	for _, id := range slices.Sorted(maps.Keys(s.copies)) {
		all = append(all, s.copies[id])
	}
	return all
}

// ReportOf is the newest report of a source.
func (s *Sidecar) ReportOf(id millrace.SourceID) millrace.SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reports[id]
}

// Head is the newest checkpoint.
func (s *Sidecar) Head() millrace.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// Ops counts the ops written.
func (s *Sidecar) Ops() (puts, removes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts, s.removes
}

// Misled tells of changes that were wrongly called new.
func (s *Sidecar) Misled() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.misled)
}

// WideRows counts the rows whose long values are kept.
func (s *Sidecar) WideRows() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wide)
}

// Committed is closed at the next commit.
func (s *Sidecar) Committed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
