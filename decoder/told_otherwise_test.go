package decoder

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// A relation is described once in a session. If that is with changes that need not
// be taken, since the sidecar has them or a shadow's copy reads them, and otherwise
// than the table is known, the first change that counts ends the session: it must
// not be left out as those were.
func TestTableToldOtherwiseWhereNothingCounts(t *testing.T) {
	insert := appendTuple(binary.BigEndian.AppendUint32([]byte{'I'}, 1), "7", "1", "text")
	other := func() *pgoutput.Relation {
		rel := &pgoutput.Relation{OID: 1, Schema: "public", Name: "t", Identity: 'd'}
		for i, c := range append(keptColumns(), planColumn{name: "more", typeOID: 25}) {
			rel.Columns = append(rel.Columns, pgoutput.RelationColumn{Key: i == 0, Name: c.name, TypeOID: c.typeOID})
		}
		return rel
	}
	known := func() *pgoutput.Relation {
		rel := other()
		rel.Columns = rel.Columns[:3]
		return rel
	}
	truncate := append(binary.BigEndian.AppendUint32([]byte{'T'}, 1), 0, 0, 0, 0, 1)
	remove := keyTuple(binary.BigEndian.AppendUint32([]byte{'D'}, 1), "7")
	update := append([]byte{'U'}, insert[1:]...)
	for name, change := range map[string][]byte{"insert": insert, "update": update, "delete": remove, "truncate": truncate} {
		t.Run(name+" after a replay", func(t *testing.T) {
			e, b := keptEvaluator(t), &batch{}
			if err := e.relation(other(), true); err != nil {
				t.Fatal(err)
			}
			if err := e.message(insert, 1, true, b); err != nil || len(b.changes) > 0 {
				t.Fatalf("a replayed change: %v, %d changes", err, len(b.changes))
			}
			var changed *changedError
			if err := e.message(change, 2, false, b); !errors.As(err, &changed) || changed.oid != 1 {
				t.Fatalf("a change that counts: %v", err)
			}
			// Told again as it is known, it is taken.
			if err := e.relation(known(), false); err != nil {
				t.Fatal(err)
			}
			if err := e.message(insert, 3, false, b); err != nil || len(b.changes) != 1 {
				t.Fatalf("a change as the table is known: %v, %d changes", err, len(b.changes))
			}
		})
		t.Run(name+" after what a copy reads", func(t *testing.T) {
			e, b := keptEvaluator(t), &batch{}
			e.tables[1].shadow = &copyRun{saved: millrace.Copy{Since: 100}}
			e.commit = 100
			if err := e.relation(other(), false); err != nil {
				t.Fatal(err)
			}
			if err := e.message(change, 1, false, b); err != nil || len(b.changes) > 0 {
				t.Fatalf("a change that the copy reads: %v, %d changes", err, len(b.changes))
			}
			e.commit = 101
			var changed *changedError
			if err := e.message(change, 2, false, b); !errors.As(err, &changed) {
				t.Fatalf("a change that counts: %v", err)
			}
		})
	}
}
