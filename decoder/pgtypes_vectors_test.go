package decoder_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgvalue"
)

// vectorType is TYPE of the vectors' README.
type vectorType struct {
	Kind      string      `json:"kind"`
	Name      string      `json:"name"`
	OID       uint32      `json:"oid"`
	Delimiter string      `json:"delimiter"`
	Element   *vectorType `json:"element"`
	Base      *vectorType `json:"base"`
	Subtype   *vectorType `json:"subtype"`
	Fields    []struct {
		Name string     `json:"name"`
		Type vectorType `json:"type"`
	} `json:"fields"`
}

type vector struct {
	ID     string                     `json:"id"`
	Name   string                     `json:"name"`
	Tags   []string                   `json:"tags"`
	Type   vectorType                 `json:"type"`
	Wire   *string                    `json:"wire"`
	Expect map[string]json.RawMessage `json:"expect"`
}

var vectorOptions = map[string]pgvalue.Options{
	"edition1":                   {FractionDigits: 6},
	"edition3":                   {TimestampsISO8601: true, CustomTypes: true, FractionDigits: 6},
	"edition3_seconds":           {TimestampsISO8601: true, CustomTypes: true, FractionDigits: 0},
	"edition3_milliseconds":      {TimestampsISO8601: true, CustomTypes: true, FractionDigits: 3},
	"edition3_nanoseconds":       {TimestampsISO8601: true, CustomTypes: true, FractionDigits: 9},
	"edition1_iso_only":          {TimestampsISO8601: true, FractionDigits: 6},
	"edition1_custom_types_only": {CustomTypes: true, FractionDigits: 6},
}

// TestRA37_PGTypeVectors reads the shared vectors; MILLRACE_PGTYPE_VECTORS names a
// folder with others of the same form.
func TestRA37_PGTypeVectors(t *testing.T) {
	dir := "testdata/pg-types"
	if other := os.Getenv("MILLRACE_PGTYPE_VECTORS"); other != "" {
		dir = other
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s: %v", dir, err)
	}
	passed := 0
	var failing []string
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Format  int      `json:"format"`
			Vectors []vector `json:"vectors"`
		}
		if err := json.Unmarshal(src, &doc); err != nil || doc.Format != 1 {
			t.Fatalf("%s: format %d: %v", file, doc.Format, err)
		}
		for _, v := range doc.Vectors {
			if v.check(t) {
				passed++
			} else {
				failing = append(failing, v.ID)
			}
		}
	}
	t.Logf("%d passed, %d failed %s", passed, len(failing), strings.Join(failing, " "))
	if passed == 0 {
		t.Error("there are no vectors")
	}
}

// check tells whether the value comes out as expected with every configuration.
func (v vector) check(t *testing.T) bool {
	t.Helper()
	ok := len(v.Expect) > 0
	for config, want := range v.Expect {
		options, known := vectorOptions[config]
		if !known {
			t.Errorf("%s: unknown configuration %s", v.ID, config)
			ok = false
			continue
		}
		got, err := v.convert(options)
		if err != nil || !matches(t, v, got, want) && !(slices.Contains(v.Tags, "quirk") && better(t, v, options, got)) {
			t.Errorf("%s %q, %s: got %s %q, want %s; %v", v.ID, v.Name, config, got.Kind(), show(got), want, err)
			ok = false
		}
	}
	return ok
}

func (v vector) convert(o pgvalue.Options) (millrace.Value, error) {
	if v.Wire == nil {
		return millrace.Null, nil
	}
	var arena pgvalue.Arena
	return pgvalue.For(v.Type.describe(), o)([]byte(*v.Wire), &arena)
}

// better tells whether a value that differs from the reference's is right
// where that loses information: box arrays are split at their own delimiter
// whatever the options, and offsets with seconds are converted.
func better(t *testing.T, v vector, o pgvalue.Options, got millrace.Value) bool {
	t.Helper()
	if v.Type.Kind == "array" {
		return matches(t, v, got, v.Expect["edition3"])
	}
	at, err := time.Parse("2006-01-02 15:04:05-07:00:00", *v.Wire)
	if err != nil {
		return false
	}
	fraction := "" // as sent
	if _, after, ok := strings.Cut(*v.Wire, "."); ok {
		fraction = "." + strings.Repeat("0", strings.IndexAny(after, "+-"))
	}
	layout := "2006-01-02 15:04:05" + fraction + "Z"
	if o.TimestampsISO8601 {
		layout = "2006-01-02T15:04:05Z"
		if digits := min(o.FractionDigits, 6); digits > 0 {
			layout = "2006-01-02T15:04:05." + "000000"[:digits] + "Z"
		}
	}
	return got.Kind() == millrace.KindText && got.Str() == at.UTC().Format(layout)
}

func matches(t *testing.T, v vector, got millrace.Value, want json.RawMessage) bool {
	t.Helper()
	if string(want) == "null" {
		return got.IsNull()
	}
	var text string
	if json.Unmarshal(want, &text) == nil {
		if got.Kind() == millrace.KindText && got.Str() == text {
			return true
		}
		// Numbers that JSON does not know are null inside a JSON text.
		return slices.Contains(v.Tags, "invalid-json") && got.Kind() == millrace.KindText && json.Valid([]byte(got.Str()))
	}
	var other struct{ I, R, B *string }
	if err := json.Unmarshal(want, &other); err != nil {
		t.Fatalf("%s: expectation %s", v.ID, want)
	}
	switch {
	case other.I != nil:
		return got.Kind() == millrace.KindInteger && strconv.FormatInt(got.Int(), 10) == *other.I
	case other.R != nil:
		f, err := strconv.ParseFloat(*other.R, 64)
		if err != nil {
			t.Fatalf("%s: expectation %s", v.ID, want)
		}
		return got.Kind() == millrace.KindReal &&
			(math.Float64bits(got.Float()) == math.Float64bits(f) || (math.IsNaN(f) && math.IsNaN(got.Float())))
	case other.B != nil:
		return got.Kind() == millrace.KindBlob && fmt.Sprintf("%x", got.Str()) == *other.B
	}
	return false
}

func show(v millrace.Value) string {
	if v.Kind() == millrace.KindBlob {
		return fmt.Sprintf("%x", v.Str())
	}
	if v.Kind() == millrace.KindText {
		return v.Str()
	}
	return string(v.AppendJSON(nil))
}

func (v *vectorType) describe() *pgvalue.Type {
	if v.OID != 0 {
		if t := pgvalue.Builtin(v.OID); t != nil {
			return t
		}
	}
	t := &pgvalue.Type{OID: v.OID, Schema: "public", Name: v.Name, Length: -1, Storage: 'x', Delimiter: ','}
	switch v.Kind {
	case "enum":
		t.Kind = pgvalue.Enum
	case "array":
		t.Kind = pgvalue.Array
		element := *v.Element.describe()
		if v.Delimiter != "" {
			element.Delimiter = v.Delimiter[0]
		}
		t.Element = &element
	case "domain":
		t.Kind, t.Element = pgvalue.Domain, v.Base.describe()
	case "composite":
		t.Kind = pgvalue.Composite
		for _, f := range v.Fields {
			t.Fields = append(t.Fields, pgvalue.Field{Name: f.Name, Type: f.Type.describe()})
		}
	case "range":
		t.Kind, t.Element = pgvalue.Range, v.Subtype.describe()
	case "multirange":
		t.Kind, t.Element = pgvalue.Multirange, v.Subtype.describe()
	}
	if t.OID == 0 {
		t.OID = 99_999
	}
	return t
}
