package millrace_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	namedTest = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z0-9]\w*…?`)
)

// tests gives the names of all tests in Go.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || file != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(file)
		for _, m := range testFunc.FindAllSubmatch(b, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Tests that the pages about scenarios name are there. A name that ends in …
// stands for all that begin so.
func TestScenariosNameTests(t *testing.T) {
	names := tests(t)
	pages, err := filepath.Glob("docs/reference/*-scenarios.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namedTest.FindAllString(string(text), -1) {
			if prefix, some := strings.CutSuffix(name, "…"); some && !hasPrefix(names, prefix) || !some && !names[name] {
				t.Errorf("%s names %s, which is not there", page, name)
			}
		}
	}
}

func hasPrefix(names map[string]bool, prefix string) bool {
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Each acceptance scenario, of the source side (RA) and of the sidecar (SA), has a test
// that carries its number.
func TestScenariosAreTested(t *testing.T) {
	names := tests(t)
	for kind, last := range map[string]int{"RA": 56, "SA": 45} {
		for n := 1; n <= last; n++ {
			number := regexp.MustCompile(fmt.Sprintf(`^Test([RS]A\d\d_)*%s%02d_`, kind, n))
			found := false
			for name := range names {
				found = found || number.MatchString(name)
			}
			if !found {
				t.Errorf("no test carries the number %s%02d", kind, n)
			}
		}
	}
}
