package relay_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/relay/relaytest"
)

// TestReadyWithForeignRules: a relay that does not understand the rules in force says
// that it is not ready, with clients or without, until others are.
func TestReadyWithForeignRules(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	ready := func(want string) {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			got := "ready"
			if err := srv.Relay.Ready(); err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, want) {
				return errors.New(got)
			}
			return nil
		})
	}
	ready("ready")
	side.Activate(relaytest.Foreign)
	ready("cannot be served by this release")
	side.Activate("understood")
	ready("ready")
}
