package relay_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// newest gives the lines of the newest checkpoint as text, without write checkpoints.
func newest(lines []protocol.Line) string {
	list := append([]protocol.Line(nil), lines...)
	from := 0
	for i, l := range list {
		switch l := l.(type) {
		case *protocol.Checkpoint:
			c := *l
			c.WriteCheckpoint = 0
			from, list[i] = i, &c
		case *protocol.CheckpointDiff:
			c := *l
			c.WriteCheckpoint = 0
			from, list[i] = i, &c
		}
	}
	return relaytest.Describe(list[from:])
}

// TestSA43_WriterAndListener: the device that wrote a row and one that only listens
// get the same lines for the same checkpoint, before, beside and after the
// acknowledgement.
func TestSA43_WriterAndListener(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	writer := dial(t, srv, srv.Token("alice"), relaytest.Request("c1"), nil)
	listener := dial(t, srv, srv.Token("alice"), relaytest.Request("c2"), nil)
	writer.Until(0)
	listener.Until(0)
	put := func(n int) func(*relaytest.Tx) {
		return func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", fmt.Sprintf(`{"n":%d}`, n)) }
	}
	same := func(what string, n int) {
		t.Helper()
		cp := side.Commit(put(n))
		wrote, listened := newest(writer.Until(cp.OpID)), newest(listener.Until(cp.OpID))
		if wrote != listened {
			t.Errorf("%s: the writer gets\n%sthe listener\n%s", what, wrote, listened)
		}
		for _, c := range []*relaytest.Client{writer, listener} {
			if got := c.Rows("mine", "alice"); len(got) != 1 {
				t.Errorf("%s: %v", what, got)
			}
		}
	}
	upload := func() (id int64) {
		t.Helper()
		_, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id=c1", "Bearer "+srv.Token("alice"), "")
		id, err := protocol.DecodeWriteCheckpoint([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return id
	}
	same("another's row", 1)
	// Acknowledged after the row.
	side.Hold()
	id := upload()
	same("the row, not acknowledged", 2)
	side.Release()
	writer.Until(side.Head().OpID)
	if writer.Write != id || listener.Write != 0 {
		t.Errorf("the writer is told %d, the listener %d; want %d, 0", writer.Write, listener.Write, id)
	}
	same("after the acknowledgement", 3)
	// Acknowledged by itself, or with the next row.
	id = upload()
	same("the row beside the acknowledgement", 4)
	for writer.Write != id {
		if _, err := writer.Next(); err != nil {
			t.Fatal(err)
		}
	}
	same("at the end", 5)
}
