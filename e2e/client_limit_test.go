package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/relay/relaytest"
)

const limitRules = `
config:
  edition: 3
streams:
  teams:
    auto_subscribe: true
    query: SELECT * FROM tasks WHERE team IN (SELECT team FROM members WHERE user_id = auth.user_id())
  rooms:
    auto_subscribe: true
    query: SELECT * FROM messages WHERE room IN (SELECT room FROM guests WHERE user_id = auth.user_id())
`

// The limit is of distinct buckets, however many rows grant each. Beyond it a
// user is refused with PSYNC_S2305 and told which definitions the buckets come
// from, also while connected, and served again when there are fewer; other
// users do not notice.
func TestBucketLimit(t *testing.T) {
	a := newApp(t, `
		CREATE TABLE tasks (id int PRIMARY KEY, team text); CREATE TABLE messages (id int PRIMARY KEY, room text);
		CREATE TABLE members (id serial PRIMARY KEY, user_id text, team text); CREATE TABLE guests (id serial PRIMARY KEY, user_id text, room text);
		INSERT INTO tasks SELECT g, 't' || g % 4 FROM generate_series(1, 40) g; INSERT INTO messages SELECT g, 'r' || g % 4 FROM generate_series(1, 40) g;
		INSERT INTO members (user_id, team) SELECT 'alice', 't' || g % 3 FROM generate_series(1, 20000) g;
		INSERT INTO guests (user_id, room) SELECT 'alice', 'r' || g % 2 FROM generate_series(1, 20000) g;
		INSERT INTO guests (user_id, room) VALUES ('bob', 'r1')`, limitRules, "  max_buckets_per_user: 5\n")
	ask := func(user string) (status int, body string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		resp, err := relaytest.Post(ctx, a.url, a.token(user, nil), relaytest.Request("x").AppendJSON(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return resp.StatusCode, ""
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	// 40,000 rows grant alice 5 buckets.
	device := newAppDevice(a, "alice", "alice", clientsdk.Table{Name: "tasks", Columns: []clientsdk.Column{{Name: "team"}}})
	device.connect()
	tasks := func(n int) {
		t.Helper()
		pgtest.Eventually(t, waitTimeout, func() error {
			var got int
			if err := device.QueryRow(t.Context(), `SELECT count(*) FROM tasks`).Scan(&got); err != nil {
				return err
			}
			if got != n {
				return fmt.Errorf("the device has %d tasks, want %d; %v", got, n, device.Status().DownloadError)
			}
			return nil
		})
	}
	tasks(30)
	execSQL(t, a.sourceURI, `INSERT INTO members (user_id, team) VALUES ('alice', 't3')`)
	pgtest.Eventually(t, waitTimeout, func() error {
		if err := device.Status().DownloadError; err == nil || !strings.Contains(err.Error(), "PSYNC_S2305") && !strings.Contains(err.Error(), "6 buckets") {
			return fmt.Errorf("the device is not refused: %v", err)
		}
		return nil
	})
	status, body := ask("alice")
	if status != http.StatusInternalServerError || !strings.Contains(body, "PSYNC_S2305") ||
		!strings.Contains(body, "6 buckets, the limit is 5 (relay.max_buckets_per_user); most come from teams") || !strings.Contains(body, "(4), rooms") {
		t.Errorf("status %d: %s", status, body)
	}
	if status, body := ask("bob"); status != http.StatusOK {
		t.Errorf("bob is refused: %d %s", status, body)
	}
	execSQL(t, a.sourceURI, `DELETE FROM members WHERE team = 't0'`)
	tasks(30)
	pgtest.Eventually(t, waitTimeout, func() error {
		var n int
		if err := device.QueryRow(t.Context(), `SELECT count(*) FROM tasks WHERE team = 't3'`).Scan(&n); err != nil || n != 10 {
			return fmt.Errorf("the device has %d tasks of the new team, %v", n, err)
		}
		return nil
	})
	// What the relay refuses, simulate foretells.
	execSQL(t, a.sourceURI, `INSERT INTO members (user_id, team) VALUES ('alice', 't0')`)
	out, errOut, code := run(t, "simulate", strings.Replace(a.config, "millrace.yaml", "sync.yaml", 1), "--claims", `{"sub":"alice"}`, "-c", a.config)
	if code != 1 || !strings.Contains(out, "PSYNC_S2305: 6 buckets, the limit is 5") {
		t.Errorf("simulate: %d\n%s%s", code, out, errOut)
	}
}
