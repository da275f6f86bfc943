package decoder

import (
	"encoding/binary"
	"fmt"
	"maps"

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

// wideValues is the record of a row's long values: for each the column's name
// and its text. The text form in which it is kept is
//
//	1 (version), then for each: name length, name, value length, value
//
// with lengths as unsigned varints.
const wideVersion = 1

func appendWide(b []byte, name string, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// wideValue finds a column in a record.
func wideValue(record []byte, name string) (value []byte, ok bool, err error) {
	if len(record) == 0 {
		return nil, false, nil
	}
	if record[0] != wideVersion {
		return nil, false, fmt.Errorf("kept long values have version %d, this release knows %d", record[0], wideVersion)
	}
	for rest := record[1:]; len(rest) > 0; {
		var n, v []byte
		if n, rest, ok = lengthPrefixed(rest); !ok {
			return nil, false, errWide
		}
		if v, rest, ok = lengthPrefixed(rest); !ok {
			return nil, false, errWide
		}
		if string(n) == name {
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
// evaluated: those asked for, and those of changes that are not applied yet.
type wideCache struct {
	rows  map[millrace.RowRef][]byte // nil: nothing is kept
	bytes int64
}

const maxWideCache = 16 << 20

func newWideCache() *wideCache { return &wideCache{rows: map[millrace.RowRef][]byte{}} }

func (c *wideCache) get(table millrace.TableID, key string) (record []byte, known bool) {
	record, known = c.rows[millrace.RowRef{Table: table, Key: key}]
	return record, known
}

// set keeps a record; key and record are not shared with anyone.
func (c *wideCache) set(ref millrace.RowRef, record []byte) {
	if old, ok := c.rows[ref]; ok {
		c.bytes -= int64(len(old))
	}
	c.rows[ref] = record
	c.bytes += int64(len(record) + len(ref.Key) + 64)
}

// forget drops a row, if it is there.
func (c *wideCache) forget(table millrace.TableID, key string) {
	if len(c.rows) == 0 {
		return
	}
	ref := millrace.RowRef{Table: table, Key: key}
	if old, ok := c.rows[ref]; ok {
		c.bytes -= int64(len(old) + len(key) + 64)
		delete(c.rows, ref)
	}
}

// forgetTable drops all rows of a table.
func (c *wideCache) forgetTable(table millrace.TableID) {
	maps.DeleteFunc(c.rows, func(ref millrace.RowRef, record []byte) bool {
		if ref.Table != table {
			return false
		}
		c.bytes -= int64(len(record) + len(ref.Key) + 64)
		return true
	})
}

// handedOver is called when all changes evaluated so far are on their way to
// the sink: asking it gives the same answers from now on.
func (c *wideCache) handedOver() {
	if c.bytes > maxWideCache {
		clear(c.rows)
		c.bytes = 0
	}
}
