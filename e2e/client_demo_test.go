package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/demo/backend"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// demoSystem is the to-do demo as a deployment of its own would be: a source
// with its schema and data, a sidecar, the binary serving both roles as a
// process, and the demo's backend, which takes what clients upload.
type demoSystem struct {
	t testing.TB

	source, sidecar       *pgtest.Server
	sourceURI, sidecarURI string
	config                string
	url, uploadURL        string
	key                   devserver.Key
	process               *process
	starts                int
}

// demoOptions of a demoSystem. The zero value uses databases on the shared
// server and the demo's own rules.
type demoOptions struct {
	ownServers bool
	schema     string // SQL run after the demo's
	relay      string // lines of the section relay, indented
}

func newDemo(t testing.TB, o demoOptions) *demoSystem {
	t.Helper()
	d := &demoSystem{t: t}
	if o.ownServers {
		d.source = pgtest.New(t, pgtest.Options{})
		d.sidecar = pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	} else {
		d.source = pgtest.Shared(t)
		d.sidecar = d.source
	}
	d.sourceURI, d.sidecarURI = d.source.Database(t), d.sidecar.Database(t)
	execSQL(t, d.sourceURI, demo.Schema+demo.Seed+o.schema)
	dir := t.TempDir()
	var err error
	if d.key, err = devserver.LoadKey(dir); err != nil {
		t.Fatal(err)
	}
	jwk, err := d.key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	d.url = "http://" + address
	d.config = filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf(`sources:
  - name: main
    uri: %q
    slot: millrace_e2e_%d
sidecar:
  uri: %q
rules: sync.yaml
auth:
  keys: [%s]
relay:
  listen: %s
%s`, d.sourceURI, slots.Add(1), d.sidecarURI, jwk, address, o.relay)
	for name, content := range map[string]string{d.config: text, filepath.Join(dir, "sync.yaml"): demo.Rules} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, errOut, code := run(t, "migrate", "up", "-c", d.config); code != 0 {
		t.Fatalf("millrace migrate up ends with %d:\n%s%s", code, out, errOut)
	}
	d.startBackend()
	return d
}

// startBackend runs the demo's backend in this process. It outlives every kill
// of the others and connects to the source again by itself.
func (d *demoSystem) startBackend() {
	d.t.Helper()
	cfg, err := pgxpool.ParseConfig(d.sourceURI)
	if err != nil {
		d.t.Fatal(err)
	}
	cfg.ConnConfig.ConnectTimeout = 2 * time.Second
	cfg.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(pool.Close)
	server := httptest.NewServer(backend.New(backend.Config{Pool: pool, Verify: d.key.Verify}))
	d.t.Cleanup(server.Close)
	d.uploadURL = server.URL
}

// start starts the binary without waiting for it to be ready.
func (d *demoSystem) start() {
	d.t.Helper()
	d.starts++
	d.process = start(d.t, fmt.Sprint("millrace", d.starts), "serve", "-c", d.config)
}

// ready waits until clients are served.
func (d *demoSystem) ready() {
	d.t.Helper()
	pgtest.Eventually(d.t, startTimeout, func() error {
		if !d.process.running() {
			d.t.Fatalf("millrace ended with %v:\n%s", d.process.cmd.ProcessState, d.process.log.tail(20))
		}
		return probe(d.url + "/probes/readiness")
	})
}

// probe asks a health probe.
func probe(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", url, resp.StatusCode, text)
	}
	return err
}

// token is a user's, valid for an hour.
func (d *demoSystem) token(user string) string {
	d.t.Helper()
	token, err := d.key.Sign(user, nil, time.Hour, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	return token
}

// freeAddress is a loopback address that nothing listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// openDir is a folder that a server running as another user can get to.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}
