// Package relay serves clients: it verifies their tokens, resolves them to
// buckets, and streams the history of those buckets over HTTP and WebSocket.
//
// One publisher reads the sidecar once per checkpoint, whatever the number of
// clients, and hands what changed to the sessions it concerns; a session that
// is new or behind reads pages of its own. What a session sends is decided by
// a pure state machine (core), which knows neither I/O nor time.
//
// The relay writes no history and holds nothing a restart would lose. It knows
// the sidecar through Source and never imports store or a database driver.
package relay
