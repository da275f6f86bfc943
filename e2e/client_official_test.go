package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// officialClient is a process that holds unmodified official clients, driven
// line by line; see officialclient/client.mjs.
type officialClient struct {
	t       testing.TB
	process *lineProcess
}

// officialPackages installs what officialclient/package-lock.json pins, once
// for each content of it, and gives the folder.
func officialPackages(t testing.TB) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Fatal("npm is not installed: the official client's packages come through it. Install Node 20 or newer with npm (Debian, Ubuntu: apt-get install nodejs npm)")
	}
	files := map[string]string{}
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		files[name] = readFile(t, filepath.Join("officialclient", name))
		sum.Write([]byte(files[name]))
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	parent := filepath.Join(cache, "millrace")
	dir := filepath.Join(parent, "officialclient-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(parent, "install-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = work
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, said)
	}
	// Whoever was first at the same time wins; both have the same.
	if err := os.Rename(work, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// node24 is a Node that has node:sqlite: the one among the packages, or the
// machine's.
func node24(t testing.TB, packages string) string {
	t.Helper()
	for _, arch := range []string{"x64", "arm64"} {
		path := filepath.Join(packages, "node_modules", "node-linux-"+arch, "bin", "node")
		if exec.Command(path, "--version").Run() == nil {
			return path
		}
	}
	said, err := exec.Command("node", "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(said)), "v"), ".")
	if n, _ := strconv.Atoi(major); err != nil || n < 24 {
		t.Fatalf("the official client needs Node 24 or newer: npm has none for %s/%s, and the machine's says %q (%v)", runtime.GOOS, runtime.GOARCH, said, err)
	}
	return "node"
}

// copyOfficialScripts copies the scripts to a folder, beside which the packages
// are found.
func copyOfficialScripts(t testing.TB, dir string) {
	t.Helper()
	if err := os.Symlink(filepath.Join(officialPackages(t), "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"actions.mjs", "client.mjs", "page.mjs", "page.html", "bundle.mjs"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(readFile(t, filepath.Join("officialclient", name))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func startOfficialClient(t testing.TB) *officialClient {
	t.Helper()
	packages := officialPackages(t)
	dir := t.TempDir()
	copyOfficialScripts(t, dir)
	cmd := exec.Command(node24(t, packages), filepath.Join(dir, "client.mjs"))
	cmd.Env = cleanEnvironment()
	return &officialClient{t, startLineProcess(t, "officialclient", cmd)}
}

// command is a line to the process; see officialclient/client.mjs.
type command struct {
	ID          int            `json:"id"`
	Do          string         `json:"do"`
	User        string         `json:"user"`
	File        string         `json:"file,omitempty"`
	VFS         string         `json:"vfs,omitempty"`
	Endpoint    string         `json:"endpoint,omitempty"`
	Token       string         `json:"token,omitempty"`
	Upload      string         `json:"upload,omitempty"`
	Transport   string         `json:"transport,omitempty"`   // "http" (default) or "web-socket"
	Sequential  bool           `json:"sequential,omitempty"`  // one line at a time
	Checkpoints string         `json:"checkpoints,omitempty"` // "legacy" (default) or "requests"
	Custom      bool           `json:"custom,omitempty"`      // the backend has custom write checkpoints
	Stream      string         `json:"stream,omitempty"`
	Parameters  map[string]any `json:"parameters,omitempty"`
	SQL         string         `json:"sql,omitempty"`
	Args        []any          `json:"args,omitempty"`
	Statements  []any          `json:"statements,omitempty"`
}

// do has a command done and decodes its answer into value, unless that is nil.
func (o *officialClient) do(c command, value any) {
	o.t.Helper()
	if err := o.process.ask(o.t, fmt.Sprintf("%s for %s", c.Do, c.User), &c, &c.ID, value); err != nil {
		o.t.Fatalf("%v (%s)", err, c.SQL)
	}
}

// shown is what a user's client shows.
func (o *officialClient) shown(user string) rowSet {
	o.t.Helper()
	var rows []struct{ Key, Data string }
	o.do(command{Do: "query", User: user, SQL: shownRows}, &rows)
	out := rowSet{}
	for _, r := range rows {
		out[r.Key] = canonical(r.Data)
	}
	return out
}

// gate is what the client keeps about its newest write.
type gate struct {
	Queued  int    `json:"queued"`
	Target  string `json:"target"`
	Seen    string `json:"seen"`
	Applied string `json:"applied"`
}

// gateQuery reads it; numbers as text, since the sentinel is none for JavaScript.
const gateQuery = `SELECT (SELECT count(*) FROM ps_crud) AS queued,
		coalesce((SELECT CAST(value AS TEXT) FROM ps_kv WHERE key = 'target_checkpoint_request_id'), '') AS target,
		coalesce((SELECT CAST(value AS TEXT) FROM ps_kv WHERE key = 'last_seen_checkpoint_request_id'), '') AS seen,
		coalesce((SELECT CAST(value AS TEXT) FROM ps_kv WHERE key = 'last_applied_checkpoint_request_id'), '') AS applied`

// gate reads it.
func (o *officialClient) gate(user string) gate {
	o.t.Helper()
	var g []gate
	o.do(command{Do: "query", User: user, SQL: gateQuery}, &g)
	return g[0]
}

// open tells whether the server's states are shown: nothing waits, and a state
// with the client's write checkpoint was applied.
func (g gate) open() error {
	number, err := strconv.ParseInt(g.Target, 10, 64)
	switch {
	case g.Queued != 0:
		return fmt.Errorf("%d writes wait for upload", g.Queued)
	case err != nil:
		return fmt.Errorf("the client waits for write checkpoint %q", g.Target)
	case number <= 0 || g.Target == closedGate:
		return fmt.Errorf("the client has no write checkpoint: %s", g.Target)
	case g.Applied != g.Target || g.Seen != g.Target:
		return fmt.Errorf("write checkpoint %s was asked for, %q was seen and %q applied", g.Target, g.Seen, g.Applied)
	}
	return nil
}

// closedGate is the client's target between a write and its write checkpoint.
const closedGate = "9223372036854775807"

// The official client, as it comes from npm, syncs the demo for two users, one
// over HTTP, one over RSocket with checkpoint requests, uploads through the
// demo's backend, and gets its write checkpoint.
func TestOfficialClient(t *testing.T) {
	servers := startDevServers(t, "127.0.0.1:0")
	dev := servers.dev
	o := startOfficialClient(t)
	users := []string{"alice", "bob"}
	connects := map[string]command{
		"alice": {Do: "connect", User: "alice"},
		"bob":   {Do: "connect", User: "bob", Transport: "web-socket", Checkpoints: "requests"},
	}
	files := t.TempDir()
	for _, user := range users {
		o.do(command{Do: "open", User: user, File: filepath.Join(files, user+".db"), Endpoint: dev.URL, Token: dev.Tokens[user], Upload: dev.UploadURL}, nil)
		o.do(connects[user], nil)
	}
	for _, user := range users {
		o.do(command{Do: "sync", User: user}, nil)
		if err := o.shown(user).mustEqual(mustBeEntitledTo(t, dev.SourceURI, user)); err != nil {
			t.Errorf("%s after the first sync: %v", user, err)
		}
	}
	// inSync waits until both clients show what the source gives them.
	inSync := func(after string) {
		t.Helper()
		for _, user := range users {
			pgtest.Eventually(t, 30*time.Second, func() error {
				if err := o.shown(user).mustEqual(mustBeEntitledTo(t, dev.SourceURI, user)); err != nil {
					return fmt.Errorf("%s, after %s: %w", user, after, err)
				}
				return nil
			})
		}
	}

	const list, todo = "eeeeeeee-0000-4000-a000-000000000001", "eeeeeeee-0000-4000-b000-000000000001"
	execSQL(t, dev.SourceURI, `INSERT INTO lists (id, name, owner_id) VALUES ('`+list+`', 'Secrets', 'alice')`)
	inSync("a list of alice's was inserted")
	if _, ok := o.shown("bob")["lists/"+list]; ok {
		t.Error("bob has a list of alice's")
	}

	// A local transaction of two rows: shown at once, uploaded as one.
	o.do(command{Do: "transaction", User: "alice", Statements: []any{
		[]any{`INSERT INTO todos (id, list_id, title, completed) VALUES (?, ?, 'written on a device', 0)`, []any{todo, list}},
		[]any{`INSERT INTO list_members (id, list_id, user_id) VALUES (?, ?, 'bob')`, []any{list + ".bob", list}},
	}}, nil)
	if got := o.shown("alice")["todos/"+todo]; !strings.Contains(got, `"written on a device"`) {
		t.Errorf("right after writing, alice's own to-do is %q", got)
	}
	// The upload may be over already; then the write checkpoint is waited for.
	if g := o.gate("alice"); g.Target != closedGate && g.Queued > 0 {
		t.Errorf("right after writing, the gate is not shut: %+v", g)
	}
	inSync("alice's upload")
	// The server filled in what the device left out: the row came back.
	for _, user := range users {
		if got := o.shown(user)["todos/"+todo]; !strings.Contains(got, `"created_by":"alice"`) || strings.Contains(got, `"created_at":null`) {
			t.Errorf("%s has %s: it did not come back from the source", user, got)
		}
	}
	pgtest.Eventually(t, 30*time.Second, func() error { return o.gate("alice").open() })
	var uploads []int
	o.do(command{Do: "uploads", User: "alice"}, &uploads)
	if len(uploads) != 1 || uploads[0] != 2 {
		t.Errorf("alice uploaded transactions of %v rows, want one of 2", uploads)
	}

	// With the gate open again, what others write shows.
	execSQL(t, dev.SourceURI, `UPDATE todos SET title = 'renamed by psql', completed = true WHERE id = '`+todo+`'`)
	inSync("an update on the source")
	o.do(command{Do: "execute", User: "bob", SQL: `UPDATE todos SET title = 'renamed by bob' WHERE id = ?`, Args: []any{todo}}, nil)
	inSync("bob's upload")
	pgtest.Eventually(t, 30*time.Second, func() error {
		if got := o.shown("alice")["todos/"+todo]; !strings.Contains(got, `"renamed by bob"`) {
			return fmt.Errorf("alice has %s", got)
		}
		return o.gate("bob").open()
	})

	// Written offline, uploaded after connecting again.
	o.do(command{Do: "disconnect", User: "alice"}, nil)
	o.do(command{Do: "execute", User: "alice", SQL: `DELETE FROM list_members WHERE id = ?`, Args: []any{list + ".bob"}}, nil)
	o.do(connects["alice"], nil)
	inSync("alice took the list back")
	pgtest.Eventually(t, 30*time.Second, func() error {
		if _, ok := o.shown("bob")["todos/"+todo]; ok {
			return errors.New("bob still has a to-do of a list that is not shared any more")
		}
		return nil
	})
	for _, user := range users {
		var s struct {
			Connected, HasSynced       bool
			DownloadError, UploadError string
		}
		o.do(command{Do: "status", User: user}, &s)
		if !s.Connected || !s.HasSynced || s.DownloadError != "" || s.UploadError != "" {
			t.Errorf("%s's client says %+v", user, s)
		}
	}
	if code := servers.process.terminate(t, time.Minute); code != 0 {
		t.Errorf("after SIGTERM millrace dev ends with %d, want 0", code)
	}
}
