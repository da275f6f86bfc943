package sinktest

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace/millrace"
)

// live tells whether a rule set is fed.
func live(s *millrace.RuleSet) bool {
	return s.State == millrace.RuleSetBuilding || s.State == millrace.RuleSetActive || s.State == millrace.RuleSetRetired
}

// Request asks for a change of the rules, as a person does.
func (s *Sidecar) Request(r millrace.RuleRequest) (id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ID = int64(len(s.requests) + len(s.answers) + 1)
	s.requests = append(s.requests, r)
	s.wake()
	return r.ID
}

// Answer is the answer to a request; ok is false while there is none.
func (s *Sidecar) Answer(id int64) (a millrace.RuleAnswer, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok = s.answers[id]
	return a, ok
}

// Retire makes it time to retire a rule set that was replaced.
func (s *Sidecar) Retire(id millrace.RuleSetID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due[id] = true
	s.wake()
}

// RuleSets are all there were.
func (s *Sidecar) RuleSets() []millrace.RuleSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sets)
}

// Forgotten tells whether a table was forgotten.
func (s *Sidecar) Forgotten(id millrace.TableID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forgotten[id]
}

func (s *Sidecar) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// WatchRules calls changed while there is something to do.
func (s *Sidecar) WatchRules(ctx context.Context, changed func()) error {
	for {
		s.mu.Lock()
		removal := slices.ContainsFunc(s.sources, func(src millrace.Source) bool { return src.RemovalRequested })
		due, wake := removal || len(s.requests)+len(s.due) > 0, s.changed
		s.mu.Unlock()
		if due {
			changed()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// Deploy stores a rule set in place of one that is being built.
func (s *Sidecar) Deploy(ctx context.Context, content string, defs []millrace.Definition) (set *millrace.RuleSet, err error) {
	err = s.save(ctx, func() error {
		set = s.deploy(content, defs)
		return nil
	})
	return set, err
}

// deploy: definitions with a known hash keep their id.
func (s *Sidecar) deploy(content string, defs []millrace.Definition) *millrace.RuleSet {
	set := millrace.RuleSet{ID: millrace.RuleSetID(len(s.sets) + 1), Content: content, State: millrace.RuleSetBuilding}
	for _, d := range defs {
		i := slices.IndexFunc(s.definitions, func(o millrace.Definition) bool { return o.Hash == d.Hash && o.Kind == d.Kind && !s.retired[o.ID] })
		if i < 0 {
			i = len(s.definitions)
			d.ID = millrace.DefinitionID(i + 1)
			d.WirePrefix = fmt.Sprintf("w%d", d.ID)
			s.definitions = append(s.definitions, d)
		}
		mapped := s.definitions[i]
		mapped.Key, mapped.Name = d.Key, d.Name
		set.Definitions = append(set.Definitions, mapped)
	}
	for i := range s.sets {
		if s.sets[i].State == millrace.RuleSetBuilding {
			s.sets[i].State = millrace.RuleSetAbandoned
			for id, c := range s.copies {
				if c.RuleSet == s.sets[i].ID {
					c.RuleSet = set.ID
					s.copies[id] = c
				}
			}
		}
	}
	s.sets = append(s.sets, set)
	s.retireDefinitions()
	return &set
}

// retireDefinitions ends those that no rule set has which is fed.
func (s *Sidecar) retireDefinitions() {
	for _, d := range s.definitions {
		used := slices.ContainsFunc(s.sets, func(set millrace.RuleSet) bool {
			return live(&set) && slices.ContainsFunc(set.Definitions, func(o millrace.Definition) bool { return o.ID == d.ID })
		})
		if used || s.retired[d.ID] {
			continue
		}
		s.retired[d.ID] = true
		for id, c := range s.copies {
			c.Definitions = slices.DeleteFunc(slices.Clone(c.Definitions), func(o millrace.DefinitionID) bool { return o == d.ID })
			if s.copies[id] = c; len(c.Definitions) == 0 {
				delete(s.copies, id)
			}
		}
	}
}

// Deployed tells whether a content was ever deployed.
func (s *Sidecar) Deployed(_ context.Context, content string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.sets, func(set millrace.RuleSet) bool { return set.Content == content }), nil
}

// RuleRequests lists what nobody answered.
func (s *Sidecar) RuleRequests(context.Context) ([]millrace.RuleRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests), nil
}

// AnswerRules carries out an answer and stores it.
func (s *Sidecar) AnswerRules(ctx context.Context, a millrace.RuleAnswer) (set *millrace.RuleSet, err error) {
	err = s.save(ctx, func() error {
		switch {
		case a.Deploy != nil:
			set = s.deploy(a.Deploy.Content, a.Deploy.Definitions)
			a.RuleSet = set.ID
		case a.Abandon:
			for i := range s.sets {
				if s.sets[i].State == millrace.RuleSetBuilding {
					s.sets[i].State = millrace.RuleSetAbandoned
				}
			}
			s.retireDefinitions()
		}
		s.requests = slices.DeleteFunc(s.requests, func(r millrace.RuleRequest) bool { return r.ID == a.Request })
		s.answers[a.Request] = a
		return nil
	})
	return set, err
}

// RetireRules ends the replaced rule sets that Retire named.
func (s *Sidecar) RetireRules(ctx context.Context) (ids []millrace.RuleSetID, err error) {
	err = s.save(ctx, func() error {
		for i := range s.sets {
			if set := &s.sets[i]; set.State == millrace.RuleSetRetired && s.due[set.ID] {
				set.State = millrace.RuleSetDropped
				ids = append(ids, set.ID)
			}
		}
		clear(s.due)
		s.retireDefinitions()
		return nil
	})
	return ids, err
}

// ForgetTables notes that no rules use the tables.
func (s *Sidecar) ForgetTables(ctx context.Context, tables []millrace.TableID) (ids []millrace.TableID, err error) {
	err = s.save(ctx, func() error {
		for _, id := range tables {
			if s.fed(id) {
				continue
			}
			s.forgotten[id] = true
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}

// fed tells whether a definition that is fed has rows of the table.
func (s *Sidecar) fed(id millrace.TableID) bool {
	for _, r := range s.rows[id] {
		for o := range r.outputs {
			if !s.retired[o.definition] {
				return true
			}
		}
		for l := range r.lookups {
			if !s.retired[l.Definition] {
				return true
			}
		}
	}
	return false
}
