package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// naive reads the slot the obvious way, one message at a time, and discards
// everything: the limit the pipeline is measured against. It returns after the
// transaction that commits at or past end.
func (b *bed) naive(ctx context.Context, rows int, end pglogrepl.LSN) (m measurement, err error) {
	cfg, err := pgconn.ParseConfig(b.source.URI("postgres"))
	if err != nil {
		return m, err
	}
	cfg.RuntimeParams["replication"] = "database"
	cfg.RuntimeParams["application_name"] = "bench-naive"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return m, err
	}
	defer conn.Close(ctx)
	err = pglogrepl.StartReplication(ctx, conn, naiveSlot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", fmt.Sprintf("publication_names '%s'", publication)},
	})
	if err != nil {
		return m, err
	}
	walsender, err := b.walsender(ctx, naiveSlot)
	if err != nil {
		return m, err
	}
	var start time.Time
	var before usage
	inserts := 0
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return m, err
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok {
			continue
		}
		if data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		if start.IsZero() {
			start = time.Now()
			before = cpu(walsender, selfPID)
		}
		wal := data.Data[25:]
		switch wal[0] {
		case 'I':
			inserts++
		case 'C':
			commit := pglogrepl.LSN(beUint64(wal[10:])) // end LSN
			if commit < end {
				continue
			}
			m.elapsed = time.Since(start)
			m.rows = inserts
			after := cpu(walsender, selfPID)
			m.walsender, m.ours = after.of(walsender)-before.of(walsender), after.of(selfPID)-before.of(selfPID)
			if m.rows < rows {
				return m, fmt.Errorf("the discarding reader got %d rows, want %d", m.rows, rows)
			}
			return m, pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: commit})
		}
	}
}

func beUint64(b []byte) (v uint64) {
	for _, c := range b[:8] {
		v = v<<8 | uint64(c)
	}
	return v
}

// walsender waits for the process that serves a slot.
func (b *bed) walsender(ctx context.Context, slot string) (pid int, err error) {
	err = poll(ctx, 30*time.Second, func() (bool, error) {
		err := b.src.QueryRow(ctx, "SELECT coalesce((SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1), 0)", slot).Scan(&pid)
		return pid != 0, err
	})
	return pid, err
}

// poll asks until f says yes.
func poll(ctx context.Context, timeout time.Duration, f func() (bool, error)) error {
	deadline := time.Now().Add(timeout)
	for {
		ok, err := f()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing within %v", timeout)
		}
		t := time.NewTimer(3 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
