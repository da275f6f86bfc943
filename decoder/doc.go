// Package decoder turns the write-ahead log of source Postgres servers into
// evaluated changes: it owns the slot and the publication, copies tables
// beside the running stream by the exact chunk, assembles whole transactions,
// completes values the stream left out, evaluates the sync rules and hands
// the result to a Sink. It knows the sidecar only through its own interfaces
// and never imports store or relay.
package decoder
