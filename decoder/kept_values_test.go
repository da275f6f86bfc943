package decoder

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/sinktest"
)

// P45, P47: whatever rows do with their keys, and wherever the decoder asks for
// kept values, hands over, merges or lets a session go in between, a row gets no
// long value but its own.
func TestKeptValuesUnderReusedKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKeptModel(t)
		defer k.end()
		for range rapid.IntRange(1, 12).Draw(t, "transactions") {
			k.transaction()
			k.between()
		}
		k.finish()
		k.compare()
	})
}

// keptRow is a row as the source has it.
type keptRow struct {
	v, big string // big is told by an update only if it is set
	copied bool   // a chunk of pages need not bring it: one has, or it is beyond the end
}

func (r keptRow) long() bool { return len(r.big) > 1000 }

// keptModel is a source in memory in front of an appender and its writer.
type keptModel struct {
	*rapid.T
	ctx     context.Context
	cancel  context.CancelFunc
	a       *appender
	source  *source
	copy    *copyRun // nil: the table is copied
	sidecar *sinktest.Sidecar
	rows    map[string]keptRow
	values  int // made so far
}

const keptKeys = 6

func newKeptModel(t *rapid.T) *keptModel {
	e := keptEvaluator(t)
	k := &keptModel{T: t, sidecar: sinktest.New(), rows: map[string]keptRow{}}
	k.sidecar.WideBytes = rapid.SampledFrom([]int{1, 6000, 1 << 20}).Draw(t, "wide bytes")
	k.ctx, k.cancel = context.WithCancel(context.Background())
	c := Config{Logger: e.log, BatchMaxBytes: 8 << 20}
	k.a = newAppender(&c, newWriter(k.sidecar, batchCount), e.feed)
	go func() { _ = k.a.writer.run(k.ctx) }()
	table := e.tables[1]
	s := &source{config: &SourceConfig{Name: "main"}, origin: *e.origin, eval: e, wide: newWideCache(), tables: map[millrace.TableID]*tableState{1: table}, finished: map[millrace.CopyID]bool{}}
	e.wide = s.wide
	e.fetch = func(refs []millrace.RowRef) error { return k.a.fetch(k.ctx, s, refs) }
	k.a.sources, k.source = []*source{s}, s
	k.copy = resumeCopy(s, table, millrace.Copy{ID: 1, Table: 1, State: millrace.CopyRunning, Definitions: []millrace.DefinitionID{1}}, nil, &c)
	k.a.noteDirty(k.copy)
	for i := range keptKeys {
		if rapid.Bool().Draw(t, "there") {
			k.rows[strconv.Itoa(i)] = keptRow{v: k.value(), big: k.big()}
		}
	}
	if rapid.Bool().Draw(t, "copied") {
		k.merge(false, slices.Sorted(maps.Keys(k.rows)))
		k.try(k.a.flush(k.ctx, 0))
		k.copy, table.copies, s.copies = nil, nil, nil
	}
	return k
}

// keptEvaluator has a table t(id, v, big).
func keptEvaluator(t interface{ Fatal(...any) }) *evaluator {
	rules, _, err := compileRules("kept", wideRules)
	if err != nil {
		t.Fatal(err)
	}
	set := millrace.RuleSet{ID: 1, Content: wideRules}
	for i, d := range rules.Definitions() {
		set.Definitions = append(set.Definitions, millrace.Definition{ID: millrace.DefinitionID(i + 1), Kind: d.Kind, Key: d.Key})
	}
	opened, err := openRuleset(set)
	if err != nil {
		t.Fatal(err)
	}
	rel := &pgoutput.Relation{OID: 1, Schema: "public", Name: "t", Identity: 'd'}
	table := &tableState{bounded: true, rule: catalog.TableName{Schema: "public", Name: "t"}, found: &catalog.Table{}}
	table.saved = &millrace.SourceTable{ID: 1, OID: 1, Schema: "public", Name: "t", Identity: millrace.IdentityDefault, KeyColumns: []string{"id"}}
	for i, c := range keptColumns() {
		rel.Columns = append(rel.Columns, pgoutput.RelationColumn{Key: i == 0, Name: c.name, TypeOID: c.typeOID})
		table.saved.Columns = append(table.saved.Columns, millrace.SourceColumn{Name: c.name, TypeOID: c.typeOID})
	}
	e := &evaluator{
		source: "main", origin: &origin{name: "main", tags: []string{"main", "default"}}, feed: &feed{sets: []*ruleset{opened}}, types: builtinTypes{},
		tables: map[uint32]*tableState{1: table}, plans: map[uint32]*tablePlan{}, unlike: map[uint32]*changedError{}, wide: newWideCache(),
	}
	if err := e.relation(rel, false); err != nil {
		t.Fatal(err)
	}
	return e
}

func keptColumns() []planColumn {
	return []planColumn{{name: "id", typeOID: 23}, {name: "v", typeOID: 23}, {name: "big", typeOID: 25}}
}

func (k *keptModel) end() {
	k.cancel()
	<-k.a.writer.ended
}

func (k *keptModel) try(err error) {
	if err != nil {
		k.Fatal(err)
	}
}

func (k *keptModel) value() string { k.values++; return strconv.Itoa(k.values) }

// big is a value of the long column, no two alike.
func (k *keptModel) big() string {
	if rapid.IntRange(0, 3).Draw(k.T, "short") == 0 {
		return "s" + k.value()
	}
	return strings.Repeat(fmt.Sprintf("%07d ", k.values), 320) + k.value()
}

// tuple is a row's tuple; without the long value if it is not told.
func (k *keptModel) tuple(msg []byte, id string, r keptRow, told bool) []byte {
	msg = binary.BigEndian.AppendUint16(append(msg, 'N'), 3)
	for i, text := range []string{id, r.v, r.big} {
		if i == 2 && !told {
			return append(msg, 'u')
		}
		msg = append(binary.BigEndian.AppendUint32(append(msg, 't'), uint32(len(text))), text...)
	}
	return msg
}

// keyTuple is an old row of which only the key is told.
func keyTuple(msg []byte, id string) []byte {
	msg = append(binary.BigEndian.AppendUint16(append(msg, 'K'), 3), 't')
	msg = append(binary.BigEndian.AppendUint32(msg, uint32(len(id))), id...)
	return append(msg, 'n', 'n')
}

func keptMessage(kind pgoutput.Kind) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(kind)}, 1)
}

// change makes a random change and gives its message.
func (k *keptModel) change() []byte {
	key := func(name string) string { return strconv.Itoa(rapid.IntRange(0, keptKeys-1).Draw(k.T, name)) }
	id, to := key("id"), key("to")
	row, there := k.rows[id]
	if !there {
		row = keptRow{v: k.value(), big: k.big(), copied: true}
		k.rows[id] = row
		return k.tuple(keptMessage(pgoutput.KindInsert), id, row, true)
	}
	row.copied = true // the new version of the row is beyond the end of the copy
	what := rapid.SampledFrom([]string{"delete", "move", "move", "move", "touch", "touch", "set", "truncate"}).Draw(k.T, "change")
	told := what == "set" || !row.long()
	if what == "set" {
		row.big = k.big()
	}
	row.v = k.value()
	if _, taken := k.rows[to]; what == "move" && !taken {
		delete(k.rows, id)
		k.rows[to] = row
		return k.tuple(keyTuple(keptMessage(pgoutput.KindUpdate), id), to, row, told)
	}
	switch what {
	case "delete":
		delete(k.rows, id)
		return keyTuple(keptMessage(pgoutput.KindDelete), id)
	case "truncate":
		if rapid.IntRange(0, 3).Draw(k.T, "really") == 0 {
			clear(k.rows)
			msg := append(binary.BigEndian.AppendUint32([]byte{byte(pgoutput.KindTruncate)}, 1), 0)
			return binary.BigEndian.AppendUint32(msg, 1)
		}
	}
	k.rows[id] = row
	return k.tuple(keptMessage(pgoutput.KindUpdate), id, row, told)
}

// transaction makes changes, and evaluates them with kept values asked for
// ahead or not, and perhaps a first time for nothing.
func (k *keptModel) transaction() {
	var messages [][]byte
	for range rapid.IntRange(1, 8).Draw(k.T, "changes") {
		messages = append(messages, k.change())
	}
	if k.copy == nil && rapid.IntRange(0, 3).Draw(k.T, "cut") == 0 {
		before := k.a.batch.mark()
		for _, m := range messages[:rapid.IntRange(1, len(messages)).Draw(k.T, "until")] {
			k.try(k.source.eval.message(m, 1, false, k.a.batch))
		}
		k.a.batch.cut(before)
		k.try(closedEvent{&session{source: k.source}, make(chan struct{})}.handle(k.ctx, k.a))
	}
	if rapid.Bool().Draw(k.T, "ahead") {
		var refs []millrace.RowRef
		for _, m := range messages {
			if ref, ok := k.source.eval.needs(m); ok {
				refs = append(refs, ref)
			}
		}
		if len(refs) > 0 {
			k.try(k.source.eval.fetch(refs))
		}
	}
	for _, m := range messages {
		k.try(k.source.eval.message(m, 1, false, k.a.batch))
		if rapid.IntRange(0, 7).Draw(k.T, "hand over") == 0 {
			k.a.pieces = true
			k.try(k.a.handOver(k.ctx))
		}
	}
}

// between is what may happen at the end of a transaction.
func (k *keptModel) between() {
	if rapid.IntRange(0, 3).Draw(k.T, "flush") == 0 {
		k.try(k.a.flush(k.ctx, 0))
	}
	if k.copy == nil || rapid.Bool().Draw(k.T, "no chunk") {
		return
	}
	var keys []string
	for _, id := range slices.Sorted(maps.Keys(k.rows)) {
		if !k.rows[id].copied && rapid.Bool().Draw(k.T, "in chunk") {
			keys = append(keys, id)
		}
	}
	k.merge(false, keys)
}

// merge merges a chunk with the rows as they are now.
func (k *keptModel) merge(again bool, keys []string) {
	columns := keptColumns()
	r := &chunkResult{chunk: &chunk{floor: &snapshot{Xmin: 10, Xmax: 10}}, columns: columns, rows: chunkRows{columns: len(columns)}}
	if again {
		r.chunk.keys = keys
	}
	for _, id := range keys {
		row, there := k.rows[id]
		if !there {
			k.Fatalf("row %s is to be read again, and is gone", id)
		}
		for _, text := range []string{id, row.v, row.big} {
			r.rows.addText([]byte(text))
		}
		row.copied = true
		k.rows[id] = row
	}
	k.try(k.copy.merge(k.ctx, k.a, r))
}

// finish brings what the copy still has to, and flushes.
func (k *keptModel) finish() {
	if k.copy != nil {
		var keys []string
		for _, id := range slices.Sorted(maps.Keys(k.rows)) {
			if !k.rows[id].copied {
				keys = append(keys, id)
			}
		}
		k.merge(false, keys)
		if keys = slices.Sorted(maps.Keys(k.copy.machine.reread)); len(keys) > 0 {
			k.merge(true, keys)
		}
	}
	k.try(k.a.flush(k.ctx, 0))
	for k.a.given > 0 {
		k.a.written(<-k.a.writer.done)
	}
}

func (k *keptModel) compare() {
	got := map[string]string{}
	for id, data := range k.sidecar.Content(1) {
		got[id.RowID] = data
	}
	for id, row := range k.rows {
		if want := fmt.Sprintf(`{"id":%s,"v":%s,"big":%q}`, id, row.v, row.big); got[id] != want {
			k.Errorf("row %s is %.40s…%s, want %.40s…%s", id, got[id], got[id][max(0, len(got[id])-8):], want, want[len(want)-8:])
		}
		delete(got, id)
	}
	for id := range got {
		k.Errorf("row %s is not in the source", id)
	}
	if errs := k.sidecar.Errors(); len(errs) > 0 {
		k.Errorf("rows have errors: %v", errs)
	}
}

// P47: of a row that stays incomplete only what it was told is kept: what was
// kept before is older. Later updates must not complete it with that.
func TestIncompleteRowKeepsWhatItWasTold(t *testing.T) {
	e := keptEvaluator(t)
	columns := append(keptColumns(), planColumn{name: "more", typeOID: 25})
	p, err := newTablePlan(e.feed, e.origin, e.tables[1], columns, e.types, func(millrace.DefinitionID) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	// Rules that read all columns were deployed after the record was kept.
	for i := range p.targets[0].evaluations[0].needed {
		p.targets[0].evaluations[0].needed[i] = true
	}
	p.targets[0].evaluations[0].convert[3] = p.targets[0].evaluations[0].convert[2]
	e.plans[1] = p
	e.fetch = func([]millrace.RowRef) error { t.Fatal("the sink is asked"); return nil }
	ref := millrace.RowRef{Table: 1, Key: "1"}
	e.wide.set(ref, appendWide([]byte{wideVersion}, "big", []byte(strings.Repeat("old", 1000))))
	b := &batch{}
	update := func(values ...string) {
		msg := binary.BigEndian.AppendUint16(append(keptMessage(pgoutput.KindUpdate), 'N'), uint16(len(values)))
		for _, text := range values {
			if text == "unchanged" {
				msg = append(msg, 'u')
				continue
			}
			msg = append(binary.BigEndian.AppendUint32(append(msg, 't'), uint32(len(text))), text...)
		}
		if err := e.message(msg, 1, false, b); err != nil {
			t.Fatal(err)
		}
	}
	update("1", "1", strings.Repeat("new", 1000), "unchanged")
	update("1", "2", "unchanged", "x")
	var told []string
	for _, c := range b.changes {
		for _, o := range c.Outputs {
			told = append(told, o.Data)
		}
	}
	want := fmt.Sprintf(`{"id":1,"v":2,"big":%q}`, strings.Repeat("new", 1000))
	if len(told) != 1 || told[0] != want {
		t.Fatalf("the row is %.60q, want once %.60s", told, want)
	}
	record, _ := e.wide.get(1, "1")
	if big, ok, err := wideValue(record, "big"); !ok || err != nil || string(big) != strings.Repeat("new", 1000) {
		t.Fatalf("%.20s… is kept (%v)", big, err)
	}
}
