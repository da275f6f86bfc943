package pgvalue

import "math"

// Bound is an upper limit of the bytes a value can take inside a tuple on
// disk, before compression, told from the length of its text: perByte × length
// + fixed, padding included. A tuple whose bounds add up to no more than
// MaxInlineTuple cannot have had a value moved out of line when it was written
// (P47, P48). Texts of a database in another encoding than UTF-8 are taken to
// be no longer there.
type Bound struct {
	perByte, fixed int
}

// MaxInlineTuple is the largest tuple, in bytes, that Postgres certainly leaves
// as it is: its threshold is 2,032 with 8 KiB pages.
const MaxInlineTuple = 2000

// Of is the bound for a text of n bytes; 0 for null, whose n is negative.
func (b Bound) Of(n int) int {
	if n < 0 {
		return 0
	}
	if b.perByte == unbounded {
		return unbounded
	}
	return min(b.perByte*n+b.fixed, unbounded)
}

// TupleOverhead bounds what a tuple of n columns takes beside its values:
// header and null bitmap.
func TupleOverhead(n int) int { return 32 + n/8 }

// unbounded is more than any tuple has.
const unbounded = math.MaxInt32

// Toastable tells whether values of a column of type t with the given
// attstorage can be moved out of line.
func Toastable(t *Type, storage byte) bool { return length(t) == -1 && storage != 'p' }

func length(t *Type) int16 {
	for t.Kind == Domain {
		t = t.Element
	}
	return t.Length
}

// padding before a value, at most: alignment is 8.
const padding = 7

// BoundOf gives the bound of a type. A type of an extension that we do not
// know has none.
func BoundOf(t *Type) Bound { return boundOf(t, 0) }

func boundOf(t *Type, depth int) Bound {
	if depth > maxDepth {
		return Bound{perByte: unbounded}
	}
	switch t.Kind {
	case Domain:
		return boundOf(t.Element, depth+1)
	case Enum:
		return Bound{0, 4 + padding}
	case Array:
		// Two bytes of text for an element at least ("1,"). Header: up to 6
		// dimensions of 8 bytes. A bit for each element if there are nulls.
		e := boundOf(t.Element, depth+1)
		return repeated(e.perByte, e.fixed+1, 2, 24+6*8)
	case Composite:
		// The texts of the fields together are no longer than the whole.
		b := Bound{1, 32 + len(t.Fields)/8 + padding}
		for _, f := range t.Fields {
			e := boundOf(f.Type, depth+1)
			b.perByte = max(b.perByte, e.perByte)
			b.fixed += e.fixed
		}
		return b.limited()
	case Range:
		e := boundOf(t.Element, depth+1)
		return Bound{max(e.perByte, 1), 2*e.fixed + 16 + padding}.limited()
	case Multirange:
		// "(,)," is the shortest range: a flag byte, an offset, two bounds.
		e := boundOf(t.Element, depth+1)
		return repeated(e.perByte, 2*e.fixed+8, 3, 16)
	}
	if t.Length > 0 {
		return Bound{0, int(t.Length) + padding}
	}
	const header = 4 + padding
	switch t.OID {
	case oidNumeric:
		// Four decimal digits take two bytes; up to three digit groups are not full.
		return Bound{1, 16 + padding}
	case oidBytea:
		return Bound{1, header}
	case oidInet, oidCidr:
		return Bound{0, 24 + padding}
	case oidBit, oidVarbit:
		return Bound{1, 8 + padding}
	case oidPath, oidPolygon:
		return Bound{4, 56 + padding} // "(0,0)," is 16 bytes
	case oidJSONB:
		// The worst is an array of digits: "1, " takes an entry of 4, padding of
		// 3 and a number of 8.
		return Bound{6, 16 + padding}
	case oidXML:
		return Bound{1, 128 + padding} // the declaration may be left out of the text
	case oidTsvector:
		return Bound{4, 16 + padding}
	case oidTsquery, oidJSONPath:
		return Bound{14, 16 + padding} // "!" is an item of 12 bytes
	case 22, 30: // int2vector, oidvector: "0 "
		return Bound{4, 24 + padding}
	case 2970, 5038: // snapshots: 8 bytes for each xid
		return Bound{8, 32 + padding}
	}
	if t.builtin() || textual[t.Name] {
		return Bound{1, header}
	}
	return Bound{perByte: unbounded}
}

// textual are extension types that are stored as their text, at most.
var textual = map[string]bool{"citext": true}

// repeated bounds parts of at least width bytes of text each.
func repeated(perByte, fixed, width, header int) Bound {
	if perByte == unbounded {
		return Bound{perByte: unbounded}
	}
	return Bound{perByte + (fixed+width-1)/width, header + fixed + padding}.limited()
}

func (b Bound) limited() Bound {
	if b.perByte >= unbounded || b.perByte < 0 || b.fixed >= unbounded {
		return Bound{perByte: unbounded}
	}
	return b
}
