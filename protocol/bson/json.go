package bson

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// maxDepth bounds the nesting of documents.
const maxDepth = 100

// ErrTooLarge is the error of a document whose JSON would be larger than allowed.
var ErrTooLarge = errors.New("the document is too large as JSON")

// ToJSON turns one document into the text of a JSON object of at most limit
// bytes. Errors say at which byte of doc they are.
func ToJSON(doc []byte, limit int) ([]byte, error) {
	r := reader{doc: doc, limit: limit}
	if err := r.document(false); err != nil {
		return nil, err
	}
	if r.at != len(doc) {
		return nil, fmt.Errorf("%d bytes follow the document", len(doc)-r.at)
	}
	return r.out, nil
}

type reader struct {
	doc   []byte
	at    int
	depth int
	limit int
	out   []byte
}

func (r *reader) wrong(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", r.at, fmt.Sprintf(format, args...))
}

// take gives the next n bytes.
func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.doc)-r.at {
		return nil, r.wrong("%d bytes are announced, %d are there", n, len(r.doc)-r.at)
	}
	b := r.doc[r.at : r.at+n]
	r.at += n
	return b, nil
}

func (r *reader) int32() (int, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return int(int32(binary.LittleEndian.Uint32(b))), nil
}

// key reads a name that ends with a zero byte.
func (r *reader) key() (string, error) {
	for i := r.at; i < len(r.doc); i++ {
		if r.doc[i] == 0 {
			key := string(r.doc[r.at:i])
			if !utf8.ValidString(key) {
				return "", r.wrong("a name is not UTF-8")
			}
			r.at = i + 1
			return key, nil
		}
	}
	return "", r.wrong("the document ends inside a name")
}

func (r *reader) document(array bool) error {
	start := r.at
	n, err := r.int32()
	if err != nil {
		return err
	}
	if n < 5 || n > len(r.doc)-start {
		return r.wrong("a document of %d bytes, %d are there", n, len(r.doc)-start)
	}
	if r.depth++; r.depth > maxDepth {
		return r.wrong("nested deeper than %d", maxDepth)
	}
	open, shut := byte('{'), byte('}')
	if array {
		open, shut = '[', ']'
	}
	r.out = append(r.out, open)
	for first := true; ; first = false {
		kind, err := r.take(1)
		if err != nil {
			return err
		}
		if kind[0] == 0 {
			break
		}
		key, err := r.key()
		if err != nil {
			return err
		}
		if !first {
			r.out = append(r.out, ',')
		}
		if !array {
			r.out = append(millrace.AppendTextJSON(r.out, key), ':')
		}
		if err := r.value(kind[0]); err != nil {
			return err
		}
		if len(r.out) > r.limit {
			return ErrTooLarge
		}
	}
	if r.at != start+n {
		return r.wrong("a document of %d bytes says it has %d", r.at-start, n)
	}
	r.depth--
	r.out = append(r.out, shut)
	return nil
}

func (r *reader) value(kind byte) error {
	switch kind {
	case typeDocument, typeArray:
		return r.document(kind == typeArray)
	case typeString:
		return r.text()
	case typeNull:
		r.out = append(r.out, "null"...)
		return nil
	case typeBool:
		b, err := r.take(1)
		if err != nil {
			return err
		}
		if b[0] > 1 {
			return r.wrong("%d is not a boolean", b[0])
		}
		r.out = strconv.AppendBool(r.out, b[0] == 1)
		return nil
	case typeInt32:
		n, err := r.int32()
		r.out = strconv.AppendInt(r.out, int64(n), 10)
		return err
	case typeInt64, typeDouble:
		b, err := r.take(8)
		if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint64(b)
		if kind == typeInt64 {
			r.out = strconv.AppendInt(r.out, int64(n), 10)
			return nil
		}
		return r.double(math.Float64frombits(n))
	}
	return r.wrong("elements of type 0x%02x are not read", kind)
}

// double writes whole numbers as JavaScript does: it has no other kind.
func (r *reader) double(f float64) error {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return r.wrong("a number that is not finite")
	case f == math.Trunc(f) && math.Abs(f) < 1<<53:
		r.out = strconv.AppendInt(r.out, int64(f), 10)
	default:
		r.out = millrace.AppendRealJSON(r.out, f)
	}
	return nil
}

func (r *reader) text() error {
	n, err := r.int32()
	if err != nil {
		return err
	}
	b, err := r.take(n)
	if err != nil {
		return err
	}
	if n < 1 || b[n-1] != 0 {
		return r.wrong("a string without its end")
	}
	text := string(b[:n-1])
	if !utf8.ValidString(text) {
		return r.wrong("a string is not UTF-8")
	}
	if len(text) > r.limit {
		return ErrTooLarge
	}
	r.out = millrace.AppendTextJSON(r.out, text)
	return nil
}
