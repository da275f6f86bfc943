package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"
)

// pageDriver has the official web client in a page.
type pageDriver struct {
	b    *browser
	page string
}

func (d *pageDriver) do(c command, value any) {
	d.b.t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		d.b.t.Fatal(err)
	}
	d.b.do(step{Do: "eval", Page: d.page, Text: "act(" + string(text) + ")"}, value)
}

// serveOfficialPage serves the page with the client, and the client's worker
// from its package, as is.
func serveOfficialPage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	copyOfficialScripts(t, dir)
	if said, err := exec.Command("node", filepath.Join(dir, "bundle.mjs"), filepath.Join(dir, "page.js")).CombinedOutput(); err != nil {
		t.Fatalf("bundling the page: %v\n%s", err, said)
	}
	mux := http.NewServeMux()
	for _, name := range []string{"page.html", "page.js"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, req *http.Request) {
			http.ServeFile(w, req, filepath.Join(dir, name))
		})
	}
	worker := filepath.Join(officialPackages(t), "node_modules", "@powersync", "web", "dist", "worker")
	mux.Handle("GET /worker/", http.StripPrefix("/worker/", http.FileServer(http.Dir(worker))))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL + "/page.html"
}

// The official web client, as it comes from npm, in Chromium: both of its
// storages that keep what they have, over HTTP and RSocket.
func TestOfficialWeb(t *testing.T) {
	needChromium(t)
	url := serveOfficialPage(t)
	b := startBrowser(t)
	for _, c := range []struct {
		vfs  string
		how  command
		used func(officialRequest) bool
	}{
		{"IDBBatchAtomicVFS", command{}, func(r officialRequest) bool {
			return r.path == "/sync/stream" && r.contentType == "application/vnd.powersync.bson-stream" && r.coding == "zstd"
		}},
		{"OPFSCoopSyncVFS", command{Transport: "web-socket", Checkpoints: "requests"}, overRSocket},
	} {
		t.Run(c.vfs, func(t *testing.T) {
			b.t = t // whose failure it is
			srv := startOfficialServer(t)
			b.do(step{Do: "open", Page: c.vfs, URL: url}, nil)
			o := beginOfficial(t, srv, &pageDriver{b, c.vfs}, command{User: "alice", File: c.vfs + ".db", VFS: c.vfs}, c.how)
			o.run()
			o.do(command{Do: "close"}, nil)
			b.do(step{Do: "close", Page: c.vfs}, nil)
			checkOfficialRequests(t, srv, c.how, c.used)
		})
	}
}
