package relay_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// Test7_5CustomWriteCheckpoints: with an event in the rules in force a device is
// told the numbers that came as rows, each with the checkpoint that brought it,
// on every transport; numbers the server gave before are on another scale, and
// not told any more, until the rules have no event again.
func Test7_5CustomWriteCheckpoints(t *testing.T) {
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			c := dialAny(t, srv, how, "alice", "c", nil)
			c.Until(0)
			_, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id=c", "Bearer "+srv.Token("alice"), "")
			managed, err := protocol.DecodeWriteCheckpoint([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			reach := func(want int64) []protocol.Line {
				t.Helper()
				var lines []protocol.Line
				for c.Write != want {
					l, err := c.Next()
					if err != nil {
						t.Fatalf("waiting for %d, at %d: %v", want, c.Write, err)
					}
					lines = append(lines, l)
				}
				return lines
			}
			reach(managed)

			// Marks of rules that are not in force yet are not told.
			cp := side.Commit(func(tx *relaytest.Tx) {
				tx.Mark("alice/c", 3)
				tx.Put("mine", "alice", "t", "1", `{}`)
			})
			c.Until(cp.OpID)
			if c.Write != managed {
				t.Errorf("told %d, want %d", c.Write, managed)
			}
			side.Activate("custom")
			c.Until(side.Head().OpID)
			if c.Write != 3 {
				t.Errorf("after the activation %d, want 3", c.Write)
			}

			// With the data and alone; not those of others.
			cp = side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "t", "2", `{}`)
				tx.Mark("alice/c", 4)
				tx.Mark("alice/d", 9)
				tx.Mark("bob/c", 9)
			})
			c.Until(cp.OpID)
			if c.Write != 4 || len(c.Rows("mine", "alice")) != 2 {
				t.Errorf("told %d with %d rows", c.Write, len(c.Rows("mine", "alice")))
			}
			side.Commit(func(tx *relaytest.Tx) { tx.Mark("alice/c", 5) })
			for _, l := range reach(5) {
				if d, ok := l.(*protocol.CheckpointDiff); ok && len(d.UpdatedBuckets)+len(d.RemovedBuckets) > 0 {
					t.Errorf("diff %+v", d)
				}
			}
			joining := dialAny(t, srv, how, "alice", "d", nil)
			joining.Until(side.Head().OpID)
			if joining.Write != 9 {
				t.Errorf("a joining device is told %d, want 9", joining.Write)
			}

			side.Activate("")
			c.Until(side.Head().OpID)
			if c.Write != managed {
				t.Errorf("without events %d, want %d", c.Write, managed)
			}
		})
	}
}

// Test7_5AskingAllTheSame: with custom write checkpoints the server gives no
// numbers. A client that asks for one (its SDK lost the backend's) is told the
// greatest it has had, once a checkpoint holds what was committed; one that gives
// its own number is served as ever.
func Test7_5AskingAllTheSame(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	side.Activate("custom")
	side.Commit(func(tx *relaytest.Tx) { tx.Mark("alice/c", 3) })
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c"), nil)
	c.Until(side.Head().OpID)
	ask := func(client string) string {
		_, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id="+client, "Bearer "+srv.Token("alice"), "")
		return body
	}
	side.Hold()
	answer := make(chan string, 1)
	go func() { answer <- ask("c") }()
	var cp millrace.Checkpoint
	for range 3 {
		cp = side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
		c.Until(cp.OpID)
	}
	side.Commit(func(tx *relaytest.Tx) { tx.Mark("alice/c", 4) })
	select {
	case body := <-answer:
		t.Errorf("answered %s before anything was acknowledged", body)
	default:
	}
	side.Release()
	if body := <-answer; body != `{"data":{"write_checkpoint":"4"}}`+"\n" {
		t.Errorf("answer %s", body)
	}
	if body := ask("new"); body != `{"data":{"write_checkpoint":"0"}}`+"\n" {
		t.Errorf("a device without a number is answered %s", body)
	}

	_, body := do(t, "POST", srv.URL+protocol.PathCheckpointRequest, "Bearer "+srv.Token("alice"), `{"client_id":"r","checkpoint_request_id":"2"}`)
	if body != `{"data":{"checkpoint_request_id":"2"}}`+"\n" {
		t.Errorf("answer %s", body)
	}
	r := dial(t, srv, srv.Token("alice"), relaytest.Request("r"), nil)
	r.Until(side.Head().OpID)
	if r.Write != 2 {
		t.Errorf("a device that gives numbers is told %d", r.Write)
	}
	side.Commit(func(tx *relaytest.Tx) { tx.Mark("alice/r", 3) })
	for r.Write != 3 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
}
