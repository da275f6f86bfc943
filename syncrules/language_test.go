package syncrules

import (
	"errors"
	"testing"

	"github.com/millrace/millrace"
)

func init() {
	constant := func(text string) func(*env, []millrace.Value) millrace.Value {
		return func(*env, []millrace.Value) millrace.Value { return millrace.Text(text) }
	}
	register(&function{name: "test_changed", version: 3, since: 3, min: 1, max: 1, eval: constant("third"),
		before: &function{name: "test_changed", version: 2, since: 2, min: 1, max: 1, eval: constant("second"),
			before: &function{name: "test_changed", version: 1, min: 1, max: 1, eval: constant("first")}}})
}

// TestChangedFunctionKeepsItsOldVersion: rules that an earlier release deployed
// give what they gave then, until what is kept for that is removed.
func TestChangedFunctionKeepsItsOldVersion(t *testing.T) {
	const src = `
bucket_definitions:
  changed:
    data:
      - SELECT id, test_changed(name) AS name FROM t
  same:
    data:
      - SELECT id, upper(name) AS name FROM u
`
	deployed := map[int]map[string]string{}
	for lang := 1; lang <= 3; lang++ {
		rules, diagnostics := compile("rules.yaml", []byte(src), lang)
		if rules == nil {
			t.Fatal(diagnostics.Error())
		}
		deployed[lang] = map[string]string{}
		for _, d := range rules.Definitions() {
			deployed[lang][d.Key] = d.Hash
		}
	}
	if a, b := deployed[1], deployed[2]; a["bucket:same"] != b["bucket:same"] || a["bucket:changed"] == b["bucket:changed"] {
		t.Errorf("hashes of two languages: %v, %v", a, b)
	}
	for lang, want := range map[int]string{1: "first", 2: "second", 3: "third"} {
		rules, _, err := compileDeployed("rules.yaml", []byte(src), deployed[lang], 3, 1)
		if err != nil {
			t.Fatalf("language %d: %v", lang, err)
		}
		out := evalRow(t, rules, "t", "id", "1", "name", "a")
		if len(out.Rows) != 1 || string(out.Rows[0].Data) != `{"id":"1","name":"`+want+`"}` {
			t.Errorf("language %d gives %+v", lang, out)
		}
	}
	// A history that was lost and built again has another hash.
	lost := map[string]string{"bucket:changed": deployed[2]["bucket:changed"] + "~7", "bucket:same": deployed[2]["bucket:same"]}
	if _, _, err := compileDeployed("rules.yaml", []byte(src), lost, 3, 1); err != nil {
		t.Error(err)
	}
	var unknown *MeaningError
	if _, _, err := compileDeployed("rules.yaml", []byte(src), deployed[3], 2, 1); !errors.As(err, &unknown) {
		t.Errorf("an older release compiles what a newer one deployed: %v", err)
	}
	if _, _, err := compileDeployed("rules.yaml", []byte(src), deployed[1], 3, 2); !errors.As(err, &unknown) || unknown.Definition != "bucket:changed" {
		t.Errorf("without the first language: %v", err)
	}
}

// TestFunctionVersionsDescend: what a function was before has a lower version and
// belongs to an earlier language, and none is older than what is kept.
func TestFunctionVersionsDescend(t *testing.T) {
	for _, list := range []map[string]*function{functions, exactFunctions} {
		for name, f := range list {
			for _, f := range []*function{f, f.legacy} {
				if f == nil || name == "test_changed" {
					continue
				}
				if f.since > newestLanguage {
					t.Errorf("%s is of language %d, the newest is %d", name, f.since, newestLanguage)
				}
				for ; f.before != nil; f = f.before {
					if f.before.name != f.name || f.before.version >= f.version || f.before.since >= f.since {
						t.Errorf("%s version %d of language %d was version %d of language %d", name, f.version, f.since, f.before.version, f.before.since)
					}
					if f.since <= oldestLanguage {
						t.Errorf("what %s was before language %d is not needed any more", name, f.since)
					}
				}
			}
		}
	}
}
