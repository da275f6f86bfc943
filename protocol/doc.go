// Package protocol holds the wire objects of the client sync protocol, shared
// by the relay and the Go SDK: the sync request, the lines a server streams,
// the frames of the native WebSocket transport and the bodies of the HTTP
// endpoints around them.
//
// Encoders append to a caller's buffer and cannot fail. Decoders take text from
// the network: they accept unknown fields, bound nesting, never panic, and say
// which field is wrong. Op ids and write checkpoints are decimal strings on the
// wire. testdata/wire pairs objects with exact lines; every implementation, in
// any language, is tested against the same files.
//
// It imports the root package only and does no I/O.
package protocol
