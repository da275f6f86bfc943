package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

// A source is taken out of the configuration: its rows stay, the log says what can be
// done, and `millrace source remove` takes them from the clients. Put back, it is
// copied again.
func TestRemoveSource(t *testing.T) {
	t.Parallel()
	s := newSpread(t, spreadRules(1, "total"))
	s.fill()
	s.serve()
	device := newAppDevice(s.app, "device", "alice", spreadTables...)
	device.connect()
	s.showsAll(device, 1, "total")
	const ofUs = `SELECT 'of us', (SELECT count(*) FROM notes WHERE region = 'us') + (SELECT count(*) FROM tasks WHERE id LIKE 'us.%') || ''`
	remove := func(want int) string {
		t.Helper()
		out, errOut, code := run(t, "source", "remove", "us", "-c", s.config)
		if code != want {
			t.Fatalf("source remove ends with %d, want %d:\n%s%s", code, want, out, errOut)
		}
		return out + errOut
	}
	if text := remove(1); !strings.Contains(text, "take it out of sources") {
		t.Errorf("a configured source: %s", text)
	}

	full := readFile(t, s.config)
	lines := strings.Split(full, "\n")
	if !strings.Contains(lines[2], "name: us,") {
		t.Fatalf("the second source of the configuration is %s", lines[2])
	}
	s.reconfigure(func(string) string { return strings.Join(append(lines[:2:2], lines[3:]...), "\n") })
	// A decoder that was not restarted has it still.
	if text := remove(1); !strings.Contains(text, "restart every decoder") {
		t.Errorf("a source that the decoder has: %s", text)
	}
	s.decoder.kill9(t)
	s.startDecoder()
	pgtest.Eventually(t, startTimeout, func() error {
		if !strings.Contains(s.decoder.log.text(), "millrace source remove us") {
			return errors.New("the log does not tell of the source that is not configured any more")
		}
		return nil
	})
	s.on("eu", `UPDATE notes SET title = 'goes on' WHERE id = 'eu-1'`)
	device.shows(`SELECT id, title FROM notes WHERE id = 'eu-1'`, map[string]string{"eu-1": "goes on"})
	device.shows(ofUs, map[string]string{"of us": "50"})

	text := remove(0)
	slot := query[string](t, s.uris["us"], `SELECT slot_name::text FROM pg_replication_slots`)
	if !strings.Contains(text, fmt.Sprintf("pg_drop_replication_slot('%s')", slot)) {
		t.Errorf("source remove says %s", text)
	}
	s.showsAll(device, 1, "total", "eu", "billing")
	if text := remove(1); !strings.Contains(text, "it has eu, billing") {
		t.Errorf("a source that is removed: %s", text)
	}

	s.on("us", fmt.Sprintf(`SELECT pg_drop_replication_slot('%s')`, slot))
	s.reconfigure(func(string) string { return full })
	s.decoder.kill9(t)
	s.startDecoder()
	s.showsAll(device, 1, "total")
	s.oracle(1, "total")
}
