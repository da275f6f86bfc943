package decoder

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Rows of a table without a key are told apart by all their values (P43). Such
// a table is copied like any other: a row that both a copy and the stream bring
// has one key. Equal rows are one row to clients, which could not tell them
// apart either.

// contentNamespace is the UUID namespace of row keys made of values. It must not
// change between releases, nor may contentKey.
var contentNamespace = [16]byte{0x6d, 0x69, 0x6c, 0x6c, 0x72, 0x61, 0x63, 0x65, 0x9f, 0x5e, 0x43, 0x0a, 0x50, 0x34, 0x33, 0x01}

// contentKey is the UUIDv5 of a row's values: of each column, in attribute
// order, length and text of the name, oid of the type, and 0 for NULL or 1 with
// length and text of the value; numbers have four bytes, big-endian.
func (p *tablePlan) contentKey(cells []cell) (string, error) {
	h := sha1.New()
	h.Write(contentNamespace[:])
	var b []byte
	for i := range cells {
		c, column := &cells[i], &p.columns[i]
		if !c.known {
			return "", fmt.Errorf("a row of %s.%s, which has no key, came without column %q", p.table.saved.Schema, p.table.saved.Name, column.name)
		}
		b = binary.BigEndian.AppendUint32(b[:0], uint32(len(column.name)))
		b = append(b, column.name...)
		b = binary.BigEndian.AppendUint32(b, column.typeOID)
		if c.null {
			b = append(b, 0)
		} else {
			b = binary.BigEndian.AppendUint32(append(b, 1), uint32(len(c.text)))
		}
		h.Write(b)
		h.Write(c.text)
	}
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	t := hex.EncodeToString(u)
	return t[:8] + "-" + t[8:12] + "-" + t[12:16] + "-" + t[16:20] + "-" + t[20:], nil
}

// unique tells whether no two rows of the table have one key, not even for the
// length of a transaction.
func (t *tableState) unique() bool {
	return t.saved.Identity.Unique() && len(t.saved.KeyColumns) > 0
}
