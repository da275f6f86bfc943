package decoder

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
)

const benchRules = `
bucket_definitions:
  by_list:
    parameters: SELECT id AS list FROM lists WHERE owner_id = request.user_id()
    data:
      - SELECT * FROM todos WHERE list_id = bucket.list
`

// benchEvaluator has the demo's todos, its messages are made by insertMessage.
func benchEvaluator(tb testing.TB) *evaluator {
	tb.Helper()
	rules, _, err := compileRules("bench", benchRules)
	if err != nil {
		tb.Fatal(err)
	}
	set := millrace.RuleSet{ID: 1, Content: benchRules}
	for i, d := range rules.Definitions() {
		set.Definitions = append(set.Definitions, millrace.Definition{ID: millrace.DefinitionID(i + 1), Kind: d.Kind, Key: d.Key})
	}
	opened, err := openRuleset(set)
	if err != nil {
		tb.Fatal(err)
	}
	rel := &pgoutput.Relation{OID: 1, Schema: "public", Name: "todos", Identity: 'd'}
	t := &tableState{bounded: true, rule: catalog.TableName{Schema: "public", Name: "todos"}, found: &catalog.Table{}}
	t.saved = &millrace.SourceTable{ID: 1, OID: 1, Schema: "public", Name: "todos", Identity: millrace.IdentityDefault, KeyColumns: []string{"id"}}
	for i, c := range []struct {
		name string
		oid  uint32
	}{{"id", 2950}, {"list_id", 2950}, {"title", 25}, {"completed", 16}, {"created_by", 25}, {"created_at", 1184}, {"completed_at", 1184}} {
		rel.Columns = append(rel.Columns, pgoutput.RelationColumn{Key: i == 0, Name: c.name, TypeOID: c.oid})
		t.saved.Columns = append(t.saved.Columns, millrace.SourceColumn{Name: c.name, TypeOID: c.oid})
	}
	e := &evaluator{
		source: "main", origin: &origin{name: "main", tags: []string{"main", "default"}}, log: testLog(tb), feed: &feed{sets: []*ruleset{opened}}, types: builtinTypes{},
		tables: map[uint32]*tableState{1: t}, plans: map[uint32]*tablePlan{}, unlike: map[uint32]*changedError{}, wide: newWideCache(),
	}
	if err := e.relation(rel, false); err != nil {
		tb.Fatal(err)
	}
	return e
}

func appendTuple(b []byte, values ...string) []byte {
	b = append(b, 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		if v == "" {
			b = append(b, 'n')
			continue
		}
		b = append(b, 't')
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

func todoMessage(kind byte, i int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, 1)
	return appendTuple(b, fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), fmt.Sprintf("%08x-0000-4000-8000-000000000001", i%100),
		fmt.Sprintf("buy %d bottles of milk and something to eat with it", i), "f", "alice", "2026-11-25 13:00:00.123456+00", "")
}

// BenchmarkEvaluate is from pgoutput messages in memory to changes, without
// any server.
func BenchmarkEvaluate(b *testing.B) {
	for name, kind := range map[string]byte{"insert": 'I', "update": 'U'} {
		b.Run(name, func(b *testing.B) {
			e := benchEvaluator(b)
			var messages [][]byte
			var size int64
			for i := range 5000 {
				m := todoMessage(kind, i)
				size += int64(len(m))
				messages = append(messages, m)
			}
			b.SetBytes(size / 5000)
			b.ReportAllocs()
			out := &batch{}
			for i := 0; b.Loop(); i++ {
				if i%5000 == 0 {
					out.reset()
				}
				if err := e.message(messages[i%5000], 1, false, out); err != nil {
					b.Fatal(err)
				}
			}
			if len(out.changes) > 0 && len(out.changes[0].Outputs) != 1 {
				b.Fatalf("a row has %d outputs", len(out.changes[0].Outputs))
			}
		})
	}
}
