package decoder

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgvalue"
)

// cell is a value of a row in text form. The zero cell is not known.
type cell struct {
	known bool
	null  bool
	text  []byte
}

// planColumn is a column of a row as it comes: from the stream or a chunk.
type planColumn struct {
	name    string
	typeOID uint32
	typ     *pgvalue.Type
	bound   pgvalue.Bound
	long    bool // its values may be out of line
	// kept is under what its long values are kept: neither another name of the
	// column nor another column of its name changes whose they are.
	kept string
}

// tablePlan says how rows of a table are evaluated, with the columns in one
// certain order. It has scratch space: one goroutine uses it.
type tablePlan struct {
	table   *tableState
	columns []planColumn
	key     []int // the row key's columns, in attribute order
	keyless bool  // the row key is made of all columns
	// targets are the definitions that are fed: those whose content the table's
	// shadow will replace, and the others. Empty if none reads the table.
	targets []*target

	// wide: long values must be kept, since an update may leave them out.
	wide bool
	// bounded: a tuple's size is bounded by the columns we are shown.
	bounded bool
	base    int // bound of a tuple's header and fixed columns

	cells, old []cell
}

// newTablePlan binds the columns. It has no target if no definition that want
// accepts reads the table.
func newTablePlan(f *feed, o *origin, t *tableState, columns []planColumn, types pgvalue.Types, want func(millrace.DefinitionID) bool) (*tablePlan, error) {
	p := &tablePlan{
		table:   t,
		keyless: len(t.saved.KeyColumns) == 0,
		columns: columns,
		bounded: t.bounded,
		base:    pgvalue.TupleOverhead(len(columns)),
		cells:   make([]cell, len(columns)),
		old:     make([]cell, len(columns)),
	}
	for i := range columns {
		c := &columns[i]
		c.typ = typeOf(types, c.typeOID)
		c.bound = pgvalue.BoundOf(c.typ)
		c.kept = keptAs(t.saved, c.name)
		// What the table says of its columns' storage may change at any time.
		c.long = pgvalue.Toastable(c.typ, 'x')
		if !c.long {
			p.base += c.bound.Of(0)
		} else if t.saved.Identity != millrace.IdentityFull && !p.keyless {
			p.wide = true
		}
	}
	for _, name := range t.saved.KeyColumns {
		i := indexOfColumn(columns, name)
		if i < 0 {
			return nil, fmt.Errorf("key column %q of %s.%s is not among the columns that come", name, t.saved.Schema, t.saved.Name)
		}
		p.key = append(p.key, i)
	}
	p.bind(f, o, want)
	return p, nil
}

// keptAs is under what the long values of a column are kept: its number in the
// table, and how often its values were rewritten.
func keptAs(t *millrace.SourceTable, name string) string {
	i := slices.IndexFunc(t.Columns, func(c millrace.SourceColumn) bool { return c.Name == name })
	switch {
	case i < 0 || t.Columns[i].Number == 0:
		return name
	case t.Columns[i].Rewrites == 0:
		return strconv.Itoa(int(t.Columns[i].Number))
	}
	return fmt.Sprintf("%d.%d", t.Columns[i].Number, t.Columns[i].Rewrites)
}

func indexOfColumn(columns []planColumn, name string) int {
	for i := range columns {
		if columns[i].name == name {
			return i
		}
	}
	return -1
}

// canMove tells whether a value whose text has n bytes may be out of line.
func (c *planColumn) canMove(n int) bool { return c.long && c.bound.Of(n) > inlineValue }

// rowKey makes the key of a row whose key columns are known, in the batch's
// arena.
func (p *tablePlan) rowKey(a *arena, cells []cell) (string, error) {
	if p.keyless {
		return p.contentKey(cells)
	}
	size := 2
	for _, i := range p.key {
		if !cells[i].known || cells[i].null {
			return "", fmt.Errorf("a row of %s.%s came without its key column %q", p.table.saved.Schema, p.table.saved.Name, p.columns[i].name)
		}
		if !utf8.Valid(cells[i].text) {
			return bytesKey(p.key, cells), nil
		}
		size += len(cells[i].text) + 3
	}
	b := a.room(size)
	if len(p.key) == 1 {
		return a.keep(append(b, cells[p.key[0]].text...)), nil
	}
	b = append(b, '[')
	for n, i := range p.key {
		if n > 0 {
			b = append(b, ',')
		}
		b = millrace.AppendTextJSON(b, textOf(cells[i].text))
	}
	return a.keep(append(b, ']')), nil
}

// bytesKey is the key of a row whose key is no valid text: such a row is listed
// among the errors under it. PostgreSQL tells such rows apart by their bytes.
func bytesKey(key []int, cells []cell) string {
	b := []byte("bytes")
	for _, i := range key {
		b = hex.AppendEncode(append(b, ':'), cells[i].text)
	}
	return string(b)
}

// narrow tells whether a row is certain to have no value out of line, given
// that it was written with exactly these values.
func (p *tablePlan) narrow(cells []cell) bool {
	if !p.bounded {
		return false
	}
	size := p.base
	for i := range cells {
		if p.columns[i].long && !cells[i].null {
			size += p.columns[i].bound.Of(len(cells[i].text))
		}
	}
	return size <= pgvalue.MaxInlineTuple
}

// wideRecord makes the record of the known values that may be out of line; nil
// if there are none.
func (p *tablePlan) wideRecord(cells []cell) []byte {
	size := 1
	for i := range cells {
		if c := &p.columns[i]; cells[i].known && !cells[i].null && c.canMove(len(cells[i].text)) {
			size += len(c.kept) + len(cells[i].text) + 12
		}
	}
	if size == 1 || size > maxWideBytes {
		return nil
	}
	b := append(make([]byte, 0, size), wideVersion)
	for i := range cells {
		if c := &p.columns[i]; cells[i].known && !cells[i].null && c.canMove(len(cells[i].text)) {
			b = appendWide(b, c.kept, cells[i].text)
		}
	}
	return b
}
