package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/relay/relaytest"
)

const (
	fillShard = `INSERT INTO notes SELECT '%[1]s-' || g, CASE WHEN g %% 4 = 0 THEN 'bob' ELSE 'alice' END, 'note ' || g FROM generate_series(1, 40) g;
		INSERT INTO tasks SELECT g, 'alice', '%[1]s task ' || g FROM generate_series(1, 20) g`
	fillBilling = `INSERT INTO invoices SELECT 'i' || g, CASE WHEN g % 4 = 0 THEN 'bob' ELSE 'alice' END, g FROM generate_series(1, 40) g`
)

// fill gives every source rows; the tasks of both shards count from 1.
func (s *spread) fill() {
	s.t.Helper()
	s.on("eu", fmt.Sprintf(fillShard, "eu"))
	s.on("us", fmt.Sprintf(fillShard, "us"))
	s.on("billing", fillBilling)
}

// Two shards with one tag and a third source with its own, merged into one history:
// a device with the Go client and an NDJSON stream hold what the three have, while a
// source is killed under load and started again, and rows move between the shards.
func TestSeveralSources(t *testing.T) {
	t.Parallel()
	s := newSpread(t, spreadRules(1, "total"))
	s.fill()
	s.serve()
	device := newAppDevice(s.app, "device", "alice", spreadTables...)
	device.connect()
	stream := relaytest.Dial(t, s.url, s.token("alice", nil), relaytest.Request("stream"), nil)
	s.showsAll(device, 1, "total")
	foldUntil(t, stream, s.holdsAll(stream, "alice", 1, "total", spreadSources...))

	// The deletion first, and the arrival first.
	s.on("eu", `DELETE FROM notes WHERE id = 'eu-1'`)
	s.showsAll(device, 1, "total")
	s.on("us", `INSERT INTO notes VALUES ('eu-1', 'alice', 'moved')`)
	s.showsAll(device, 1, "total")
	s.on("us", `INSERT INTO notes VALUES ('eu-2', 'alice', 'moved too')`)
	device.shows(`SELECT id, region FROM notes WHERE id = 'eu-2'`, map[string]string{"eu-2": "us"})
	s.on("eu", `DELETE FROM notes WHERE id = 'eu-2'`)
	s.showsAll(device, 1, "total")
	foldUntil(t, stream, s.holdsAll(stream, "alice", 1, "total", spreadSources...))

	// One source goes down: rows of the others keep arriving.
	s.away.Kill(t)
	s.on("eu", `UPDATE notes SET title = 'while us is down' WHERE id = 'eu-3'`)
	s.on("billing", `UPDATE invoices SET total = 777 WHERE id = 'i1'`)
	device.shows(`SELECT id, title FROM notes WHERE id = 'eu-3'`, map[string]string{"eu-3": "while us is down"})
	device.shows(`SELECT id, total || '' FROM invoices WHERE id = 'i1'`, map[string]string{"i1": "777"})
	device.shows(`SELECT 'of us', count(*) || '' FROM notes WHERE region = 'us'`, map[string]string{"of us": "32"}) // 30 of alice's and the two that moved
	pgtest.Eventually(t, waitTimeout, func() error {
		text, err := tryQuery[string](s.sidecarURI, `SELECT coalesce(errors, '') FROM millrace.status`)
		if err == nil && !strings.HasPrefix(text, "us: ") {
			err = fmt.Errorf("status tells of these errors: %q", text)
		}
		return err
	})
	s.away.Start(t)
	s.on("us", `DELETE FROM notes WHERE id = 'us-5'`)
	s.showsAll(device, 1, "total")

	// Under load on all three, one is killed once more, and the decoder too.
	s.load(3, 60, func() { s.away.Kill(t); s.away.Start(t); s.decoder.kill9(t); s.startDecoder() })
	s.showsAll(device, 1, "total")
	foldUntil(t, stream, s.holdsAll(stream, "alice", 1, "total", spreadSources...))
	s.oracle(1, "total")
	late := relaytest.Dial(t, s.url, s.token("bob", nil), relaytest.Request("late"), nil)
	foldUntil(t, late, s.holdsAll(late, "bob", 1, "total", spreadSources...))
}

// load writes at random to all sources at once, from one writer each, and disturbs
// in the middle of it. A writer goes on after its connection was lost.
func (s *spread) load(seed uint64, statements int, disturb func()) {
	s.t.Helper()
	var writing sync.WaitGroup
	halfway := make(chan struct{}, len(spreadSources))
	for n, source := range spreadSources {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		table := map[bool]string{true: "invoices", false: "notes"}[source == "billing"]
		key := map[bool]string{true: "i", false: source + "+"}[source == "billing"]
		values := map[bool]string{true: "'alice', 1", false: "'alice', 'new'"}[source == "billing"]
		set := map[bool]string{true: "total = total + 1", false: "title = title || '.'"}[source == "billing"]
		writing.Go(func() {
			for i := range statements {
				if i == statements/2 {
					halfway <- struct{}{}
				}
				id := fmt.Sprintf("'%s%d'", key, 1+random.IntN(60))
				sql := fmt.Sprintf("INSERT INTO %s VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET %s", table, id, values, strings.Replace(set, "=", "= "+table+".", 1))
				switch random.IntN(3) {
				case 0:
					sql = fmt.Sprintf("DELETE FROM %s WHERE id = %s", table, id)
				case 1:
					sql = fmt.Sprintf("UPDATE %s SET %s WHERE id < %s", table, set, id)
				}
				if _, err := tryQuery[int](s.uris[source], "WITH w AS ("+sql+" RETURNING 1) SELECT count(*)::int FROM w"); err != nil && !expectedUnderLoad(err) {
					s.t.Errorf("source %s: %s: %v", source, sql, err)
				}
			}
		})
	}
	for range spreadSources {
		<-halfway
	}
	disturb()
	writing.Wait()
}

// A write checkpoint waits for the sources it is configured to wait for, whether they
// are up or not: while one of them is down the device that wrote holds its state,
// other devices go on, and it comes when the source is back. One that is not
// waited for may be down.
func TestWriteCheckpointsOfSeveralSources(t *testing.T) {
	t.Parallel()
	s := newSpread(t, spreadRules(1, "total"))
	s.fill()
	s.serve()
	writer := newAppDevice(s.app, "writer", "alice", spreadTables...)
	writer.upload = s.writesTo("eu")
	reader := newAppDevice(s.app, "reader", "alice", spreadTables...)
	for _, d := range []*appDevice{writer, reader} {
		d.connect()
		s.showsAll(d, 1, "total")
	}
	pending := func() (n int) {
		return query[int](t, s.sidecarURI, `SELECT count(*)::int FROM millrace.pending_write_checkpoints`)
	}
	region := func(id string) string {
		return fmt.Sprintf(`SELECT id, coalesce(region, 'not there yet') FROM notes WHERE id = '%s'`, id)
	}

	// By default all are waited for.
	s.away.Kill(t)
	writer.must(`INSERT INTO notes (id, title) VALUES ('w1', 'written while us is down')`)
	writer.emptied()
	reader.shows(region("w1"), map[string]string{"w1": "eu"})
	s.on("eu", `INSERT INTO notes VALUES ('e1', 'alice', 'of another')`)
	reader.shows(region("e1"), map[string]string{"e1": "eu"})
	pgtest.Eventually(t, waitTimeout, func() error {
		if !writer.Status().Held {
			return errors.New("the device that wrote holds nothing back")
		}
		return nil
	})
	writer.shows(region("w1"), map[string]string{"w1": "not there yet"})
	if n := pending(); n != 1 {
		t.Errorf("%d write checkpoints are pending, want 1", n)
	}
	s.away.Start(t)
	s.showsAll(writer, 1, "total")
	if n := pending(); n != 0 {
		t.Errorf("%d write checkpoints are pending after the source is back", n)
	}

	// If the app never writes to us, it may be down.
	s.reconfigure(func(config string) string { return config + "write_checkpoint_sources: [eu, billing]\n" })
	s.decoder.kill9(t)
	s.away.Kill(t)
	s.startDecoder()
	writer.must(`INSERT INTO notes (id, title) VALUES ('w2', 'written while us is down')`)
	writer.emptied()
	writer.shows(region("w2"), map[string]string{"w2": "eu"})
	s.away.Start(t)
	s.showsAll(writer, 1, "total")
	s.oracle(1, "total")
}
