package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// app is a source with an app's own tables and rules, served by the binary.
type app struct {
	t          testing.TB
	sourceURI  string
	sidecarURI string
	url        string
	key        devserver.Key
	config     string // path of millrace.yaml, beside sync.yaml
	process    *process
}

// newApp serves rules from a source made by SQL; all roles are in one process.
// more are lines of the configuration.
func newApp(t testing.TB, schema, rules, more string) *app {
	t.Helper()
	server := pgtest.Shared(t)
	a := &app{t: t, sourceURI: server.Database(t), sidecarURI: server.Database(t)}
	execSQL(t, a.sourceURI, schema)
	dir := t.TempDir()
	var err error
	if a.key, err = devserver.LoadKey(dir); err != nil {
		t.Fatal(err)
	}
	jwk, err := a.key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	a.config, a.url = filepath.Join(dir, "millrace.yaml"), "http://"+address
	text := fmt.Sprintf("sources:\n  - {name: main, uri: %q, slot: millrace_e2e_%d}\nsidecar: {uri: %q}\nrules: sync.yaml\nauth: {keys: [%s]}\nrelay:\n  listen: %q\n%s",
		a.sourceURI, slots.Add(1), a.sidecarURI, jwk, address, more)
	for name, content := range map[string]string{a.config: text, filepath.Join(dir, "sync.yaml"): rules} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.process = start(t, "millrace", "serve", "-c", a.config, "--migrate")
	pgtest.Eventually(t, startTimeout, func() error {
		if !a.process.running() {
			t.Fatalf("millrace ended with %v:\n%s", a.process.cmd.ProcessState, a.process.log.tail(40))
		}
		return probe(a.url + "/probes/readiness")
	})
	return a
}

// token is a user's, with more claims.
func (a *app) token(user string, claims map[string]any) string {
	a.t.Helper()
	token, err := a.key.Sign(user, claims, time.Hour, time.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	return token
}

// appDevice is a device with an app of some version.
type appDevice struct {
	*clientsdk.DB
	a    *app
	name string
	user string
	// upload is the app's backend; nil refuses uploads.
	upload func(ctx context.Context, ops []clientsdk.UploadOp) error
}

// newAppDevice opens a device that is offline; it is closed with the test.
func newAppDevice(a *app, name, user string, tables ...clientsdk.Table) *appDevice {
	a.t.Helper()
	db, err := clientsdk.Open(a.t.Context(), clientsdk.Options{Path: filepath.Join(a.t.TempDir(), name+".db"), Schema: clientsdk.Schema{Tables: tables}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			a.t.Errorf("close %s: %v", name, err)
		}
	})
	return &appDevice{DB: db, a: a, name: name, user: user}
}

func (d *appDevice) connect() {
	d.a.t.Helper()
	if err := d.Connect(d, clientsdk.ConnectOptions{RetryMin: 50 * time.Millisecond, RetryMax: time.Second}); err != nil {
		d.a.t.Fatal(err)
	}
}

// FetchCredentials implements clientsdk.Connector.
func (d *appDevice) FetchCredentials(context.Context) (clientsdk.Credentials, error) {
	token, err := d.a.key.Sign(d.user, nil, time.Hour, time.Now())
	return clientsdk.Credentials{Endpoint: d.a.url, Token: token}, err
}

// UploadData implements clientsdk.Connector.
func (d *appDevice) UploadData(ctx context.Context, db *clientsdk.DB) error {
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		if d.upload == nil {
			return fmt.Errorf("%s has no backend", d.name)
		}
		if err := d.upload(ctx, tx.Ops); err != nil {
			return err
		}
		if err := tx.Complete(ctx); err != nil {
			return err
		}
	}
}

// must runs a local statement.
func (d *appDevice) must(query string, args ...any) {
	d.a.t.Helper()
	if _, err := d.Execute(d.a.t.Context(), query, args...); err != nil {
		d.a.t.Fatalf("%s: %s: %v", d.name, query, err)
	}
}

// texts are the rows of a query over two texts.
func (d *appDevice) texts(query string) (map[string]string, error) {
	rows, err := d.Query(d.a.t.Context(), query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, rows.Err()
}

// shows waits until a query over two texts gives the rows.
func (d *appDevice) shows(query string, want map[string]string) {
	d.a.t.Helper()
	pgtest.Eventually(d.a.t, waitTimeout, func() error {
		got, err := d.texts(query)
		if err != nil {
			return err
		}
		if err := rowSet(got).mustEqual(want); err != nil {
			s := d.Status()
			return fmt.Errorf("%s: %w; download error %v, upload error %v", d.name, err, s.DownloadError, s.UploadError)
		}
		return nil
	})
}

// emptied waits until everything the device wrote was uploaded.
func (d *appDevice) emptied() {
	d.a.t.Helper()
	pgtest.Eventually(d.a.t, waitTimeout, func() error {
		queue, err := d.UploadQueue(d.a.t.Context(), 1)
		if err == nil && len(queue) > 0 {
			err = fmt.Errorf("%s: transaction %d waits, after %d attempts: %s", d.name, queue[0].Transaction, queue[0].Attempts, queue[0].LastError)
		}
		return err
	})
}
