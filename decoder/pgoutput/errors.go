package pgoutput

import (
	"errors"
	"fmt"
)

// The conditions an *Error reports.
var (
	// ErrUnknownMessage: the first byte is none of protocol version 1 (P38).
	ErrUnknownMessage = errors.New("unknown message byte")
	// ErrShort: the message ends before its content does.
	ErrShort = errors.New("message too short")
	// ErrTrailing: the message goes on after its content.
	ErrTrailing = errors.New("bytes after the end of the message")
	// ErrInvalid: a byte or count has a value it must not have.
	ErrInvalid = errors.New("invalid value")
)

// Error is a message that breaks the protocol. Nothing of it may be used.
type Error struct {
	Kind   byte // first byte of the message; 0 if it is empty
	Offset int  // where in the message, from its first byte
	Field  string
	Err    error // one of the Err… conditions
}

// Error describes the message without showing row values.
func (e *Error) Error() string {
	name := Kind(e.Kind).String()
	if name == "unknown" {
		return fmt.Sprintf("pgoutput: message 0x%02x at byte %d: %v", e.Kind, e.Offset, e.Err)
	}
	return fmt.Sprintf("pgoutput: %s message, %s at byte %d: %v", name, e.Field, e.Offset, e.Err)
}

// Unwrap gives the condition.
func (e *Error) Unwrap() error { return e.Err }
