package pgvalue

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// One target for each decoder of a kind of type. A text comes from a server and
// so should be right; what is not must be the value itself or an error, never a
// panic or a JSON text that is none.

var (
	fuzzInner = &Type{OID: 50_000, Name: "inner", Kind: Composite, Fields: []Field{{"a", Builtin(25)}, {`b "c"`, Builtin(oidTimestamptz)}, {"d", Builtin(1007)}}}
	fuzzOuter = &Type{OID: 50_003, Name: "outer", Kind: Composite, Fields: []Field{{"i", fuzzInner}, {"is", arrayType(fuzzInner)}, {"j", Builtin(oidJSONB)}, {"r", Builtin(3904)}}}
	fuzzRange = &Type{OID: 50_001, Name: "r", Kind: Range, Element: fuzzInner}
	fuzzMulti = &Type{OID: 50_004, Name: "m", Kind: Multirange, Element: Builtin(25)}
	fuzzTags  = &Type{OID: 50_002, Name: "tags", Kind: Domain, Element: Builtin(1009)}
)

// convertTwice converts with a fresh arena and with one that holds other
// values, which must make no difference.
func convertTwice(t *testing.T, typ *Type, o Options, in string) (millrace.Value, error) {
	t.Helper()
	convert := For(typ, o)
	var fresh, used Arena
	if _, err := For(Builtin(oidTimestamptz), fixed)([]byte("2024-02-29 13:45:10+00"), &used); err != nil {
		t.Fatal(err)
	}
	v, err := convert([]byte(in), &fresh)
	again, errAgain := convert([]byte(in), &used)
	if (err == nil) != (errAgain == nil) || v.Kind() != again.Kind() || v.Str() != again.Str() {
		t.Fatalf("%s %q: %q %v, with a used arena %q %v", typ.Name, in, v.Str(), err, again.Str(), errAgain)
	}
	if err != nil && len(in) > 8 && strings.Contains(err.Error(), in) {
		t.Fatalf("the error shows the value: %v", err)
	}
	return v, err
}

// structure converts a type with parts: the outcome is the text itself, or JSON
// that begins as its kind does.
func structure(t *testing.T, types []*Type, which uint, in, begins string) {
	t.Helper()
	typ := types[which%uint(len(types))]
	v, err := convertTwice(t, typ, fixed, in)
	if err != nil || v.Kind() != millrace.KindText {
		t.Fatalf("%s %q: %s, %v", typ.Name, in, v.Kind(), err)
	}
	if v.Str() != in && v.Str() != "empty" && (!json.Valid([]byte(v.Str())) || !strings.HasPrefix(v.Str(), begins)) {
		t.Fatalf("%s %q: %q is not JSON", typ.Name, in, v.Str())
	}
	if raw, err := convertTwice(t, typ, Options{}, in); typ.OID >= 16384 && (err != nil || raw.Str() != in) {
		t.Fatalf("%s %q without the fixes: %q, %v", typ.Name, in, raw.Str(), err)
	}
}

func seeds(f *testing.F, texts ...string) {
	for i, s := range texts {
		f.Add(uint(i), s)
	}
}

func FuzzArray(f *testing.F) {
	types := []*Type{Builtin(1007), Builtin(1009), Builtin(1000), Builtin(1022), Builtin(199), Builtin(3807), Builtin(1001), Builtin(1020),
		Builtin(1185), Builtin(3221), Builtin(3905), arrayType(fuzzInner), fuzzTags, arrayType(fuzzTags)}
	seeds(f, "{1,2,NULL}", `{"a\"\\b",NULL,"NULL",x}`, "{t,f}", "{1,1e+21,NaN}", `{"{\"a\":1}"}`, `{"[1]",null}`, `{"\\x00"}`, "{(1,1),(0,0);NULL}",
		`{"2024-02-29 13:45:10+00"}`, "{0/1}", `{"[1,3)",empty}`, `{"(a,,{1})"}`, "{a,b}", `{"{a}","{b,\"c\"}"}`, "[0:1][2:3]={{1,2},{3,4}}", "{{}}", "[1]=", "{,}")
	f.Fuzz(func(t *testing.T, which uint, in string) { structure(t, types, which, in, "[") })
}

func FuzzComposite(f *testing.F) {
	types := []*Type{fuzzInner, fuzzOuter, {OID: 50_010, Name: "none", Kind: Composite}, {OID: 50_011, Name: "d", Kind: Domain, Element: fuzzInner}}
	seeds(f, `("a""b\\","2024-02-29 13:45:10.5+00","{1,2}")`, `("(a,,)","{""(a,,)""}","{""k"": 1}","[1,3)")`, "()", "(a,,)", "(,,,)", `(",)`, `(a\`, "(a")
	f.Fuzz(func(t *testing.T, which uint, in string) { structure(t, types, which, in, "{") })
}

func FuzzRange(f *testing.F) {
	types := []*Type{Builtin(3904), Builtin(3906), Builtin(3910), Builtin(3912), fuzzRange, {OID: 50_012, Name: "d", Kind: Domain, Element: fuzzRange}}
	seeds(f, "[1,3)", "(1.50,]", `["2024-02-29 13:45:10+00",infinity]`, "empty", `["(a,,)","(b,,)")`, "(,)", "[1", `["a`, "[1,2)x", "emptyx")
	f.Fuzz(func(t *testing.T, which uint, in string) { structure(t, types, which, in, "{") })
}

func FuzzMultirange(f *testing.F) {
	types := []*Type{Builtin(4451), Builtin(4534), fuzzMulti}
	seeds(f, "{[1,3),[5,)}", `{["2024-02-29 13:45:10+00",)}`, `{["a,""",b\))}`, "{}", "{[1,2),}", "{,}", "{empty}", "{[1,2)[3,4)}")
	f.Fuzz(func(t *testing.T, which uint, in string) { structure(t, types, which, in, "[") })
}

var isoForm = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z?$`)

func FuzzDateAndTime(f *testing.F) {
	types := []*Type{Builtin(oidTimestamp), Builtin(oidTimestamptz), Builtin(oidDate), Builtin(oidTime)}
	seeds(f, "2024-02-29 13:45:10.123456", "2024-02-29 13:45:10.5+05:41:16", "2024-02-29", "24:00:00", "infinity", "-infinity", "0044-03-15 12:00:00 BC",
		"0001-01-01 00:00:00+23:59", "9999-12-31 23:59:59-01", "12024-01-01 00:00:00+00", "2024-13-99 99:99:99+99:99:99", "0044-03-15 BC")
	f.Fuzz(func(t *testing.T, which uint, in string) {
		typ := types[which%uint(len(types))]
		for _, o := range []Options{{}, {TimestampsISO8601: true}, {TimestampsISO8601: true, FractionDigits: 3}, fixed} {
			v, err := convertTwice(t, typ, o, in)
			if err != nil {
				t.Fatalf("%s %q: %v", typ.Name, in, err)
			}
			if v.IsNull() || v.Str() == in || typ.OID == oidDate {
				continue
			}
			if o.TimestampsISO8601 && !isoForm.MatchString(v.Str()) {
				t.Fatalf("%s %q: %q", typ.Name, in, v.Str())
			}
		}
	})
}

func FuzzScalar(f *testing.F) {
	types := []*Type{Builtin(oidInt2), Builtin(oidInt4), Builtin(oidInt8), Builtin(oidOID), Builtin(oidBool), Builtin(oidFloat4), Builtin(oidFloat8),
		Builtin(oidNumeric), Builtin(oidBytea), Builtin(oidLSN), Builtin(oidJSON), Builtin(1186), Unknown(99), {OID: 50_020, Name: "mood", Kind: Enum}}
	seeds(f, "-1", "2147483647", "9223372036854775808", "4294967295", "t", "1.1", "1e+400", "NaN", `\x00ff`, "1A/2", `{"a":1}`, "1 day", "any", "sad")
	f.Fuzz(func(t *testing.T, which uint, in string) {
		typ := types[which%uint(len(types))]
		v, err := convertTwice(t, typ, fixed, in)
		switch {
		case err != nil:
			if !v.IsNull() {
				t.Fatalf("%s %q: %v beside %v", typ.Name, in, v, err)
			}
		case v.Kind() == millrace.KindInteger && typ.OID != oidBool:
			if n, err := strconv.ParseInt(in, 10, 64); err != nil || n != v.Int() {
				t.Fatalf("%s %q: %d", typ.Name, in, v.Int())
			}
		case v.Kind() == millrace.KindText && typ.OID != oidLSN && v.Str() != in:
			t.Fatalf("%s %q: %q", typ.Name, in, v.Str())
		}
		if v.Kind() != millrace.KindBlob && !json.Valid(v.AppendJSON(nil)) {
			t.Fatalf("%s %q: %s is not JSON", typ.Name, in, v.AppendJSON(nil))
		}
	})
}

// A row key is taken apart into the texts it was made of.
func FuzzKey(f *testing.F) {
	f.Add("a", "b")
	f.Add(`"`, "ü\x00\\")
	f.Fuzz(func(t *testing.T, a, b string) {
		var tuple pgoutput.Tuple
		tuple.AppendColumn(pgoutput.Text, []byte(a))
		tuple.AppendColumn(pgoutput.Text, []byte(b))
		key, err := KeyText(&tuple, []int{0, 1})
		if err != nil {
			t.Fatal(err)
		}
		texts, err := SplitKey(key, 2)
		if err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		// What is not UTF-8 never comes: the session's encoding sees to it.
		if texts[0] != strings.ToValidUTF8(texts[0], "") || strings.ToValidUTF8(a, "") == a && texts[0] != a || strings.ToValidUTF8(b, "") == b && texts[1] != b {
			t.Fatalf("%q, %q: %q gives %q", a, b, key, texts)
		}
		if _, err := SplitKey(a, 2); err == nil && !strings.HasPrefix(strings.TrimSpace(a), "[") {
			t.Fatalf("%q was taken apart", a)
		}
	})
}
