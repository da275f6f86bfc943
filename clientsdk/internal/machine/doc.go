// Package machine decides what a client does: pure state machines without I/O,
// clock or randomness. Events go in, actions come out; whoever runs them feeds
// the results back as events. Downlink is the download half, Uplink the upload
// half; they share nothing.
//
// States, events, server assumptions, invariants and the complete transition
// tables are in clientsdk/SPEC.md; a test compares its tables with this code.
package machine
