// Package transport carries the lines of the sync protocol to a client: over the
// native WebSocket, which also takes messages while it is open, or as NDJSON over
// HTTP. It decodes, bounds and times out; what lines mean is not its concern.
package transport
