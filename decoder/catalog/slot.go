package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// Slot is a replication slot.
type Slot struct {
	Name      string
	Plugin    string
	Database  string
	ActivePID uint32 // 0 if nobody reads it
	Restart   millrace.LSN
	Confirmed millrace.LSN
	Status    string // wal_status: reserved, extended, unreserved, lost
	// SafeWAL is how many bytes of WAL may be written before the slot is in
	// danger; -1 if there is no limit.
	SafeWAL  int64
	Retained int64 // bytes of WAL the slot holds back, -1 unknown
	// Lost: its WAL is gone, nothing can be read from it any more.
	Lost   bool
	Reason string // why, where the server tells
	// Failover: it is synchronized to standbys.
	Failover bool
}

// InspectSlot looks at a slot; nil if there is none of the name.
func (s *Source) InspectSlot(ctx context.Context, name string) (*Slot, error) {
	var (
		sl                 Slot
		restart, confirmed *string
		active             *int32
		safe, retained     *int64
	)
	// Columns that only newer majors have are read through JSON.
	err := s.pool.QueryRow(ctx, `
		SELECT slot_name::text, coalesce(plugin::text, ''), coalesce(database::text, ''), active_pid, restart_lsn::text, confirmed_flush_lsn::text,
		       coalesce(wal_status, 'lost'), safe_wal_size,
		       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_insert_lsn() - restart_lsn)::int8 END,
		       wal_status = 'lost' OR restart_lsn IS NULL OR coalesce((to_jsonb(r) ->> 'conflicting')::bool, false)
		           OR to_jsonb(r) ->> 'invalidation_reason' IS NOT NULL,
		       coalesce(to_jsonb(r) ->> 'invalidation_reason', ''), coalesce((to_jsonb(r) ->> 'failover')::bool, false)
		FROM pg_replication_slots r WHERE slot_name = $1`, name).
		Scan(&sl.Name, &sl.Plugin, &sl.Database, &active, &restart, &confirmed, &sl.Status, &safe, &retained, &sl.Lost, &sl.Reason, &sl.Failover)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, s.explain("inspect slot "+name, err)
	}
	sl.SafeWAL, sl.Retained = -1, -1
	if active != nil {
		sl.ActivePID = uint32(*active)
	}
	if safe != nil {
		sl.SafeWAL = max(0, *safe) // it is negative once the limit is passed
	}
	if retained != nil {
		sl.Retained = *retained
	}
	if sl.Restart, err = optionalLSN(restart); err == nil {
		sl.Confirmed, err = optionalLSN(confirmed)
	}
	return &sl, s.explain("inspect slot "+name, err)
}

func optionalLSN(text *string) (millrace.LSN, error) {
	if text == nil {
		return 0, nil
	}
	return millrace.ParseLSN(*text)
}

// CreatedSlot is a new slot.
type CreatedSlot struct {
	// ConsistentPoint is where its stream begins.
	ConsistentPoint millrace.LSN
	// Exported tells which transactions the slot will never deliver: those
	// that are visible in it.
	Exported Snapshot
}

// ErrSlotExists is a name that is taken.
var ErrSlotExists = errors.New("replication slot exists already")

// SlotTimeoutError is a slot whose creation had to wait too long for running
// transactions (P18). Nothing is left of it.
type SlotTimeoutError struct {
	Slot    string
	Waiting string // for what, as told to the callback
	Err     error
}

// Error names who is waited for.
func (e *SlotTimeoutError) Error() string {
	s := fmt.Sprintf("create slot %q: running transactions did not end in time", e.Slot)
	if e.Waiting != "" {
		s += ": " + e.Waiting
	}
	return s
}

// Unwrap gives the context's error.
func (e *SlotTimeoutError) Unwrap() error { return e.Err }

// CreateSlot makes a logical slot with pgoutput and tells what its exported
// snapshot sees. Postgres waits for every transaction that is running; while
// it does, waits is called each second with the oldest of them in words. The
// caller's deadline ends the waiting; no slot is left after an error.
func (s *Source) CreateSlot(ctx context.Context, name string, waits func(string)) (created CreatedSlot, err error) {
	pc, err := session.Config(s.config.URI, session.Replication)
	if err != nil {
		return created, err
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return created, session.Explain(pc, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()

	watch, stop := context.WithCancel(ctx)
	watched := make(chan string, 1)
	go func() { watched <- s.watchCreation(watch, conn.PID(), waits) }()
	options := "EXPORT_SNAPSHOT"
	if s.config.Failover && majorOf(conn) >= FailoverVersion/10000 {
		options = "(SNAPSHOT 'export', FAILOVER true)"
	}
	result, err := pglogrepl.ParseCreateReplicationSlot(conn.Exec(ctx,
		fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s", session.SlotName(name), options)))
	stop()
	waiting := <-watched
	if err == nil {
		created.ConsistentPoint, err = millrace.ParseLSN(result.ConsistentPoint)
	}
	if err == nil {
		created.Exported, err = s.exported(ctx, result.SnapshotName)
	}
	if err == nil {
		return created, nil
	}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42710":
		return CreatedSlot{}, fmt.Errorf("%w: %q", ErrSlotExists, name)
	case errors.As(err, &pg) && pg.Code == "53400":
		return CreatedSlot{}, Finding{Code: "MR1004", Level: Fatal, Object: "max_replication_slots", Message: pg.Message,
			Repair: "raise max_replication_slots and restart the server, or drop a slot nobody needs"}
	}
	if left := s.abandonSlot(context.WithoutCancel(ctx), name, conn.PID()); left != nil {
		err = errors.Join(err, left)
	}
	if ctx.Err() != nil {
		return CreatedSlot{}, &SlotTimeoutError{Slot: name, Waiting: waiting, Err: ctx.Err()}
	}
	return CreatedSlot{}, s.explain("create slot "+name, err)
}

// watchCreation tells what a slot's creation waits for until ctx ends, and
// returns what it told last.
func (s *Source) watchCreation(ctx context.Context, pid uint32, waits func(string)) string {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
		if text, err := s.oldestTransactions(ctx, pid); err == nil {
			last = text
			if waits != nil {
				waits(text)
			}
		}
	}
}

// oldestTransactions names the three oldest transactions that have written.
func (s *Source) oldestTransactions(ctx context.Context, but uint32) (string, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT * FROM (
			SELECT format('pid %s (%s, %s, %s) for %s s', pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'no application name'),
			              coalesce(state, 'unknown state'), extract(epoch FROM now() - xact_start)::int) AS text, xact_start AS at
			FROM pg_stat_activity
			WHERE backend_xid IS NOT NULL AND pid <> $1 AND pid <> pg_backend_pid()
			UNION ALL
			SELECT format('prepared transaction %s of %s for %s s', gid, owner, extract(epoch FROM now() - prepared)::int), prepared
			FROM pg_prepared_xacts) t
		ORDER BY at NULLS LAST LIMIT 3`, int32(but))
	if err != nil {
		return "", err
	}
	var list []string
	var text string
	var at *time.Time
	if _, err := pgx.ForEachRow(rows, []any{&text, &at}, func() error {
		list = append(list, text)
		return nil
	}); err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", nil
	}
	return "waiting for transactions to end: " + strings.Join(list, ", "), nil
}

// exported reads what an exported snapshot sees; the exporting connection must
// still be idle.
func (s *Source) exported(ctx context.Context, name string) (Snapshot, error) {
	var text string
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+session.Literal(name)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text)
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("exported snapshot: %w", err)
	}
	return ParseSnapshot(text)
}

// abandonSlot ends a creation that was given up and drops what it made.
func (s *Source) abandonSlot(ctx context.Context, name string, pid uint32) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := s.pool.Exec(ctx, "SELECT pg_terminate_backend($1)", int32(pid)); err != nil {
		return s.explain("end slot creation", err)
	}
	for {
		slot, err := s.InspectSlot(ctx, name)
		if err != nil || slot == nil {
			return err
		}
		if slot.ActivePID == 0 {
			return s.DropSlot(ctx, name)
		}
		if err := pause(ctx, slotPoll); err != nil {
			return fmt.Errorf("drop abandoned slot %q: %w", name, err)
		}
	}
}

// SlotActiveError is a slot that somebody else reads.
type SlotActiveError struct {
	Slot        string
	PID         uint32
	Role        string
	Application string
}

// Error names the reader.
func (e *SlotActiveError) Error() string {
	return fmt.Sprintf("slot %q is read by pid %d (role %q, application %q), which is not ours: stop it, or use another slot name",
		e.Slot, e.PID, e.Role, e.Application)
}

const slotPoll = 20 * time.Millisecond

// TakeSlot makes sure that nobody reads the slot. A walsender of ours that a
// former process left behind is ended and waited for; a foreign one is a
// *SlotActiveError.
func (s *Source) TakeSlot(ctx context.Context, name string) error {
	for {
		slot, err := s.InspectSlot(ctx, name)
		if err != nil {
			return err
		}
		if slot == nil || slot.ActivePID == 0 {
			return nil
		}
		var (
			foreign SlotActiveError
			ours    bool
		)
		err = s.pool.QueryRow(ctx, `
			SELECT coalesce(usename::text, ''), coalesce(application_name, ''),
			       usename = current_user AND application_name = current_setting('application_name')
			FROM pg_stat_activity WHERE pid = $1`, int32(slot.ActivePID)).Scan(&foreign.Role, &foreign.Application, &ours)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // it is just ending
		case err != nil:
			return s.explain("take slot "+name, err)
		case !ours:
			foreign.Slot, foreign.PID = name, slot.ActivePID
			return &foreign
		default:
			if _, err := s.pool.Exec(ctx, "SELECT pg_terminate_backend($1)", int32(slot.ActivePID)); err != nil {
				return s.explain("take slot "+name, err)
			}
		}
		if err := pause(ctx, slotPoll); err != nil {
			return fmt.Errorf("take slot %q from pid %d: %w", name, slot.ActivePID, err)
		}
	}
}

// DropSlot drops the slot. None of the name is fine; one that is being read is
// an error (P20).
func (s *Source) DropSlot(ctx context.Context, name string) error {
	_, err := s.pool.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", name)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42704" {
		return nil // somebody else was faster
	}
	return s.explain("drop slot "+name, err)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// SetFailover says whether the slot, which nobody reads, is synchronized to
// standbys. It needs PostgreSQL 17.
func (s *Source) SetFailover(ctx context.Context, name string, on bool) error {
	pc, err := session.Config(s.config.URI, session.Replication)
	if err != nil {
		return err
	}
	conn, err := pgconn.ConnectConfig(ctx, pc)
	if err != nil {
		return session.Explain(pc, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %t)", session.SlotName(name), on)).ReadAll()
	return s.explain("alter slot "+name, err)
}

// majorOf is the server's major version; 0 if it tells none.
func majorOf(conn *pgconn.PgConn) (major int) {
	_, _ = fmt.Sscanf(conn.ParameterStatus("server_version"), "%d", &major)
	return major
}
