package millrace_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace"

// layer is what the non-test code of a package and of the packages below it
// may import beside the standard library and the packages below itself. Ours
// are given without the module, and with everything below them; "." is the
// root package.
type layer struct {
	ours   []string
	theirs []string // prefixes of import paths
	// pure: no network, no processes, no time of day.
	pure bool
}

const (
	pgx     = "github.com/jackc/pgx/v5"
	logrepl = "github.com/jackc/pglogrepl"
	xsync   = "golang.org/x/sync"
)

// layers are the import rules. Data flow from left to right, imports never do:
// source → decoder → store → relay → client. Only cmd/millrace puts decoder,
// store and relay together.
var layers = map[string]layer{
	".":                 {},
	"syncrules":         {ours: []string{"."}, theirs: []string{"go.yaml.in/yaml/v4", "golang.org/x/text"}, pure: true},
	"decoder":           {ours: []string{".", "syncrules"}, theirs: []string{pgx, logrepl, xsync, "golang.org/x/sys"}},
	"store":             {ours: []string{".", "sql", "migrations"}, theirs: []string{pgx, xsync, "github.com/golang-migrate/migrate/v4"}},
	"sql":               {theirs: []string{pgx}},
	"migrations":        {ours: []string{"sql"}, theirs: []string{pgx, "github.com/golang-migrate/migrate/v4"}},
	"protocol":          {ours: []string{"."}},
	"relay":             {ours: []string{".", "syncrules", "protocol"}, theirs: []string{"github.com/coder/websocket", "github.com/golang-jwt/jwt/v5", "github.com/cloudflare/circl", "github.com/klauspost/compress", "github.com/prometheus/client_golang", xsync, "golang.org/x/time"}},
	"inspect":           {ours: []string{".", "syncrules", "store", "decoder/catalog", "decoder/pgoutput", "decoder/pgvalue", "decoder/rulecheck"}, theirs: []string{pgx}},
	"clientsdk":         {ours: []string{".", "protocol"}, theirs: []string{"github.com/coder/websocket", "github.com/klauspost/compress", "modernc.org/sqlite", xsync}},
	"config":            {ours: []string{"."}, theirs: []string{"go.yaml.in/yaml/v4", pgx}},
	"demo":              {},
	"demo/backend":      {ours: []string{"."}, theirs: []string{pgx, "github.com/golang-jwt/jwt/v5"}},
	"devserver":         {ours: []string{"config", "demo", "internal/pgserver"}, theirs: []string{pgx, xsync, "github.com/golang-jwt/jwt/v5", "github.com/fergusstrange/embedded-postgres"}},
	"internal/pgserver": {theirs: []string{pgx}},
	"internal/tracing":  {ours: []string{"."}, theirs: []string{"go.opentelemetry.io/otel"}},
	// Test support, kept out of the binary below.
	"internal/pgtest":    {ours: []string{"internal/pgserver"}, theirs: []string{pgx}},
	"internal/faultnet":  {},
	"internal/tracetest": {ours: []string{"."}, theirs: []string{"go.opentelemetry.io/proto/otlp", "google.golang.org/protobuf"}},
	// These may import anything; nobody imports them.
	"cmd":   {ours: []string{"*"}, theirs: []string{"*"}},
	"e2e":   {ours: []string{"*"}, theirs: []string{"*"}},
	"bench": {ours: []string{"*"}, theirs: []string{"*"}},
}

// testSupport holds packages that only tests import.
var testSupport = []string{"internal/pgtest", "internal/faultnet", "internal/tracetest", "relay/relaytest", "decoder/sinktest"}

// impure packages decide nothing that can be replayed.
var impure = []string{"net", "net/http", "os", "os/exec", "math/rand", "math/rand/v2", "crypto/rand", "database/sql"}

type goPackage struct {
	ImportPath string
	Dir        string
	Imports    []string
	Standard   bool
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Dir,Standard", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// short is a package of ours without the module; ok is false for others.
func short(importPath string) (name string, ok bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// layerOf is the nearest layer around a package of ours.
func layerOf(name string) string {
	for ; ; name = path.Dir(name) {
		if _, ok := layers[name]; ok {
			return name // at the latest "."
		}
	}
}

// below tells whether a package is dir or in a folder below it.
func below(name, dir string) bool {
	return name == dir || (dir != "." && strings.HasPrefix(name, dir+"/"))
}

func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		name, _ := short(p.ImportPath)
		home := layerOf(name)
		if home == "." && name != "." {
			t.Errorf("package %s belongs to no layer: add it to the table with its reason", name)
			continue
		}
		l := layers[home]
		for _, imported := range p.Imports {
			if why := forbidden(name, home, l, imported); why != "" {
				t.Errorf("%s imports %s: %s", name, imported, why)
			}
		}
	}
}

func forbidden(name, home string, l layer, imported string) string {
	ours, isOurs := short(imported)
	switch {
	case isOurs && slices.ContainsFunc(testSupport, func(dir string) bool { return below(ours, dir) }):
		if slices.ContainsFunc(append([]string{"e2e", "bench"}, testSupport...), func(dir string) bool { return below(name, dir) }) {
			return ""
		}
		return "that is for tests only"
	case isOurs && slices.ContainsFunc([]string{"cmd", "e2e", "bench"}, func(dir string) bool { return below(ours, dir) && !below(name, dir) }):
		return "nobody imports that"
	case isOurs:
		if below(ours, home) || slices.Contains(l.ours, "*") || slices.ContainsFunc(l.ours, func(dir string) bool { return below(ours, dir) }) {
			return ""
		}
		return "the table of layers does not allow that"
	case !strings.Contains(strings.Split(imported, "/")[0], "."): // standard library
		if l.pure && slices.Contains(impure, imported) {
			return home + " is pure: no I/O, clock or randomness"
		}
		return ""
	case slices.ContainsFunc(l.theirs, func(prefix string) bool { return prefix == "*" || below(imported, prefix) }):
		return ""
	}
	return "the table of layers does not name that library"
}

// The table must be able to say no.
func TestImportRulesForbid(t *testing.T) {
	for _, tc := range []struct{ name, imported string }{
		{".", pgx},
		{"syncrules", pgx + "/pgconn"},
		{"syncrules", "net"},
		{"decoder", module + "/store"},
		{"decoder/walstream", module + "/relay"},
		{"store", module + "/syncrules"},
		{"store", module + "/decoder"},
		{"relay", pgx},
		{"relay", module + "/store"},
		{"clientsdk", module + "/store"},
		{"store", module + "/internal/pgtest"},
		{"config", module + "/cmd/millrace"},
		{"decoder", "github.com/spf13/cobra"},
		{"relay", "go.opentelemetry.io/otel/trace"},
		{"store", module + "/internal/tracing"},
	} {
		home := layerOf(tc.name)
		if forbidden(tc.name, home, layers[home], tc.imported) == "" {
			t.Errorf("%s may import %s", tc.name, tc.imported)
		}
	}
}

// notForPublic are words that only mean something on the machine or in the
// circumstances a file was written in.
var notForPublic = regexp.MustCompile(`/wor` + `k/|/hom` + `e/[a-z]+/|\.\./shar` + `ed|\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

// allowedWords are honest uses.
var allowedWords = []string{"/home/linuxbrew/"}

func TestFilesSpeakForThemselves(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("not a repository: %v", err)
	}
	for file := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		switch path.Ext(file) {
		case ".go", ".md", ".sql", ".yaml", ".yml", ".sh", ".ts", "":
		default:
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			continue // removed and not committed yet
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			text := lines.Text()
			for _, word := range allowedWords {
				text = strings.ReplaceAll(text, word, "")
			}
			if found := notForPublic.FindString(text); found != "" {
				t.Errorf("%s:%d: %q", file, n, found)
			}
		}
	}
}

var relativeLink = regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)]*)?\)`)

// Links between the documents lead somewhere.
func TestDocumentLinks(t *testing.T) {
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || file != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case path.Ext(file) != ".md":
			return nil
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, link := range relativeLink.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(path.Join(path.Dir(file), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, link[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
