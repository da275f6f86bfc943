// Package pgoutput parses the messages of Postgres's pgoutput plugin,
// protocol version 1, in place: tuples are views of the message and cost no
// allocation. It does no I/O and keeps no state between messages.
//
// Take the first byte of a message through KindOf and give the whole message,
// that byte included, to the Parse function of its kind. Every parser checks
// that the message has exactly the length its content says and returns an
// *Error with the offset otherwise.
package pgoutput
