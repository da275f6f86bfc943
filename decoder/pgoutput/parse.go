package pgoutput

import (
	"bytes"
	"encoding/binary"

	"github.com/millrace/millrace"
)

// KindOf gives the kind of a message. An empty message and a byte that
// protocol version 1 does not know are errors: nothing may be skipped (P38).
func KindOf(msg []byte) (Kind, error) {
	if len(msg) == 0 {
		return 0, &Error{Field: "kind", Err: ErrShort}
	}
	k := Kind(msg[0])
	switch k {
	case KindBegin, KindCommit, KindOrigin, KindRelation, KindType,
		KindInsert, KindUpdate, KindDelete, KindTruncate, KindMessage:
		return k, nil
	}
	return k, &Error{Kind: msg[0], Field: "kind", Err: ErrUnknownMessage}
}

// ParseBegin parses a Begin message.
func ParseBegin(msg []byte) (Begin, error) {
	c := open(msg, KindBegin)
	m := Begin{
		FinalLSN:   c.lsn("final LSN"),
		CommitTime: timestamp(int64(c.uint64("commit time"))),
		XID:        c.uint32("xid"),
	}
	return m, c.close()
}

// ParseCommit parses a Commit message.
func ParseCommit(msg []byte) (Commit, error) {
	c := open(msg, KindCommit)
	if flags := c.byte("flags"); flags != 0 {
		c.invalid("flags", 1)
	}
	m := Commit{
		CommitLSN:  c.lsn("commit LSN"),
		EndLSN:     c.lsn("end LSN"),
		CommitTime: timestamp(int64(c.uint64("commit time"))),
	}
	return m, c.close()
}

// ParseOrigin parses an Origin message.
func ParseOrigin(msg []byte) (Origin, error) {
	c := open(msg, KindOrigin)
	m := Origin{CommitLSN: c.lsn("commit LSN"), Name: c.string("name")}
	return m, c.close()
}

// ParseRelation parses a Relation message. The result shares nothing with it.
func ParseRelation(msg []byte) (*Relation, error) {
	c := open(msg, KindRelation)
	m := &Relation{
		OID:      c.uint32("oid"),
		Schema:   schema(c.string("schema")),
		Name:     c.string("name"),
		Identity: c.byte("replica identity"),
	}
	if c.err == nil {
		switch m.Identity {
		case 'd', 'i', 'f', 'n':
		default:
			c.invalid("replica identity", 1)
		}
	}
	n := int(c.uint16("column count"))
	// A column takes at least 10 bytes: a count beyond that is not believed.
	if c.err == nil && n*10 > len(c.rest()) {
		c.fail("columns", ErrShort)
	}
	if c.err == nil && n > 0 {
		m.Columns = make([]RelationColumn, n)
	}
	for i := range m.Columns {
		flags := c.byte("column flags")
		if flags > 1 {
			c.invalid("column flags", 1)
		}
		m.Columns[i] = RelationColumn{
			Key:     flags == 1,
			Name:    c.string("column name"),
			TypeOID: c.uint32("column type"),
			TypMod:  int32(c.uint32("column type modifier")),
		}
	}
	if err := c.close(); err != nil {
		return nil, err
	}
	return m, nil
}

// ParseType parses a Type message.
func ParseType(msg []byte) (Type, error) {
	c := open(msg, KindType)
	m := Type{OID: c.uint32("oid"), Schema: schema(c.string("schema")), Name: c.string("name")}
	return m, c.close()
}

// ParseInsert parses an Insert message into m, whose tuple is reused.
func ParseInsert(msg []byte, m *Insert) error {
	c := open(msg, KindInsert)
	m.Relation = c.uint32("relation")
	if b := c.byte("tuple kind"); c.err == nil && b != 'N' {
		c.invalid("tuple kind", 1)
	}
	c.tuple(&m.New)
	return c.close()
}

// ParseUpdate parses an Update message into m, whose tuples are reused.
func ParseUpdate(msg []byte, m *Update) error {
	c := open(msg, KindUpdate)
	m.Relation = c.uint32("relation")
	m.OldKind = OldNone
	b := c.byte("tuple kind")
	if b == OldKey || b == OldFull {
		m.OldKind = b
		c.tuple(&m.Old)
		b = c.byte("tuple kind")
	} else {
		m.Old.columns = m.Old.columns[:0]
	}
	if c.err == nil && b != 'N' {
		c.invalid("tuple kind", 1)
	}
	c.tuple(&m.New)
	return c.close()
}

// ParseDelete parses a Delete message into m, whose tuple is reused.
func ParseDelete(msg []byte, m *Delete) error {
	c := open(msg, KindDelete)
	m.Relation = c.uint32("relation")
	m.OldKind = c.byte("tuple kind")
	if c.err == nil && m.OldKind != OldKey && m.OldKind != OldFull {
		c.invalid("tuple kind", 1)
	}
	c.tuple(&m.Old)
	return c.close()
}

// ParseTruncate parses a Truncate message.
func ParseTruncate(msg []byte) (Truncate, error) {
	c := open(msg, KindTruncate)
	n := int(c.uint32("relation count"))
	flags := c.byte("flags")
	if flags > 3 {
		c.invalid("flags", 1)
	}
	m := Truncate{Cascade: flags&1 != 0, RestartIdentity: flags&2 != 0}
	if c.err == nil && n > len(c.rest())/4 {
		c.fail("relations", ErrShort)
	}
	if c.err == nil && n > 0 {
		m.Relations = make([]uint32, n)
	}
	for i := range m.Relations {
		m.Relations[i] = c.uint32("relation")
	}
	return m, c.close()
}

// ParseMessage parses a logical message. Content points into it.
func ParseMessage(msg []byte) (Message, error) {
	c := open(msg, KindMessage)
	flags := c.byte("flags")
	if flags > 1 {
		c.invalid("flags", 1)
	}
	m := Message{Transactional: flags == 1, LSN: c.lsn("LSN"), Prefix: c.string("prefix")}
	m.Content = c.bytes("content", c.uint32("content length"))
	return m, c.close()
}

func schema(s string) string {
	if s == "" {
		return "pg_catalog"
	}
	return s
}

// cursor walks a message. After the first error every read gives zero values.
type cursor struct {
	msg []byte
	at  int
	err error
}

func open(msg []byte, k Kind) cursor {
	c := cursor{msg: msg, at: 1}
	switch {
	case len(msg) == 0:
		c.at = 0
		c.fail("kind", ErrShort)
	case Kind(msg[0]) != k:
		c.at = 0
		c.fail("kind", ErrInvalid)
	}
	return c
}

func (c *cursor) close() error {
	if c.err == nil && c.at != len(c.msg) {
		c.fail("end", ErrTrailing)
	}
	return c.err
}

func (c *cursor) fail(field string, err error) {
	if c.err != nil {
		return
	}
	e := &Error{Offset: c.at, Field: field, Err: err}
	if len(c.msg) > 0 {
		e.Kind = c.msg[0]
	}
	c.err = e
}

// invalid reports the value of n bytes just read.
func (c *cursor) invalid(field string, n int) {
	if c.err == nil {
		c.at -= n
		c.fail(field, ErrInvalid)
	}
}

func (c *cursor) rest() []byte { return c.msg[c.at:] }

func (c *cursor) bytes(field string, n uint32) []byte {
	if c.err != nil {
		return nil
	}
	if uint64(n) > uint64(len(c.msg)-c.at) {
		c.fail(field, ErrShort)
		return nil
	}
	b := c.msg[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return b
}

func (c *cursor) byte(field string) byte {
	if b := c.bytes(field, 1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(field string) uint16 {
	if b := c.bytes(field, 2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(field string) uint32 {
	if b := c.bytes(field, 4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64(field string) uint64 {
	if b := c.bytes(field, 8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) lsn(field string) millrace.LSN { return millrace.LSN(c.uint64(field)) }

func (c *cursor) string(field string) string {
	if c.err != nil {
		return ""
	}
	n := bytes.IndexByte(c.msg[c.at:], 0)
	if n < 0 {
		c.fail(field, ErrShort)
		return ""
	}
	s := string(c.msg[c.at : c.at+n])
	c.at += n + 1
	return s
}

// tuple is the hot path: it works on locals and touches the cursor at its ends.
func (c *cursor) tuple(t *Tuple) {
	n := int(c.uint16("column count"))
	if c.err != nil {
		t.columns = t.columns[:0]
		return
	}
	if cap(t.columns) < n {
		t.columns = make([]column, n)
	}
	t.columns = t.columns[:n]
	msg, at := c.msg, c.at
	for i := range t.columns {
		if at >= len(msg) {
			c.tupleError(t, at, ErrShort)
			return
		}
		kind := msg[at]
		at++
		switch kind {
		case Null, Unchanged:
			t.columns[i] = column{kind: kind}
		case Text, Binary:
			if len(msg)-at < 4 {
				c.tupleError(t, at, ErrShort)
				return
			}
			size := binary.BigEndian.Uint32(msg[at:])
			at += 4
			if uint64(size) > uint64(len(msg)-at) {
				c.tupleError(t, at, ErrShort)
				return
			}
			end := at + int(size)
			t.columns[i] = column{kind, msg[at:end:end]}
			at = end
		default:
			c.tupleError(t, at-1, ErrInvalid)
			return
		}
	}
	c.at = at
}

func (c *cursor) tupleError(t *Tuple, at int, err error) {
	t.columns = t.columns[:0]
	c.at = at
	c.fail("column value", err)
}
