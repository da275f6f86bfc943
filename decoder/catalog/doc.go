// Package catalog asks a source Postgres everything that is asked by ordinary
// SQL: whether it can be replicated from, which tables there are and what
// identifies their rows, publication and slot, snapshots and positions, and
// the rows of a table in chunks. Nothing but a publication, a slot and logical
// messages is ever created there (I7).
//
// A Source has a small pool of connections of its own and may be used
// concurrently. A Reader, for copies of tables, has one connection and is for
// one goroutine.
package catalog
