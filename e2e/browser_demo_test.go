package e2e

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

// shared is the list that both panes begin with: Alice's, with Bob as a member.
const shared = "00000000-0000-4000-a000-000000000001"

// The demo as a person sees it: Alice and Bob side by side on one page.
func TestBrowserDemo(t *testing.T) {
	d := newDemoPage(t)
	const page = "both"
	d.open(page, "/")
	for _, user := range []string{"alice", "bob"} {
		d.says(page, pane(user, ".pill"), "In sync")
		if rows := mustBeEntitledTo(t, d.dev.SourceURI, user); len(rows) < 100 {
			t.Errorf("%s is entitled to %d rows", user, len(rows))
		}
	}
	d.inSync(page, "alice", "bob")

	// A change at the source appears by itself, on both devices.
	psql(t, d.dev.SourceURI, `INSERT INTO todos (list_id, title, created_by) VALUES ('`+shared+`', 'From psql', 'alice')`)
	d.sees(page, "alice", "From psql", true)
	d.sees(page, "bob", "From psql", true)
	pgtest.Eventually(t, patience, func() error {
		if got := d.texts(page, pane("alice", ".latency")); len(got) != 1 {
			return fmt.Errorf("the latency of the change is not shown: %q", got)
		}
		return nil
	})

	// So does what the other device does.
	d.add(page, "alice", "Buy flowers")
	d.sees(page, "alice", "Buy flowers", true)
	d.sees(page, "bob", "Buy flowers", true)
	d.inSync(page, "alice", "bob")

	checkKeyboard(t, d, page)
	checkSharing(t, d, page)
	checkRefused(t, d, page)
	checkDrawer(t, d, page)
}

// checkKeyboard goes from the field to the newest to-do, checks it, renames it,
// lets a rename go, and deletes it.
func checkKeyboard(t testing.TB, d *demoPage, page string) {
	const user = "alice"
	newest := func() string { return d.titles(page, user)[0] }
	d.add(page, user, "With keys")
	d.sees(page, "bob", "With keys", true)
	if newest() != "With keys" {
		t.Fatalf("on top is %q", newest())
	}
	keys := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			d.press(page, key)
		}
	}
	keys("ArrowDown", "Enter")
	keys("End", "!", "Enter")
	d.sees(page, "bob", "With keys!", true)
	keys("F2", "X", "Escape", " ")
	d.says(page, pane("bob", ".todo.done[aria-label='With keys!, done'] .todo-title"), "With keys!")
	keys("Delete")
	d.sees(page, user, "With keys!", false)
	d.sees(page, "bob", "With keys!", false)
	d.inSync(page, "alice", "bob")
}

// checkSharing takes a list away from Bob and gives it back.
func checkSharing(t testing.TB, d *demoPage, page string) {
	link := pane("bob", ".list-link[data-list='"+shared+"']")
	has := func(want bool) {
		t.Helper()
		pgtest.Eventually(t, patience, func() error {
			if got := len(d.texts(page, link)) == 1; got != want {
				return fmt.Errorf("bob has the list: %v", got)
			}
			return nil
		})
	}
	has(true)
	rows := len(d.shown(page, "bob"))
	d.click(page, pane("alice", ".share"))
	d.click(page, pane("alice", ".chip[data-member=bob]"))
	has(false)
	d.inSync(page, "alice", "bob")
	if left := len(d.shown(page, "bob")); left >= rows-10 {
		t.Errorf("bob had %d rows, and has %d without the list", rows, left)
	}
	d.click(page, pane("alice", ".chip[data-member=bob]"))
	has(true)
	d.inSync(page, "alice", "bob")
	if again := len(d.shown(page, "bob")); again != rows {
		t.Errorf("bob had %d rows, and has %d with the list again", rows, again)
	}
	d.press(page, "Escape")
	if left := d.texts(page, pane("alice", ".sharing")); len(left) != 0 {
		t.Errorf("Esc leaves open: %q", left)
	}
}

// checkRefused has Bob write what his backend refuses: he is told, and his
// database goes back to what the source has.
func checkRefused(t testing.TB, d *demoPage, page string) {
	d.do(step{Do: "eval", Page: page, Text: `devices.bob.execute("DELETE FROM lists WHERE id = ?", ["` + shared + `"])`}, nil)
	pgtest.Eventually(t, patience, func() error {
		if got := d.texts(page, pane("bob", ".notice")); len(got) != 1 {
			return fmt.Errorf("bob reads %q", got)
		}
		return nil
	})
	d.click(page, pane("bob", ".notice button"))
	d.inSync(page, "alice", "bob")
}

// checkDrawer looks at what the drawer shows, and leaves it by Esc.
func checkDrawer(t testing.TB, d *demoPage, page string) {
	d.click(page, pane("alice", ".drawer-button"))
	pgtest.Eventually(t, patience, func() error {
		bucket := `#my_lists|0["` + shared + `"]`
		if rows := d.texts(page, pane("alice", `.buckets tr:has(td[title$='`+bucket+`'])`)); len(rows) != 1 {
			return fmt.Errorf("bucket %s is shown as %q", bucket, rows)
		}
		return nil
	})
	d.click(page, pane("alice", ".drawer button:text('Verify checksums')"))
	pgtest.Eventually(t, patience, func() error {
		if got := d.texts(page, pane("alice", ".verdict")); len(got) != 1 || len(got[0]) < 9 || got[0][:9] != "all right" {
			return fmt.Errorf("the checksums: %q", got)
		}
		return nil
	})
	d.press(page, "Escape")
	if left := d.texts(page, pane("alice", ".drawer")); len(left) != 0 {
		t.Errorf("Esc leaves open: %q", left)
	}
}

// What is written offline is there after a reload, is uploaded once, and
// reaches the source.
func TestBrowserOffline(t *testing.T) {
	d := newDemoPage(t)
	const page, user = "alice", "alice"
	d.open(page, "/?user=alice")
	d.says(page, pane(user, ".pill"), "In sync")
	d.click(page, pane(user, ".switch"))
	d.says(page, pane(user, ".pill"), "Offline")
	before := mustBeEntitledTo(t, d.dev.SourceURI, user)

	d.add(page, user, "Offline 1")
	d.add(page, user, "Offline 2")
	d.click(page, pane(user, ".todo[aria-label='Buy bread'] .box"))
	d.click(page, pane(user, ".todo[aria-label='Pay the rent'] .inline-text"))
	d.do(step{Do: "fill", Page: page, At: pane(user, ".todo .inline-field"), Text: "Pay the rent, and the gas"}, nil)
	d.press(page, "Enter")
	d.click(page, pane(user, ".todo[aria-label='Book a train']"))
	d.press(page, "Delete")
	d.says(page, pane(user, ".pending-count"), "5")
	psql(t, d.dev.SourceURI, `INSERT INTO todos (list_id, title, created_by) VALUES ('`+shared+`', 'Meanwhile', 'bob')`)

	d.do(step{Do: "reload", Page: page}, nil)
	d.says(page, pane(user, ".pill"), "Offline")
	d.says(page, pane(user, ".pending-count"), "5")
	for title, want := range map[string]bool{"Offline 1": true, "Offline 2": true, "Pay the rent, and the gas": true, "Book a train": false, "Meanwhile": false} {
		d.sees(page, user, title, want)
	}
	d.says(page, pane(user, ".todo.done[aria-label='Buy bread, done'] .todo-title"), "Buy bread")
	after := mustBeEntitledTo(t, d.dev.SourceURI, user)
	if len(after) != len(before)+1 {
		t.Errorf("the source had %d rows, and has %d while the device is offline", len(before), len(after))
	}

	d.click(page, pane(user, ".switch"))
	d.says(page, pane(user, ".pill"), "In sync")
	d.sees(page, user, "Meanwhile", true)
	d.inSync(page, user)
	for title, want := range map[string]string{"Offline 1": "1", "Offline 2": "1", "Pay the rent, and the gas": "1", "Book a train": "0", "Buy bread": "1"} {
		got := psql(t, d.dev.SourceURI, `SELECT count(*) FROM todos WHERE list_id = '`+shared+`' AND title = '`+title+`'`+map[bool]string{true: " AND completed"}[title == "Buy bread"])
		if got != want {
			t.Errorf("the source has %s of %q, want %s", got, title, want)
		}
	}
	d.uploadedOnce(5)
}

// uploadedOnce checks that every transaction was sent once, and accepted.
func (d *demoPage) uploadedOnce(transactions int) {
	d.t.Helper()
	var uploads []struct {
		Client string
		IDs    []string
		Status int
	}
	d.do(step{Do: "uploads"}, &uploads)
	seen := map[string]int{}
	for _, u := range uploads {
		for _, id := range u.IDs {
			seen[u.Client+" "+id]++
		}
		if u.Status != 200 {
			d.t.Errorf("an upload was answered with %d", u.Status)
		}
	}
	for id, n := range seen {
		if n != 1 {
			d.t.Errorf("transaction %s was sent %d times", id, n)
		}
	}
	if len(seen) != transactions {
		d.t.Errorf("%d transactions were sent, want %d", len(seen), transactions)
	}
}

// A second tab of the same user works on the same database, and goes on when
// the first one, which had it, crashes.
func TestBrowserSecondTab(t *testing.T) {
	d := newDemoPage(t)
	const user = "alice"
	d.open("first", "/?user=alice")
	d.says("first", pane(user, ".pill"), "In sync")
	d.open("second", "/?user=alice")
	d.says("second", pane(user, ".pill"), "In sync")
	var owner [2]bool
	for i, page := range []string{"first", "second"} {
		d.do(step{Do: "eval", Page: page, Text: "devices.alice.isOwner"}, &owner[i])
	}
	if owner != [2]bool{true, false} {
		t.Errorf("the database's owners are %v", owner)
	}
	d.add("second", user, "From the second tab")
	d.sees("first", user, "From the second tab", true)
	d.add("first", user, "From the first tab")
	d.sees("second", user, "From the first tab", true)
	d.inSync("second", user)

	d.do(step{Do: "crash", Page: "first"}, nil)
	d.add("second", user, "After the crash")
	d.sees("second", user, "After the crash", true)
	psql(t, d.dev.SourceURI, `INSERT INTO todos (list_id, title, created_by) VALUES ('`+shared+`', 'psql after the crash', 'bob')`)
	d.sees("second", user, "psql after the crash", true)
	d.inSync("second", user)
	d.do(step{Do: "eval", Page: "second", Text: "devices.alice.isOwner"}, &owner[1])
	if !owner[1] {
		t.Error("the second tab does not have the database")
	}
}
