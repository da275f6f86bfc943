package decoder

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/pgvalue"
)

// tableState is what is known of a source table during a term.
type tableState struct {
	saved *millrace.SourceTable
	found *catalog.Table // as the session found it
	// rule is the name under which the rules read it: its own, or that of the
	// partitioned table it is a part of.
	rule catalog.TableName
	// bounded: all columns are published, so that a row told in full bounds the
	// tuple's size.
	bounded bool
	isNew   bool       // not copied into the definitions that read it
	toasted bool       // some values are out of line
	copies  []*copyRun // unfinished
	shadow  *copyRun   // the newest of them that replaces what definitions have of it
	// outdated: the table is described as it was before a change that the stream
	// has not come to. It is not copied, and feeds no definition that it was not
	// copied into: these have nothing of it when their copy is registered.
	outdated bool
	uncopied func(millrace.DefinitionID) bool // of an outdated table
	// again says why the table is to be copied into a shadow; empty if it need
	// not be.
	again string
}

// evaluator turns the pgoutput messages of one source into changes. It keeps
// what lives as long as a replication connection: the relations told so far.
// One goroutine uses it.
type evaluator struct {
	source string // name
	origin *origin
	log    *slog.Logger
	feed   *feed
	types  pgvalue.Types
	tables map[uint32]*tableState // by relation oid
	plans  map[uint32]*tablePlan  // by relation oid; nil: of no interest
	// unlike has the relations that were told otherwise than their tables are
	// known, with changes that need not be taken. The first that must be ends the
	// session.
	unlike map[uint32]*changedError
	wide   *wideCache
	// fetch brings the kept long values of a row into the cache.
	fetch func([]millrace.RowRef) error
	// retable stores a table whose columns changed.
	retable func(*tableState) error
	// absent has what the catalog did not have when it was asked for
	// them: they are gone by now, and what the stream tells of them is left out.
	absent map[lookedUp]bool
	// partitions: some tables are partitions, so that a new one may be read
	// under another name than its own.
	partitions bool
	// rows counts the row changes seen; a transaction that fails before its
	// first has left no trace.
	rows   int
	commit millrace.LSN // of the transaction at hand

	insert  pgoutput.Insert
	update  pgoutput.Update
	delete  pgoutput.Delete
	scratch arena
}

// message evaluates one message of transaction x into b. With replay, what the
// message says is in the sidecar already and is only noted by the copies.
func (e *evaluator) message(msg []byte, x xid, replay bool, b *batch) error {
	kind, err := pgoutput.KindOf(msg)
	if err != nil {
		return err
	}
	switch kind {
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete, pgoutput.KindTruncate:
		e.rows++
	}
	switch kind {
	case pgoutput.KindInsert:
		return e.onInsert(msg, x, replay, b)
	case pgoutput.KindUpdate:
		return e.onUpdate(msg, x, replay, b)
	case pgoutput.KindDelete:
		return e.onDelete(msg, x, replay, b)
	case pgoutput.KindTruncate:
		return e.onTruncate(msg, x, replay, b)
	case pgoutput.KindRelation:
		rel, err := pgoutput.ParseRelation(msg)
		if err != nil {
			return err
		}
		return e.relation(rel, replay)
	}
	return nil // Type, Origin and logical messages only move the position
}

// plan finds the plan of a relation, which must have been told. It gives none if
// the change at hand is of no interest.
func (e *evaluator) plan(oid uint32, replay bool) (*tablePlan, error) {
	p, ok := e.plans[oid]
	if !ok {
		return nil, fmt.Errorf("a change of relation %d came before the relation was described", oid)
	}
	if changed := e.unlike[oid]; changed != nil && !replay && !e.isRead(e.tables[oid]) {
		return nil, changed
	}
	if p != nil && e.isRead(p.table) {
		return nil, nil
	}
	return p, nil
}

// isRead tells whether all that the transaction at hand did to a table is in the
// rows that the copy into its shadow reads, and for definitions that came later
// in those of their copies. None of it is taken: the stream may describe the
// table otherwise than it is known for a part of that time, so that a row which
// it told of may leave without a word.
func (e *evaluator) isRead(t *tableState) bool {
	return t.shadow != nil && e.commit <= t.shadow.saved.Since
}

func (e *evaluator) onInsert(msg []byte, x xid, replay bool, b *batch) error {
	m := &e.insert
	if err := pgoutput.ParseInsert(msg, m); err != nil {
		return err
	}
	p, err := e.plan(m.Relation, replay)
	if p == nil {
		return err
	}
	if err := p.read(p.cells, &m.New, false); err != nil {
		return err
	}
	if p.unknown(p.cells) {
		return fmt.Errorf("an inserted row of %s.%s came without a value", p.table.saved.Schema, p.table.saved.Name)
	}
	key, err := p.rowKey(&b.text, p.cells)
	if err != nil {
		return err
	}
	p.touch(key, x)
	if replay {
		return nil
	}
	c := p.upsert(b, key, p.cells)
	// A copy may have read the row already.
	c.New = len(p.targets) == 1 && len(p.table.copies) == 0 && p.table.unique()
	e.keepWide(p, b, c, key)
	p.complete(key)
	return nil
}

// keepWide sets what becomes of the long values of a row told in full.
func (e *evaluator) keepWide(p *tablePlan, b *batch, c *millrace.Change, key string) {
	if !p.wide || p.narrow(p.cells) {
		return
	}
	if record := p.wideRecord(p.cells); record != nil {
		e.storeWide(p, b, c, key, record)
	}
}

// storeWide makes a record what is kept of a row; nothing, if it is nil.
func (e *evaluator) storeWide(p *tablePlan, b *batch, c *millrace.Change, key string, record []byte) {
	if record == nil {
		c.Wide = millrace.WideDrop
		e.loseWide(p, key)
		return
	}
	c.Wide, c.WideValues = millrace.WideStore, record
	b.bytes += int64(len(record))
	e.wide.set(millrace.RowRef{Table: p.table.saved.ID, Key: strings.Clone(key)}, record)
}

// loseWide notes that a change takes away what is kept under a key.
func (e *evaluator) loseWide(p *tablePlan, key string) {
	if p.wide {
		e.wide.drop(millrace.RowRef{Table: p.table.saved.ID, Key: key})
	}
}

func (e *evaluator) onUpdate(msg []byte, x xid, replay bool, b *batch) error {
	m := &e.update
	if err := pgoutput.ParseUpdate(msg, m); err != nil {
		return err
	}
	p, err := e.plan(m.Relation, replay)
	if p == nil {
		return err
	}
	if err := p.read(p.cells, &m.New, false); err != nil {
		return err
	}
	if m.OldKind != pgoutput.OldNone {
		if err := p.read(p.old, &m.Old, m.OldKind == pgoutput.OldKey); err != nil {
			return err
		}
		p.fromOld(m.OldKind)
	}
	key, err := p.rowKey(&b.text, p.cells)
	if err != nil {
		return err
	}
	oldKey := key
	if m.OldKind != pgoutput.OldNone {
		if oldKey, err = p.rowKey(&b.text, p.old); err != nil {
			return err
		}
	}
	moved := oldKey != key
	p.touch(key, x)
	if moved {
		p.touch(oldKey, x)
	}
	if replay {
		return nil
	}
	partly := p.unknown(p.cells)
	record, complete, err := e.fill(p, oldKey)
	if err != nil {
		return err
	}
	if moved {
		p.remove(b, oldKey)
		e.loseWide(p, oldKey)
		p.complete(oldKey)
	}
	if !complete {
		e.incomplete(p, b, key)
		return nil
	}
	c := p.upsert(b, key, p.cells)
	switch {
	case !p.wide:
	case partly && !moved && !p.othersWide(record, &m.New):
		// The long values of the row are the ones that are kept.
	case partly || !p.narrow(p.cells):
		e.storeWide(p, b, c, key, p.wideRecord(p.cells))
	default:
		// That the sink may tell of older values for a while does not matter: none is
		// asked for before the row has one again, which is told, or is gone.
		c.Wide = millrace.WideDrop
		e.wide.forget(millrace.RowRef{Table: p.table.saved.ID, Key: key})
	}
	p.complete(key)
	return nil
}

func (e *evaluator) onDelete(msg []byte, x xid, replay bool, b *batch) error {
	m := &e.delete
	if err := pgoutput.ParseDelete(msg, m); err != nil {
		return err
	}
	p, err := e.plan(m.Relation, replay)
	if p == nil {
		return err
	}
	if err := p.read(p.old, &m.Old, m.OldKind == pgoutput.OldKey); err != nil {
		return err
	}
	key, err := p.rowKey(&b.text, p.old)
	if err != nil {
		return err
	}
	p.touch(key, x)
	if replay {
		return nil
	}
	p.remove(b, key)
	e.loseWide(p, key)
	p.complete(key)
	return nil
}

func (e *evaluator) onTruncate(msg []byte, x xid, replay bool, b *batch) error {
	m, err := pgoutput.ParseTruncate(msg)
	if err != nil {
		return err
	}
	for _, oid := range m.Relations {
		p, err := e.plan(oid, replay)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		for _, c := range p.table.copies {
			c.machine.truncated(x)
			c.seen.forget()
			if !replay {
				c.machine.strikeAll()
			}
		}
		if !replay {
			p.truncate(b)
			e.wide.dropTable(p.table.saved.ID)
		}
	}
	return nil
}

// incomplete is a row with a long value that neither the message nor what is
// kept tells. What does not read the value gets the row. Definitions being built
// that do get it when the row is read again; of others it goes, and is listed
// among the errors.
func (e *evaluator) incomplete(p *tablePlan, b *batch, key string) {
	for _, c := range p.table.copies {
		if !c.machine.incomplete(strings.Clone(key)) {
			c.seen.forget() // it reads pages again
		}
	}
	given := map[millrace.DefinitionID]bool{}
	for _, t := range p.targets {
		t.upsertKnown(b, key, p.cells, given)
	}
	p.fail(b, key, func(id millrace.DefinitionID) bool { return given[id] || p.table.isBuilding(id) },
		"a long value of the row was not told by the source, since it did not change, and is not kept: "+
			"any update of the row that sets its long columns brings it back")
	if !p.wide {
		return
	}
	// Only what is known of the row now is kept: the rest of the record may be
	// older than what the message told.
	b.changes = append(b.changes, millrace.Change{Scope: &millrace.Scope{Table: p.table.saved.ID}, Kind: millrace.ChangeUpsert, Key: key})
	b.bytes += int64(len(key)) + changeOverhead
	e.storeWide(p, b, &b.changes[len(b.changes)-1], key, p.wideRecord(p.cells))
}

// isBuilding tells whether a definition is filled by an unfinished copy of the
// table.
func (t *tableState) isBuilding(id millrace.DefinitionID) bool {
	return slices.ContainsFunc(t.copies, func(c *copyRun) bool { return c.fills(id) })
}

// read takes the columns of a tuple into cells. In an OldKey tuple only the key
// is told.
func (p *tablePlan) read(cells []cell, t *pgoutput.Tuple, keyOnly bool) error {
	if t.Len() != len(cells) {
		return fmt.Errorf("a row of %s.%s has %d columns, its relation %d", p.table.saved.Schema, p.table.saved.Name, t.Len(), len(cells))
	}
	for i := range cells {
		switch t.Kind(i) {
		case pgoutput.Text:
			cells[i] = cell{known: true, text: t.Bytes(i)}
		case pgoutput.Null:
			cells[i] = cell{known: true, null: true}
		case pgoutput.Unchanged:
			cells[i] = cell{}
		default:
			return fmt.Errorf("column %q of %s.%s came in binary format", p.columns[i].name, p.table.saved.Schema, p.table.saved.Name)
		}
	}
	if keyOnly {
		for i := range cells {
			if !slices.Contains(p.key, i) {
				cells[i] = cell{}
			}
		}
	}
	return nil
}

// fromOld completes the new row by the old one of the same message: all of it
// with OldFull, the key with OldKey (a key column may be out of line too).
func (p *tablePlan) fromOld(kind byte) {
	for i := range p.cells {
		if !p.cells[i].known && p.old[i].known {
			p.cells[i] = p.old[i]
		}
	}
}

func (p *tablePlan) unknown(cells []cell) bool {
	for i := range cells {
		if !cells[i].known {
			return true
		}
	}
	return false
}

// fill completes p.cells by what is kept of the row under key. It returns the
// record used. A value that no definition reads may stay unknown: its column may
// have had another name when the record was kept.
func (e *evaluator) fill(p *tablePlan, key string) (record []byte, complete bool, err error) {
	complete = true
	asked := false
	for i := range p.cells {
		if p.cells[i].known {
			continue
		}
		if !asked {
			if record, err = e.kept(p.table.saved.ID, key); err != nil {
				return nil, false, err
			}
			asked = true
		}
		value, ok, err := wideValue(record, p.columns[i].kept)
		if err != nil {
			return nil, false, fmt.Errorf("row of %s.%s: %w", p.table.saved.Schema, p.table.saved.Name, err)
		}
		if !ok {
			complete = complete && !p.reads(i)
			continue
		}
		p.cells[i] = cell{known: true, text: value}
	}
	return record, complete, nil
}

func (e *evaluator) kept(table millrace.TableID, key string) ([]byte, error) {
	if record, known := e.wide.get(table, key); known {
		return record, nil
	}
	if err := e.fetch([]millrace.RowRef{{Table: table, Key: strings.Clone(key)}}); err != nil {
		return nil, err
	}
	record, _ := e.wide.get(table, key)
	return record, nil
}

// othersWide tells whether the kept record of a row has to change though some
// of its long values did not.
func (p *tablePlan) othersWide(record []byte, t *pgoutput.Tuple) bool {
	for i := range p.cells {
		if t.Kind(i) == pgoutput.Unchanged {
			continue
		}
		if !p.cells[i].null && p.columns[i].canMove(len(p.cells[i].text)) {
			return true
		}
		if _, kept, _ := wideValue(record, p.columns[i].kept); kept {
			return true
		}
	}
	return false
}

func (p *tablePlan) touch(key string, x xid) {
	for _, c := range p.table.copies {
		key := strings.Clone(key)
		c.machine.touch(key, x)
		c.seen.add(key)
	}
}

func (p *tablePlan) complete(key string) {
	for _, c := range p.table.copies {
		c.machine.complete(key)
	}
}
