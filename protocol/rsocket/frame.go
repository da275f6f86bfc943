package rsocket

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// Type is a frame's type.
type Type uint8

// The types that are read or written; all others are Other.
const (
	TypeSetup         Type = 0x01
	TypeLease         Type = 0x02
	TypeKeepalive     Type = 0x03
	TypeRequestStream Type = 0x06
	TypeRequestN      Type = 0x08
	TypeCancel        Type = 0x09
	TypePayload       Type = 0x0a
	TypeError         Type = 0x0b
	TypeMetadataPush  Type = 0x0c
	TypeResume        Type = 0x0d
)

// Flags; those below 0x100 mean something else in each type.
const (
	flagIgnore   = 0x200
	flagMetadata = 0x100
	flagResume   = 0x80 // SETUP
	flagLease    = 0x40 // SETUP
	flagRespond  = 0x80 // KEEPALIVE
	flagFollows  = 0x80 // REQUEST_STREAM, PAYLOAD
	flagComplete = 0x40 // PAYLOAD
	flagNext     = 0x20 // PAYLOAD
)

// Code is the code of an ERROR frame.
type Code uint32

// The codes.
const (
	InvalidSetup     Code = 0x001
	UnsupportedSetup Code = 0x002
	RejectedSetup    Code = 0x003
	RejectedResume   Code = 0x004
	ConnectionError  Code = 0x101
	ConnectionClose  Code = 0x102
	ApplicationError Code = 0x201
	Rejected         Code = 0x202
	Canceled         Code = 0x203
	Invalid          Code = 0x204
)

// MaxN is the greatest number of payloads a frame can ask for.
const MaxN = math.MaxInt32

const (
	headerBytes = 6
	maxMetadata = 1<<24 - 1
)

// Frame is *Setup, *Keepalive, *RequestStream, *RequestN, *Cancel, *Payload,
// *Error or *Other.
type Frame interface {
	// Append appends the frame.
	Append(b []byte) []byte
}

// Setup is the first frame of a connection.
type Setup struct {
	Major, Minor        uint16
	Keepalive, Lifetime time.Duration // whole milliseconds
	Resume              []byte        // token, nil unless resumption is offered
	Lease               bool
	MetadataMIME        string // at most 255 bytes, ASCII
	DataMIME            string
	Metadata            []byte // nil for none
	Data                []byte
}

// Keepalive shows that a peer is there.
type Keepalive struct {
	Respond  bool // the other side is to answer
	Position uint64
	Data     []byte
}

// RequestStream asks for a stream.
type RequestStream struct {
	Stream   uint32
	N        uint32 // payloads that may be sent at first, above 0
	Metadata []byte // nil for none
	Data     []byte
	Follows  bool // fragments follow in Payload frames
}

// RequestN allows so many more payloads.
type RequestN struct {
	Stream, N uint32
}

// Cancel ends a stream from the requester's side.
type Cancel struct{ Stream uint32 }

// Payload is an item of a stream, its end, or a fragment.
type Payload struct {
	Stream                  uint32
	Metadata                []byte // nil for none
	Data                    []byte
	Next, Complete, Follows bool
}

// Error ends a stream, or the connection if Stream is 0.
type Error struct {
	Stream uint32
	Code   Code
	Text   string
}

// Other is a frame of any other type.
type Other struct {
	Stream uint32
	Type   Type
	Ignore bool // may be ignored by who does not know it
}

func header(b []byte, stream uint32, t Type, flags uint16) []byte {
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint16(b, uint16(t)<<10|flags)
}

// metadata appends the flag's part; longer metadata than a frame can hold is cut.
func metadata(b, m []byte) []byte {
	if m == nil {
		return b
	}
	m = m[:min(len(m), maxMetadata)]
	b = append(b, byte(len(m)>>16), byte(len(m)>>8), byte(len(m)))
	return append(b, m...)
}

func metadataFlag(m []byte) uint16 {
	if m == nil {
		return 0
	}
	return flagMetadata
}

func flag(set bool, f uint16) uint16 {
	if set {
		return f
	}
	return 0
}

// Append implements Frame.
func (f *Setup) Append(b []byte) []byte {
	b = header(b, 0, TypeSetup, metadataFlag(f.Metadata)|flag(f.Resume != nil, flagResume)|flag(f.Lease, flagLease))
	b = binary.BigEndian.AppendUint16(b, f.Major)
	b = binary.BigEndian.AppendUint16(b, f.Minor)
	b = binary.BigEndian.AppendUint32(b, uint32(f.Keepalive/time.Millisecond))
	b = binary.BigEndian.AppendUint32(b, uint32(f.Lifetime/time.Millisecond))
	if f.Resume != nil {
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.Resume)))
		b = append(b, f.Resume...)
	}
	for _, mime := range []string{f.MetadataMIME, f.DataMIME} {
		b = append(append(b, byte(len(mime))), mime...)
	}
	return append(metadata(b, f.Metadata), f.Data...)
}

// Append implements Frame.
func (f *Keepalive) Append(b []byte) []byte {
	b = header(b, 0, TypeKeepalive, flag(f.Respond, flagRespond))
	return append(binary.BigEndian.AppendUint64(b, f.Position), f.Data...)
}

// Append implements Frame.
func (f *RequestStream) Append(b []byte) []byte {
	b = header(b, f.Stream, TypeRequestStream, metadataFlag(f.Metadata)|flag(f.Follows, flagFollows))
	b = binary.BigEndian.AppendUint32(b, f.N)
	return append(metadata(b, f.Metadata), f.Data...)
}

// Append implements Frame.
func (f *RequestN) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint32(header(b, f.Stream, TypeRequestN, 0), f.N)
}

// Append implements Frame.
func (f *Cancel) Append(b []byte) []byte { return header(b, f.Stream, TypeCancel, 0) }

// Append implements Frame.
func (f *Payload) Append(b []byte) []byte {
	b = header(b, f.Stream, TypePayload, metadataFlag(f.Metadata)|flag(f.Follows, flagFollows)|flag(f.Complete, flagComplete)|flag(f.Next, flagNext))
	return append(metadata(b, f.Metadata), f.Data...)
}

// Append implements Frame.
func (f *Error) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(header(b, f.Stream, TypeError, 0), uint32(f.Code))
	return append(b, f.Text...)
}

// Append implements Frame: the header alone.
func (f *Other) Append(b []byte) []byte {
	return header(b, f.Stream, f.Type, flag(f.Ignore, flagIgnore))
}

// Decode reads one frame, the whole of b.
func Decode(b []byte) (Frame, error) {
	if len(b) < headerBytes {
		return nil, fmt.Errorf("a frame of %d bytes; the header alone has %d", len(b), headerBytes)
	}
	stream, word := binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[4:])
	if stream > math.MaxInt32 {
		return nil, fmt.Errorf("stream id 0x%08x has its top bit set", stream)
	}
	r := &reader{b: b[headerBytes:], flags: word & 0x3ff}
	t := Type(word >> 10)
	if onConnection := t == TypeSetup || t == TypeKeepalive; onConnection != (stream == 0) {
		switch t {
		case TypeSetup, TypeKeepalive, TypeRequestStream, TypeRequestN, TypeCancel, TypePayload:
			return nil, fmt.Errorf("a frame of type 0x%02x on stream %d", uint8(t), stream)
		}
	}
	var f Frame
	switch t {
	case TypeSetup:
		f = r.setup()
	case TypeKeepalive:
		f = &Keepalive{Respond: r.has(flagRespond), Position: r.uint64(), Data: r.rest()}
	case TypeRequestStream:
		q := &RequestStream{Stream: stream, N: r.n(), Follows: r.has(flagFollows), Metadata: r.metadata()}
		q.Data = r.rest()
		f = q
	case TypeRequestN:
		f = &RequestN{Stream: stream, N: r.n()}
	case TypeCancel:
		f = &Cancel{Stream: stream}
	case TypePayload:
		p := &Payload{Stream: stream, Follows: r.has(flagFollows), Complete: r.has(flagComplete), Next: r.has(flagNext), Metadata: r.metadata()}
		p.Data = r.rest()
		f = p
	case TypeError:
		e := &Error{Stream: stream, Code: Code(r.uint32())}
		if text := r.rest(); utf8.Valid(text) {
			e.Text = string(text)
		} else {
			r.fail("the text of an error is not UTF-8")
		}
		f = e
	default:
		return &Other{Stream: stream, Type: t, Ignore: r.has(flagIgnore)}, nil
	}
	if r.err != nil {
		return nil, fmt.Errorf("a frame of type 0x%02x: %w", uint8(t), r.err)
	}
	return f, nil
}

// reader takes a frame apart; the first error stays.
type reader struct {
	b     []byte
	flags uint16
	err   error
}

func (r *reader) has(flag uint16) bool { return r.flags&flag != 0 }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// take gives the next n bytes; if they are not there, zeros and an error.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("%d bytes are announced, %d are there", n, len(r.b))
		r.b = nil
		return make([]byte, min(n, 8))
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) rest() []byte {
	out := r.b
	r.b = nil
	return out
}

func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// n reads a number of payloads.
func (r *reader) n() uint32 {
	n := r.uint32()
	if n == 0 || n > MaxN {
		r.fail("%d payloads are asked for", n)
	}
	return n
}

// metadata reads what the flag announces; it is not nil then.
func (r *reader) metadata() []byte {
	if !r.has(flagMetadata) {
		return nil
	}
	size := r.take(3)
	return r.take(int(size[0])<<16 | int(size[1])<<8 | int(size[2]))
}

func (r *reader) mime() string {
	text := r.take(int(r.take(1)[0]))
	for _, c := range text {
		if c < 0x20 || c > 0x7e {
			r.fail("a MIME type is not ASCII")
			return ""
		}
	}
	return string(text)
}

func (r *reader) setup() *Setup {
	f := &Setup{Major: r.uint16(), Minor: r.uint16(), Lease: r.has(flagLease)}
	f.Keepalive = time.Duration(r.uint32()) * time.Millisecond
	f.Lifetime = time.Duration(r.uint32()) * time.Millisecond
	if r.has(flagResume) {
		f.Resume = r.take(int(r.uint16()))
	}
	f.MetadataMIME, f.DataMIME = r.mime(), r.mime()
	f.Metadata = r.metadata()
	f.Data = r.rest()
	return f
}
