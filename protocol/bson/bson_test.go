package bson

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The first example of bsonspec.org.
const helloWorld = "\x16\x00\x00\x00\x02hello\x00\x06\x00\x00\x00world\x00\x00"

// The second: {"BSON": ["awesome", 5.05, 1986]}.
const awesome = "1\x00\x00\x00\x04BSON\x00&\x00\x00\x00\x020\x00\x08\x00\x00\x00awesome\x00\x011\x00333333\x14@\x102\x00\xc2\x07\x00\x00\x00\x00"

func TestPublishedExamples(t *testing.T) {
	b, at := Begin(nil)
	b = End(AppendString(b, "hello", "world"), at)
	if string(b) != helloWorld {
		t.Errorf("wrote %q", b)
	}
	for doc, want := range map[string]string{helloWorld: `{"hello":"world"}`, awesome: `{"BSON":["awesome",5.05,1986]}`, "\x05\x00\x00\x00\x00": `{}`} {
		got, err := ToJSON([]byte(doc), 1000)
		if err != nil || string(got) != want {
			t.Errorf("%q gives %s, %v; want %s", doc, got, err, want)
		}
		if n, ok := Length([]byte(doc + "more")); !ok || n != len(doc) {
			t.Errorf("%q has length %d, %v", doc, n, ok)
		}
	}
	if _, ok := Length([]byte{4, 0, 0, 0}); ok {
		t.Error("a document of 4 bytes")
	}
	if _, ok := Length([]byte{5, 0, 0}); ok {
		t.Error("a length of 3 bytes")
	}
}

func TestAllThatIsWritten(t *testing.T) {
	b, at := Begin([]byte("before"))
	b = AppendDigits(b, "id", 9223372036854775806)
	b = AppendBool(AppendBool(b, "yes", true), "no", false)
	b = AppendNull(b, "none")
	b = AppendInt(AppendInt(AppendInt(b, "small", -5), "sum", math.MaxUint32), "edge", math.MaxInt32)
	b, list := BeginArray(b, "list")
	b, item := BeginItem(b, 0)
	b = End(AppendString(b, "bad", "a\xffb\x00c"), item)
	b = AppendStringItem(b, 1, "é")
	b = End(b, list)
	b = End(b, at)
	got, err := ToJSON(b[len("before"):], 1000)
	want := `{"id":"9223372036854775806","yes":true,"no":false,"none":null,"small":-5,"sum":4294967295,"edge":2147483647,"list":[{"bad":"a` + "\uFFFD" + `b\u0000c"},"é"]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}

func element(kind byte, key string, value ...byte) []byte {
	b := append(append([]byte{0, 0, 0, 0, kind}, key...), 0)
	b = append(append(b, value...), 0)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

func double(f float64) []byte {
	return element(0x01, "d", binary.LittleEndian.AppendUint64(nil, math.Float64bits(f))...)
}

func TestRefusals(t *testing.T) {
	deep := element(0x0a, "n")
	for range 200 {
		deep = element(0x03, "d", deep...)
	}
	long, at := Begin(nil)
	long = End(AppendString(long, "k", strings.Repeat("x", 2000)), at)
	for _, c := range []struct{ doc, words string }{
		{"", "4 bytes are announced"},
		{"\x04\x00\x00\x00", "a document of 4 bytes"},
		{"\xff\xff\xff\xff\x00", "a document of -1 bytes"},
		{"\x06\x00\x00\x00\x00", "a document of 6 bytes"},
		{"\x05\x00\x00\x00\x01", "ends inside a name"},
		{"\x05\x00\x00\x00\x00\x00", "1 bytes follow"},
		{string(element(0x05, "k", 0)), "type 0x05"},
		{string(element(0x02, "k", 0xff, 0xff, 0xff, 0x7f)), "2147483647 bytes are announced"},
		{string(element(0x02, "k", 0, 0, 0, 0)), "without its end"},
		{string(element(0x02, "k", 2, 0, 0, 0, 'a', 'b')), "without its end"},
		{string(element(0x02, "k", 2, 0, 0, 0, 0xff, 0)), "not UTF-8"},
		{string(element(0x0a, "\xff")), "not UTF-8"},
		{string(element(0x08, "k", 2)), "not a boolean"},
		{string(element(0x03, "k", 100, 0, 0, 0, 0)), "a document of 100 bytes"},
		{string(double(math.NaN())), "not finite"},
		{string(double(math.Inf(-1))), "not finite"},
		{string(deep), "nested deeper than 100"},
		{string(long), "too large"},
	} {
		got, err := ToJSON([]byte(c.doc), 1000)
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q gives %s, %v; want %q", c.doc, got, err, c.words)
		}
	}
	if _, err := ToJSON(long, 1000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

// JavaScript has one kind of number: a whole one must come out as one.
func TestDoubles(t *testing.T) {
	for f, want := range map[float64]string{3: "3", -0.5: "-0.5", 1 << 40: "1099511627776", 1e300: "1e+300"} {
		got, err := ToJSON(double(f), 100)
		if err != nil || string(got) != `{"d":`+want+`}` {
			t.Errorf("%v gives %s, %v", f, got, err)
		}
	}
}

// appendAny writes any JSON value as the encoders would.
func appendAny(b []byte, key string, v any) []byte {
	var at int
	switch v := v.(type) {
	case nil:
		return AppendNull(b, key)
	case bool:
		return AppendBool(b, key, v)
	case string:
		return AppendString(b, key, v)
	case float64:
		return AppendInt(b, key, int64(v))
	case map[string]any:
		b, at = BeginDocument(b, key)
		for k, w := range v {
			b = appendAny(b, k, w)
		}
		return End(b, at)
	case []any:
		b, at = BeginArray(b, key)
		for i, w := range v {
			b = appendAny(b, string(rune('0'+i)), w)
		}
		return End(b, at)
	}
	panic("not JSON")
}

func anyValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch k := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case k == 0:
			return nil
		case k == 1:
			return rapid.Bool().Draw(t, "bool")
		case k == 2:
			return float64(rapid.Int64Range(-1<<52, 1<<52).Draw(t, "int"))
		case k == 3 || depth == 0:
			return rapid.String().Draw(t, "string")
		case k == 4:
			return rapid.SliceOfN(anyValue(depth-1), 0, 5).Draw(t, "list")
		}
		return rapid.MapOfN(rapid.StringMatching(`[a-zé]{1,5}`), anyValue(depth-1), 0, 5).Draw(t, "object")
	})
}

// What is written is read as the same values.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]any{"v": anyValue(4).Draw(t, "value")}
		b, at := Begin(nil)
		b = End(appendAny(b, "v", want["v"]), at)
		text, err := ToJSON(b, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func FuzzToJSON(f *testing.F) {
	f.Add([]byte(helloWorld))
	f.Add([]byte(awesome))
	f.Add(double(0.1))
	f.Add(element(0x12, "n", 1, 2, 3, 4, 5, 6, 7, 8))
	f.Fuzz(func(t *testing.T, doc []byte) {
		text, err := ToJSON(doc, 1<<16)
		if err != nil {
			return
		}
		if !json.Valid(text) || text[0] != '{' {
			t.Fatalf("%q gives %q", doc, text)
		}
		if n, ok := Length(doc); !ok || n != len(doc) {
			t.Fatalf("%q was read, its length is %d, %v", doc, n, ok)
		}
	})
}
