package decoder

import (
	"fmt"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// startOver is the cure where rows already synced would have to be read again.
const startOver = "to sync it again, stop millrace, drop the schema millrace in the sidecar and the slot on the source, and start: every table is copied anew"

// relation takes note of a relation description. What it says about a table is
// compared with what is known of it; the same content again changes nothing
// (P39). An error stops the source: going on would sync wrong rows.
func (e *evaluator) relation(rel *pgoutput.Relation) error {
	full := rel.Schema + "." + rel.Name
	t := e.tables[rel.OID]
	if t == nil {
		e.plans[rel.OID] = nil
		if e.absent[lookedUp{oid: rel.OID}] || !e.partitions && !e.feed.uses(e.origin.tags, rel.Schema, rel.Name) {
			return nil
		}
		for _, other := range e.tables {
			if other.saved.Schema == rel.Schema && other.saved.Name == rel.Name {
				return e.changed(codeReplaced, full, "the table was dropped and made again")
			}
		}
		return &appearedError{lookedUp{oid: rel.OID}, "table " + full}
	}
	if t.saved.Schema != rel.Schema || t.saved.Name != rel.Name {
		return e.changed(codeRenamed, full, fmt.Sprintf("the table was %s.%s before", t.saved.Schema, t.saved.Name))
	}
	if err := e.checkIdentity(t, rel); err != nil {
		return err
	}
	columns := make([]planColumn, len(rel.Columns))
	for i, c := range rel.Columns {
		if e.types.Type(c.TypeOID) == nil && !e.absent[lookedUp{c.TypeOID, true}] {
			return &appearedError{lookedUp{c.TypeOID, true}, fmt.Sprintf("type %d of column %q of table %s", c.TypeOID, c.Name, full)}
		}
		columns[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	if p := e.plans[rel.OID]; p != nil && slices.EqualFunc(p.columns, columns, sameColumn) {
		return nil
	}
	if err := e.checkColumns(t, columns); err != nil {
		return err
	}
	p, err := newTablePlan(e.feed, e.origin, t, columns, e.types, func(millrace.DefinitionID) bool { return true })
	if err != nil {
		return err
	}
	if p.target == nil {
		p = nil
	}
	e.plans[rel.OID] = p
	return nil
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

func (e *evaluator) changed(code, table, text string) error {
	return &SourceError{Code: code, Source: e.source, Object: "table " + table, Text: text, Cure: startOver}
}

// checkIdentity compares what identifies a row. With identity FULL all columns
// are flagged, and the key is the primary key that the catalog showed.
func (e *evaluator) checkIdentity(t *tableState, rel *pgoutput.Relation) error {
	full := rel.Schema + "." + rel.Name
	if is := identities[rel.Identity]; is != t.saved.Identity {
		return e.changed(codeIdentity, full, fmt.Sprintf("its replica identity was %s and is %s now", t.saved.Identity, is))
	}
	if t.saved.Identity == millrace.IdentityFull {
		return nil
	}
	var key []string
	for _, c := range rel.Columns {
		if c.Key {
			key = append(key, c.Name)
		}
	}
	if !slices.Equal(key, t.saved.KeyColumns) {
		return e.changed(codeIdentity, full, fmt.Sprintf("its rows were identified by %q and are by %q now", t.saved.KeyColumns, key))
	}
	return nil
}

var identities = map[byte]millrace.Identity{
	'd': millrace.IdentityDefault,
	'i': millrace.IdentityIndex,
	'f': millrace.IdentityFull,
	'n': millrace.IdentityNothing,
}

// checkColumns compares the columns with those last seen. Columns that came or
// went are taken as they are, with a warning, since rows written before are not
// read again.
func (e *evaluator) checkColumns(t *tableState, columns []planColumn) error {
	full := t.saved.Schema + "." + t.saved.Name
	same := len(columns) == len(t.saved.Columns)
	for i, c := range columns {
		j := slices.IndexFunc(t.saved.Columns, func(s millrace.SourceColumn) bool { return s.Name == c.name })
		same = same && j == i
		if j < 0 || t.saved.Columns[j].TypeOID == c.typeOID {
			continue
		}
		same = false
		if slices.Contains(t.saved.KeyColumns, c.name) {
			return e.changed(codeIdentity, full, fmt.Sprintf("key column %q changed its type", c.name))
		}
		if !sameText[t.saved.Columns[j].TypeOID] || !sameText[c.typeOID] {
			return e.changed(codeRetyped, full, fmt.Sprintf("column %q changed its type", c.name))
		}
	}
	if same {
		return nil
	}
	var now []millrace.SourceColumn
	for _, c := range columns {
		s := millrace.SourceColumn{Name: c.name, TypeOID: c.typeOID}
		if j := slices.IndexFunc(t.saved.Columns, func(s millrace.SourceColumn) bool { return s.Name == c.name }); j >= 0 {
			s.Type = t.saved.Columns[j].Type
		}
		now = append(now, s)
	}
	e.log.Warn("columns of a table changed; rows written before are not read again and keep their old data: touch them (UPDATE t SET id = id) where the rules use a changed column",
		"source", e.source, "table", full, "before", columnNames(t.saved.Columns), "now", columnNames(now))
	saved := *t.saved
	saved.Columns = now
	t.saved = &saved
	t.bounded = false // a dropped column may have made rows long
	return e.retable(t)
}

// sameText has the types whose values have one text form and one meaning.
var sameText = map[uint32]bool{25: true, 1043: true}

func columnNames(columns []millrace.SourceColumn) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}
