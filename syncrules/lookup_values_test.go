package syncrules

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// TestSA14_LookupsByValue: a row is looked up by a value of the token exactly if the
// two are equal, numbers by what they are worth, and NULL is equal to nothing.
func TestSA14_LookupsByValue(t *testing.T) {
	rules, diagnostics := Compile("rules.yaml", []byte(`
bucket_definitions:
  found:
    parameters: SELECT id FROM m WHERE k = request.jwt() ->> 'k'
    data:
      - SELECT * FROM d WHERE m = bucket.id
`))
	if rules == nil {
		t.Fatal(diagnostics.Error())
	}
	values := []struct {
		row   millrace.Value
		claim string
		class string // equal values have one; of the claim, if theirs differ
		asks  string
	}{
		{millrace.Integer(1), `1`, "one", "one"},
		{millrace.Real(1), `1.0`, "one", "one"},
		{millrace.Integer(1), `true`, "one", "one"}, // a boolean is 1 or 0
		{millrace.Text("1"), `"1"`, "text one", "text one"},
		{millrace.Text("1.0"), `"1.0"`, "text one point", "text one point"},
		{millrace.Text("true"), `"true"`, "text true", "text true"},
		{millrace.Real(1.5), `1.5`, "one and a half", "one and a half"},
		{millrace.Integer(9007199254740993), `9007199254740993`, "2^53 + 1", "2^53"}, // numbers of a token are doubles
		{millrace.Integer(9007199254740992), `9007199254740992`, "2^53", "2^53"},
		{millrace.Integer(-9223372036854775808), `-9223372036854775808`, "least", "least"},
		{millrace.Text(""), `""`, "empty", "empty"},
		{millrace.Null, `null`, "", ""},
	}
	written := make([][]string, len(values))
	for i, v := range values {
		for _, l := range evalRow(t, rules, "m", "id", "m1", "k", v.row).Lookups {
			written[i] = append(written[i], l.Key)
		}
	}
	for _, asked := range values {
		r, err := rules.Resolve(Request{Claims: []byte(fmt.Sprintf(`{"sub":"u","k":%s}`, asked.claim)), IncludeDefaults: true})
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string]bool{}
		for _, k := range r.Pending() {
			keys[k.Key] = true
		}
		for i, v := range values {
			found := false
			for _, key := range written[i] {
				found = found || keys[key]
			}
			if want := v.class != "" && v.class == asked.asks; found != want {
				t.Errorf("the claim %s finds a row with %v: %t (keys %v and %v)", asked.claim, v.row, found, keys, written[i])
			}
		}
	}
}
