package e2e

import (
	"fmt"
	"testing"
)

// downloading resolves when ops of a newer checkpoint have come in, and not all.
const downloading = `devices.alice.waitFor(s => s.downloadProgress !== null && s.downloadProgress.downloaded > 0 && s.downloadProgress.downloaded < s.downloadProgress.total)`

// todosShown counts what the page's database shows.
const todosShown = `devices.alice.getAll("SELECT count(*) AS n FROM todos").then(r => r[0].n)`

// A millrace that dies while it sends, and starts again: the page recovers by
// itself, and has what the source has.
func TestBrowserKillWhileDownloading(t *testing.T) {
	d := newDemoPage(t)
	const page, user = "alice", "alice"
	d.open(page, "/?user=alice")
	d.says(page, pane(user, ".pill"), "In sync")
	caught := 0
	for turn := 1; turn <= 6 && caught < 2; turn++ {
		var before, after int
		d.do(step{Do: "eval", Page: page, Text: todosShown}, &before)
		rows := 20_000
		execSQL(t, d.dev.SourceURI, fmt.Sprintf(`INSERT INTO todos (list_id, title, created_by)
			SELECT '%s', 'bulk %d ' || n || ' ' || repeat('x', 200), 'bob' FROM generate_series(1, %d) n`, shared, turn, rows))
		d.do(step{Do: "eval", Page: page, Text: downloading}, nil)
		d.process.kill9(t)
		d.do(step{Do: "eval", Page: page, Text: todosShown}, &after)
		switch after {
		case before:
			caught++
		case before + rows: // it was quicker than the kill
		default:
			t.Errorf("turn %d: %d to-dos are shown, before %d, with the whole transaction %d", turn, after, before, before+rows)
		}
		d.start()
		d.inSync(page, user)
		d.says(page, pane(user, ".pill"), "In sync")
	}
	if caught == 0 {
		t.Error("no kill came while the page was downloading")
	}
}

// A millrace that dies while it takes uploads, with the backend in it: what was
// not acknowledged is sent again, and everything is at the source once.
func TestBrowserKillWhileUploading(t *testing.T) {
	d := newDemoPage(t)
	const page, user, writes = "alice", "alice", 300
	d.open(page, "/?user=alice")
	d.says(page, pane(user, ".pill"), "In sync")
	d.click(page, pane(user, ".switch"))
	d.says(page, pane(user, ".pill"), "Offline")
	d.do(step{Do: "eval", Page: page, Text: fmt.Sprintf(`(async () => {
		for (let i = 0; i < %d; i++) {
			await devices.alice.execute("INSERT INTO todos (id, list_id, title, completed) VALUES (?, ?, ?, 0)", [crypto.randomUUID(), %q, "written " + i]);
		}
	})()`, writes, shared)}, nil)
	d.says(page, pane(user, ".pending-count"), fmt.Sprint(writes))
	d.click(page, pane(user, ".switch"))
	for turn := range 3 {
		var left int
		d.do(step{Do: "eval", Page: page, Text: fmt.Sprintf(`devices.alice.waitFor(s => s.pendingUploads <= %d).then(() => devices.alice.status.pendingUploads)`, writes-20-80*turn)}, &left)
		d.process.kill9(t)
		if left = d.pending(page, user); left == 0 {
			t.Errorf("kill %d came after the last upload", turn+1)
		}
		d.start()
	}
	d.inSync(page, user)
	d.says(page, pane(user, ".pill"), "In sync")
	query := `SELECT count(*), count(DISTINCT title) FROM todos WHERE title LIKE 'written %'`
	if got := psql(t, d.dev.SourceURI, query); got != fmt.Sprintf("%d|%d", writes, writes) {
		t.Errorf("the source has %s to-dos, and as many titles; want %d", got, writes)
	}
}
