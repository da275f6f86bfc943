package relay

import (
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// TestLongBucketsTakeSeveralLines: 1,000 ops or about 1 MiB each, positions in
// step, has_more on all but the last.
func TestLongBucketsTakeSeveralLines(t *testing.T) {
	e := encoder{wires: func(int) string { return "x#b[]" }, after: func(int) millrace.OpID { return 7 }}
	var text string
	total := 0
	flush := func(_ int, lines []byte, ops int) { text, total = string(lines), ops }
	for i := range 2500 {
		e.op(0, &millrace.Op{ID: millrace.OpID(8 + i), Kind: millrace.OpPut, Type: "t", RowID: "r", Data: "{}"}, flush)
	}
	e.op(0, &millrace.Op{ID: 5000, Kind: millrace.OpPut, Type: "t", RowID: "r", Data: `{"a":"` + strings.Repeat("x", 2<<20) + `"}`}, flush)
	e.op(0, &millrace.Op{ID: 5001, Kind: millrace.OpMove}, flush)
	e.end(flush)
	at := millrace.OpID(7)
	var sizes []int
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		l, err := protocol.DecodeLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		d := l.(*protocol.Data)
		if d.After != at || d.NextAfter != d.Ops[len(d.Ops)-1].ID || d.HasMore != (d.NextAfter != 5001) {
			t.Errorf("after %d, next %d, more %v; want after %d", d.After, d.NextAfter, d.HasMore, at)
		}
		at = d.NextAfter
		sizes = append(sizes, len(d.Ops))
	}
	if total != 2502 || len(sizes) != 4 || sizes[0] != 1000 || sizes[2] != 501 || sizes[3] != 1 {
		t.Errorf("%d ops in lines of %v", total, sizes)
	}
}

func BenchmarkEncode(b *testing.B) {
	op := millrace.Op{ID: 123456789, Kind: millrace.OpPut, Type: "todos", RowID: "8a7d3c5e-0000-4000-a000-000000000001", Checksum: 12345678,
		Data: `{"id":"8a7d3c5e-0000-4000-a000-000000000001","title":"` + strings.Repeat("Buy milk ", 25) + `","done":0}`}
	for name, as := range map[string]protocol.Encoding{"JSON": protocol.JSON, "BSON": protocol.BSON} {
		b.Run(name, func(b *testing.B) {
			e := encoder{wires: func(int) string { return "x#b[]" }, after: func(int) millrace.OpID { return 0 }, as: as}
			flush := func(int, []byte, int) {}
			b.ReportAllocs()
			for i := range b.N {
				e.op(i/1000, &op, flush)
			}
		})
	}
}

// BenchmarkRecode: a node's lines, once for all clients that want BSON.
func BenchmarkRecode(b *testing.B) {
	var d protocol.Data
	for i := range 1000 {
		d.Ops = append(d.Ops, millrace.Op{ID: millrace.OpID(i + 1), Kind: millrace.OpPut, Type: "todos", RowID: "8a7d3c5e-0000-4000-a000-000000000001", Data: `{"title":"Buy milk","done":0}`})
	}
	text := protocol.JSON.AppendLine(nil, &d)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for range b.N {
		if (&dataLines{text: text}).in(protocol.BSON) == nil {
			b.Fatal("not recoded")
		}
	}
}
