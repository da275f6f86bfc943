package sinktest

import (
	"maps"
	"slices"

	"github.com/millrace/millrace"
)

func newRow() *row {
	return &row{outputs: map[output]bool{}, lookups: map[millrace.Lookup]bool{}, errors: map[millrace.DefinitionID]string{}}
}

// applyShadow keeps a row of a shadow.
func (s *Sidecar) applyShadow(c *millrace.Change) {
	shadow := s.shadows[c.Scope.Shadow]
	if shadow == nil {
		shadow = map[string]*millrace.Change{}
		s.shadows[c.Scope.Shadow] = shadow
	}
	switch c.Kind {
	case millrace.ChangeTruncate:
		clear(shadow)
		maps.DeleteFunc(s.wide, func(ref millrace.RowRef, _ []byte) bool { return ref.Table == c.Scope.Table })
	case millrace.ChangeDelete:
		delete(shadow, c.Key)
		s.keepWide(millrace.RowRef{Table: c.Scope.Table, Key: c.Key}, c)
	default:
		shadow[c.Key] = c
		s.keepWide(millrace.RowRef{Table: c.Scope.Table, Key: c.Key}, c)
	}
}

// unveil replaces what a table has in the definitions of the scope by its
// shadow. What is equal takes no op.
func (s *Sidecar) unveil(scope *millrace.Scope, table map[string]*row) {
	shadow := s.shadows[scope.Shadow]
	delete(s.shadows, scope.Shadow)
	for key, r := range table {
		if shadow[key] == nil {
			s.replace(r, scope, nil)
		}
		if r.empty() {
			delete(table, key)
		}
	}
	for key, c := range shadow {
		r := table[key]
		if r == nil {
			r = newRow()
			table[key] = r
		}
		s.replace(r, scope, c)
		if r.empty() {
			delete(table, key)
		}
	}
}

// SchemaChanges are those that were noted.
func (s *Sidecar) SchemaChanges() []millrace.SchemaChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Tables are the tables as stored.
func (s *Sidecar) Tables() []millrace.SourceTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tables)
}
