package decoder

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// startOver is the cure where rows already synced would have to be read again.
const startOver = "to sync it again, stop millrace, drop the schema millrace in the sidecar and the slot on the source, and start: every table is copied anew"

// relation takes note of a relation description. What it says about a table is
// compared with what is known of it; the same content again changes nothing
// (P39). If it differs, the session ends and the next one looks at the catalog:
// nothing of the change has been applied then.
func (e *evaluator) relation(rel *pgoutput.Relation, replay bool) error {
	full := rel.Schema + "." + rel.Name
	old := e.plans[rel.OID]
	e.plans[rel.OID] = nil
	delete(e.unlike, rel.OID)
	t := e.tables[rel.OID]
	if t == nil {
		if replay || e.absent[lookedUp{oid: rel.OID}] || !e.partitions && !e.feed.uses(e.origin.tags, rel.Schema, rel.Name) {
			return nil
		}
		return &appearedError{lookedUp{oid: rel.OID}, "table " + full}
	}
	if what := t.differs(rel); what != "" {
		changed := &changedError{rel.OID, full, what}
		if replay || e.isRead(t) {
			// It is not told again with the first change that counts.
			e.unlike[rel.OID] = changed
			return nil
		}
		return changed
	}
	columns := make([]planColumn, len(rel.Columns))
	for i, c := range rel.Columns {
		if e.types.Type(c.TypeOID) == nil && !e.absent[lookedUp{c.TypeOID, true}] {
			return &appearedError{lookedUp{c.TypeOID, true}, fmt.Sprintf("type %d of column %q of table %s", c.TypeOID, c.Name, full)}
		}
		columns[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	if old != nil && slices.EqualFunc(old.columns, columns, sameColumn) {
		e.plans[rel.OID] = old
		return nil
	}
	p, err := newTablePlan(e.feed, e.origin, t, columns, e.types, func(id millrace.DefinitionID) bool { return !t.outdated || !t.uncopied(id) })
	if err != nil {
		return err
	}
	if len(p.targets) > 0 {
		e.plans[rel.OID] = p
	}
	return nil
}

// changedError: the stream describes a table otherwise than it is known. The
// next session looks at the catalog.
type changedError struct {
	oid         uint32
	table, what string
}

// Error says what has changed.
func (e *changedError) Error() string { return "table " + e.table + " has changed: " + e.what }

// errLookAgain ends a session so that the next one looks at the catalog.
var errLookAgain = errors.New("the catalog of the source has changed")

// looksAgain tells whether an error only says that the catalog has to be looked
// at again.
func looksAgain(err error) bool {
	var appeared *appearedError
	var changed *changedError
	return errors.As(err, &appeared) || errors.As(err, &changed) || errors.Is(err, errLookAgain)
}

// differs gives how the stream's description of a table differs from what is
// known of it; empty if it does not. With identity FULL all columns are
// flagged, and the key is the primary key that the catalog showed.
func (t *tableState) differs(rel *pgoutput.Relation) string {
	s := t.saved
	switch is := identities[rel.Identity]; {
	case s.Schema != rel.Schema || s.Name != rel.Name:
		return fmt.Sprintf("it was %s.%s before", s.Schema, s.Name)
	case is != s.Identity:
		return fmt.Sprintf("its replica identity was %s and is %s", s.Identity, is)
	}
	var key []string
	for _, c := range rel.Columns {
		if c.Key {
			key = append(key, c.Name)
		}
	}
	if s.Identity != millrace.IdentityFull && !slices.Equal(key, s.KeyColumns) {
		return fmt.Sprintf("its rows were identified by %s and are by %s", orNothing(s.KeyColumns), orNothing(key))
	}
	if !slices.EqualFunc(rel.Columns, s.Columns, func(c pgoutput.RelationColumn, s millrace.SourceColumn) bool {
		return c.Name == s.Name && c.TypeOID == s.TypeOID
	}) {
		return "its columns"
	}
	return ""
}

// appearedError: the stream told of a table that the rules read, or of a type,
// that the session did not find when it began. The next one looks again.
type appearedError struct {
	lookedUp
	what string
}

// lookedUp is a relation or a type of the source.
type lookedUp struct {
	oid    uint32
	isType bool
}

// Error says what has appeared.
func (e *appearedError) Error() string { return e.what + " has appeared and is looked up" }

func sameColumn(a, b planColumn) bool { return a.name == b.name && a.typeOID == b.typeOID }

var identities = map[byte]millrace.Identity{
	'd': millrace.IdentityDefault,
	'i': millrace.IdentityIndex,
	'f': millrace.IdentityFull,
	'n': millrace.IdentityNothing,
}
