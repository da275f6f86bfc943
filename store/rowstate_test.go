package store

import (
	"fmt"
	"strings"
	"testing"
)

// The cache of row states is bounded by what the rows take, not by their number:
// long keys, and rows in many buckets (I8).
func TestCacheOfRowsIsBounded(t *testing.T) {
	const limit = 256 << 10
	for _, c := range []struct {
		name          string
		key, outputs  int // bytes of a key, outputs of a row
		rows          int
		least, utmost int // rows that are cached in the end
	}{
		{"usual rows", 8, 1, 3000, 300, 900},
		{"long keys", 2000, 1, 1000, 50, 150},
		{"many buckets", 8, 100, 200, 10, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newWorld(t, Options{CacheBytes: limit})
			for i := range c.rows {
				key := fmt.Sprintf("%0*d", c.key, i)
				change := x.upsert(0, key)
				for j := range c.outputs {
					change.Outputs = append(change.Outputs, x.out(0, fmt.Sprint("b", j), "lists", key, "{}"))
				}
				x.apply(t, change)
			}
			x.commit(t, nil)
			n, bytes := 0, 0
			for _, rows := range []map[rowKey]*rowState{x.w.rows.young, x.w.rows.old} {
				for k, row := range rows {
					if row.grown() != 0 {
						t.Fatalf("a row has grown unnoticed: %.20s", strings.TrimLeft(k.key, "0"))
					}
					n++
					bytes += row.bytes
				}
			}
			// One batch may pass the limit; here it is one row.
			if n < c.least || n > c.utmost || bytes > limit*5/4 {
				t.Errorf("%d rows are cached, want %d to %d; they take %d bytes, the limit is %d", n, c.least, c.utmost, bytes, limit)
			}
		})
	}
}
