package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

// What a person types into psql on the source reaches the devices that may have
// it, and no others; sharing a list brings its to-dos, and taking it back
// removes them.
func TestPsqlReachesDevices(t *testing.T) {
	d := newDemo(t, demoOptions{})
	d.start()
	d.ready()
	for _, c := range []struct {
		name      string
		transport clientsdk.Transport
	}{{"websocket", clientsdk.WebSocket}, {"http", clientsdk.HTTP}} {
		t.Run(c.name, func(t *testing.T) {
			alice, bob := newDevice(t, d, "alice", "alice", c.transport), newDevice(t, d, "bob", "bob", c.transport)
			for _, v := range []*device{alice, bob} {
				v.connect()
				v.inSync(waitTimeout)
			}
			if len(alice.mustShow()) == 0 || len(bob.mustShow()) == 0 {
				t.Fatal("the demo gives them nothing")
			}

			list := psql(t, d.sourceURI, `INSERT INTO lists (name, owner_id) VALUES ('Private', 'alice') RETURNING id`)
			todo := psql(t, d.sourceURI, fmt.Sprintf(`INSERT INTO todos (list_id, title, created_by) VALUES ('%s', 'from psql', 'alice') RETURNING id`, list))
			// A row of bob's own, committed later: when he has it, he would have
			// had alice's as well.
			bobs := psql(t, d.sourceURI, `INSERT INTO lists (name, owner_id) VALUES ('Later', 'bob') RETURNING id`)
			sees := func(v *device, key string) {
				t.Helper()
				start := time.Now()
				pgtest.Eventually(t, waitTimeout, func() error {
					if v.mustShow()[key] == "" {
						return fmt.Errorf("%s has no %s", v.name, key)
					}
					return nil
				})
				t.Logf("%s had %s after %v", v.name, strings.SplitN(key, "/", 2)[0], time.Since(start).Round(time.Millisecond))
			}
			lacks := func(v *device, keys ...string) {
				t.Helper()
				shown := v.mustShow()
				for _, key := range keys {
					if shown[key] != "" {
						t.Errorf("%s has %s", v.name, shown[key])
					}
				}
			}
			sees(alice, "todos/"+todo)
			sees(bob, "lists/"+bobs)
			lacks(bob, "todos/"+todo, "lists/"+list)

			psql(t, d.sourceURI, fmt.Sprintf(`INSERT INTO list_members VALUES ('%s', 'bob')`, list))
			sees(bob, "todos/"+todo)
			if shown := bob.mustShow(); shown["lists/"+list] == "" || shown["list_members/"+list+".bob"] == "" {
				t.Error("bob has the shared list's to-do without the list or its members")
			}
			bob.inSync(waitTimeout)
			alice.inSync(waitTimeout)

			psql(t, d.sourceURI, fmt.Sprintf(`DELETE FROM list_members WHERE list_id = '%s'`, list))
			pgtest.Eventually(t, waitTimeout, func() error {
				if data := bob.mustShow()["todos/"+todo]; data != "" {
					return fmt.Errorf("bob still has %s", data)
				}
				return nil
			})
			lacks(bob, "lists/"+list, "list_members/"+list+".bob")
			sees(alice, "todos/"+todo)
			for _, v := range []*device{alice, bob} {
				v.inSync(waitTimeout)
			}
		})
	}
	if code := d.process.terminate(t, 20*time.Second); code != 0 {
		t.Errorf("after SIGTERM millrace ends with %d, want 0", code)
	}
}
