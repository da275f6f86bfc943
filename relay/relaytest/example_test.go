package relaytest_test

import (
	"testing"

	"github.com/millrace/millrace/relay/relaytest"
)

// TestClientOfTheServer is how a test uses the package.
func TestClientOfTheServer(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "todos", "t1", `{"title":"Milk"}`) })

	c := relaytest.Dial(t, srv.URL, srv.Token("alice"), relaytest.Request("device"), nil)
	c.Until(cp.OpID)
	if got := c.Table("todos")["t1"]; got != `{"title":"Milk"}` {
		t.Errorf("alice has %q", got)
	}
}
