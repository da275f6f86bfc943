package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// HistoryError is a source whose stream cannot be joined to what the sidecar
// has (MR1040): everything has to be copied again with a new slot.
type HistoryError struct {
	Reason string
	// Removed: the source removed WAL that the slot needed, to save its disk. It
	// will do so again if copying takes as long again.
	Removed bool
	// Ahead: the slot went past what the sidecar has. If nobody moved it, the
	// sidecar went back in time.
	Ahead bool
}

// Error says why.
func (e *HistoryError) Error() string {
	return "MR1040: the source's history does not continue what was read: " + e.Reason + "; tables are copied again with a new slot"
}

// CheckHistory compares what the sidecar knows of a source with what is there,
// before streaming (P70 to P72, P88). slot may be nil: missing. switched is
// where the stored timeline was left (TimelineSwitch), 0 if it is the present
// one. nil means that the stream may be resumed at stored.Durable, or where the slot
// began.
func CheckHistory(stored *millrace.Source, now Identity, slot *Slot, switched millrace.LSN) error {
	lost := func(format string, args ...any) *HistoryError {
		return &HistoryError{Reason: fmt.Sprintf(format, args...)}
	}
	resume := max(stored.Durable, stored.ConsistentPoint)
	switch {
	case stored.SystemID != now.SystemID:
		return lost("it is another cluster (system identifier %s, was %s)", now.SystemID, stored.SystemID)
	case stored.Database != now.Database:
		return lost("it is another database (%s, was %s)", now.Database, stored.Database)
	case stored.PublicationOID != 0 && now.PublicationOID != 0 && stored.PublicationOID != now.PublicationOID:
		return lost("publication %s was dropped and made again, or did not publish everything for a while", stored.Publication)
	case slot == nil:
		return lost("slot %q is gone", stored.Slot)
	case slot.Lost:
		err := lost("the WAL of slot %q was removed (%s)", stored.Slot, slot.Why())
		err.Removed = slot.Reason == "" || slot.Reason == "wal_removed"
		return err
	case now.Head < resume:
		return lost("it is at %v, before %v which was read already: a failover or a restored backup lost the rest", now.Head, resume)
	case stored.Timeline != now.Timeline && switched != 0 && switched < resume:
		return lost("timeline %d was left at %v, before %v which was read already", stored.Timeline, switched, resume)
	case slot.Confirmed > resume:
		err := lost("slot %q was moved to %v, past %v which was read last: by another reader, by hand, or the sidecar was restored", stored.Slot, slot.Confirmed, resume)
		err.Ahead = slot.Confirmed <= now.Head
		return err
	case slot.Confirmed > now.Head:
		return lost("slot %q stands at %v, past the end of the WAL at %v", stored.Slot, slot.Confirmed, now.Head)
	}
	return nil
}

// Why tells why the slot is lost.
func (s *Slot) Why() string {
	if s.Reason != "" {
		return s.Reason
	}
	return "wal_status " + s.Status
}

// TimelineSwitch tells where a timeline was left for the next one; 0 if it is
// the present one.
func (s *Source) TimelineSwitch(ctx context.Context, timeline, now int32) (millrace.LSN, error) {
	if timeline >= now {
		return 0, nil
	}
	pc, err := session.Config(s.config.URI, session.Replication)
	if err != nil {
		return 0, err
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return 0, session.Explain(pc, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	history, err := pglogrepl.TimelineHistory(ctx, conn, now)
	if err != nil {
		return 0, s.explain("read timeline history", err)
	}
	lsn, err := switchPoint(string(history.Content), timeline)
	return lsn, s.explain("read timeline history", err)
}
