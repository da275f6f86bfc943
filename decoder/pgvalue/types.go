package pgvalue

// Kind is the structure of a type.
type Kind uint8

// The kinds. Pseudo-types and what else there may be count as Base.
const (
	Base Kind = iota
	Enum
	Array
	Domain
	Composite
	Range
	Multirange
)

// Type describes a Postgres type. It is immutable once made; types refer to
// each other without cycles.
type Type struct {
	OID    uint32
	Schema string
	Name   string // typname: "int4", "_int4"
	Kind   Kind
	// Length is typlen: bytes of a fixed-length type, -1 varlena, -2 cstring.
	Length int16
	// Storage is typstorage: 'p' plain, 'e' external, 'm' main, 'x' extended.
	Storage byte
	// Delimiter separates the elements of an array of this element type.
	Delimiter byte
	// Element is the element of an array, the base of a domain, the subtype of
	// a range or of a multirange's ranges.
	Element *Type
	Fields  []Field // of a composite, in attribute order
}

// Field is an attribute of a composite type.
type Field struct {
	Name string
	Type *Type
}

// Types resolves type oids. Builtin does for the types of pg_catalog that
// every server has; catalog.Types asks the source for the others.
type Types interface {
	// Type gives the description of oid; nil if nothing is known of it.
	Type(oid uint32) *Type
}

// builtin tells whether the type is one of pg_catalog's, whose oids never
// change: an extension gets one from 16384.
func (t *Type) builtin() bool { return t.OID != 0 && t.OID < 16384 }

// Builtin gives the description of a type of pg_catalog; nil if oid is none.
func Builtin(oid uint32) *Type { return builtins[oid] }

// Unknown describes a type of which only the oid is known: its values are
// texts.
func Unknown(oid uint32) *Type {
	return &Type{OID: oid, Name: "unknown", Length: -1, Storage: 'x', Delimiter: ','}
}

// Oids that converters look at.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidOID         = 26
	oidJSON        = 114
	oidXML         = 142
	oidPath        = 602
	oidPolygon     = 604
	oidFloat4      = 700
	oidFloat8      = 701
	oidInet        = 869
	oidCidr        = 650
	oidDate        = 1082
	oidTime        = 1083
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidBit         = 1560
	oidVarbit      = 1562
	oidNumeric     = 1700
	oidLSN         = 3220
	oidTsvector    = 3614
	oidTsquery     = 3615
	oidJSONB       = 3802
	oidJSONPath    = 4072
)

type builtinRow struct {
	oid, array uint32
	name       string
	length     int16
	storage    byte
}

var builtinBases = []builtinRow{
	{16, 1000, "bool", 1, 'p'}, {17, 1001, "bytea", -1, 'x'}, {18, 1002, "char", 1, 'p'},
	{19, 1003, "name", 64, 'p'}, {20, 1016, "int8", 8, 'p'}, {21, 1005, "int2", 2, 'p'},
	{22, 1006, "int2vector", -1, 'p'}, {23, 1007, "int4", 4, 'p'}, {24, 1008, "regproc", 4, 'p'},
	{25, 1009, "text", -1, 'x'}, {26, 1028, "oid", 4, 'p'}, {27, 1010, "tid", 6, 'p'},
	{28, 1011, "xid", 4, 'p'}, {29, 1012, "cid", 4, 'p'}, {30, 1013, "oidvector", -1, 'p'},
	{114, 199, "json", -1, 'x'}, {142, 143, "xml", -1, 'x'}, {600, 1017, "point", 16, 'p'},
	{601, 1018, "lseg", 32, 'p'}, {602, 1019, "path", -1, 'x'}, {603, 1020, "box", 32, 'p'},
	{604, 1027, "polygon", -1, 'x'}, {628, 629, "line", 24, 'p'}, {650, 651, "cidr", -1, 'm'},
	{700, 1021, "float4", 4, 'p'}, {701, 1022, "float8", 8, 'p'}, {718, 719, "circle", 24, 'p'},
	{774, 775, "macaddr8", 8, 'p'}, {790, 791, "money", 8, 'p'}, {829, 1040, "macaddr", 6, 'p'},
	{869, 1041, "inet", -1, 'm'}, {1042, 1014, "bpchar", -1, 'x'}, {1043, 1015, "varchar", -1, 'x'},
	{1082, 1182, "date", 4, 'p'}, {1083, 1183, "time", 8, 'p'}, {1114, 1115, "timestamp", 8, 'p'},
	{1184, 1185, "timestamptz", 8, 'p'}, {1186, 1187, "interval", 16, 'p'}, {1266, 1270, "timetz", 12, 'p'},
	{1560, 1561, "bit", -1, 'x'}, {1562, 1563, "varbit", -1, 'x'}, {1700, 1231, "numeric", -1, 'm'},
	{1790, 2201, "refcursor", -1, 'x'}, {2202, 2207, "regprocedure", 4, 'p'}, {2203, 2208, "regoper", 4, 'p'},
	{2204, 2209, "regoperator", 4, 'p'}, {2205, 2210, "regclass", 4, 'p'}, {2206, 2211, "regtype", 4, 'p'},
	{2950, 2951, "uuid", 16, 'p'}, {2970, 2949, "txid_snapshot", -1, 'x'}, {3220, 3221, "pg_lsn", 8, 'p'},
	{3614, 3643, "tsvector", -1, 'x'}, {3615, 3645, "tsquery", -1, 'p'}, {3734, 3735, "regconfig", 4, 'p'},
	{3769, 3770, "regdictionary", 4, 'p'}, {3802, 3807, "jsonb", -1, 'x'}, {4072, 4073, "jsonpath", -1, 'x'},
	{4089, 4090, "regnamespace", 4, 'p'}, {4096, 4097, "regrole", 4, 'p'}, {4191, 4192, "regcollation", 4, 'p'},
	{5038, 5039, "pg_snapshot", -1, 'x'}, {5069, 271, "xid8", 8, 'p'},
}

var builtinRanges = []struct {
	oid, array, subtype    uint32
	name                   string
	multirange, multiArray uint32
	multiName              string
}{
	{3904, 3905, 23, "int4range", 4451, 6150, "int4multirange"},
	{3906, 3907, 1700, "numrange", 4532, 6151, "nummultirange"},
	{3908, 3909, 1114, "tsrange", 4533, 6152, "tsmultirange"},
	{3910, 3911, 1184, "tstzrange", 4534, 6153, "tstzmultirange"},
	{3912, 3913, 1082, "daterange", 4535, 6155, "datemultirange"},
	{3926, 3927, 20, "int8range", 4536, 6157, "int8multirange"},
}

var builtins = makeBuiltins()

func makeBuiltins() map[uint32]*Type {
	types := map[uint32]*Type{}
	add := func(t *Type, array uint32) {
		t.Schema = "pg_catalog"
		if t.Delimiter = ','; t.Name == "box" {
			t.Delimiter = ';'
		}
		types[t.OID] = t
		types[array] = &Type{OID: array, Schema: "pg_catalog", Name: "_" + t.Name, Kind: Array,
			Length: -1, Storage: 'x', Delimiter: t.Delimiter, Element: t}
	}
	for _, r := range builtinBases {
		add(&Type{OID: r.oid, Name: r.name, Length: r.length, Storage: r.storage}, r.array)
	}
	for _, r := range builtinRanges {
		add(&Type{OID: r.oid, Name: r.name, Kind: Range, Length: -1, Storage: 'x', Element: types[r.subtype]}, r.array)
		add(&Type{OID: r.multirange, Name: r.multiName, Kind: Multirange, Length: -1, Storage: 'x', Element: types[r.subtype]}, r.multiArray)
	}
	return types
}
