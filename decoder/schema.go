package decoder

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// difference is a synced table that is not in the catalog as it is known.
type difference struct {
	saved *millrace.SourceTable
	found *catalog.Table // nil: it is gone, or the rules do not read it by its new name
	what  string         // what happened, in words
	// copy: its rows have to be read again.
	copy bool
}

// key tells differences apart, however often they are found.
func (d *difference) key() string {
	oid := uint32(0)
	if d.found != nil {
		oid = d.found.OID
	}
	return fmt.Sprintf("%d %d %s", d.saved.ID, oid, d.what)
}

// object names the table as it is now, or was.
func (d *difference) object() string {
	if d.found != nil {
		return d.found.String()
	}
	return d.saved.Schema + "." + d.saved.Name
}

// compareTable gives how a table differs from what is known of it; what is
// empty if it does not. reads tells which columns the rules use of it.
func compareTable(saved *millrace.SourceTable, f *catalog.Table, reads func([]planColumn) map[string]bool) (what string, again bool) {
	was := saved.Schema + "." + saved.Name
	switch {
	case saved.OID != f.OID:
		return "the table was made again", true
	case was != f.String():
		return "the table was " + was + " before", true
	case saved.Identity != f.Identity || !slices.Equal(saved.KeyColumns, f.KeyColumns()):
		return fmt.Sprintf("its rows were identified by %s (%s) and are by %s (%s)",
			orNothing(saved.KeyColumns), saved.Identity, orNothing(f.KeyColumns()), f.Identity), true
	case saved.Member != 0 && f.Member != saved.Member:
		return "the table was taken out of the publication and put back, so that changes may be missing", true
	case saved.Filter != f.Filter:
		return fmt.Sprintf("the publication's row filter is %q and was %q", f.Filter, saved.Filter), true
	}
	what, again = compareColumns(saved.Columns, f.Columns, reads)
	return what, again || what != "" && len(saved.KeyColumns) == 0 // the columns are the key
}

func orNothing(columns []string) string {
	if len(columns) == 0 {
		return "nothing"
	}
	return strings.Join(columns, ", ")
}

// compareColumns tells how columns differ. Their rows have to be read again if
// the rules use a column whose values in rows written before are not what was
// synced.
func compareColumns(saved []millrace.SourceColumn, found []catalog.Column, reads func([]planColumn) map[string]bool) (what string, again bool) {
	var changes []string
	var stale []string // columns
	for i := range found {
		f := &found[i]
		j := slices.IndexFunc(saved, func(s millrace.SourceColumn) bool { return s.Name == f.Name })
		switch {
		case j < 0:
			changes = append(changes, fmt.Sprintf("column %s (%s) was added", f.Name, f.TypeName))
			if f.Defaulted {
				stale = append(stale, f.Name)
			}
		case saved[j].Number != 0 && saved[j].Number != f.Number:
			changes = append(changes, fmt.Sprintf("column %s is another one than before", f.Name))
			stale = append(stale, f.Name)
		case saved[j].TypeOID != f.TypeOID || saved[j].Type != f.TypeName:
			changes = append(changes, fmt.Sprintf("column %s was %s and is %s", f.Name, saved[j].Type, f.TypeName))
			if !sameText(&saved[j], f) {
				stale = append(stale, f.Name)
			}
		}
	}
	for _, s := range saved {
		if !slices.ContainsFunc(found, func(f catalog.Column) bool { return f.Name == s.Name }) {
			changes = append(changes, fmt.Sprintf("column %s is gone", s.Name))
			stale = append(stale, s.Name)
		}
	}
	if len(changes) == 0 {
		if slices.EqualFunc(saved, found, func(s millrace.SourceColumn, f catalog.Column) bool { return s.Name == f.Name }) {
			return "", false
		}
		return "its columns come in another order", false
	}
	if len(stale) > 0 {
		before, now := reads(savedColumns(saved)), reads(foundColumns(found))
		again = slices.ContainsFunc(stale, func(name string) bool { return before[name] || now[name] })
	}
	return strings.Join(changes, ", "), again
}

// sameText tells whether a column's change of type left every value as it was.
func sameText(s *millrace.SourceColumn, f *catalog.Column) bool {
	was, ok := textLimit(s.TypeOID, s.Type)
	if !ok {
		return false
	}
	is, ok := textLimit(f.TypeOID, f.TypeName)
	return ok && is >= was
}

var limitOf = regexp.MustCompile(`\((\d+)\)$`)

const (
	oidText    = 25
	oidVarchar = 1043
)

// textLimit is how many characters a value of a text type may have.
func textLimit(oid uint32, name string) (limit int, ok bool) {
	if oid != oidText && oid != oidVarchar {
		return 0, false
	}
	const none = 1 << 30
	m := limitOf.FindStringSubmatch(name)
	if m == nil {
		return none, true
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

func savedColumns(columns []millrace.SourceColumn) []planColumn {
	list := make([]planColumn, len(columns))
	for i, c := range columns {
		list[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	return list
}

func foundColumns(columns []catalog.Column) []planColumn {
	list := make([]planColumn, len(columns))
	for i, c := range columns {
		list[i] = planColumn{name: c.Name, typeOID: c.TypeOID}
	}
	return list
}

// reads gives the columns that any rule uses of a table.
func (f *feed) reads(o *origin, rule catalog.TableName, columns []planColumn) map[string]bool {
	used := map[string]bool{}
	typed := make([]planColumn, len(columns))
	for i, c := range columns {
		typed[i] = c
		typed[i].typ = typeOf(builtinTypes{}, c.typeOID)
	}
	t := f.bind(o, 0, rule, typed, func(millrace.DefinitionID) bool { return true })
	if t == nil {
		return used
	}
	for i := range t.evaluations {
		for j, needed := range t.evaluations[i].needed {
			if needed {
				used[columns[j].name] = true
			}
		}
	}
	return used
}

// pair finds the known table of each one found: by oid and name, then by oid,
// then by name. Each is found once. rest are those that are left.
func pair(found []catalog.Table, known []*millrace.SourceTable) (pairs []*millrace.SourceTable, rest []*millrace.SourceTable) {
	pairs = make([]*millrace.SourceTable, len(found))
	taken := map[millrace.TableID]bool{}
	for _, same := range []func(s *millrace.SourceTable, f *catalog.Table) bool{
		func(s *millrace.SourceTable, f *catalog.Table) bool {
			return s.OID == f.OID && s.Schema == f.Schema && s.Name == f.Name
		},
		func(s *millrace.SourceTable, f *catalog.Table) bool { return s.OID == f.OID },
		func(s *millrace.SourceTable, f *catalog.Table) bool { return s.Schema == f.Schema && s.Name == f.Name },
	} {
		for i := range found {
			if pairs[i] != nil {
				continue
			}
			for _, s := range known {
				if !taken[s.ID] && same(s, &found[i]) {
					pairs[i], taken[s.ID] = s, true
					break
				}
			}
		}
	}
	for _, s := range known {
		if !taken[s.ID] && s.OID != 0 {
			rest = append(rest, s)
		}
	}
	return pairs, rest
}

// fingerprint is what the catalog says of the tables and the publication, but
// for what changes all the time.
func fingerprint(findings []catalog.Finding, tables []catalog.Table) string {
	var b strings.Builder
	for _, f := range findings {
		if f.Code != "MR1004" && f.Code != "MR1006" {
			fmt.Fprintln(&b, f.Code, f.Object, f.Message)
		}
	}
	for i := range tables {
		t := &tables[i]
		fmt.Fprintln(&b, t.OID, t.String(), t.Kind, t.Persistence, t.Root, t.Identity, t.KeyColumns(), t.Published, t.Member, t.Filter)
		for _, c := range t.Columns {
			fmt.Fprintln(&b, c.Name, c.Number, c.TypeOID, c.TypeName, c.Defaulted)
		}
	}
	return b.String()
}
