package pgvalue

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

var (
	legacy = Options{FractionDigits: 6}
	fixed  = Options{TimestampsISO8601: true, CustomTypes: true, FractionDigits: 6}
)

func convert(t testing.TB, typ *Type, o Options, text string) millrace.Value {
	t.Helper()
	var a Arena
	v, err := For(typ, o)([]byte(text), &a)
	if err != nil {
		t.Fatalf("%s %q: %v", typ.Name, text, err)
	}
	return v
}

func arrayType(e *Type) *Type {
	return &Type{OID: 70_000, Name: "_" + e.Name, Kind: Array, Length: -1, Storage: 'x', Delimiter: ',', Element: e}
}

// What the conformance vectors leave out.
func TestConvert(t *testing.T) {
	text := Builtin(25)
	pair := &Type{OID: 50_000, Name: "pair", Kind: Composite, Length: -1, Fields: []Field{{"a", text}, {"b", arrayType(Builtin(oidInt4))}}}
	intRange := Builtin(3904)
	for _, test := range []struct {
		typ     *Type
		options Options
		in      string
		want    string
	}{
		{Builtin(1007), fixed, "{{1,2},{3,4}}", `"[[1,2],[3,4]]"`},
		{Builtin(1007), fixed, "[2:3][0:0]={{1},{2}}", `"[[1],[2]]"`},
		{Builtin(1007), fixed, "{}", `"[]"`},
		{Builtin(1009), fixed, `{"a\"b\\c",null,"null"}`, `"[\"a\\\"b\\\\c\",\"null\",\"null\"]"`},
		// A structure that does not parse is the text itself.
		{Builtin(1007), fixed, "{1,", `"{1,"`},
		{Builtin(1007), fixed, "{1,x}", `"{1,x}"`},
		{Builtin(1007), fixed, "{1}}", `"{1}}"`},
		{Builtin(1007), fixed, "", `""`},
		{pair, fixed, `(a,"{1,2}")`, `"{\"a\":\"a\",\"b\":[1,2]}"`},
		{pair, fixed, `("a""b\\c\"d",)`, `"{\"a\":\"a\\\"b\\\\c\\\"d\",\"b\":null}"`},
		{pair, fixed, `(a)`, `"(a)"`},
		{pair, fixed, `(a,,)`, `"(a,,)"`},
		{pair, fixed, `("a,)`, `"(\"a,)"`},
		{pair, legacy, `(a,)`, `"(a,)"`},
		{arrayType(pair), fixed, `{"(a,{1})"}`, `"[{\"a\":\"a\",\"b\":[1]}]"`},
		{intRange, fixed, "empty", `"empty"`},
		{intRange, fixed, "[1,", `"[1,"`},
		{Builtin(4451), fixed, "{}", `"[]"`},
		{Builtin(4451), fixed, "{[1,3),[5,)}", `"[{\"lower\":1,\"upper\":3,\"lower_exclusive\":0,\"upper_exclusive\":1},{\"lower\":5,\"upper\":null,\"lower_exclusive\":0,\"upper_exclusive\":1}]"`},
		{Builtin(1022), fixed, "{NaN,Infinity,1}", `"[null,null,1.0]"`},
		{Builtin(oidTimestamptz), legacy, "9999-12-31 23:59:59-01", "null"}, // becomes year 10000
		{Builtin(oidTimestamptz), fixed, "2024-02-29 00:30:00.25+01:30", `"2024-02-28T23:00:00.250000Z"`},
		{Builtin(oidTimestamptz), fixed, "2024-02-29 00:30:00+1", `"2024-02-29 00:30:00+1"`},
		{Builtin(oidTimestamp), fixed, "0044-03-15 12:00:00 BC", "null"},
		{Builtin(oidTimestamp), fixed, "12024-02-29 00:00:00", `"12024-02-29 00:00:00"`},
		{Builtin(oidTimestamp), Options{TimestampsISO8601: true}, "2024-02-29 13:45:10.999999", `"2024-02-29T13:45:10"`},
		{Builtin(1185), fixed, `{"0044-03-15 12:00:00+00 BC"}`, `"[null]"`},
		{Builtin(oidBool), fixed, "f", "0"},
		{Builtin(oidFloat8), fixed, "1e400", "null"}, // infinite; JSON has no form for it
		{Unknown(99), fixed, "any\tthing", `"any\tthing"`},
	} {
		if got := string(convert(t, test.typ, test.options, test.in).AppendJSON(nil)); got != test.want {
			t.Errorf("%s %q: got %s, want %s", test.typ.Name, test.in, got, test.want)
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	var a Arena
	for oid, text := range map[uint32]string{oidInt4: "secret", oidInt8: "9223372036854775808", oidBool: "true", oidFloat8: "x", oidBytea: `\001\377`} {
		v, err := For(Builtin(oid), fixed)([]byte(text), &a)
		if !errors.Is(err, ErrText) || !v.IsNull() || strings.Contains(err.Error(), text) {
			t.Errorf("%s %q: %v %v", Builtin(oid).Name, text, v, err)
		}
	}
	if _, err := For(Builtin(oidBytea), fixed)([]byte(`\xabc`), &a); !errors.Is(err, ErrText) {
		t.Errorf("odd hex: %v", err)
	}
}

func TestArenaKeepsTexts(t *testing.T) {
	var a Arena
	f := For(Builtin(oidTimestamptz), fixed)
	var values []millrace.Value
	for range 1000 {
		v, err := f([]byte("2024-02-29 13:45:10+00"), &a)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	for _, v := range values {
		if v.Str() != "2024-02-29T13:45:10.000000Z" {
			t.Fatalf("got %q", v.Str())
		}
	}
}

func TestHotTypesDoNotAllocate(t *testing.T) {
	var a Arena
	for oid, text := range map[uint32]string{
		oidInt4: "42", oidBool: "t", 25: "text", 2950: "c0a80101-0000-4000-8000-000000000000", oidNumeric: "1.50",
		oidFloat8: "1.5", oidTimestamptz: "2024-02-29 13:45:10.1+00", oidDate: "2024-02-29", oidJSONB: `{"a": 1}`,
	} {
		f, b := For(Builtin(oid), fixed), []byte(text)
		if n := testing.AllocsPerRun(100, func() {
			a.Reset()
			if _, err := f(b, &a); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", Builtin(oid).Name, n)
		}
	}
}

// Composites and arrays of texts come out as JSON that holds the same texts.
func TestStructuresRoundTrip(t *testing.T) {
	text := Builtin(25)
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	value := rapid.StringMatching(`[a-c"\\,{}() N]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(value, 1, 4).Draw(t, "values")
		var quoted []string
		typ := &Type{OID: 50_000, Name: "c", Kind: Composite}
		for _, v := range values {
			quoted = append(quoted, `"`+quote.Replace(v)+`"`)
			typ.Fields = append(typ.Fields, Field{strings.Repeat("f", len(quoted)), text})
		}
		var a Arena
		v, err := For(arrayType(text), fixed)([]byte("{"+strings.Join(quoted, ",")+"}"), &a)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		if err := json.Unmarshal([]byte(v.Str()), &list); err != nil || strings.Join(list, "|") != strings.Join(values, "|") {
			t.Fatalf("array %q: %v", v.Str(), err)
		}
		v, err = For(typ, fixed)([]byte("("+strings.Join(quoted, ",")+")"), &a)
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]string
		if err := json.Unmarshal([]byte(v.Str()), &object); err != nil || len(object) != len(values) {
			t.Fatalf("composite %q: %v", v.Str(), err)
		}
		for i, want := range values {
			if object[strings.Repeat("f", i+1)] != want {
				t.Fatalf("field %d: %q", i, object)
			}
		}
	})
}

func TestKeys(t *testing.T) {
	var tuple pgoutput.Tuple
	for _, v := range []string{`a"b`, "7", "ü"} {
		tuple.AppendColumn(pgoutput.Text, []byte(v))
	}
	tuple.AppendColumn(pgoutput.Null, nil)
	for _, test := range []struct {
		columns []int
		want    string
	}{{[]int{0}, `a"b`}, {[]int{1, 2}, `["7","ü"]`}, {[]int{0, 1}, `["a\"b","7"]`}} {
		got, err := KeyText(&tuple, test.columns)
		var texts []string
		for _, c := range test.columns {
			texts = append(texts, string(tuple.Bytes(c)))
		}
		if err != nil || got != test.want || got != string(millrace.AppendRowKey(nil, texts...)) {
			t.Errorf("%v: %q %v", test.columns, got, err)
		}
		back, err := SplitKey(got, len(test.columns))
		if err != nil || strings.Join(back, "|") != strings.Join(texts, "|") {
			t.Errorf("split %q: %q %v", got, back, err)
		}
	}
	for _, columns := range [][]int{{3}, {0, 3}, {4}} {
		if _, err := KeyText(&tuple, columns); !errors.Is(err, ErrKey) {
			t.Errorf("%v: %v", columns, err)
		}
	}
	for _, bad := range []string{"x", "[]", `["a"]`, `["a",1]`} {
		if _, err := SplitKey(bad, 2); err == nil {
			t.Errorf("%q was split", bad)
		}
	}
}

func TestBoundArithmetic(t *testing.T) {
	if b := BoundOf(Builtin(oidInt4)); b.Of(-1) != 0 || b.Of(11) != 11 {
		t.Errorf("int4: %d %d", b.Of(-1), b.Of(11))
	}
	geometry := &Type{OID: 60_000, Name: "geometry", Length: -1}
	for _, typ := range []*Type{geometry, arrayType(geometry), {OID: 1, Kind: Domain, Element: geometry}, {OID: 1, Kind: Range, Element: geometry}} {
		if got := BoundOf(typ).Of(1); got < MaxInlineTuple {
			t.Errorf("a type that is not known has the bound %d", got)
		}
		if got := BoundOf(typ).Of(math.MaxInt32); got <= 0 {
			t.Errorf("overflow: %d", got)
		}
	}
	if Toastable(Builtin(25), 'p') || !Toastable(Builtin(25), 'e') || Toastable(Builtin(oidInt4), 'p') || !Toastable(&Type{Kind: Domain, Element: Builtin(25)}, 'x') {
		t.Error("toastable is wrong")
	}
}
