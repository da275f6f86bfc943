package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/migrations"
)

// nextBuild is held while the next release is built, once for all tests.
var nextBuild sync.Mutex

// nextRelease builds the release after this one, as it might be:
//
//   - a migration that only adds, and says that it serves this release too;
//   - an SQL function that the decoder calls takes another argument, under another
//     name: this release goes on with the one it knows;
//   - upper() of the rules gives another result. What it gave before is kept.
//
// The sources stay as they are: the compiler is given other files in their place.
func nextRelease(t *testing.T) (path string) {
	t.Helper()
	nextBuild.Lock()
	defer nextBuild.Unlock()
	path = filepath.Join(scratch, "millrace-next")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	put := func(name, content string) {
		t.Helper()
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, name)] = file
	}
	change := func(name, from, to string) {
		t.Helper()
		text := readFile(t, filepath.Join(root, name))
		if strings.Count(text, from) != 1 {
			t.Fatalf("%s has not one %q", name, from)
		}
		put(name, strings.Replace(text, from, to, 1))
	}
	number := migrations.Latest + 1
	change("migrations/migrations.go", fmt.Sprintf("const Latest = %d\n", migrations.Latest), fmt.Sprintf("const Latest = %d\n", number))
	put(fmt.Sprintf("migrations/%04d_add_note.up.sql", number), fmt.Sprintf(`-- Adds a column that this release does not know.
ALTER TABLE millrace.relay_reports ADD COLUMN note text;
COMMENT ON COLUMN millrace.relay_reports.note IS 'A note.';
COMMENT ON SCHEMA millrace IS 'Millrace sidecar. At migration %d, for releases since %d.';
`, number, migrations.Latest))
	put(fmt.Sprintf("migrations/%04d_add_note.down.sql", number), fmt.Sprintf(`-- Drops it.
ALTER TABLE millrace.relay_reports DROP COLUMN note;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar. At migration %d.';
`, migrations.Latest))
	put("sql/61_partitions_v2.sql", `-- Takes the place of add_partitions, which the release before calls.
CREATE OR REPLACE PROCEDURE millrace.add_partitions_v2(definition integer, note text)
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  CALL millrace.add_partitions(definition);
  EXECUTE format('COMMENT ON TABLE millrace.%I IS %L', 'ops_' || definition, note);
END $$;
COMMENT ON PROCEDURE millrace.add_partitions_v2(integer, text) IS 'Makes partitions, with a note.';
`)
	change("store/registry.go", "`CALL millrace.add_partitions($1)`", "`CALL millrace.add_partitions_v2($1, 'made by the next release')`")
	language := readFile(t, filepath.Join(root, "syncrules/language.go"))
	newest, _, _ := strings.Cut(language[strings.Index(language, "newestLanguage = ")+len("newestLanguage = "):], "\n")
	n, err := strconv.Atoi(newest)
	if err != nil {
		t.Fatal(err)
	}
	change("syncrules/language.go", "newestLanguage = "+newest+"\n", fmt.Sprintf("newestLanguage = %d\n", n+1))
	change("syncrules/functions.go", `register(&function{name: "upper", version: 1, min: 1, max: 1, eval: upper})`, fmt.Sprintf(
		`register(&function{name: "upper", version: 2, since: %d, min: 1, max: 1, eval: louder,
		before: &function{name: "upper", version: 1, min: 1, max: 1, eval: upper}})`, n+1))
	put("syncrules/functions_next.go", `package syncrules

import "github.com/millrace/millrace"

func louder(e *env, args []millrace.Value) millrace.Value {
	return millrace.Text(e.text(upper(e, args)) + "!")
}
`)
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	put("overlay.json", string(list))
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path, "github.com/millrace/millrace/cmd/millrace")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the next release: %v\n%s", err, out)
	}
	return path
}
