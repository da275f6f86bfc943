package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

// taskRules sync the tasks of both shards under an id made by an expression.
const taskRules = `bucket_definitions:
  tasks:
    parameters: SELECT request.user_id() AS u
    data:
      - SELECT %s AS id, title FROM tasks WHERE owner = bucket.u
`

// Both shards count their tasks from 1: rows with one id replace each other on the
// client. validate warns of it, status counts them, and an id that has the source's
// name in it cures it.
func TestEqualIDsOfTwoShards(t *testing.T) {
	t.Parallel()
	rules := fmt.Sprintf(taskRules, "id")
	s := newSpread(t, rules)
	s.on("eu", `INSERT INTO tasks SELECT g, 'alice', 'eu ' || g FROM generate_series(1, 20) g`)
	s.on("us", `INSERT INTO tasks SELECT g, 'alice', 'us ' || g FROM generate_series(11, 40) g`)
	validate := func(name, text string) string {
		t.Helper()
		out, errOut, code := run(t, "validate", s.writeRules(name, text), "-c", s.config)
		if code != 0 {
			t.Fatalf("validate ends with %d:\n%s%s", code, out, errOut)
		}
		return out + errOut
	}
	if out := validate("equal.yaml", rules); !strings.Contains(out, "sources eu, us") || !strings.Contains(out, "equal.yaml:5:") {
		t.Errorf("validate does not warn of ids that two sources may have:\n%s", out)
	}
	cured := fmt.Sprintf(taskRules, "_source_name || '.' || id")
	if out := validate("cured.yaml", cured); strings.Contains(out, "sources eu, us") {
		t.Errorf("validate warns of ids that have the source's name in them:\n%s", out)
	}

	s.serve()
	device := newAppDevice(s.app, "device", "alice", spreadTables...)
	device.connect()
	const count = `SELECT 'tasks', count(*) || '' FROM tasks`
	device.shows(count, map[string]string{"tasks": "40"}) // of 50 rows
	counted := func(want string) {
		t.Helper()
		pgtest.Eventually(t, drainTimeout, func() error {
			out, errOut, code := run(t, "status", "-c", s.config)
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) == 3 && f[0] == "shared" && f[1] == "ids" && f[2] == want {
					return nil
				}
			}
			return fmt.Errorf("status ends with %d, want %s shared ids:\n%s%s", code, want, out, errOut)
		})
	}
	counted("10")

	s.deploy(cured)
	device.shows(count, map[string]string{"tasks": "50"})
	device.shows(`SELECT id, title FROM tasks WHERE id LIKE '%.15'`, map[string]string{"eu.15": "eu 15", "us.15": "us 15"})
	counted("0")
}
