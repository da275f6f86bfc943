package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/millrace/millrace"
)

// copyHeader starts every binary COPY: signature, flags, no extension.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyTrailer ends it.
const copyTrailer = "\xff\xff"

// copyBuffer collects rows in the format of COPY ... WITH (FORMAT binary).
type copyBuffer struct {
	b    []byte
	rows int
}

func (c *copyBuffer) row(fields int) {
	if len(c.b) == 0 {
		c.b = append(c.b, copyHeader...)
	}
	c.b = binary.BigEndian.AppendUint16(c.b, uint16(fields))
	c.rows++
}

func (c *copyBuffer) null()         { c.b = append(c.b, 0xff, 0xff, 0xff, 0xff) }
func (c *copyBuffer) int16(v int16) { c.b = appendInt16(c.b, v) }
func (c *copyBuffer) int32(v int32) { c.b = appendInt32(c.b, v) }
func (c *copyBuffer) int64(v int64) { c.b = appendInt64(c.b, v) }
func (c *copyBuffer) text(s string) { c.b = appendText(c.b, s) }

// int64OrNull writes null for 0.
func (c *copyBuffer) int64OrNull(v int64) {
	if v == 0 {
		c.null()
		return
	}
	c.int64(v)
}

// textUnless writes null for what null stands for.
func (c *copyBuffer) textUnless(s, null string) {
	if s == null {
		c.null()
		return
	}
	c.b = appendText(c.b, s)
}

// add appends the rows of another buffer.
func (c *copyBuffer) add(rows *copyBuffer) {
	if rows.rows == 0 {
		return
	}
	if len(c.b) == 0 {
		c.b = append(c.b, copyHeader...)
	}
	c.b = append(c.b, rows.b[len(copyHeader):]...)
	c.rows += rows.rows
}

// finish ends the data. reset makes room for the next, giving back memory
// beyond keep bytes.
func (c *copyBuffer) finish() []byte { return append(c.b, copyTrailer...) }

func (c *copyBuffer) reset(keep int) {
	if cap(c.b) > keep {
		c.b = nil
	}
	c.b, c.rows = c.b[:0], 0
}

// The append functions write a value with its length before it, as COPY rows,
// arrays and composites have it.

func appendInt16(b []byte, v int16) []byte {
	return append(b, 0, 0, 0, 2, byte(v>>8), byte(v))
}

func appendInt32(b []byte, v int32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), uint32(v))
}

func appendInt64(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(v))
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// Type OIDs of the values below.
const (
	oidBytea = 17
	oidInt8  = 20
	oidInt4  = 23
	oidText  = 25
)

// appendArrayHeader starts a one-dimensional array without nulls.
func appendArrayHeader(b []byte, elem uint32, n int) []byte {
	if n == 0 {
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
		return binary.BigEndian.AppendUint32(b, elem)
	}
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, elem)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, 0, 0, 0, 1)
}

func int8Array[T ~int64](v []T) []byte {
	b := appendArrayHeader(make([]byte, 0, 20+12*len(v)), oidInt8, len(v))
	for _, x := range v {
		b = appendInt64(b, int64(x))
	}
	return b
}

func int4Array[T ~int32 | ~uint32](v []T) []byte {
	b := appendArrayHeader(make([]byte, 0, 20+8*len(v)), oidInt4, len(v))
	for _, x := range v {
		b = appendInt32(b, int32(x))
	}
	return b
}

func textArray(v []string) []byte {
	n := 20
	for _, s := range v {
		n += 4 + len(s)
	}
	b := appendArrayHeader(make([]byte, 0, n), oidText, len(v))
	for _, s := range v {
		b = appendText(b, s)
	}
	return b
}

func byteaArray(v [][]byte) []byte {
	n := 20
	for _, s := range v {
		n += 4 + len(s)
	}
	b := appendArrayHeader(make([]byte, 0, n), oidBytea, len(v))
	for _, s := range v {
		b = appendText(b, bytesString(s))
	}
	return b
}

func int4Param[T ~int32](v T) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func int8Param[T ~int64](v T) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// bytesString views b as a string that lives no longer than b stays as it is.
func bytesString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// stringBytes views s as bytes that must not be changed.
func stringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// stateColumns are the columns of row_state in the order of appendState.
const stateColumns = "definition, source_table, bucket, since_op, digest, row_key, type, row_id, subkey, more"

// appendState writes a row of row_state. elem is the type OID of
// millrace.row_output.
func (c *copyBuffer) appendState(definition millrace.DefinitionID, row *rowState, outputs []output, elem uint32) {
	first := &outputs[0]
	c.row(10)
	c.int32(int32(definition))
	c.int32(int32(row.table))
	c.int64(int64(first.bucket))
	c.int64(int64(first.since))
	c.int64OrNull(first.digest)
	c.text(row.key)
	c.text(first.typ)
	c.textUnless(first.rowID, row.key)
	c.textUnless(first.subkey, "")
	if len(outputs) == 1 {
		c.null()
		return
	}
	c.outputs(elem, outputs[1:], row.key)
}

// outputFields are the attributes of millrace.row_output, in order.
const outputFields = 6

// outputs writes millrace.row_output[].
func (c *copyBuffer) outputs(elem uint32, outputs []output, key string) {
	start := len(c.b)
	c.b = append(c.b, 0, 0, 0, 0)
	c.b = appendArrayHeader(c.b, elem, len(outputs))
	for i := range outputs {
		o := &outputs[i]
		at := len(c.b)
		c.b = append(c.b, 0, 0, 0, 0)
		c.b = binary.BigEndian.AppendUint32(c.b, outputFields)
		c.field(oidInt8).int64(int64(o.bucket))
		c.field(oidInt8).int64(int64(o.since))
		c.field(oidInt8).int64OrNull(o.digest)
		c.field(oidText).text(o.typ)
		c.field(oidText).textUnless(o.rowID, key)
		c.field(oidText).textUnless(o.subkey, "")
		binary.BigEndian.PutUint32(c.b[at:], uint32(len(c.b)-at-4))
	}
	binary.BigEndian.PutUint32(c.b[start:], uint32(len(c.b)-start-4))
}

// field starts an attribute of a composite.
func (c *copyBuffer) field(typ uint32) *copyBuffer {
	c.b = binary.BigEndian.AppendUint32(c.b, typ)
	return c
}

var errShortValue = errors.New("binary value is too short")

// reader takes apart a binary array of composites; the first fault sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || len(r.b) < n {
		if r.err == nil {
			r.err = errShortValue
		}
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) int32() int32 {
	if v := r.take(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

// field is the next attribute of a composite; nil for null.
func (r *reader) field() []byte {
	r.int32() // type OID
	if n := r.int32(); n >= 0 {
		return r.take(int(n))
	}
	return nil
}

func (r *reader) fieldInt64() int64 {
	v := r.field()
	if v == nil {
		return 0
	}
	if len(v) != 8 {
		r.err = errShortValue
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// decodeState reads the outputs of a row of row_state: bucket, since_op, digest,
// type, row_id, subkey, more. Strings are copied; a row id equal to key shares
// its memory, and types come from intern.
func decodeState(v [][]byte, into []output, key string, intern func([]byte) string) ([]output, error) {
	if len(v) != 7 || len(v[0]) != 8 || len(v[1]) != 8 {
		return into, fmt.Errorf("outputs of a row: unexpected form")
	}
	first := output{
		bucket: millrace.BucketID(binary.BigEndian.Uint64(v[0])),
		since:  millrace.OpID(binary.BigEndian.Uint64(v[1])),
		typ:    intern(v[3]), rowID: key, subkey: string(v[5]),
	}
	if len(v[2]) == 8 {
		first.digest = int64(binary.BigEndian.Uint64(v[2]))
	}
	if v[4] != nil {
		first.rowID = string(v[4])
	}
	into = append(into, first)
	if v[6] == nil {
		return into, nil
	}
	return decodeOutputs(v[6], into, key, intern)
}

// decodeOutputs reads millrace.row_output[].
func decodeOutputs(b []byte, into []output, key string, intern func([]byte) string) ([]output, error) {
	r := reader{b: b}
	dims := r.int32()
	r.int32() // has nulls
	r.int32() // element type
	if dims == 0 || r.err != nil {
		return into, r.err
	}
	n := int(r.int32())
	r.int32() // lower bound
	if dims != 1 || n < 0 || n > len(r.b)/4 {
		return into, fmt.Errorf("outputs of a row: array of %d dimensions and %d elements", dims, n)
	}
	into = slices.Grow(into, n)
	for range n {
		r.int32() // length of the composite
		if fields := r.int32(); fields != outputFields && r.err == nil {
			return into, fmt.Errorf("outputs of a row: %d attributes instead of %d", fields, outputFields)
		}
		o := output{
			bucket: millrace.BucketID(r.fieldInt64()),
			since:  millrace.OpID(r.fieldInt64()),
			digest: r.fieldInt64(),
			typ:    intern(r.field()),
			rowID:  key,
		}
		if id := r.field(); id != nil {
			o.rowID = string(id)
		}
		o.subkey = string(r.field())
		if r.err != nil {
			return into, r.err
		}
		into = append(into, o)
	}
	return into, nil
}
