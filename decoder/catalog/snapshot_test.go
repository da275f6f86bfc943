package catalog

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/decoder/pgoutput"
)

func TestParseSnapshot(t *testing.T) {
	s, err := ParseSnapshot("10:20:12,15")
	if err != nil || s.String() != "10:20:12,15" {
		t.Fatalf("%v %v", s, err)
	}
	for xid, want := range map[uint64]bool{9: true, 10: true, 12: false, 13: true, 15: false, 19: true, 20: false, math.MaxUint64: false} {
		if s.Visible(xid) != want {
			t.Errorf("%d visible: %v", xid, !want)
		}
	}
	if (Snapshot{}).Visible(0) {
		t.Error("the zero snapshot sees something")
	}
	for _, text := range []string{"", "1", "1:2", "x:2:", "1:y:", "3:2:", "1:5:z", "1:5:7", "1:5:0", "1:5:2,", "1:2:3:4"} {
		if _, err := ParseSnapshot(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ref := rapid.Uint64Range(1<<31, 1<<60).Draw(t, "ref")
		xid := uint64(int64(ref) + rapid.Int64Range(math.MinInt32, math.MaxInt32).Draw(t, "distance"))
		if got := Widen(uint32(xid), ref); got != xid {
			t.Fatalf("%d near %d: %d", xid, ref, got)
		}
	})
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add("10:20:12,15")
	f.Add("1:1:")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSnapshot(text)
		if err != nil {
			return
		}
		again, err := ParseSnapshot(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q: %v %v", text, again, err)
		}
	})
}

func TestSwitchPoint(t *testing.T) {
	const history = "# comment\n1\t0/3000148\tno recovery target specified\n\n2\t1/A\tbefore 2000-01-01\n"
	for timeline, want := range map[int32]string{1: "0/3000148", 2: "1/A"} {
		if lsn, err := switchPoint(history, timeline); err != nil || lsn.String() != want {
			t.Errorf("%d: %v %v", timeline, lsn, err)
		}
	}
	for _, bad := range []string{"", "x\t0/1\n", "3\t0\n"} {
		if _, err := switchPoint(bad, 3); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// Rows come out as they went in, however the bytes are cut.
func TestCopyText(t *testing.T) {
	escape := strings.NewReplacer("\\", `\\`, "\b", `\b`, "\f", `\f`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\v", `\v`)
	value := rapid.OneOf(rapid.Just("\x00"), rapid.StringMatching(`[a\\N\t\n\r]{0,5}`))
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.IntRange(0, 3).Draw(t, "columns")
		rows := rapid.SliceOfN(rapid.SliceOfN(value, columns, columns), 0, 4).Draw(t, "rows")
		var text bytes.Buffer
		for _, row := range rows {
			for i, v := range row {
				if i > 0 {
					text.WriteByte('\t')
				}
				if v == "\x00" { // stands for null
					text.WriteString(`\N`)
				} else {
					text.WriteString(escape.Replace(v))
				}
			}
			text.WriteByte('\n')
		}
		var got [][]string
		c := copyReader{columns: columns, row: func(tuple *pgoutput.Tuple) error {
			row := []string{}
			for i := range tuple.Len() {
				if tuple.Kind(i) == pgoutput.Null {
					row = append(row, "\x00")
				} else {
					row = append(row, string(tuple.Bytes(i)))
				}
			}
			got = append(got, row)
			return nil
		}}
		for rest := text.Bytes(); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			if _, err := c.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(rows) || c.rows != len(rows) {
			t.Fatalf("%d rows, want %d", len(got), len(rows))
		}
		for i := range rows {
			if strings.Join(got[i], "|") != strings.Join(rows[i], "|") {
				t.Fatalf("row %d: %q, want %q", i, got[i], rows[i])
			}
		}
	})
	c := copyReader{columns: 2, row: func(*pgoutput.Tuple) error { return nil }}
	if _, err := c.Write([]byte("one\n")); err == nil {
		t.Error("a column is missing and nobody says so")
	}
	c = copyReader{columns: 1}
	if _, err := c.Write([]byte("cut")); err != nil || c.close() == nil {
		t.Error("a cut row is not noticed")
	}
}

func FuzzCopyText(f *testing.F) {
	f.Add([]byte("a\tb\\t\\N\n"), 2)
	f.Add([]byte("\\"), 1)
	f.Fuzz(func(t *testing.T, text []byte, columns int) {
		if columns < 0 || columns > 8 {
			return
		}
		c := copyReader{columns: columns, row: func(tuple *pgoutput.Tuple) error {
			if tuple.Len() != columns {
				t.Fatalf("%d columns", tuple.Len())
			}
			return nil
		}}
		if _, err := c.Write(text); err == nil {
			_ = c.close() // whether it ends in a row does not matter here
		}
	})
}
