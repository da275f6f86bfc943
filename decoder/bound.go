package decoder

// Bounds, from above, of what a value takes on disk when it is not compressed,
// alignment included, by type and length of its text. An unknown type gets the
// factor of the worst one.

// fixedSizes has the types that are never moved out of line.
var fixedSizes = map[uint32]int{
	16:   8,  // bool
	18:   8,  // "char"
	19:   72, // name
	20:   16, // int8
	21:   8,  // int2
	23:   8,  // int4
	26:   8,  // oid
	27:   8,  // tid
	28:   8,  // xid
	29:   8,  // cid
	600:  24, // point
	601:  40, // lseg
	603:  40, // box
	628:  32, // line
	700:  8,  // float4
	701:  16, // float8
	718:  32, // circle
	774:  16, // macaddr8
	790:  16, // money
	829:  16, // macaddr
	1082: 8,  // date
	1083: 16, // time
	1114: 16, // timestamp
	1184: 16, // timestamptz
	1186: 24, // interval
	1266: 16, // timetz
	2950: 24, // uuid
	3220: 16, // pg_lsn
	5069: 16, // xid8
}

// textTypes are stored as they are printed, or shorter.
var textTypes = map[uint32]bool{
	25:   true, // text
	1042: true, // bpchar
	1043: true, // varchar
	114:  true, // json
	142:  true, // xml
	17:   true, // bytea: two hex digits a byte
	869:  true, // inet
	650:  true, // cidr
	1560: true, // bit
	1562: true, // varbit
}

const (
	alignment    = 4 // at most 7, and headers are counted as 4 where 1 may do
	textSlack    = 4
	numericSlack = 12 // header, weight and rounding to groups of four digits
	jsonbFactor  = 5  // "1, " is an entry of 4 bytes and a numeric of 8
	jsonbSlack   = 8
	worstFactor  = 8  // "{1,2}" of int8, "(,,)" of composites
	worstSlack   = 64 // headers of arrays, ranges and composites
	tupleHeader  = 32
)

// sizeBound tells how a column's size is bounded: fixed if the type is never
// out of line, else by factor and slack.
type sizeBound struct {
	fixed, factor, slack int
}

func boundOf(typeOID uint32) sizeBound {
	if n, ok := fixedSizes[typeOID]; ok {
		return sizeBound{fixed: n}
	}
	switch {
	case textTypes[typeOID]:
		return sizeBound{factor: 1, slack: textSlack}
	case typeOID == 1700:
		return sizeBound{factor: 1, slack: numericSlack}
	case typeOID == 3802:
		return sizeBound{factor: jsonbFactor, slack: jsonbSlack}
	}
	return sizeBound{factor: worstFactor, slack: worstSlack}
}

// of bounds a value whose text has n bytes.
func (s sizeBound) of(n int) int {
	if s.fixed > 0 {
		return s.fixed
	}
	return alignment + s.slack + s.factor*n
}

// canMove tells whether a value whose text has n bytes may be out of line.
func (s sizeBound) canMove(n int) bool {
	return s.fixed == 0 && s.slack+s.factor*n > inlineValue
}
