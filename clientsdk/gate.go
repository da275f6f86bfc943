package clientsdk

import (
	"context"
	"fmt"
)

// gateState is what the uplink needs to know of the queue and the gate.
type gateState struct {
	Queued int64 // entries waiting for upload
	Head   int64 // number of the first of them; 0 if there is none
	Last   int64 // number of the newest entry ever queued
	// Unacknowledged: local writes were uploaded, or are to be, that no write
	// checkpoint has been asked for yet.
	Unacknowledged bool
}

func (s *store) gate(ctx context.Context) (g gateState, err error) {
	err = s.readers.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM mr_queue),
		(SELECT coalesce(min(id), 0) FROM mr_queue),
		(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mr_queue'),
		target = ? FROM mr_state`, int64(openTarget)).Scan(&g.Queued, &g.Head, &g.Last, &g.Unacknowledged)
	if err != nil {
		return g, fmt.Errorf("read the upload queue: %w", err)
	}
	return g, nil
}

// setTarget stores the write checkpoint that covers everything written locally
// up to queue entry last, if one is waited for at all. It is ignored, giving
// false, if something was written since: that write needs a later one. Nor does
// it take the place of a greater number of the backend, which is asked for anew
// like any other: a server that has custom write checkpoints answers with what
// it has, which may be less.
func (s *store) setTarget(ctx context.Context, id, last int64) (set bool, err error) {
	err = s.write(ctx, true, func(t *txn) error {
		n, err := t.affected(`UPDATE mr_state SET (target, custom) = (
				CASE WHEN custom AND target < ?1 THEN max(target, ?2) ELSE ?2 END, custom AND target < ?1 AND target >= ?2)
			WHERE target > seen AND NOT EXISTS (SELECT 1 FROM mr_queue)
			AND (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mr_queue') = ?3`, int64(openTarget), id, last)
		set = n == 1
		return err
	})
	return set, err
}
