package protocol

import (
	"bytes"
	"testing"

	"github.com/millrace/millrace/protocol/bson"
)

// checkEncodings: a line means the same in JSON and in BSON.
func checkEncodings(t *testing.T, l Line) {
	t.Helper()
	if _, unknown := l.(*Unknown); unknown {
		return
	}
	doc := BSON.AppendLine([]byte("x"), l)[1:]
	if n, ok := bson.Length(doc); !ok || n != len(doc) {
		t.Fatalf("a document of %d bytes says it has %d", len(doc), n)
	}
	back, err := DecodeLineBSON(doc)
	if err != nil {
		t.Fatalf("%s as BSON: %v", l.AppendLine(nil), err)
	}
	if got, want := back.AppendLine(nil), l.AppendLine(nil); !bytes.Equal(got, want) {
		t.Fatalf("through BSON\n%s\nwant\n%s", got, want)
	}
}

func TestLinesAsBSON(t *testing.T) {
	for _, c := range wireCases(t, "server-lines.json") {
		if l, err := DecodeLine([]byte(c.Line)); err == nil {
			t.Run(c.Name, func(t *testing.T) { checkEncodings(t, l) })
		}
	}
}

func FuzzLinesAsBSON(f *testing.F) {
	for _, c := range wireCases(f, "server-lines.json") {
		f.Add([]byte(c.Line))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := DecodeLine(b); err == nil {
			checkEncodings(t, l)
		}
	})
}

// A data line that is written op by op equals one written whole.
func TestDataByParts(t *testing.T) {
	for _, c := range wireCases(t, "server-lines.json") {
		l, err := DecodeLine([]byte(c.Line))
		d, ok := l.(*Data)
		if err != nil || !ok {
			continue
		}
		for as, whole := range map[Encoding][]byte{JSON: append(d.AppendLine(nil), '\n'), NestedJSON: append(d.AppendNestedLine(nil), '\n'), BSON: d.AppendBSON(nil)} {
			var ops []byte
			for i := range d.Ops {
				ops = as.AppendOp(ops, i, &d.Ops[i])
			}
			if got := as.AppendData(nil, d.Bucket, d.After, d.NextAfter, d.HasMore, ops); !bytes.Equal(got, whole) {
				t.Errorf("%s in encoding %d:\n%q\nwant\n%q", c.Name, as, got, whole)
			}
		}
	}
}

// The documents of a request, as a client with application/bson sends it: the
// numbers are doubles, as JavaScript has no others.
func TestRequestAsBSON(t *testing.T) {
	b, doc := bson.Begin(nil)
	b, list := bson.BeginArray(b, "buckets")
	b, item := bson.BeginItem(b, 0)
	b = bson.End(bson.AppendString(bson.AppendString(b, "name", `1#a["x"]`), "after", "17"), item)
	b = bson.End(b, list)
	b = bson.AppendBool(b, "raw_data", true)
	b, at := bson.BeginDocument(b, "parameters")
	b = bson.End(bson.AppendInt(b, "n", 1<<40), at)
	b = bson.End(bson.AppendNull(b, "streams"), doc)
	r, err := DecodeRequestBSON(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Buckets) != 1 || r.Buckets[0] != (BucketPosition{Name: `1#a["x"]`, After: 17}) || !r.RawData || string(r.Parameters) != `{"n":1099511627776}` || !r.Streams.IncludeDefaults {
		t.Errorf("request %+v", r)
	}
	if _, err := DecodeRequestBSON(b[:len(b)-1]); err == nil {
		t.Error("a document that was cut is accepted")
	}
}

func FuzzDecodeRequestBSON(f *testing.F) {
	b, doc := bson.Begin(nil)
	f.Add(bson.End(bson.AppendString(b, "client_id", "c"), doc))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequestBSON(b); err == nil {
			if _, err := DecodeRequest(r.AppendJSON(nil)); err != nil {
				t.Fatalf("%q gives a request that cannot be read again: %v", b, err)
			}
		}
	})
}

func TestRSocketMetadata(t *testing.T) {
	m, err := DecodeRSocketSetup([]byte(`{"token":"Token abc","user_agent":"powersync-js/1.3.0","other":[1]}`))
	if err != nil || m != (RSocketSetup{Token: "Token abc", UserAgent: "powersync-js/1.3.0"}) {
		t.Errorf("%+v, %v", m, err)
	}
	path, err := DecodeRSocketRoute([]byte(`{"path": "/sync/stream"}`))
	if err != nil || path != PathStream {
		t.Errorf("%q, %v", path, err)
	}
	for _, bad := range []string{``, `[]`, `{"token":1,"path":1}`, `{} x`} {
		if m, err := DecodeRSocketSetup([]byte(bad)); err == nil {
			t.Errorf("%q gives %+v", bad, m)
		}
		if path, err := DecodeRSocketRoute([]byte(bad)); err == nil {
			t.Errorf("%q gives %q", bad, path)
		}
	}
}

func FuzzDecodeRSocketMetadata(f *testing.F) {
	f.Add([]byte(`{"token":"Token abc","user_agent":"x","path":"/sync/stream"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		DecodeRSocketSetup(b) // must not panic
		DecodeRSocketRoute(b)
	})
}
