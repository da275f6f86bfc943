package store

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// Kept values of many rows are given a few at a time, whatever they take
// together, those of the open flush and of several tables among them (I8).
func TestWideGivesAFewRows(t *testing.T) {
	x := newWorld(t, Options{})
	var refs []millrace.RowRef
	var want [][]byte
	keep := func(table, size int) {
		key := fmt.Sprintf("k%d", len(refs))
		value := append([]byte{1}, bytes.Repeat([]byte(key), size/2)...)
		c := x.upsert(table, key)
		c.Wide, c.WideValues = millrace.WideStore, value
		x.apply(t, c)
		refs, want = append(refs, millrace.RowRef{Table: x.tables[table].ID, Key: key}), append(want, value)
	}
	for i, size := range []int{1000, 3 << 20, 4 << 20, 1000, 12 << 20, 1000, 5 << 20} {
		keep(i%2, size)
	}
	x.commit(t, nil)
	refs, want = append(refs, millrace.RowRef{Table: x.tables[0].ID, Key: "never"}), append(want, nil)
	keep(0, 1000) // in the open flush
	calls := 0
	for at := 0; at < len(refs); calls++ {
		got, err := x.w.Wide(t.Context(), refs[at:])
		must(t, err)
		if len(got) == 0 {
			t.Fatal("no row was given")
		}
		size := 0
		for i, value := range got {
			if !bytes.Equal(value, want[at+i]) || (value == nil) != (want[at+i] == nil) {
				t.Fatalf("row %d: %d bytes, want %d", at+i, len(value), len(want[at+i]))
			}
			size += len(value)
		}
		if size > maxWide && len(got) > 1 {
			t.Errorf("%d bytes of %d rows at once", size, len(got))
		}
		at += len(got)
	}
	if calls < 4 {
		t.Errorf("all was given in %d calls", calls)
	}
}
