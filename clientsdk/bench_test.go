package clientsdk

import (
	"context"
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

const (
	benchOps     = 100_000
	benchPerLine = 1_000
)

// benchLines are data lines of one bucket, about 300 bytes a row, as wire text.
func benchLines(first millrace.OpID) (lines [][]byte, sum millrace.Checksum, last millrace.OpID) {
	op := first
	for op < first+benchOps {
		d := protocol.Data{Bucket: "b", After: op, HasMore: true}
		for range benchPerLine {
			op++
			id := fmt.Sprintf("%08x-5eb8-4abd-924d-2ed71b792c70", uint32(op-first)*2654435761)
			data := fmt.Sprintf(`{"id":"%s","list_id":"0ba1375f-5eb8-4abd-924d-2ed71b792c%02d","title":"Buy milk number %d and do not forget the bread, butter, and whatever else this row of some length holds","completed":%d,"created_by":"alice","created_at":"2026-11-25 10:00:00.000000Z","completed_at":null}`, id, op%50, op, op%2)
			d.Ops = append(d.Ops, millrace.Op{ID: op, Kind: millrace.OpPut, Type: "todos", RowID: id, Data: data, Checksum: millrace.PutChecksum("todos", id, "", data)})
			sum += d.Ops[len(d.Ops)-1].Checksum
		}
		d.NextAfter = op
		lines = append(lines, d.AppendLine(nil))
	}
	return lines, sum, op
}

func benchSchema(index bool) Schema {
	t := Table{Name: "todos", Columns: []Column{{Name: "list_id"}, {Name: "title"}, {Name: "completed", Type: Integer}}}
	if index {
		t.Indexes = []Index{{Name: "list", Columns: []IndexColumn{{Name: "list_id"}}}}
	}
	return Schema{Tables: []Table{t}}
}

// BenchmarkIngest is a first download of 100,000 rows, from wire text to rows
// that readers see.
func BenchmarkIngest(b *testing.B) {
	ctx := context.Background()
	lines, sum, last := benchLines(0)
	for _, index := range []bool{false, true} {
		b.Run(fmt.Sprintf("index=%v", index), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := testStore(b, benchSchema(index))
				b.StartTimer()
				ingest(b, ctx, s, lines, sum, last)
			}
			b.ReportMetric(float64(benchOps)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func ingest(b *testing.B, ctx context.Context, s *store, lines [][]byte, sum millrace.Checksum, last millrace.OpID) {
	cp := []protocol.Bucket{{Name: "b", Checksum: sum, Count: benchOps, Priority: 3}}
	if _, err := s.begin(ctx, true, cp, nil); err != nil {
		b.Fatal(err)
	}
	a := applier{store: s, verify: true}
	for _, text := range lines {
		l, err := protocol.DecodeLine(text)
		if err != nil {
			b.Fatal(err)
		}
		if a.add(l.(*protocol.Data)) {
			if e := a.flush(ctx, 1); e != nil {
				b.Fatal(e)
			}
		}
	}
	if e := a.flush(ctx, 1); e != nil {
		b.Fatal(e)
	}
	out, err := s.complete(ctx, completion{OpID: last, Buckets: cp, Full: true})
	if err != nil || !out.Published {
		b.Fatalf("%+v %v", out, err)
	}
}

// BenchmarkKeyedInsert is what BenchmarkIngest is to be compared with: the same
// rows, decoded before, into one keyed table that is nothing else.
func BenchmarkKeyedInsert(b *testing.B) {
	ctx := context.Background()
	texts, _, _ := benchLines(0)
	var lines []*protocol.Data
	for _, text := range texts {
		l, err := protocol.DecodeLine(text)
		if err != nil {
			b.Fatal(err)
		}
		lines = append(lines, l.(*protocol.Data))
	}
	for b.Loop() {
		b.StopTimer()
		s := testStore(b, Schema{})
		b.StartTimer()
		err := s.write(ctx, false, func(t *txn) error {
			if _, err := s.conn.ExecContext(ctx, `CREATE TABLE plain (id TEXT PRIMARY KEY, op_id INTEGER, checksum INTEGER, data TEXT)`); err != nil {
				return err
			}
			for _, d := range lines {
				for i := range d.Ops {
					if err := t.exec(`INSERT INTO plain VALUES (?, ?, ?, ?)`, d.Ops[i].RowID, int64(d.Ops[i].ID), int64(d.Ops[i].Checksum), d.Ops[i].Data); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchOps)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkLocalWrite is one inserted row, committed to disk and queued.
func BenchmarkLocalWrite(b *testing.B) {
	ctx := context.Background()
	db := &DB{store: testStore(b, benchSchema(true))}
	for i := 0; b.Loop(); i++ {
		if _, err := db.Execute(ctx, `INSERT INTO todos (id, list_id, title, completed) VALUES (?, 'l1', 'Buy milk', 0)`, fmt.Sprint("row ", i)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSmallCheckpoint is one changed row among 100,000, from the checkpoint
// line to readers seeing it.
func BenchmarkSmallCheckpoint(b *testing.B) {
	ctx := context.Background()
	s := testStore(b, benchSchema(true))
	lines, sum, last := benchLines(0)
	ingest(b, ctx, s, lines, sum, last)
	for b.Loop() {
		last++
		op := millrace.Op{ID: last, Kind: millrace.OpPut, Type: "todos", RowID: "one", Data: `{"list_id":"l","title":"x"}`}
		op.Checksum = millrace.PutChecksum(op.Type, op.RowID, "", op.Data)
		sum += op.Checksum
		cp := []protocol.Bucket{{Name: "b", Checksum: sum, Count: int64(last), Priority: 3}}
		if _, err := s.begin(ctx, false, cp, nil); err != nil {
			b.Fatal(err)
		}
		if err := s.stage(ctx, []*protocol.Data{{Bucket: "b", Ops: []millrace.Op{op}}}, true); err != nil {
			b.Fatal(err)
		}
		out, err := s.complete(ctx, completion{OpID: last, Buckets: cp, Full: true})
		if err != nil || !out.Published {
			b.Fatalf("%+v %v", out, err)
		}
	}
}
