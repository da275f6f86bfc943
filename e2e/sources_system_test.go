package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// spread is an app whose rows come from three sources: eu and us are shards with the
// same tables and the tag default, billing has tables and a tag of its own. us is
// on a server of its own, which tests stop. Decoder and relay are processes of
// their own.
type spread struct {
	*app
	away           *pgtest.Server
	uris           map[string]string // by source
	sidecarURI     string
	dir            string
	decoder, relay *process
	starts         int
	folded         folds
}

var spreadSources = []string{"eu", "us", "billing"}

const shardSchema = `
CREATE TABLE notes (id text PRIMARY KEY, owner text NOT NULL, title text NOT NULL);
CREATE TABLE tasks (id int PRIMARY KEY, owner text NOT NULL, title text NOT NULL);`

const billingSchema = `CREATE TABLE invoices (id text PRIMARY KEY, customer text NOT NULL, total int NOT NULL);`

// spreadRules: mine reads both tables of the two connections, tasks the shards,
// bills the third source. version is a column of mine, and total the expression of
// that column in bills.
func spreadRules(version int, total string) string {
	return fmt.Sprintf(`bucket_definitions:
  mine:
    parameters: SELECT request.user_id() AS u
    data:
      - SELECT id, title, _source_name AS region, %[1]d AS version FROM notes WHERE owner = bucket.u
      - SELECT id, total, %[1]d AS version FROM "billing.public".invoices WHERE customer = bucket.u
  tasks:
    parameters: SELECT request.user_id() AS u
    data:
      - SELECT _source_name || '.' || id AS id, title FROM tasks WHERE owner = bucket.u
  bills:
    parameters: SELECT request.user_id() AS u
    data:
      - SELECT id, %[2]s AS total FROM "billing.public".invoices AS bills WHERE customer = bucket.u
`, version, total)
}

// expectedOf is what spreadRules give of a source, as (bucket, type, id, data).
func expectedOf(source string, version int, total string) string {
	if source == "billing" {
		return fmt.Sprintf(`
			SELECT 'mine["' || customer || '"]', 'invoices', id, '{"id":' || to_json(id) || ',"total":' || total || ',"version":%d}' FROM invoices
			UNION ALL SELECT 'bills["' || customer || '"]', 'bills', id, '{"id":' || to_json(id) || ',"total":' || %s || '}' FROM invoices`, version, total)
	}
	return fmt.Sprintf(`
		SELECT 'mine["' || owner || '"]', 'notes', id, '{"id":' || to_json(id) || ',"title":' || to_json(title) || ',"region":"%[1]s","version":%[2]d}' FROM notes
		UNION ALL SELECT 'tasks["' || owner || '"]', 'tasks', '%[1]s.' || id, '{"id":"%[1]s.' || id || '","title":' || to_json(title) || '}' FROM tasks`, source, version)
}

// newSpread makes the sources and starts both roles.
func newSpread(t *testing.T, rules string) *spread {
	t.Helper()
	server := pgtest.Shared(t)
	s := &spread{app: &app{t: t}, away: pgtest.New(t, pgtest.Options{}), dir: t.TempDir(), sidecarURI: server.Database(t)}
	s.uris = map[string]string{"eu": server.Database(t), "us": s.away.Database(t), "billing": server.Database(t)}
	for _, source := range spreadSources {
		schema := shardSchema
		if source == "billing" {
			schema = billingSchema
		}
		execSQL(t, s.uris[source], schema)
	}
	var err error
	if s.key, err = devserver.LoadKey(s.dir); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	s.url, s.config = "http://"+address, filepath.Join(s.dir, "millrace.yaml")
	jwk, err := s.key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	s.configure(fmt.Sprintf("sidecar: {uri: %q}\nrules: sync.yaml\nauth: {keys: [%s]}\nrelay:\n  listen: %q\n", s.sidecarURI, jwk, address))
	s.writeRules("sync.yaml", rules)
	return s
}

// configure writes the configuration: the sources, a line each, and more.
func (s *spread) configure(more string) {
	s.t.Helper()
	text, slot := "sources:\n", slots.Add(1)
	for _, source := range spreadSources {
		tags := "[default]"
		if source == "billing" {
			tags = "[]"
		}
		text += fmt.Sprintf("  - {name: %s, uri: %q, slot: millrace_e2e_%d_%s, tags: %s}\n", source, s.uris[source], slot, source, tags)
	}
	if err := os.WriteFile(s.config, []byte(text+more), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// reconfigure changes the configuration, for the next decoder.
func (s *spread) reconfigure(change func(config string) string) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(change(readFile(s.t, s.config))), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// writeRules writes a rules file beside the configuration and returns its path.
func (s *spread) writeRules(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// serve migrates and starts both roles, and waits until clients are served.
func (s *spread) serve() {
	s.t.Helper()
	if out, errOut, code := run(s.t, "migrate", "up", "-c", s.config); code != 0 {
		s.t.Fatalf("millrace migrate up ends with %d:\n%s%s", code, out, errOut)
	}
	s.startDecoder()
	s.relay = start(s.t, "relay", "serve", "-c", s.config, "--role", "relay")
	pgtest.Eventually(s.t, startTimeout, func() error {
		if !s.relay.running() || !s.decoder.running() {
			s.t.Fatalf("a process has ended:\n%s\n%s", s.relay.log.tail(20), s.decoder.log.tail(20))
		}
		return probe(s.url + "/probes/readiness")
	})
}

func (s *spread) startDecoder() {
	s.t.Helper()
	s.starts++
	s.decoder = start(s.t, fmt.Sprint("decoder", s.starts), "serve", "-c", s.config, "--role", "decoder")
}

// on runs SQL on a source.
func (s *spread) on(source, sql string) {
	s.t.Helper()
	execSQL(s.t, s.uris[source], sql)
}

// expected is the union of what the rules give of the sources, by bucket.
func (s *spread) expected(ctx context.Context, version int, total string, sources ...string) (content, error) {
	all := content{}
	for _, source := range sources {
		conn, err := connectAs(ctx, s.uris[source], "e2e-oracle")
		if err != nil {
			return nil, err
		}
		rows, err := conn.Query(ctx, expectedOf(source, version, total))
		if err == nil {
			var bucket string
			var r row
			_, err = pgx.ForEachRow(rows, []any{&bucket, &r.Type, &r.ID, &r.Data}, func() error { return all.add(bucket, r) })
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", source, err)
		}
	}
	return all, nil
}

// ofUser is what a user's device shows of a content.
func (c content) ofUser(user string) rowSet {
	out := rowSet{}
	for bucket, rows := range c {
		if strings.HasSuffix(bucket, fmt.Sprintf("[%q]", user)) {
			for key, data := range rows {
				out[key] = canonical(data)
			}
		}
	}
	return out
}

// oracle waits until the sidecar holds exactly what the rules give of all sources,
// and checks its history: one order of op ids and, unless there are buckets of
// replaced rules, checksums and row states.
func (s *spread) oracle(version int, total string) {
	s.t.Helper()
	pgtest.Eventually(s.t, drainTimeout, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		want, err := s.expected(ctx, version, total, spreadSources...)
		if err != nil {
			return err
		}
		conn, err := connectAs(ctx, s.sidecarURI, "e2e-oracle")
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		buckets, err := sidecar{tx}.buckets(ctx)
		if err != nil {
			return err
		}
		all := len(buckets)
		buckets = slices.DeleteFunc(buckets, func(b bucket) bool { return !b.Served })
		actual, err := actualContent(ctx, sidecar{tx}, buckets)
		if err != nil {
			return err
		}
		if err := compareContents(want, actual); err != nil {
			return err
		}
		if len(buckets) == all {
			found, err := checkHistory(ctx, sidecar{tx}, buckets, actual, &s.folded)
			if found != nil {
				s.t.Fatalf("history: %v", found)
			}
			return err
		}
		for name, sql := range historyViolations {
			var n int64
			if err := tx.QueryRow(ctx, sql).Scan(&n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if n != 0 {
				s.t.Fatalf("%s: %d", name, n)
			}
		}
		return nil
	})
}

var spreadTables = []clientsdk.Table{
	{Name: "notes", Columns: []clientsdk.Column{{Name: "title"}, {Name: "region"}, {Name: "version", Type: clientsdk.Integer}}},
	{Name: "invoices", Columns: []clientsdk.Column{{Name: "total", Type: clientsdk.Integer}, {Name: "version", Type: clientsdk.Integer}}},
	{Name: "tasks", Columns: []clientsdk.Column{{Name: "title"}}},
	{Name: "bills", Columns: []clientsdk.Column{{Name: "total", Type: clientsdk.Integer}}},
}

// spreadShown is what a device shows, in the form of spread.expected.
const spreadShown = `
SELECT 'notes/' || id, json_object('id', id, 'title', title, 'region', region, 'version', version) FROM notes
UNION ALL SELECT 'invoices/' || id, json_object('id', id, 'total', total, 'version', version) FROM invoices
UNION ALL SELECT 'tasks/' || id, json_object('id', id, 'title', title) FROM tasks
UNION ALL SELECT 'bills/' || id, json_object('id', id, 'total', total) FROM bills`

// showsAll waits until a device shows exactly what the rules give its user of some
// sources; with none, of all.
func (s *spread) showsAll(d *appDevice, version int, total string, sources ...string) {
	s.t.Helper()
	if len(sources) == 0 {
		sources = spreadSources
	}
	pgtest.Eventually(s.t, drainTimeout, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		want, err := s.expected(ctx, version, total, sources...)
		if err != nil {
			return err
		}
		got, err := d.texts(spreadShown)
		if err != nil {
			return err
		}
		for key, data := range got {
			got[key] = canonical(data)
		}
		if err := rowSet(got).mustEqual(want.ofUser(d.user)); err != nil {
			status := d.Status()
			return fmt.Errorf("%s: %w; held %v, download error %v", d.name, err, status.Held, status.DownloadError)
		}
		return nil
	})
}

// writesTo is a backend that stores uploaded notes in a source.
func (s *spread) writesTo(source string) func(context.Context, []clientsdk.UploadOp) error {
	return func(ctx context.Context, ops []clientsdk.UploadOp) error {
		conn, err := pgx.Connect(ctx, s.uris[source])
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for _, op := range ops {
			var note struct {
				Title string `json:"title"`
			}
			if err := json.Unmarshal(op.Data, &note); err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, `INSERT INTO notes VALUES ($1, 'alice', $2) ON CONFLICT DO NOTHING`, op.ID, note.Title); err != nil {
				return err
			}
		}
		return nil
	}
}

// foldUntil folds a stream up to a completed checkpoint that satisfies done, and tells
// how many ops came for each bucket on the way.
func foldUntil(t testing.TB, c *relaytest.Client, done func() error) (ops map[string]int) {
	t.Helper()
	ops = map[string]int{}
	deadline := time.After(drainTimeout)
	last := errors.New("no checkpoint was completed")
	for {
		select {
		case l, ok := <-c.Lines:
			if !ok {
				t.Fatalf("the stream ended: %v", c.Err)
			}
			c.Fold(l)
			switch l := l.(type) {
			case *protocol.Data:
				ops[l.Bucket] += len(l.Ops)
			case protocol.CheckpointComplete:
				if last = done(); last == nil {
					return ops
				}
			}
		case <-deadline:
			t.Fatalf("the stream does not come there: %v", last)
		}
	}
}

// holdsAll is a condition for foldUntil: the stream of a user holds exactly what the
// rules give of some sources.
func (s *spread) holdsAll(c *relaytest.Client, user string, version int, total string, sources ...string) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		want, err := s.expected(ctx, version, total, sources...)
		if err != nil {
			return err
		}
		got := rowSet{}
		for _, table := range spreadTables {
			for id, data := range c.Table(table.Name) {
				got[table.Name+"/"+id] = canonical(data)
			}
		}
		return got.mustEqual(want.ofUser(user))
	}
}
