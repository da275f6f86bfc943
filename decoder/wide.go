package decoder

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace/millrace"
)

// Postgres moves values out of line only in tuples of more than about 2,000
// bytes, and only values of at least 24 bytes. An update that leaves such a
// value alone does not tell it ("unchanged"), so that it has to come from what
// was kept of the row (P47). What is received does not show a tuple's size; it
// is bounded from above.
const (
	inlineValue  = 24
	maxWideBytes = 32 << 20 // more is not kept of a row; it cannot be synced anyway
)

// wideValues is the record of a row's long values: for each under what its
// column is kept (keptAs) and its text. The text form in which it is kept is
//
//	1 (version), then for each: key length, key, value length, value
//
// with lengths as unsigned varints.
const wideVersion = 1

func appendWide(b []byte, key string, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// wideValue finds a column in a record.
func wideValue(record []byte, key string) (value []byte, ok bool, err error) {
	if len(record) == 0 {
		return nil, false, nil
	}
	if record[0] != wideVersion {
		return nil, false, fmt.Errorf("kept long values have version %d, this release knows %d", record[0], wideVersion)
	}
	for rest := record[1:]; len(rest) > 0; {
		var k, v []byte
		if k, rest, ok = lengthPrefixed(rest); !ok {
			return nil, false, errWide
		}
		if v, rest, ok = lengthPrefixed(rest); !ok {
			return nil, false, errWide
		}
		if string(k) == key {
			return v, true, nil
		}
	}
	return nil, false, nil
}

var errWide = fmt.Errorf("kept long values of a row are damaged")

func lengthPrefixed(b []byte) (value, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	return b[size : size+int(n)], b[size+int(n):], true
}

// wideCache knows the kept long values of some rows as of the change being
// evaluated: what changes made of them that the sink may not have yet, and what
// the sink has told.
type wideCache struct {
	rows  map[millrace.RowRef][]byte // nil: nothing is kept
	bytes int64
	// What the sink has told, of rows that no change since the last batch was
	// about. Any of it may be forgotten at any time.
	told      map[millrace.RowRef][]byte
	toldBytes int64
	// What the sink would still tell of these rows and tables was taken away by a
	// change that is not on its way yet: the row is gone, and another may have its
	// key by now. The keys live as long as the batch.
	lost    map[millrace.RowRef]struct{}
	emptied map[millrace.TableID]bool
}

// maxWideCache bounds what was told, and what is left of the changes when they
// are handed over.
const maxWideCache = 8 << 20

func newWideCache() *wideCache {
	return &wideCache{
		rows:    map[millrace.RowRef][]byte{},
		told:    map[millrace.RowRef][]byte{},
		lost:    map[millrace.RowRef]struct{}{},
		emptied: map[millrace.TableID]bool{},
	}
}

// get gives what is kept of a row. If that is not known, the sink has it.
func (c *wideCache) get(table millrace.TableID, key string) (record []byte, known bool) {
	ref := millrace.RowRef{Table: table, Key: key}
	if record, known = c.rows[ref]; known {
		return record, true
	}
	if record, known = c.told[ref]; known {
		return record, true
	}
	_, known = c.lost[ref]
	return nil, known || c.emptied[table]
}

// set keeps the record that a change makes; key and record are not shared with
// anyone.
func (c *wideCache) set(ref millrace.RowRef, record []byte) {
	c.forget(ref)
	c.rows[ref] = record
	c.bytes += wideSize(ref, record)
}

// remember keeps what the sink told of rows, unless a change evaluated since it
// last got a batch knows better. Of the rows told before it may forget all.
func (c *wideCache) remember(refs []millrace.RowRef, records [][]byte) {
	if c.toldBytes > maxWideCache {
		clear(c.told)
		c.toldBytes = 0
	}
	for i, ref := range refs {
		if _, known := c.get(ref.Table, ref.Key); !known {
			c.told[ref] = records[i]
			c.toldBytes += wideSize(ref, records[i])
		}
	}
}

// drop notes that nothing is kept of a row any more. The key lives as long as
// the batch.
func (c *wideCache) drop(ref millrace.RowRef) {
	c.forget(ref)
	c.lost[ref] = struct{}{}
}

// dropTable notes that nothing is kept of a table any more.
func (c *wideCache) dropTable(table millrace.TableID) {
	for _, rows := range []map[millrace.RowRef][]byte{c.rows, c.told} {
		for ref := range rows {
			if ref.Table == table {
				c.forget(ref)
			}
		}
	}
	c.emptied[table] = true
}

// forget makes a row one of which nothing is known.
func (c *wideCache) forget(ref millrace.RowRef) {
	if len(c.rows) > 0 {
		if old, ok := c.rows[ref]; ok {
			c.bytes -= wideSize(ref, old)
			delete(c.rows, ref)
		}
	}
	if len(c.told) > 0 {
		if old, ok := c.told[ref]; ok {
			c.toldBytes -= wideSize(ref, old)
			delete(c.told, ref)
		}
	}
}

func wideSize(ref millrace.RowRef, record []byte) int64 {
	return int64(len(record) + len(ref.Key) + 64)
}

// handedOver is called when all changes evaluated so far are on their way to
// the sink: asking it gives the same answers from now on.
func (c *wideCache) handedOver() {
	clear(c.lost)
	clear(c.emptied)
	if c.bytes > maxWideCache {
		clear(c.rows)
		c.bytes = 0
	}
}

// reset forgets everything, when all changes evaluated so far are on their way
// to the sink.
func (c *wideCache) reset() {
	clear(c.rows)
	clear(c.told)
	clear(c.lost)
	clear(c.emptied)
	c.bytes, c.toldBytes = 0, 0
}
