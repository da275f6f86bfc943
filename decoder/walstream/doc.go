// Package walstream reads a logical replication slot and hands out whole
// transactions.
//
// One goroutine reads the socket, with reads coalesced where the system can
// (one wake-up per 64 KiB or per millisecond instead of one per message), and
// cuts the stream into transactions without copying rows. A transaction that
// outgrows Config.MaxMemory goes on in a file. Another goroutine tells the
// server, whatever the consumer is doing, the position the consumer has
// confirmed. Between socket and consumer is a queue bounded in bytes: when it
// is full the socket is not read, and the server waits.
//
// A consumer looks like this:
//
//	s, err := walstream.Open(ctx, config)
//	defer s.Close()
//	for {
//		event, err := s.Next(ctx)
//		switch e := event.(type) {
//		case *walstream.Tx:
//			for m, err := range e.Messages() { … } // pgoutput messages, Relation and Type included
//			e.Release()
//			// when durable: s.Confirm(e.EndLSN)
//		case walstream.Keepalive:
//			// everything handed out so far is durable: s.Confirm(e.WALEnd)
//		}
//	}
//
// Relation messages are sent once per connection: a consumer that skips a
// transaction must still look at its Relation messages.
//
// The package does not interpret rows and knows nothing of the sidecar.
package walstream
