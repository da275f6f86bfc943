package store

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// diffLookups closes the lookups that ended and opens the new ones. Unchanged
// ones are left alone; each change takes an op number.
func (w *Writer) diffLookups(c *millrace.Change, row *rowState) error {
	for i := range c.Lookups {
		l := &c.Lookups[i]
		if !slices.Contains(c.Scope.Lookups, l.Definition) {
			return fmt.Errorf("apply: a row of table %d has a lookup of definition %d, which is not in its scope", c.Scope.Table, l.Definition)
		}
		if e := row.entry(l); e != nil {
			e.kept = true
		}
	}
	for i := range row.lookups {
		s := &row.lookups[i]
		if !slices.Contains(c.Scope.Lookups, s.definition) {
			continue
		}
		n := 0
		for j := range s.entries {
			e := &s.entries[j]
			if !e.kept {
				w.closeLookup(s.definition, e)
				continue
			}
			e.kept = false
			s.entries[n] = *e
			n++
		}
		clear(s.entries[n:])
		s.entries = s.entries[:n]
	}
	for i := range c.Lookups {
		l := &c.Lookups[i]
		if row.entry(l) != nil {
			continue
		}
		if why := unstorableLookup(l); why != "" {
			w.noteError(row, l.Definition, why)
			continue
		}
		w.openLookup(row, l)
	}
	return nil
}

// entry finds the live lookup equal to l.
func (s *rowState) entry(l *millrace.Lookup) *lookupEntry {
	for i := range s.lookups {
		if s.lookups[i].definition != l.Definition {
			continue
		}
		for j := range s.lookups[i].entries {
			if e := &s.lookups[i].entries[j]; e.key == l.Key && e.outputs == l.Outputs {
				return e
			}
		}
	}
	return nil
}

func unstorableLookup(l *millrace.Lookup) string {
	switch {
	case len(l.Key) > maxKeyBytes:
		return fmt.Sprintf("the looked up values would have %d bytes, the limit is %d", len(l.Key), maxKeyBytes)
	case !utf8.ValidString(l.Key) || !utf8.ValidString(l.Outputs) || strings.IndexByte(l.Key, 0) >= 0 || strings.IndexByte(l.Outputs, 0) >= 0:
		return "the looked up values are not valid text"
	}
	return ""
}

func (w *Writer) openLookup(row *rowState, l *millrace.Lookup) {
	f := &w.flush
	f.op++
	f.lookups[l.Definition] = struct{}{}
	e := lookupEntry{added: f.op, key: strings.Clone(l.Key), outputs: strings.Clone(l.Outputs)}
	s := row.lookupState(l.Definition)
	s.entries = append(s.entries, e)
	f.opened = append(f.opened, openedLookup{definition: l.Definition, row: row, added: f.op, key: e.key, outputs: e.outputs})
}

// closeLookup ends an entry. One that this flush opened leaves nothing.
func (w *Writer) closeLookup(d millrace.DefinitionID, e *lookupEntry) {
	f := &w.flush
	f.op++
	f.lookups[d] = struct{}{}
	switch {
	case e.added > f.openedBase: // collected
		i := sort.Search(len(f.opened), func(i int) bool { return f.opened[i].added >= e.added })
		f.opened[i].gone = true
	case e.added > w.head.OpID: // written into the open transaction
		f.undone = append(f.undone, e.added)
	default:
		f.closedAdded = append(f.closedAdded, e.added)
		f.closedAt = append(f.closedAt, f.op)
	}
}
