// Package bson writes and reads the part of BSON that the sync protocol uses:
// documents, arrays, strings, booleans, null, 32- and 64-bit integers, and when
// reading doubles.
//
// Writing appends to a caller's buffer and cannot fail. Reading turns a document
// from the network into JSON text, so that one decoder knows the fields of a
// message whatever it came in.
package bson

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Types of elements.
const (
	typeDouble   = 0x01
	typeString   = 0x02
	typeDocument = 0x03
	typeArray    = 0x04
	typeBool     = 0x08
	typeNull     = 0x0a
	typeInt32    = 0x10
	typeInt64    = 0x12
)

// Begin begins a document; End, with the position it gives, ends it.
func Begin(b []byte) (_ []byte, at int) { return append(b, 0, 0, 0, 0), len(b) }

// End ends a document or an array.
func End(b []byte, at int) []byte {
	b = append(b, 0)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

func appendKey(b []byte, kind byte, key string) []byte {
	return append(append(append(b, kind), key...), 0)
}

// BeginDocument begins an element that is a document. Keys hold no zero byte.
func BeginDocument(b []byte, key string) (_ []byte, at int) {
	return Begin(appendKey(b, typeDocument, key))
}

// BeginArray begins an element that is an array; the keys of what follows are
// the decimal numbers from 0.
func BeginArray(b []byte, key string) (_ []byte, at int) {
	return Begin(appendKey(b, typeArray, key))
}

// BeginItem begins a document that is an item of an array.
func BeginItem(b []byte, index int) (_ []byte, at int) {
	return Begin(append(strconv.AppendInt(append(b, typeDocument), int64(index), 10), 0))
}

// AppendStringItem appends a string that is an item of an array.
func AppendStringItem(b []byte, index int, value string) []byte {
	return appendText(append(strconv.AppendInt(append(b, typeString), int64(index), 10), 0), value)
}

// AppendString appends a string; invalid UTF-8 becomes U+FFFD.
func AppendString(b []byte, key, value string) []byte {
	return appendText(appendKey(b, typeString, key), value)
}

func appendText(b []byte, value string) []byte {
	if !utf8.ValidString(value) {
		value = strings.ToValidUTF8(value, "\uFFFD")
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)+1))
	return append(append(b, value...), 0)
}

// AppendDigits appends a number as a string of decimal digits.
func AppendDigits(b []byte, key string, n int64) []byte {
	b = append(appendKey(b, typeString, key), 0, 0, 0, 0)
	at := len(b)
	b = append(strconv.AppendInt(b, n, 10), 0)
	binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	return b
}

// AppendBool appends a boolean.
func AppendBool(b []byte, key string, v bool) []byte {
	b = appendKey(b, typeBool, key)
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// AppendNull appends a null.
func AppendNull(b []byte, key string) []byte { return appendKey(b, typeNull, key) }

// AppendInt appends an integer, of 32 bits if it fits.
func AppendInt(b []byte, key string, n int64) []byte {
	if n >= math.MinInt32 && n <= math.MaxInt32 {
		return binary.LittleEndian.AppendUint32(appendKey(b, typeInt32, key), uint32(int32(n)))
	}
	return binary.LittleEndian.AppendUint64(appendKey(b, typeInt64, key), uint64(n))
}

// Length is the length of the document that b begins with, as it says itself; ok
// is false if b is too short to tell, or no document is that short.
func Length(b []byte) (n int, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	n = int(int32(binary.LittleEndian.Uint32(b)))
	return n, n >= 5
}
