package syncrules

import (
	"encoding/binary"
	"encoding/hex"
	"math"

	"github.com/millrace/millrace"
)

func init() {
	register(&function{name: "st_asgeojson", version: 1, min: 1, max: 1, eval: geoJSON})
	register(&function{name: "st_astext", version: 1, min: 1, max: 1, eval: geoText})
	register(&function{name: "st_x", version: 1, min: 1, max: 1, eval: geoX})
	register(&function{name: "st_y", version: 1, min: 1, max: 1, eval: geoY})
}

// Geometry types of WKB.
const (
	geoPoint = iota + 1
	geoLineString
	geoPolygon
	geoMultiPoint
	geoMultiLineString
	geoMultiPolygon
	geoCollection
)

var geoNames = [...]struct{ json, wkt string }{
	geoPoint: {"Point", "POINT"}, geoLineString: {"LineString", "LINESTRING"}, geoPolygon: {"Polygon", "POLYGON"},
	geoMultiPoint: {"MultiPoint", "MULTIPOINT"}, geoMultiLineString: {"MultiLineString", "MULTILINESTRING"},
	geoMultiPolygon: {"MultiPolygon", "MULTIPOLYGON"}, geoCollection: {"GeometryCollection", "GEOMETRYCOLLECTION"},
}

// geometry is a decoded WKB or EWKB value.
type geometry struct {
	kind  int
	z, m  bool
	point []float64   // of a position: two to four numbers
	parts []*geometry // positions, rings or geometries
}

// maxGeoDepth bounds collections in collections.
const maxGeoDepth = 32

// geoArgument decodes the argument. nil without a failure means null.
func geoArgument(e *env, v millrace.Value) *geometry {
	var raw []byte
	switch v.Kind() {
	case millrace.KindText:
		b, err := hex.DecodeString(v.Str())
		if err != nil {
			e.fail("not a geometry in hexadecimal")
			return nil
		}
		raw = b
	case millrace.KindBlob:
		raw = []byte(v.Str())
	default:
		return nil
	}
	r := wkbReader{b: raw}
	g := r.geometry(0)
	if r.bad || len(r.b) > 0 {
		e.fail("not a geometry")
		return nil
	}
	return g
}

// wkbReader eats WKB from the left.
type wkbReader struct {
	b     []byte
	order binary.ByteOrder
	bad   bool
}

func (r *wkbReader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *wkbReader) uint32() uint32 { return r.order.Uint32(r.take(4)) }

func (r *wkbReader) geometry(depth int) *geometry {
	r.order = binary.BigEndian
	switch r.take(1)[0] {
	case 0:
	case 1:
		r.order = binary.LittleEndian
	default:
		r.bad = true
	}
	t := r.uint32()
	g := &geometry{z: t&0x80000000 != 0, m: t&0x40000000 != 0}
	if t&0x20000000 != 0 {
		r.uint32() // SRID
	}
	t &= 0x0fffffff
	g.z = g.z || t/1000 == 1 || t/1000 == 3
	g.m = g.m || t/1000 == 2 || t/1000 == 3
	g.kind = int(t % 1000)
	if g.kind < geoPoint || g.kind > geoCollection || depth > maxGeoDepth || r.bad {
		r.bad = true
		return g
	}
	switch g.kind {
	case geoPoint:
		g.point = r.position(g)
	case geoLineString:
		g.parts = r.positions(g)
	case geoPolygon:
		for n := r.count(4); n > 0 && !r.bad; n-- {
			g.parts = append(g.parts, &geometry{parts: r.positions(g)})
		}
	default:
		for n := r.count(5); n > 0 && !r.bad; n-- {
			g.parts = append(g.parts, r.geometry(depth+1))
		}
	}
	return g
}

// count reads a number of items of at least the given size.
func (r *wkbReader) count(size int) uint32 {
	n := r.uint32()
	if int64(n)*int64(size) > int64(len(r.b)) {
		r.bad = true
	}
	return n
}

func (r *wkbReader) position(g *geometry) []float64 {
	n := 2
	if g.z {
		n++
	}
	if g.m {
		n++
	}
	p := make([]float64, n)
	for i := range p {
		p[i] = math.Float64frombits(r.order.Uint64(r.take(8)))
	}
	return p
}

func (r *wkbReader) positions(g *geometry) []*geometry {
	var list []*geometry
	for n := r.count(16); n > 0 && !r.bad; n-- {
		list = append(list, &geometry{kind: geoPoint, point: r.position(g)})
	}
	return list
}

func geoX(e *env, args []millrace.Value) millrace.Value { return coordinate(e, args[0], 0) }
func geoY(e *env, args []millrace.Value) millrace.Value { return coordinate(e, args[0], 1) }

func coordinate(e *env, v millrace.Value, i int) millrace.Value {
	g := geoArgument(e, v)
	if g == nil || g.kind != geoPoint {
		return millrace.Null
	}
	return millrace.Real(g.point[i])
}

func geoJSON(e *env, args []millrace.Value) millrace.Value {
	g := geoArgument(e, args[0])
	if g == nil {
		return millrace.Null
	}
	start := len(e.buf)
	e.buf = g.appendJSON(e.buf)
	return e.made(start)
}

func (g *geometry) appendJSON(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, geoNames[g.kind].json...)
	if g.kind == geoCollection {
		b = append(b, `","geometries":[`...)
		for i, p := range g.parts {
			if i > 0 {
				b = append(b, ',')
			}
			b = p.appendJSON(b)
		}
		return append(b, ']', '}')
	}
	b = append(b, `","coordinates":`...)
	return append(g.appendCoordinates(b), '}')
}

func (g *geometry) appendCoordinates(b []byte) []byte {
	b = append(b, '[')
	for i, f := range g.point {
		if i > 0 {
			b = append(b, ',')
		}
		b = millrace.AppendRealJSON(b, f)
	}
	for i, p := range g.parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = p.appendCoordinates(b)
	}
	return append(b, ']')
}

func geoText(e *env, args []millrace.Value) millrace.Value {
	g := geoArgument(e, args[0])
	if g == nil {
		return millrace.Null
	}
	start := len(e.buf)
	e.buf = g.appendWKT(e.buf)
	return e.made(start)
}

func (g *geometry) appendWKT(b []byte) []byte {
	b = append(b, geoNames[g.kind].wkt...)
	switch {
	case g.z && g.m:
		b = append(b, " ZM "...)
	case g.z:
		b = append(b, " Z "...)
	case g.m:
		b = append(b, " M "...)
	}
	if g.kind != geoPoint && len(g.parts) == 0 {
		if b[len(b)-1] != ' ' {
			b = append(b, ' ')
		}
		return append(b, "EMPTY"...)
	}
	b = append(b, '(')
	if g.kind == geoPoint {
		b = g.appendPosition(b)
	}
	for i, p := range g.parts {
		if i > 0 {
			b = append(b, ',')
		}
		switch g.kind {
		case geoLineString, geoMultiPoint:
			b = p.appendPosition(b)
		case geoCollection:
			b = p.appendWKT(b)
		default:
			b = p.appendNested(b)
		}
	}
	return append(b, ')')
}

// appendNested writes positions, or lists of them, in parentheses.
func (g *geometry) appendNested(b []byte) []byte {
	b = append(b, '(')
	for i, p := range g.parts {
		if i > 0 {
			b = append(b, ',')
		}
		if p.point != nil {
			b = p.appendPosition(b)
		} else {
			b = p.appendNested(b)
		}
	}
	return append(b, ')')
}

func (g *geometry) appendPosition(b []byte) []byte {
	for i, f := range g.point {
		if i > 0 {
			b = append(b, ' ')
		}
		b = millrace.AppendRealText(b, f)
	}
	return b
}
