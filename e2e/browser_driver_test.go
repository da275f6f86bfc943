package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/internal/pgtest"
)

// browser is a process that drives Chromium, line by line; see
// browser/driver.mjs.
type browser struct {
	t       testing.TB
	process *lineProcess
}

// needBrowser ends the test where there is nothing to test, or nothing to test
// it with. `make test` sets E2E_BROWSER, and insists.
func needBrowser(t testing.TB) {
	t.Helper()
	if _, built := demo.App(); !built {
		skipOrFail(t, "the demo's app is not built: run make app")
	}
	needChromium(t)
}

// needChromium is needBrowser for pages of the test's own.
func needChromium(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		skipOrFail(t, err.Error())
	}
	if said, err := exec.Command("node", "--input-type=module", "-e",
		`import { launchOptions } from "./browser/chromium.mjs"; launchOptions();`).CombinedOutput(); err != nil {
		skipOrFail(t, fmt.Sprintf("%v: %s", err, said))
	}
}

func skipOrFail(t testing.TB, missing string) {
	t.Helper()
	if os.Getenv("E2E_BROWSER") != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

// browserFolder holds driver.mjs with the packages it needs.
var browserFolder = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "browser")
	return dir, installCopy(dir, "browser")
})

// installCopy copies the files of a folder and installs what its lock file pins.
func installCopy(dir, from string) error {
	if err := os.CopyFS(dir, driverFiles{os.DirFS(from)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, said)
	}
	return nil
}

// driverFiles leaves out packages that somebody installed in the folder.
type driverFiles struct{ fs.FS }

func (f driverFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.IsDir() }), err
}

func startBrowser(t testing.TB) *browser {
	t.Helper()
	dir, err := browserFolder()
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, startLineProcess(t, "browser", exec.Command("node", filepath.Join(dir, "driver.mjs"), t.TempDir()))}
}

// step is a line to the process.
type step struct {
	ID   int    `json:"id"`
	Do   string `json:"do"`
	Page string `json:"page,omitempty"`
	URL  string `json:"url,omitempty"`
	At   string `json:"at,omitempty"`   // CSS selector
	Text string `json:"text,omitempty"` // what to type, press, evaluate, or a file
}

// do has a step done and decodes its answer into value, unless that is nil.
func (b *browser) do(s step, value any) {
	b.t.Helper()
	if err := b.process.ask(b.t, fmt.Sprintf("%s on %s", s.Do, s.Page), &s, &s.ID, value); err != nil {
		b.shoot(s)
		b.t.Fatalf("%v (at %q, %q)", err, s.At, s.Text)
	}
}

// shoot keeps what a page looks like when it fails, if somebody wants to know.
func (b *browser) shoot(s step) {
	if dir := os.Getenv("E2E_KEEP_LOGS"); dir != "" && s.Do != "screenshot" && s.Page != "" {
		b.do(step{Do: "screenshot", Page: s.Page, Text: filepath.Join(dir, strings.ReplaceAll(b.t.Name(), "/", "_")+".png")}, nil)
	}
}

// demoPage is `millrace dev` at a fixed address, and a browser that looks at it.
type demoPage struct {
	*devServers
	browser *browser
}

func newDemoPage(t testing.TB) *demoPage {
	t.Helper()
	needBrowser(t)
	return &demoPage{browser: startBrowser(t), devServers: startDevServers(t, freeAddress(t))}
}

func (d *demoPage) do(s step, value any) {
	d.t.Helper()
	d.browser.do(s, value)
}

func (d *demoPage) open(page, path string) {
	d.t.Helper()
	d.do(step{Do: "open", Page: page, URL: d.dev.URL + path}, nil)
}

// pane is a CSS selector of something in a user's pane.
func pane(user, inside string) string { return fmt.Sprintf(".pane[data-user=%s] %s", user, inside) }

func (d *demoPage) click(page, at string) {
	d.t.Helper()
	d.do(step{Do: "click", Page: page, At: at}, nil)
}

// texts are those of all elements there.
func (d *demoPage) texts(page, at string) (texts []string) {
	d.t.Helper()
	d.do(step{Do: "texts", Page: page, At: at}, &texts)
	return texts
}

// press presses a key where the focus is.
func (d *demoPage) press(page, key string) {
	d.t.Helper()
	d.do(step{Do: "press", Page: page, Text: key}, nil)
}

// add types a to-do into a user's open list.
func (d *demoPage) add(page, user, title string) {
	d.t.Helper()
	field := pane(user, ".add-todo input")
	d.do(step{Do: "fill", Page: page, At: field, Text: title}, nil)
	d.do(step{Do: "press", Page: page, At: field, Text: "Enter"}, nil)
}

// titles are the to-dos that a user's open list shows.
func (d *demoPage) titles(page, user string) []string {
	d.t.Helper()
	return d.texts(page, pane(user, ".todo-title"))
}

// sees waits until a user's open list shows a to-do, or does not.
func (d *demoPage) sees(page, user, title string, want bool) {
	d.t.Helper()
	pgtest.Eventually(d.t, patience, func() error {
		if titles := d.titles(page, user); slices.Contains(titles, title) != want {
			return fmt.Errorf("%s sees %q: %v; shown are %q", user, title, !want, titles)
		}
		return nil
	})
}

// says waits until an element has a text.
func (d *demoPage) says(page, at, want string) {
	d.t.Helper()
	pgtest.Eventually(d.t, patience, func() error {
		if got := d.texts(page, at); len(got) != 1 || got[0] != want {
			return fmt.Errorf("%s says %q, want %q", at, got, want)
		}
		return nil
	})
}

// patience is for what takes a moment on an idle machine.
const patience = time.Minute

// shown is what a user's database in the page holds, as the views give it.
func (d *demoPage) shown(page, user string) rowSet {
	d.t.Helper()
	query, err := json.Marshal(shownRows)
	if err != nil {
		d.t.Fatal(err)
	}
	var rows []struct{ Key, Data string }
	d.do(step{Do: "eval", Page: page, Text: fmt.Sprintf("devices.%s.getAll(%s)", user, query)}, &rows)
	out := rowSet{}
	for _, r := range rows {
		out[r.Key] = canonical(r.Data)
	}
	return out
}

// inSync waits until a page's users have what the source gives them, and
// nothing waits for upload.
func (d *demoPage) inSync(page string, users ...string) {
	d.t.Helper()
	for _, user := range users {
		pgtest.Eventually(d.t, patience, func() error {
			want, err := entitledTo(d.t.Context(), d.dev.SourceURI, user)
			if err != nil {
				return err
			}
			if err := d.shown(page, user).mustEqual(want); err != nil {
				return fmt.Errorf("%s: %w", user, err)
			}
			if n := d.pending(page, user); n != 0 {
				return fmt.Errorf("%s: %d writes wait for upload", user, n)
			}
			return nil
		})
	}
}

// pending is how many written rows wait in a user's database.
func (d *demoPage) pending(page, user string) (n int) {
	d.t.Helper()
	d.do(step{Do: "eval", Page: page, Text: fmt.Sprintf("devices.%s.uploadQueue(100000).then(q => q.length)", user)}, &n)
	return n
}
