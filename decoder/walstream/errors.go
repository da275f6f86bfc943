package walstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Conditions that end a stream.
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("replication stream is closed")
	// ErrServerShutdown: the server shut down in order, having been told
	// everything it waited for. Connect again.
	ErrServerShutdown = errors.New("source server shut down")
	// ErrDisconnected: the connection broke. What it means can only be seen at
	// the slot (P91).
	ErrDisconnected = errors.New("replication connection was lost")
	// ErrProtocol: the server sent what the protocol does not allow.
	ErrProtocol = errors.New("replication protocol violated")
	// ErrSlotActive: another connection reads the slot.
	ErrSlotActive = errors.New("replication slot is in use")
	// ErrHistoryLost: the slot or its WAL is gone (P76); the tables must be
	// copied again with a new slot.
	ErrHistoryLost = errors.New("history of the replication slot is lost")
)

// StallError is a connection closed because the consumer stood still (P89).
// The slot keeps the WAL; connect again when work can go on.
type StallError struct {
	After   time.Duration
	Pending int64 // transactions handed out or waiting
}

// Error says what happened.
func (e *StallError) Error() string {
	return fmt.Sprintf("no progress for %v with %d transactions pending: replication connection closed so that the source can shut down; the slot keeps the WAL",
		e.After.Round(time.Second), e.Pending)
}

// SpoolFullError is a transaction that does not fit the spool.
type SpoolFullError struct {
	XID         uint32
	Size, Limit int64 // bytes
}

// Error says which setting to raise.
func (e *SpoolFullError) Error() string {
	return fmt.Sprintf("transaction %d of the source takes more than %d bytes (so far %d): raise decoder.spool_max above that, with as much free disk",
		e.XID, e.Limit, e.Size)
}

// startError classifies the answer to START_REPLICATION, and errors the server
// sends while streaming.
func serverError(slot string, err *pgconn.PgError) error {
	switch {
	case err.Code == "55006":
		return fmt.Errorf("%w: slot %q: %s", ErrSlotActive, slot, err.Message)
	case historyLost(err):
		return fmt.Errorf("%w: slot %q: %w", ErrHistoryLost, slot, err)
	}
	return fmt.Errorf("replication from slot %q: %w", slot, err)
}

// lostTexts are what the majors say when history is gone, by SQLSTATE (P76).
var lostTexts = map[string][]string{
	"55000": {
		"can no longer get changes from replication slot",
		"can no longer access replication slot",
		"cannot read from logical replication slot",
	},
	"42704": {"replication slot", "publication"},
	"58P01": {"requested WAL segment"},
	"XX000": {"incorrect prev-link", "requested WAL segment"},
}

func historyLost(err *pgconn.PgError) bool {
	for _, text := range lostTexts[err.Code] {
		if strings.Contains(err.Message, text) || strings.Contains(err.Detail, text) {
			return true
		}
	}
	return false
}
