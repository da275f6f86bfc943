package relay_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// TestOldWriteCheckpoint: the answer comes once a checkpoint holds what was
// committed, and names it.
func TestOldWriteCheckpoint(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	ask := func() (int, string) {
		resp, body := do(t, "GET", srv.URL+protocol.PathOldWriteCheckpoint, "Bearer "+srv.Token("alice"), "")
		return resp.StatusCode, body
	}
	side.Hold()
	answers := make(chan string, 1)
	go func() {
		_, body := ask()
		answers <- body
	}()
	var cp int64
	for range 3 {
		cp = int64(side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", "{}") }).OpID)
	}
	select {
	case body := <-answers:
		t.Errorf("answered %s before anything was acknowledged", body)
	default:
	}
	side.Release()
	if got, want := <-answers, fmt.Sprintf(`{"data":{"checkpoint":"%d"}}`+"\n", cp); got != want {
		t.Errorf("answered %s, want %s", got, want)
	}
	side.Break(errors.New("connection refused"))
	if status, body := ask(); status != 503 {
		t.Errorf("without a sidecar: %d %s", status, body)
	}
	if resp, body := do(t, "GET", srv.URL+protocol.PathOldWriteCheckpoint, "", ""); resp.StatusCode != 401 {
		t.Errorf("without a token: %d %s", resp.StatusCode, body)
	}
}
