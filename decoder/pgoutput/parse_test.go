package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestKindOf(t *testing.T) {
	for _, b := range "BCORYIUDTM" {
		k, err := KindOf([]byte{byte(b), 1, 2})
		if err != nil || k != Kind(b) || k.String() == "unknown" {
			t.Errorf("%c: %v %v", b, k, err)
		}
	}
	// P38: also the messages of protocol 2 and 3, which were not asked for.
	for _, b := range []byte{0, 'S', 'E', 'c', 'A', 'b', 'P', 'K', 'r', 'p', 'x', 0xff} {
		_, err := KindOf([]byte{b})
		var e *Error
		if !errors.Is(err, ErrUnknownMessage) || !errors.As(err, &e) || e.Kind != b {
			t.Errorf("byte %q: %v", b, err)
		}
	}
	if _, err := KindOf(nil); !errors.Is(err, ErrShort) {
		t.Errorf("empty: %v", err)
	}
}

func TestParseEachKind(t *testing.T) {
	begin, err := ParseBegin(message('B', uint64(0x16B3748), uint64(1_000_000), uint32(731)))
	if err != nil || begin.FinalLSN.String() != "0/16B3748" || begin.XID != 731 ||
		!begin.CommitTime.Equal(time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)) {
		t.Errorf("begin: %+v %v", begin, err)
	}
	commit, err := ParseCommit(message('C', byte(0), uint64(5), uint64(9), uint64(0)))
	if err != nil || commit.CommitLSN != 5 || commit.EndLSN != 9 {
		t.Errorf("commit: %+v %v", commit, err)
	}
	origin, err := ParseOrigin(message('O', uint64(5), "up"))
	if err != nil || origin.Name != "up" || origin.CommitLSN != 5 {
		t.Errorf("origin: %+v %v", origin, err)
	}
	typ, err := ParseType(message('Y', uint32(16400), "", "int4"))
	if err != nil || typ != (Type{16400, "pg_catalog", "int4"}) {
		t.Errorf("type: %+v %v", typ, err)
	}
	rel, err := ParseRelation(message('R', uint32(7), "public", "todos", byte('d'), uint16(2),
		byte(1), "id", uint32(2950), uint32(0xffffffff), byte(0), "title", uint32(25), uint32(0xffffffff)))
	if err != nil || rel.Schema != "public" || len(rel.Columns) != 2 ||
		rel.Columns[0] != (RelationColumn{true, "id", 2950, -1}) || rel.Columns[1].Key {
		t.Errorf("relation: %+v %v", rel, err)
	}
	trunc, err := ParseTruncate(message('T', uint32(2), byte(3), uint32(7), uint32(8)))
	if err != nil || !trunc.Cascade || !trunc.RestartIdentity || len(trunc.Relations) != 2 || trunc.Relations[1] != 8 {
		t.Errorf("truncate: %+v %v", trunc, err)
	}
	msg, err := ParseMessage(message('M', byte(1), uint64(5), "millrace", uint32(2), byte('h'), byte('i')))
	if err != nil || !msg.Transactional || msg.Prefix != "millrace" || string(msg.Content) != "hi" {
		t.Errorf("message: %+v %v", msg, err)
	}
	var ins Insert
	err = ParseInsert(message('I', uint32(7), byte('N'), uint16(3), byte('t'), uint32(1), byte('a'), byte('n'), byte('u')), &ins)
	if err != nil || ins.Relation != 7 || ins.New.Len() != 3 || string(ins.New.Bytes(0)) != "a" ||
		ins.New.Kind(0) != Text || ins.New.Kind(1) != Null || ins.New.Kind(2) != Unchanged || ins.New.Bytes(1) != nil {
		t.Errorf("insert: %+v %v", ins, err)
	}
	var up Update
	err = ParseUpdate(message('U', uint32(7), byte('K'), uint16(1), byte('t'), uint32(1), byte('a'),
		byte('N'), uint16(1), byte('b'), uint32(2), byte('b'), byte('c')), &up)
	if err != nil || up.OldKind != OldKey || string(up.Old.Bytes(0)) != "a" || up.New.Kind(0) != Binary {
		t.Errorf("update with key: %+v %v", up, err)
	}
	err = ParseUpdate(message('U', uint32(7), byte('N'), uint16(1), byte('n')), &up)
	if err != nil || up.OldKind != OldNone || up.Old.Len() != 0 || up.New.Len() != 1 {
		t.Errorf("update without old, reused: %+v %v", up, err)
	}
	var del Delete
	err = ParseDelete(message('D', uint32(7), byte('O'), uint16(1), byte('t'), uint32(1), byte('a')), &del)
	if err != nil || del.OldKind != OldFull || del.Old.Len() != 1 {
		t.Errorf("delete: %+v %v", del, err)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct {
		msg    []byte
		err    error
		offset int
		field  string
	}{
		"begin short":      {message('B', uint64(1), uint64(2)), ErrShort, 17, "xid"},
		"begin trailing":   {message('B', uint64(1), uint64(2), uint32(3), byte(0)), ErrTrailing, 21, "end"},
		"commit flags":     {message('C', byte(1), uint64(1), uint64(2), uint64(3)), ErrInvalid, 1, "flags"},
		"origin no zero":   {append(message('O', uint64(1)), "up"...), ErrShort, 9, "name"},
		"identity":         {message('R', uint32(7), "s", "t", byte('x'), uint16(0)), ErrInvalid, 9, "replica identity"},
		"column count":     {message('R', uint32(7), "s", "t", byte('d'), uint16(0xffff)), ErrShort, 12, "columns"},
		"insert tuple":     {message('I', uint32(7), byte('K'), uint16(0)), ErrInvalid, 5, "tuple kind"},
		"value kind":       {message('I', uint32(7), byte('N'), uint16(1), byte('z')), ErrInvalid, 8, "column value"},
		"value length":     {message('I', uint32(7), byte('N'), uint16(1), byte('t'), uint32(0xffffffff)), ErrShort, 13, "column value"},
		"value missing":    {message('I', uint32(7), byte('N'), uint16(1)), ErrShort, 8, "column value"},
		"delete new":       {message('D', uint32(7), byte('N'), uint16(0)), ErrInvalid, 5, "tuple kind"},
		"truncate count":   {message('T', uint32(0xffffffff), byte(0), uint32(1)), ErrShort, 6, "relations"},
		"truncate flags":   {message('T', uint32(0), byte(4)), ErrInvalid, 5, "flags"},
		"message content":  {message('M', byte(0), uint64(5), "p", uint32(3), byte('h')), ErrShort, 16, "content"},
		"message trailing": {message('M', byte(0), uint64(5), "p", uint32(0), byte('h')), ErrTrailing, 16, "end"},
		"update no new":    {message('U', uint32(7), byte('O'), uint16(0)), ErrShort, 8, "tuple kind"},
	}
	for name, test := range tests {
		err := parseAny(test.msg)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, test.err) || e.Offset != test.offset || e.Field != test.field {
			t.Errorf("%s: %v (%+v), want %v in %s at %d", name, err, e, test.err, test.field, test.offset)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "pgoutput: ") {
			t.Errorf("%s: message %q", name, err)
		}
	}
	if _, err := ParseBegin(message('C', byte(0), uint64(1), uint64(2), uint64(3))); !errors.Is(err, ErrInvalid) {
		t.Errorf("wrong kind: %v", err)
	}
}

// Every prefix of a message, and every message with a byte more, is an error.
func TestLengthIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		msg := anyMessage().Draw(t, "message")
		if err := parseAny(msg); err != nil {
			t.Fatalf("%q: %v", msg, err)
		}
		cut := rapid.IntRange(0, len(msg)-1).Draw(t, "cut")
		if err := parseAny(msg[:cut]); err == nil {
			t.Fatalf("%q cut to %d parsed", msg, cut)
		}
		if err := parseAny(append(bytes.Clone(msg), 0)); !errors.Is(err, ErrTrailing) {
			t.Fatalf("%q with a byte more: %v", msg, err)
		}
	})
}

func TestTuplesDoNotAllocate(t *testing.T) {
	row := message('U', uint32(7), byte('K'), uint16(2), byte('t'), uint32(1), byte('a'), byte('n'),
		byte('N'), uint16(2), byte('t'), uint32(2), byte('b'), byte('c'), byte('u'))
	var up Update
	allocs := testing.AllocsPerRun(100, func() {
		if err := ParseUpdate(row, &up); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per update", allocs)
	}
}

func TestTupleReset(t *testing.T) {
	var tuple Tuple
	tuple.AppendColumn(Text, []byte("a"))
	tuple.AppendColumn(Null, nil)
	if tuple.Len() != 2 || string(tuple.Bytes(0)) != "a" || tuple.Kind(1) != Null {
		t.Errorf("%+v", tuple)
	}
	tuple.Reset()
	if tuple.Len() != 0 || tuple.columns[:2][0].data != nil {
		t.Errorf("after Reset: %+v", tuple)
	}
}

func FuzzParse(f *testing.F) {
	for _, msg := range [][]byte{
		message('B', uint64(1), uint64(2), uint32(3)),
		message('R', uint32(7), "public", "t", byte('d'), uint16(1), byte(1), "id", uint32(23), uint32(1)),
		message('U', uint32(7), byte('K'), uint16(1), byte('n'), byte('N'), uint16(1), byte('t'), uint32(1), byte('x')),
		message('T', uint32(1), byte(0), uint32(7)),
		message('M', byte(1), uint64(5), "p", uint32(1), byte('h')),
	} {
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := bytes.Clone(msg)
		err := parseAny(msg)
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Offset < 0 || e.Offset > len(msg)) {
			t.Fatalf("%q: %v", msg, err)
		}
		if !bytes.Equal(before, msg) {
			t.Fatal("message was changed")
		}
	})
}

func BenchmarkParseInsert(b *testing.B) {
	row := message('I', uint32(7), byte('N'), uint16(9))
	for i := range 9 {
		row = append(row, 't')
		row = binary.BigEndian.AppendUint32(row, uint32(10+5*i))
		row = append(row, bytes.Repeat([]byte{'x'}, 10+5*i)...)
	}
	var ins Insert
	b.ReportAllocs()
	b.SetBytes(int64(len(row)))
	for b.Loop() {
		if err := ParseInsert(row, &ins); err != nil {
			b.Fatal(err)
		}
	}
}

func parseAny(msg []byte) error {
	k, err := KindOf(msg)
	if err != nil {
		return err
	}
	switch k {
	case KindBegin:
		_, err = ParseBegin(msg)
	case KindCommit:
		_, err = ParseCommit(msg)
	case KindOrigin:
		_, err = ParseOrigin(msg)
	case KindRelation:
		_, err = ParseRelation(msg)
	case KindType:
		_, err = ParseType(msg)
	case KindInsert:
		err = ParseInsert(msg, new(Insert))
	case KindUpdate:
		err = ParseUpdate(msg, new(Update))
	case KindDelete:
		err = ParseDelete(msg, new(Delete))
	case KindTruncate:
		_, err = ParseTruncate(msg)
	case KindMessage:
		_, err = ParseMessage(msg)
	}
	return err
}

// message writes fields in network order; strings get their zero byte.
func message(kind byte, fields ...any) []byte {
	b := []byte{kind}
	for _, f := range fields {
		switch f := f.(type) {
		case byte:
			b = append(b, f)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, f)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, f)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		case string:
			b = append(append(b, f...), 0)
		case []byte:
			b = append(b, f...)
		}
	}
	return b
}

func anyMessage() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		u32, u64 := rapid.Uint32(), rapid.Uint64()
		name := rapid.StringMatching(`[a-z_]{0,8}`)
		tuple := func() []byte {
			n := rapid.IntRange(0, 4).Draw(t, "columns")
			b := binary.BigEndian.AppendUint16(nil, uint16(n))
			for range n {
				kind := rapid.SampledFrom([]byte{'n', 'u', 't', 'b'}).Draw(t, "kind")
				b = append(b, kind)
				if kind == 't' || kind == 'b' {
					v := rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "value")
					b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
				}
			}
			return b
		}
		switch kind := rapid.SampledFrom([]byte("BCORYIUDTM")).Draw(t, "kind"); kind {
		case 'B':
			return message(kind, u64.Draw(t, "lsn"), u64.Draw(t, "time"), u32.Draw(t, "xid"))
		case 'C':
			return message(kind, byte(0), u64.Draw(t, "lsn"), u64.Draw(t, "end"), u64.Draw(t, "time"))
		case 'O':
			return message(kind, u64.Draw(t, "lsn"), name.Draw(t, "name"))
		case 'Y':
			return message(kind, u32.Draw(t, "oid"), name.Draw(t, "schema"), name.Draw(t, "name"))
		case 'R':
			n := rapid.IntRange(0, 4).Draw(t, "columns")
			b := message(kind, u32.Draw(t, "oid"), name.Draw(t, "schema"), name.Draw(t, "name"),
				rapid.SampledFrom([]byte("difn")).Draw(t, "identity"), uint16(n))
			for range n {
				b = append(b, message(byte(rapid.IntRange(0, 1).Draw(t, "key")), name.Draw(t, "column"),
					u32.Draw(t, "type"), u32.Draw(t, "typmod"))...)
			}
			return b
		case 'U':
			switch old := rapid.SampledFrom([]byte("KON")).Draw(t, "old"); old {
			case 'N':
				return message(kind, u32.Draw(t, "oid"), old, tuple())
			default:
				return message(kind, u32.Draw(t, "oid"), old, tuple(), byte('N'), tuple())
			}
		case 'D':
			return message(kind, u32.Draw(t, "oid"), rapid.SampledFrom([]byte("KO")).Draw(t, "old"), tuple())
		case 'T':
			n := rapid.IntRange(0, 4).Draw(t, "tables")
			b := message(kind, uint32(n), byte(rapid.IntRange(0, 3).Draw(t, "flags")))
			for range n {
				b = binary.BigEndian.AppendUint32(b, u32.Draw(t, "oid"))
			}
			return b
		case 'M':
			v := rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "content")
			return message(kind, byte(rapid.IntRange(0, 1).Draw(t, "flags")), u64.Draw(t, "lsn"), name.Draw(t, "prefix"),
				uint32(len(v)), v)
		default:
			return message('I', u32.Draw(t, "oid"), byte('N'), tuple())
		}
	})
}
