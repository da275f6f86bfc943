package e2e

import (
	"testing"

	"github.com/millrace/millrace/syncrules"
)

// The rules of these tests must compile without a word.
func TestRulesCompile(t *testing.T) {
	for _, r := range []rules{bucketRules, streamRules} {
		file := "testdata/" + r.name + ".yaml"
		compiled, findings := syncrules.Compile(file, []byte(readFile(t, file)))
		for _, f := range findings {
			t.Errorf("%v", f)
		}
		if compiled == nil {
			t.Fatalf("%s does not compile", file)
		}
		for _, d := range compiled.Definitions() {
			t.Logf("%s: %s %s", r.name, d.Kind, d.Key)
		}
	}
}
