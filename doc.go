// Package millrace holds the words of the system: op, bucket, checkpoint,
// definition, lookup, row key, value, and their text forms.
//
// It does no I/O and imports the standard library only. Every other package
// imports it; it imports none of them. Data flows
//
//	source Postgres -> decoder -> store (sidecar Postgres) -> relay -> clientsdk
//
// and each stage hands the next one the types defined here.
package millrace
