package decoder

import (
	"errors"
	"fmt"
)

// ErrRules: the rules do not compile. The text lists what is wrong where.
var ErrRules = errors.New("sync rules are not valid")

// SourceError stops one source; the others go on. It is shown in the status
// views until the source makes progress again.
type SourceError struct {
	Code   string // MR1030, …
	Source string
	Object string // table, slot, …; may be empty
	Text   string // what happened
	Cure   string // what a person can do
	Err    error  // cause, if any
}

// Error is one line for people.
func (e *SourceError) Error() string {
	s := fmt.Sprintf("%s: source %s", e.Code, e.Source)
	if e.Object != "" {
		s += ", " + e.Object
	}
	s += ": " + e.Text
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Cure != "" {
		s += "; " + e.Cure
	}
	return s
}

// Unwrap gives the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// restartError says that a source has a new history, for which everything
// begins again.
type restartError struct {
	source string
	cause  error
}

func (e *restartError) Error() string {
	return fmt.Sprintf("source %s has a new history: %v", e.source, e.cause)
}
func (e *restartError) Unwrap() error { return e.cause }

// Codes of what the stream may reveal. Those of preflight are the catalog's.
const (
	codeSlot    = "MR1030" // slot missing, lost or held by another reader
	codeHistory = "MR1040" // positions of slot and sidecar contradict each other
	codeStream  = "MR1001" // connection to the source
	codeLoop    = "MR1022" // a table is copied over and over
)
