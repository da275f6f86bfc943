package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5/pgconn"
)

// Code says what kind of error an upload met.
type Code string

// The codes.
const (
	CodeUnauthorized Code = "UNAUTHORIZED" // no token, or one that is not accepted: get another and retry
	CodeInvalid      Code = "INVALID"      // the request does not make sense, and never will
	CodeTooLarge     Code = "TOO_LARGE"    // send less at a time
	CodeForbidden    Code = "FORBIDDEN"    // the user may not do that
	CodeConstraint   Code = "CONSTRAINT"   // the database refuses the values
	CodeUnavailable  Code = "UNAVAILABLE"  // the database cannot be asked now: retry
	CodeInternal     Code = "INTERNAL"     // something unforeseen: retry
	CodeMethod       Code = "METHOD"       // only POST and OPTIONS are answered
)

// Error is an answer that is no success. In JSON, beside the fields below, it
// tells whether the same request may succeed later: "retryable".
type Error struct {
	Code        Code   `json:"code"`
	Status      int    `json:"status"`
	Retryable   bool   `json:"retryable"`
	Description string `json:"description"`
	// Transaction is the id of the client transaction that failed, Op the index
	// of the op in it; absent where the whole request is at fault.
	Transaction *string `json:"transaction,omitempty"`
	Op          *int    `json:"op,omitempty"`
}

// Error gives code and description.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Description }

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Status: http.StatusBadRequest, Description: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *Error {
	return &Error{Code: CodeTooLarge, Status: http.StatusRequestEntityTooLarge, Description: fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) *Error {
	return &Error{Code: CodeForbidden, Status: http.StatusForbidden, Description: fmt.Sprintf(format, args...)}
}

// conflict tells that a transaction lost against a concurrent one and may be
// run again at once. A row that exists already was inserted since it was looked
// for: the next run finds it.
func conflict(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && (p.Code == "40001" || p.Code == "40P01" || p.Code == "23505")
}

// classify turns what a transaction failed with into an answer. Texts of the
// database are shown where they speak of the values sent, not of the server.
func classify(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var p *pgconn.PgError
	if errors.As(err, &p) && len(p.Code) == 5 {
		switch p.Code[:2] {
		case "22", "23":
			return &Error{Code: CodeConstraint, Status: http.StatusUnprocessableEntity, Description: p.Message}
		case "08", "25", "40", "53", "55", "57":
			return &Error{Code: CodeUnavailable, Status: http.StatusServiceUnavailable, Retryable: true, Description: "the database is busy or restarting"}
		}
		return &Error{Code: CodeInternal, Status: http.StatusInternalServerError, Retryable: true, Description: "the database refused the statement (" + p.Code + ")"}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: CodeUnavailable, Status: http.StatusServiceUnavailable, Retryable: true, Description: "the request took too long"}
	}
	return &Error{Code: CodeUnavailable, Status: http.StatusServiceUnavailable, Retryable: true, Description: "the database cannot be reached"}
}
