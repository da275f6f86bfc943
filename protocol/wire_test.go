package protocol

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

type wireCase struct {
	Name      string
	Line      string
	Object    json.RawMessage
	Canonical *bool
	Error     string
	Unknown   bool
}

func wireCases(t testing.TB, file string) []wireCase {
	b, err := os.ReadFile("testdata/wire/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []wireCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return cases
}

// checkWire decodes each case's line and encodes the result again.
func checkWire(t *testing.T, file string, recode func(line []byte) ([]byte, error)) {
	for _, c := range wireCases(t, file) {
		t.Run(c.Name, func(t *testing.T) {
			got, err := recode([]byte(c.Line))
			if c.Error != "" {
				if err == nil || err.Error() != c.Error {
					t.Fatalf("error %v, want %q", err, c.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Unknown {
				return
			}
			if c.Canonical == nil || *c.Canonical {
				if string(got) != c.Line {
					t.Errorf("encoded\n%s\nwant\n%s", got, c.Line)
				}
			}
			if g, w := anyJSON(t, got), anyJSON(t, c.Object); !reflect.DeepEqual(g, w) {
				t.Errorf("decoded\n%v\nwant\n%v", g, w)
			}
		})
	}
}

func anyJSON(t *testing.T, b []byte) any {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}

func recodeLine(b []byte) ([]byte, error) {
	l, err := DecodeLine(b)
	if err != nil {
		return nil, err
	}
	return l.AppendLine(nil), nil
}

func recodeFrame(b []byte) ([]byte, error) {
	f, err := DecodeFrame(b)
	if err != nil {
		return nil, err
	}
	return f.AppendFrame(nil), nil
}

func recodeRequest(b []byte) ([]byte, error) {
	r, err := DecodeRequest(b)
	if err != nil {
		return nil, err
	}
	return r.AppendJSON(nil), nil
}

func TestServerLines(t *testing.T)  { checkWire(t, "server-lines.json", recodeLine) }
func TestClientFrames(t *testing.T) { checkWire(t, "client-frames.json", recodeFrame) }
func TestRequests(t *testing.T)     { checkWire(t, "requests.json", recodeRequest) }

// fuzzRecode checks that a decoder accepts only JSON, and that what it gives
// survives another round unchanged.
func fuzzRecode(f *testing.F, file string, recode func([]byte) ([]byte, error)) {
	for _, c := range wireCases(f, file) {
		f.Add([]byte(c.Line))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := recode(b)
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("accepted, but is not JSON: %q", b)
		}
		if !json.Valid(once) {
			t.Fatalf("%q encoded as invalid JSON %q", b, once)
		}
		twice, err := recode(once)
		if err != nil {
			t.Fatalf("%q, encoded as %q, is refused: %v", b, once, err)
		}
		if string(once) != string(twice) {
			t.Fatalf("%q gave %q, then %q", b, once, twice)
		}
	})
}

func FuzzDecodeLine(f *testing.F)    { fuzzRecode(f, "server-lines.json", recodeLine) }
func FuzzDecodeFrame(f *testing.F)   { fuzzRecode(f, "client-frames.json", recodeFrame) }
func FuzzDecodeRequest(f *testing.F) { fuzzRecode(f, "requests.json", recodeRequest) }

func FuzzDecodeBodies(f *testing.F) {
	f.Add([]byte(`{"data":{"write_checkpoint":"17","checkpoint_request_id":"18"}}`))
	f.Add([]byte(`{"client_id":"c","checkpoint_request_id":18}`))
	f.Add((&ErrorBody{Code: CodeTokenExpired, Status: 401, Description: "d", Details: "e"}).AppendJSON(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := DecodeWriteCheckpoint(b); err == nil && (id < 0 || id > MaxID) {
			t.Fatalf("%q gave %d", b, id)
		}
		if c, id, err := DecodeCheckpointRequest(b); err == nil {
			c2, id2, err := DecodeCheckpointRequest(AppendCheckpointRequest(nil, c, id))
			if err != nil || c2 != c || id2 != id {
				t.Fatalf("%q: %q %d, then %q %d %v", b, c, id, c2, id2, err)
			}
		}
		if e, err := DecodeErrorBody(b); err == nil {
			e2, err := DecodeErrorBody(e.AppendJSON(nil))
			if err != nil || *e2 != *e {
				t.Fatalf("%q: %+v, then %+v %v", b, e, e2, err)
			}
		}
	})
}

func TestDepthIsBounded(t *testing.T) {
	deep := `{"parameters":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5001)
	if _, err := DecodeRequest([]byte(deep)); err == nil || !strings.Contains(err.Error(), "nested deeper than 100") {
		t.Fatalf("error %v", err)
	}
}

func TestNestedData(t *testing.T) {
	l, err := DecodeLine([]byte(`{"data":{"bucket":"b","data":[{"op_id":"1","op":"PUT","object_type":"t","object_id":"1","checksum":5,"data":"{\"a\":1}"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"data":{"bucket":"b","after":"0","next_after":"1","has_more":false,"data":[{"op_id":"1","op":"PUT","object_type":"t","object_id":"1","checksum":5,"data":{"a":1}}]}}`
	if got := string(l.(*Data).AppendNestedLine(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestErrorBody(t *testing.T) {
	want := `{"error":{"name":"AuthorizationError","code":"PSYNC_S2103","status":401,"description":"token has expired","severity":"error"}}`
	got := (&ErrorBody{Code: CodeTokenExpired, Status: 401, Description: "token has expired"}).AppendJSON(nil)
	if string(got) != want {
		t.Errorf("got %s", got)
	}
}
