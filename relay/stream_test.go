package relay_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

func post(tb testing.TB, ctx context.Context, srv *relaytest.Server, token string, body []byte, header http.Header) *http.Response {
	tb.Helper()
	resp, err := relaytest.Post(ctx, srv.URL, token, body, header)
	if err != nil {
		tb.Fatal(err)
	}
	return resp
}

func dial(tb testing.TB, srv *relaytest.Server, token string, r *protocol.Request, before *relaytest.Client) *relaytest.Client {
	tb.Helper()
	return relaytest.Dial(tb, srv.URL, token, r, before)
}

func TestStreamFollowsChanges(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	first := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "todos", "t1", `{"id":"t1","n":1}`)
		tx.Put("global", "", "news", "n1", `{"id":"n1"}`)
	})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	c.Until(first.OpID)
	if got := c.Rows("mine", "alice")["t1"]; got != `{"id":"t1","n":1}` {
		t.Fatalf("row %q", got)
	}
	other := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "bob", "todos", "t9", `{}`) })
	last := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "todos", "t1", `{"id":"t1","n":2}`)
		tx.Remove("global", "", "news", "n1")
	})
	lines := c.Until(last.OpID)
	if _, ok := lines[0].(*protocol.CheckpointDiff); !ok || len(lines) != 4 {
		t.Errorf("want diff, two data lines and a completion, got\n%s", relaytest.Describe(lines))
	}
	if got := c.Rows("mine", "alice")["t1"]; got != `{"id":"t1","n":2}` {
		t.Errorf("row %q after %d and %d", got, other.OpID, last.OpID)
	}
	if got := c.Rows("global", ""); len(got) != 0 {
		t.Errorf("rows %v", got)
	}
}

func TestGrantAndRevoke(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Commit(func(tx *relaytest.Tx) { tx.Put("list", "l1", "todos", "t1", `{"id":"t1"}`) })
	c := dial(t, srv, srv.Token("bob"), relaytest.Request(""), nil)
	c.Until(0)
	if _, listed := c.Target[relaytest.Wire("list", "l1")]; listed {
		t.Fatal("bob has a list he was not granted")
	}
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Grant("bob", "l1") })
	c.Until(cp.OpID)
	if got := c.Rows("list", "l1")["t1"]; got != `{"id":"t1"}` {
		t.Fatalf("row %q after the grant", got)
	}
	cp = side.Commit(func(tx *relaytest.Tx) {
		tx.Revoke("bob", "l1")
		tx.Put("list", "l1", "todos", "t2", `{"id":"t2"}`)
	})
	lines := c.Until(cp.OpID)
	if len(lines) != 2 || len(c.Buckets) != 3 {
		t.Fatalf("after the revocation\n%s", relaytest.Describe(lines))
	}
	cp = side.Commit(func(tx *relaytest.Tx) { tx.Grant("bob", "l1") })
	c.Until(cp.OpID)
	if got := c.Rows("list", "l1"); len(got) != 2 {
		t.Fatalf("rows %v after the second grant", got)
	}
}

// TestBucketChangesHands: in one checkpoint the only follower of a bucket loses
// it and another client gains it, in whichever order the relay comes to them.
func TestBucketChangesHands(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("list", "l1", "todos", "t1", `{"id":"t1"}`)
		tx.Grant("user0", "l1")
	})
	clients := []*relaytest.Client{}
	for _, user := range []string{"user0", "user1"} {
		c := dial(t, srv, srv.Token(user), relaytest.Request(user), nil)
		c.Until(cp.OpID)
		clients = append(clients, c)
	}
	users := []string{"user0", "user1"}
	for i := range 20 {
		from, to := i%2, (i+1)%2
		cp = side.Commit(func(tx *relaytest.Tx) {
			tx.Revoke(users[from], "l1")
			tx.Grant(users[to], "l1")
		})
		for _, c := range clients {
			c.Until(cp.OpID)
		}
		if got := clients[to].Rows("list", "l1"); got["t1"] != `{"id":"t1"}` {
			t.Fatalf("turn %d: %s has %v after it was granted the list", i, users[to], got)
		}
	}
}
