package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/relay/relaytest"
)

// driver has an unmodified official client somewhere: in Node, or in a page.
type driver interface {
	do(c command, value any)
}

// official is one client that goes through the scenario.
type official struct {
	t    *testing.T
	srv  *officialServer
	dev  driver
	user string
	how  command // as it connects
}

// officialWait is how long a client may take to show something, on a machine
// with much else to do.
const officialWait = 90 * time.Second

// begin opens the client's database and connects.
func beginOfficial(t *testing.T, srv *officialServer, dev driver, open, how command) *official {
	t.Helper()
	o := &official{t: t, srv: srv, dev: dev, user: open.User, how: how}
	open.Do, open.Endpoint, open.Token, open.Upload = "open", srv.url(), relaytest.Token(open.User, time.Hour), srv.url()+"/upload?user="+open.User
	if open.File == "" {
		open.File = filepath.Join(t.TempDir(), "official.db")
	}
	o.how.Do, o.how.User = "connect", open.User
	o.do(open, nil)
	o.do(o.how, nil)
	return o
}

func (o *official) do(c command, value any) {
	o.t.Helper()
	c.User = o.user
	o.dev.do(c, value)
}

func (o *official) reconnect() {
	o.t.Helper()
	o.do(command{Do: "disconnect"}, nil)
	o.do(o.how, nil)
}

// titles gives the to-dos shown.
func (o *official) titles() map[string]string {
	o.t.Helper()
	var rows []struct{ ID, Title string }
	o.do(command{Do: "query", SQL: "SELECT id, title FROM todos"}, &rows)
	out := map[string]string{}
	for _, r := range rows {
		out[r.ID] = r.Title
	}
	return out
}

type officialStatus struct {
	Connected, HasSynced       bool
	DownloadError, UploadError string
	Fetched                    int
}

func (o *official) status() (s officialStatus) {
	o.t.Helper()
	o.do(command{Do: "status"}, &s)
	return s
}

// shows waits until the client shows exactly these to-dos.
func (o *official) shows(when string, want map[string]string) {
	o.t.Helper()
	pgtest.Eventually(o.t, officialWait, func() error {
		got := o.titles()
		if maps.Equal(got, want) {
			return nil
		}
		if len(got)+len(want) > 50 {
			return fmt.Errorf("%s: %d to-dos are shown, want %d; %+v", when, len(got), len(want), o.status())
		}
		return fmt.Errorf("%s: shows %v, want %v; %+v", when, got, want, o.status())
	})
}

// gate reads what the client keeps about its newest write.
func (o *official) gate() gate {
	o.t.Helper()
	var g []gate
	o.do(command{Do: "query", SQL: gateQuery}, &g)
	return g[0]
}

// run is everything an app may meet, in an order that needs few connections.
func (o *official) run() {
	side, want := o.srv.side, map[string]string{"seed": "first"}
	commit := func(f func(tx *relaytest.Tx)) { side.Commit(f) }
	commit(func(tx *relaytest.Tx) { putTodo(tx, "mine", o.user, "seed", "first") })
	o.do(command{Do: "sync"}, nil)
	o.shows("first sync", want)

	commit(func(tx *relaytest.Tx) {
		putTodo(tx, "mine", o.user, "seed", "live \"é\" \\")
		putTodo(tx, "mine", o.user, "other", "passing")
	})
	want["seed"], want["other"] = "live \"é\" \\", "passing"
	o.shows("a live change", want)
	commit(func(tx *relaytest.Tx) { tx.Remove("mine", o.user, "todos", "other") })
	delete(want, "other")
	o.shows("a live removal", want)

	o.bucketComesAndGoes(want)
	o.subscriptions(want)
	o.uploads(want)
	o.repairs(want)
	o.tokens(want)
	o.restarts(want)
	if s := o.status(); !s.Connected || !s.HasSynced || s.UploadError != "" {
		o.t.Errorf("at the end the client says %+v", s)
	}
}

// bucketComesAndGoes: rights that change while connected.
func (o *official) bucketComesAndGoes(want map[string]string) {
	list := "list of " + o.user
	o.srv.side.Commit(func(tx *relaytest.Tx) {
		tx.Grant(o.user, list)
		putTodo(tx, "list", list, "shared", "of a list")
	})
	want["shared"] = "of a list"
	o.shows("a bucket was granted", want)
	o.srv.side.Commit(func(tx *relaytest.Tx) { tx.Revoke(o.user, list) })
	delete(want, "shared")
	o.shows("a bucket was removed", want)
}

// subscriptions: to a stream with a parameter, and to one without the parameter
// it needs, which must not hurt.
func (o *official) subscriptions(want map[string]string) {
	o.srv.side.Commit(func(tx *relaytest.Tx) { putTodo(tx, "project", o.user, "project", "of a project") })
	project := command{Do: "subscribe", Stream: "project", Parameters: map[string]any{"id": o.user}}
	o.do(command{Do: "subscribe", Stream: "project"}, nil)
	o.do(project, nil)
	want["project"] = "of a project"
	o.shows("subscribed to a stream", want)
	project.Do = "unsubscribe"
	o.do(project, nil)
	delete(want, "project")
	o.reconnect()
	o.shows("unsubscribed from the stream", want)
}

// uploads: nothing of the server's is shown between a write and its write
// checkpoint, but for priority 0.
func (o *official) uploads(want map[string]string) {
	o.srv.side.Hold()
	o.do(command{Do: "transaction", Statements: []any{
		[]any{"INSERT INTO todos (id, title) VALUES ('mine', 'written here')"},
		[]any{"INSERT INTO todos (id, title) VALUES ('passing', 'written here')"},
		[]any{"DELETE FROM todos WHERE id = 'passing'"},
	}}, nil)
	want["mine"] = "written here"
	o.shows("a local write", want)
	pgtest.Eventually(o.t, officialWait, func() error {
		if g := o.gate(); g.Queued != 0 || g.Target == closedGate || g.Target == "" {
			return fmt.Errorf("uploading: %+v; %+v", g, o.status())
		}
		return nil
	})
	o.srv.side.Commit(func(tx *relaytest.Tx) { putTodo(tx, "mine", o.user, "seed", "behind the gate") })
	o.srv.side.Commit(func(tx *relaytest.Tx) { putTodo(tx, "urgent", "", "urgent", "passes") })
	want["urgent"] = "passes"
	o.shows("priority 0 passes the gate, others do not", want)
	if err := o.gate().open(); err == nil {
		o.t.Error("the gate is open, though the upload was not acknowledged")
	}
	o.srv.side.Release()
	want["seed"] = "behind the gate"
	o.shows("the upload was acknowledged", want)
	pgtest.Eventually(o.t, officialWait, func() error { return o.gate().open() })
	var back []struct{ By string }
	o.do(command{Do: "query", SQL: "SELECT created_by AS by FROM todos WHERE id = 'mine'"}, &back)
	if len(back) != 1 || back[0].By != "backend" {
		o.t.Errorf("the uploaded row came back as %+v", back)
	}
	var sizes []int
	o.do(command{Do: "uploads"}, &sizes)
	if len(sizes) != 1 || sizes[0] != 3 {
		o.t.Errorf("uploaded transactions of %v rows, want one of 3", sizes)
	}
}

// repairs: a client whose copy is damaged notices by the checksum, drops the
// bucket and gets it anew.
func (o *official) repairs(want map[string]string) {
	o.do(command{Do: "execute", SQL: "UPDATE ps_buckets SET op_checksum = op_checksum + 1 WHERE name = ?", Args: []any{relaytest.Wire("mine", o.user)}}, nil)
	o.do(command{Do: "execute", SQL: "UPDATE ps_oplog SET data = '{\"title\":\"damaged\"}' WHERE row_id = 'seed'"}, nil)
	o.srv.side.Commit(func(tx *relaytest.Tx) { putTodo(tx, "mine", o.user, "repair", "after the damage") })
	want["repair"] = "after the damage"
	o.shows("the damaged bucket came anew", want)
	var left []struct{ N int }
	o.do(command{Do: "query", SQL: "SELECT count(*) AS n FROM ps_oplog WHERE data LIKE '%damaged%'"}, &left)
	if len(left) != 1 || left[0].N != 0 {
		o.t.Errorf("%+v damaged ops are left", left)
	}
}

// tokens: one that is refused, one that ends soon, and their replacements.
func (o *official) tokens(want map[string]string) {
	now := time.Now().Unix()
	o.do(command{Do: "token", Token: relaytest.Sign(map[string]any{"sub": o.user, "aud": relaytest.Audience, "iat": now - 7200, "exp": now - 3600})}, nil)
	o.reconnect()
	pgtest.Eventually(o.t, officialWait, func() error {
		if s := o.status(); !strings.Contains(s.DownloadError, "PSYNC_S2103") {
			return fmt.Errorf("with an expired token: %+v", s)
		}
		return nil
	})
	before := o.status().Fetched
	// Long enough to connect with, and then to be warned of its end at once.
	o.do(command{Do: "token", Token: relaytest.Token(o.user, 20*time.Second)}, nil)
	pgtest.Eventually(o.t, officialWait, func() error {
		if s := o.status(); s.Fetched < before+2 {
			return fmt.Errorf("asked %d times for credentials, before %d: %+v", s.Fetched, before, s)
		}
		return nil
	})
	o.do(command{Do: "token", Token: relaytest.Token(o.user, time.Hour)}, nil)
	o.srv.side.Commit(func(tx *relaytest.Tx) { putTodo(tx, "mine", o.user, "token", "after a new token") })
	want["token"] = "after a new token"
	o.shows("a token was replaced", want)
	pgtest.Eventually(o.t, officialWait, func() error {
		if s := o.status(); !s.Connected {
			return fmt.Errorf("after a new token: %+v", s)
		}
		return nil
	})
}

// restarts: the server dies in the middle of a download that resumes, from what
// arrived, at the next one.
func (o *official) restarts(want map[string]string) {
	const rows = 3000
	cut, resume := o.srv.cutAfter(60_000)
	o.srv.side.Commit(func(tx *relaytest.Tx) {
		for i := range rows {
			id := fmt.Sprintf("large-%d", i)
			noise := sha256.Sum256([]byte(id))
			title := strings.Repeat(hex.EncodeToString(noise[:]), 1+i%3)
			putTodo(tx, "mine", o.user, id, title)
			want[id] = title
		}
	})
	awaitClosed(o.t, cut, "cutting a download")
	o.srv.restart()
	resume()
	o.shows("the server came back", want)
}
