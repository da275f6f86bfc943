package decoder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/decoder/pgoutput"
)

// chunkTuple is a row as a reader gives it; nil is null.
func chunkTuple(t interface{ Fatal(...any) }, values ...[]byte) *pgoutput.Tuple {
	msg := append(binary.BigEndian.AppendUint32([]byte{byte(pgoutput.KindInsert)}, 1), 'N')
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			msg = append(msg, 'n')
			continue
		}
		msg = append(binary.BigEndian.AppendUint32(append(msg, 't'), uint32(len(v))), v...)
	}
	var m pgoutput.Insert
	if err := pgoutput.ParseInsert(msg, &m); err != nil {
		t.Fatal(err)
	}
	return &m.New
}

// Whatever the rows and the memory for them, they come back as they were, and
// the files they took are gone.
func TestChunkRows(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.IntRange(1, 4).Draw(t, "columns")
		r := chunkRows{columns: columns, dir: dir, memory: rapid.SampledFrom([]int{1, 100, 5000, 1 << 20}).Draw(t, "memory")}
		defer r.close()
		var want [][][]byte
		for range rapid.IntRange(0, 30).Draw(t, "rows") {
			row := make([][]byte, columns)
			for i := range row {
				switch size := rapid.SampledFrom([]int{-1, 0, 3, 90, 3 * readAhead}).Draw(t, "size"); size {
				case -1:
				default:
					row[i] = bytes.Repeat([]byte{byte('a' + len(want)%26)}, size)
				}
			}
			if err := r.add(chunkTuple(t, row...)); err != nil {
				t.Fatal(err)
			}
			want = append(want, row)
		}
		for range 2 { // a chunk may be read twice
			n := 0
			err := r.each(func(cells []cell) error {
				for i, c := range cells {
					if !c.known || c.null != (want[n][i] == nil) || !bytes.Equal(c.text, want[n][i]) {
						t.Fatalf("row %d, column %d: %d bytes, null %v; want %d bytes", n, i, len(c.text), c.null, len(want[n][i]))
					}
				}
				n++
				return nil
			})
			if err != nil || n != len(want) {
				t.Fatalf("%d rows of %d, %v", n, len(want), err)
			}
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Fatalf("files %v, %v", files, err)
		}
	})
}

// Rows that take more than the spool may are refused, naming the key, and so
// that a smaller part of the table is read next.
func TestChunkRowsLimit(t *testing.T) {
	r := chunkRows{columns: 1, dir: t.TempDir(), memory: 1000, max: 2500}
	defer r.close()
	var err error
	for n := 0; err == nil && n < 100; n++ {
		err = r.add(chunkTuple(t, bytes.Repeat([]byte("x"), 500)))
	}
	if !errors.Is(err, errChunkTooLarge) || !bytes.Contains([]byte(err.Error()), []byte("decoder.spool_max")) {
		t.Errorf("got %v", err)
	}
	if r.size > 2500 {
		t.Errorf("%d bytes were written", r.size)
	}
}

// A damaged file is an error, not an endless read.
func TestChunkRowsDamaged(t *testing.T) {
	for _, cut := range []int64{1, 3, 300, 1003} {
		r := chunkRows{columns: 1, dir: t.TempDir(), memory: 1}
		defer r.close()
		for range 2 {
			if err := r.add(chunkTuple(t, bytes.Repeat([]byte("x"), 500))); err != nil {
				t.Fatal(err)
			}
		}
		r.size -= cut
		if err := r.each(func([]cell) error { return nil }); err == nil {
			t.Errorf("cut by %d bytes: no error", cut)
		}
	}
}
