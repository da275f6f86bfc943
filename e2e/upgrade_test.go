package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
)

const upgradeRules = `
bucket_definitions:
  loud:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT id, upper(name) AS name FROM notes WHERE owner = bucket.owner
  plain:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT id, name FROM plain WHERE owner = bucket.owner
`

// upgrade is a source and a sidecar that processes of two releases share. Each
// process is a decoder or a relay.
type upgrade struct {
	t                     *testing.T
	sourceURI, sidecarURI string
	old, next             string // binaries
	config                string // of all processes
	relays                []string
	key                   devserver.Key

	mu     sync.Mutex
	notes  map[string]string // what the source has
	errors []error
}

// newUpgrade has more lines of the configuration.
func newUpgrade(t *testing.T, more string) *upgrade {
	old, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	server := pgtest.Shared(t)
	u := &upgrade{t: t, sourceURI: server.Database(t), sidecarURI: server.Database(t), old: old, next: nextRelease(t), notes: map[string]string{}}
	execSQL(t, u.sourceURI, `CREATE TABLE notes (id text PRIMARY KEY, name text, owner text); CREATE TABLE plain (id text PRIMARY KEY, name text, owner text);
		INSERT INTO notes VALUES ('0', 'zero', 'alice'); INSERT INTO plain SELECT i, 'p' || i, 'alice' FROM generate_series(1, 50) i`)
	u.notes["0"] = "zero"
	dir := t.TempDir()
	if u.key, err = devserver.LoadKey(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sync.yaml"), []byte(upgradeRules), 0o600); err != nil {
		t.Fatal(err)
	}
	jwk, err := u.key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	u.config = filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf("sources: [{name: main, uri: %q, slot: millrace_e2e_%d}]\nsidecar: {uri: %q}\nrules: sync.yaml\nauth: {keys: [%s]}\n%s",
		u.sourceURI, slots.Add(1), u.sidecarURI, jwk, more)
	if err := os.WriteFile(u.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upgrade) decoder(release, name string) *process {
	u.t.Helper()
	return startBinary(u.t, release, name, "serve", "-c", u.config, "--role", "decoder", "--migrate")
}

// relay starts a relay, which clients that ask for one will find.
func (u *upgrade) relay(release, name string) *process {
	u.t.Helper()
	address := freeAddress(u.t)
	p := startBinary(u.t, release, name, "serve", "-c", u.config, "--role", "relay", "--listen", address)
	u.mu.Lock()
	u.relays = append(u.relays, "http://"+address)
	u.mu.Unlock()
	return p
}

// FetchCredentials implements clientsdk.Connector: it gives a relay that is ready,
// as a load balancer does.
func (u *upgrade) FetchCredentials(context.Context) (clientsdk.Credentials, error) {
	u.mu.Lock()
	relays := append([]string(nil), u.relays...)
	u.mu.Unlock()
	token, err := u.key.Sign("alice", nil, time.Hour, time.Now())
	if err != nil {
		return clientsdk.Credentials{}, err
	}
	for _, url := range relays {
		if err = probe(url + "/probes/readiness"); err == nil {
			return clientsdk.Credentials{Endpoint: url, Token: token}, nil
		}
	}
	return clientsdk.Credentials{}, errors.Join(errors.New("no relay is ready"), err)
}

// UploadData implements clientsdk.Connector.
func (u *upgrade) UploadData(context.Context, *clientsdk.DB) error { return nil }

func (u *upgrade) device(name string) *appDevice {
	u.t.Helper()
	d := newAppDevice(&app{t: u.t}, name, "alice", clientsdk.Table{Name: "notes", Columns: []clientsdk.Column{{Name: "name"}}},
		clientsdk.Table{Name: "plain", Columns: []clientsdk.Column{{Name: "name"}}})
	if err := d.Connect(u, clientsdk.ConnectOptions{RetryMin: 50 * time.Millisecond, RetryMax: time.Second}); err != nil {
		u.t.Fatal(err)
	}
	return d
}

// write changes notes, one of them new, until ctx ends.
func (u *upgrade) write(ctx context.Context) {
	conn, err := connectAs(context.WithoutCancel(ctx), u.sourceURI, "writer")
	if err != nil {
		u.errors = append(u.errors, err)
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		id, name := fmt.Sprint(n/3), fmt.Sprint("note ", n)
		if _, err := conn.Exec(context.WithoutCancel(ctx), `INSERT INTO notes VALUES ($1, $2, 'alice') ON CONFLICT (id) DO UPDATE SET name = excluded.name`, id, name); err != nil {
			u.errors = append(u.errors, err)
			return
		}
		u.mu.Lock()
		u.notes[id] = name
		u.mu.Unlock()
		<-pause.C
	}
}

// want is what a release makes of the notes there are now.
func (u *upgrade) want(end string) map[string]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	want := map[string]string{}
	for id, name := range u.notes {
		want[id] = strings.ToUpper(name) + end
	}
	return want
}

// arrives waits until a note made now is with the devices.
func (u *upgrade) arrives(what, name, end string, devices ...*appDevice) {
	u.t.Helper()
	execSQL(u.t, u.sourceURI, fmt.Sprintf(`INSERT INTO notes VALUES ('%s', '%[1]s', 'alice')`, name))
	u.mu.Lock()
	u.notes[name] = name
	u.mu.Unlock()
	for _, d := range devices {
		u.waits(what+": "+d.name, func() error {
			got, err := d.texts(fmt.Sprintf(`SELECT id, name FROM notes WHERE id = '%s'`, name))
			if err == nil && got[name] != strings.ToUpper(name)+end {
				s := d.Status()
				err = fmt.Errorf("the note is %q; download error: %v", got[name], s.DownloadError)
			}
			return err
		})
	}
}

func (u *upgrade) waits(what string, check func() error) {
	u.t.Helper()
	pgtest.Eventually(u.t, startTimeout, func() error {
		if err := check(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// inForce waits until a rule set is in force, and no other is fed.
func (u *upgrade) inForce(set int) {
	u.t.Helper()
	u.waits(fmt.Sprintf("rule set %d is in force alone", set), func() error {
		got, err := tryQuery[string](u.sidecarURI, `SELECT coalesce(string_agg(id || ' ' || state, ', ' ORDER BY id), '') FROM millrace.rule_sets WHERE state IN ('building', 'active', 'retired')`)
		if err == nil && got != fmt.Sprintf("%d active", set) {
			err = errors.New(got)
		}
		return err
	})
}

func (u *upgrade) leader(fence int64) func() error {
	return func() error {
		now, err := tryQuery[int64](u.sidecarURI, `SELECT fence FROM millrace.head`)
		if err == nil && now <= fence {
			err = fmt.Errorf("fence is %d still", now)
		}
		return err
	}
}

func (u *upgrade) logs(p *process, text string) {
	u.t.Helper()
	u.waits(p.name, func() error {
		if !strings.Contains(p.log.text(), text) {
			return fmt.Errorf("the log does not say %q; it ends:\n%s", text, p.log.tail(10))
		}
		return nil
	})
}

// TestRollingUpgrade: two releases on one sidecar, while the source is written to and
// devices are connected. The newer one migrates; the older one goes on, and starts
// anew, on its schema. Then the newer one leads, feeds what the older one serves with
// the meaning it had, builds the successor of what it gives another meaning, and
// switches. Nobody loses anything, and only what changed is sent again.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	u := newUpgrade(t, "")
	oldDecoder := u.decoder(u.old, "old-decoder")
	u.inForce(1)
	oldRelay := u.relay(u.old, "old-relay")
	a, b := u.device("a"), u.device("b")
	u.arrives("before", "first", "", a, b)

	writing, stop := context.WithCancel(t.Context())
	defer stop()
	written := make(chan struct{})
	go func() { defer close(written); u.write(writing) }()

	// The newer release migrates beside what runs.
	if out, errOut, code := runBinary(t, u.next, "migrate", "up", "-c", u.config); code != 0 {
		t.Fatalf("migrate up of the next release ends with %d:\n%s%s", code, out, errOut)
	}
	u.arrives("migrated", "second", "", a, b)
	out, errOut, code := run(t, "migrate", "status", "-c", u.config)
	if want := fmt.Sprintf("at migration %d. This release knows %d, and works with it.", migrations.Latest+1, migrations.Latest); code != 0 || !strings.Contains(out, want) {
		t.Errorf("migrate status of the older release ends with %d:\n%s%s", code, out, errOut)
	}
	// The older one starts on the newer schema: as a relay, and as a decoder that
	// comes to lead and deploys.
	secondRelay := u.relay(u.old, "old-relay-again")
	c := u.device("c")
	fence := query[int64](t, u.sidecarURI, `SELECT fence FROM millrace.head`)
	again := u.decoder(u.old, "old-decoder-again")
	u.logs(again, "standing by")
	oldDecoder.terminate(t, startTimeout)
	u.waits("the older release leads again", u.leader(fence))
	u.arrives("led by the older release on the newer schema", "third", "", a, b, c)

	// The newer one takes over.
	nextDecoder := u.decoder(u.next, "next-decoder")
	u.logs(nextDecoder, "standing by")
	nextRelay := u.relay(u.next, "next-relay")
	plain := query[int64](t, u.sidecarURI, `SELECT count(*) FROM millrace.definition_versions WHERE name = 'plain'`)
	fence = query[int64](t, u.sidecarURI, `SELECT fence FROM millrace.head`)
	again.kill9(t)
	u.waits("the next release leads", u.leader(fence))
	u.arrives("led by the next release", "fourth", "!", a, b, c)

	if n := query[int64](t, u.sidecarURI, `SELECT count(*) FROM millrace.definition_versions WHERE name = 'plain'`); n != plain {
		t.Errorf("the definition that means the same was built again: %d versions", n)
	}
	if n := query[int](t, u.sidecarURI, `SELECT count(*) FROM millrace.definition_versions WHERE name = 'loud' AND kind = 'bucket'`); n != 2 {
		t.Errorf("the definition that means something else has %d versions", n)
	}
	const madeBy = `SELECT coalesce(obj_description(to_regclass('millrace.ops_' || max(id)), 'pg_class'), '') FROM millrace.definition_versions WHERE kind = 'bucket'`
	if note := query[string](t, u.sidecarURI, madeBy); note != "made by the next release" {
		t.Errorf("the partition's comment is %q: the next release does not call its own function", note)
	}
	// What is replaced is fed on, with what upper() gave.
	u.arrives("after the switch", "fifth", "!", a, b, c)
	const former = `SELECT coalesce(max(o.data), '') FROM millrace.ops o JOIN millrace.definition_versions d ON d.id = o.definition
		WHERE o.row_id = 'fifth' AND o.kind = 1 AND d.id = (SELECT min(id) FROM millrace.definition_versions WHERE name = 'loud' AND kind = 'bucket')`
	if data := query[string](t, u.sidecarURI, former); data != `{"id":"fifth","name":"FIFTH"}` {
		t.Errorf("the next release feeds the former definition with %q", data)
	}
	// A relay of the older release sends its clients away rather than serve what it
	// does not understand.
	u.logs(oldRelay, "the active sync rules cannot be served")
	u.logs(secondRelay, "the active sync rules cannot be served")

	// The older one is started once more: it waits while the newer one leads, says
	// what it cannot do once it comes to lead, and leaves everything as it is.
	last := u.decoder(u.old, "old-decoder-late")
	u.logs(last, "standing by")
	nextDecoder.kill9(t)
	u.logs(last, "was deployed by a release that gives its rules another meaning")
	if !last.running() {
		t.Error("the older decoder ended instead of waiting")
	}
	successor := u.decoder(u.next, "next-decoder-again")
	last.terminate(t, startTimeout)
	u.arrives("led by the next release again", "sixth", "!", a, b, c)

	stop()
	<-written
	if len(u.errors) > 0 {
		t.Fatal(u.errors)
	}
	u.arrives("at the end", "last", "!", a, b, c)
	for _, d := range []*appDevice{a, b, c} {
		d.shows(`SELECT id, name FROM notes`, u.want("!"))
		if got, err := d.texts(`SELECT id, name FROM plain`); err != nil || len(got) != 50 {
			t.Errorf("%s has %d rows of the other table, %v", d.name, len(got), err)
		}
	}
	if n := query[int](t, u.sidecarURI, `SELECT count(*) FROM millrace.rule_sets`); n != 2 {
		t.Errorf("%d rule sets were deployed", n)
	}
	if wrong := query[int](t, u.sidecarURI, `SELECT count(*) FROM millrace.buckets b CROSS JOIN LATERAL millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`); wrong != 0 {
		t.Errorf("%d buckets do not add up", wrong)
	}
	for _, p := range []*process{successor, nextRelay, oldRelay, secondRelay} {
		if !p.running() {
			t.Errorf("%s ended", p.name)
		}
	}
}

// TestRollBackAnUpgrade: after the switch to what the newer release means, the rules
// are rolled back; then the older release works again, on the newer schema.
func TestRollBackAnUpgrade(t *testing.T) {
	t.Parallel()
	u := newUpgrade(t, "rules_keep: 1s\n")
	old := u.decoder(u.old, "old-decoder")
	u.inForce(1)
	u.relay(u.old, "old-relay")
	a := u.device("a")
	u.arrives("before", "first", "", a)
	old.terminate(t, startTimeout)

	// Kept long enough to go back to; the file is read at the start of a process.
	config := readFile(t, u.config)
	if err := os.WriteFile(u.config, []byte(strings.Replace(config, "rules_keep: 1s", "rules_keep: 1h", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	next := u.decoder(u.next, "next-decoder")
	relay := u.relay(u.next, "next-relay")
	u.arrives("switched", "second", "!", a)
	if out, errOut, code := runBinary(t, u.next, "rules", "rollback", "-c", u.config); code != 0 {
		t.Fatalf("rules rollback ends with %d:\n%s%s", code, out, errOut)
	}
	u.arrives("rolled back", "third", "", a)

	// What was rolled back is retired, and no longer fed once that is due.
	next.terminate(t, startTimeout)
	if err := os.WriteFile(u.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	next = u.decoder(u.next, "next-decoder-again")
	u.inForce(3)
	next.terminate(t, startTimeout)
	relay.terminate(t, startTimeout)
	u.decoder(u.old, "old-decoder-again")
	u.arrives("led by the older release again", "fourth", "", a)
	a.shows(`SELECT id, name FROM notes`, u.want(""))
}
