// Package relaytest runs a real relay against a sidecar in memory, for tests of
// the relay and of clients: no Postgres, no decoder.
//
//	side := relaytest.NewSidecar()
//	srv := relaytest.Serve(t, side)          // srv.URL, srv.Token("alice")
//	side.Commit(func(tx *relaytest.Tx) {
//		tx.Put("mine", "alice", "todos", "t1", `{"id":"t1","title":"Milk"}`)
//	})
//
// Its rules are fixed. Definitions: "global" (one bucket for everyone, key ""),
// "urgent" (the same, priority 0), "mine" (key = the token's sub), "list" (one
// bucket for each list granted with Tx.Grant, priority 1), and the stream
// "project" (one bucket per subscription, key = its parameter id, priority 3).
package relaytest
