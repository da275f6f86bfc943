// Package rsocket reads and writes the frames of RSocket 1.0 that the sync
// protocol uses over a WebSocket, one frame per binary message: setup, one
// stream of lines with credit, keepalives and errors. It does no I/O.
//
// Decode takes bytes from the network: it checks every length, never panics and
// says what is wrong. The result points into the bytes given. An Assembler puts
// fragmented requests together, within a limit.
package rsocket
