package e2e

import (
	"testing"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

// renameRules give both versions of the app what they expect, whether the
// column has been renamed yet or not.
const renameRules = `
config:
  edition: 3
streams:
  lists:
    auto_subscribe: true
    query: |
      SELECT id, ifnull(title, name) AS name, ifnull(title, name) AS title, color
      FROM lists WHERE owner = auth.user_id()
`

// A column is renamed while devices with the old app and devices with the new
// one are connected: both go on, with rows from before and after, and nobody
// has to update at once.
func TestOldAppAfterRename(t *testing.T) {
	a := newApp(t, `CREATE TABLE lists (id text PRIMARY KEY, name text NOT NULL, color text, owner text NOT NULL);
		INSERT INTO lists VALUES ('1', 'Groceries', 'red', 'alice'), ('2', 'Work', NULL, 'alice'), ('3', 'Secret', NULL, 'bob')`, renameRules, "")
	old := newAppDevice(a, "old", "alice", clientsdk.Table{Name: "lists", Columns: []clientsdk.Column{{Name: "name"}, {Name: "color"}}})
	current := newAppDevice(a, "current", "alice", clientsdk.Table{Name: "lists", Columns: []clientsdk.Column{{Name: "title"}, {Name: "color"}}})
	const oldQuery, newQuery = `SELECT id, name || ' ' || ifnull(color, '-') FROM lists`, `SELECT id, title || ' ' || ifnull(color, '-') FROM lists`
	both := func(want map[string]string) {
		t.Helper()
		old.shows(oldQuery, want)
		current.shows(newQuery, want)
	}
	old.connect()
	current.connect()
	both(map[string]string{"1": "Groceries red", "2": "Work -"})

	execSQL(t, a.sourceURI, `ALTER TABLE lists RENAME COLUMN name TO title`)
	execSQL(t, a.sourceURI, `UPDATE lists SET color = 'blue' WHERE id = '2'; INSERT INTO lists VALUES ('4', 'Home', 'green', 'alice')`)
	both(map[string]string{"1": "Groceries red", "2": "Work blue", "4": "Home green"})
	execSQL(t, a.sourceURI, `UPDATE lists SET title = 'Food' WHERE id = '1'; DELETE FROM lists WHERE id = '4'`)
	both(map[string]string{"1": "Food red", "2": "Work blue"})

	// A device that syncs for the first time now has the same.
	late := newAppDevice(a, "late", "alice", clientsdk.Table{Name: "lists", Columns: []clientsdk.Column{{Name: "name"}, {Name: "color"}}})
	late.connect()
	late.shows(oldQuery, map[string]string{"1": "Food red", "2": "Work blue"})
	pgtest.Eventually(t, waitTimeout, func() error { return probe(a.url + "/probes/readiness") })
}
