package syncrules

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMalformed compares what is printed of the files in testdata/malformed,
// each with one mistake that people make, with the text beside it.
func TestMalformed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "malformed", "*.yaml"))
	if err != nil || len(files) < 60 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rules, diags := Compile("sync.yaml", src)
		if rules != nil || !diags.Fatal() {
			t.Errorf("%s compiles", path)
		}
		var b bytes.Buffer
		if err := diags.Render(&b, src); err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(path, ".yaml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s prints\n%s\nwant\n%s", path, b.String(), want)
		}
	}
}
