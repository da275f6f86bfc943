package clientsdk

import (
	"context"
	"fmt"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// completion is a checkpoint the server has sent everything of: all of it, or
// its buckets of one priority and more urgent ones.
type completion struct {
	OpID            millrace.OpID
	WriteCheckpoint int64
	Buckets         []protocol.Bucket // the ones covered
	Full            bool
	Priority        int // of a partial one
}

// outcome is what became of a completion.
type outcome struct {
	// Bad names buckets whose sum differs from the server's; nothing else
	// happened then.
	Bad []string
	// Published: readers see the checkpoint now. Otherwise it is stored, and
	// waits for the gate.
	Published bool
}

// complete checks a completion and publishes it if the gate is open.
func (s *store) complete(ctx context.Context, c completion) (out outcome, err error) {
	err = s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		for i := range c.Buckets {
			if b := s.buckets[c.Buckets[i].Name]; b == nil || b.checksum != c.Buckets[i].Checksum {
				out.Bad = append(out.Bad, c.Buckets[i].Name)
			}
		}
		if len(out.Bad) > 0 {
			return nil
		}
		if c.Full {
			if err := t.settle(c); err != nil {
				return err
			}
		}
		open, err := t.gateOpen()
		if err != nil {
			return err
		}
		if !open && (c.Full || c.Priority > 0) {
			return t.prune()
		}
		out.Published = true
		staged := make([]*bucket, 0, 8)
		for i := range c.Buckets {
			if b := s.buckets[c.Buckets[i].Name]; b.staged() {
				staged = append(staged, b)
			}
		}
		return t.publish(staged, c.Full, c.Priority, c.OpID)
	})
	return out, err
}

// defaultPruneAfter is how many ops may be staged behind a shut gate before
// versions that will never be shown are deleted.
const defaultPruneAfter = 50_000

// prune keeps what is staged behind a shut gate from growing with the number of
// ops rather than of rows.
func (t *txn) prune() error {
	if t.s.unpruned < t.s.pruneAfter {
		return nil
	}
	t.s.unpruned = 0
	for _, b := range t.s.buckets {
		if !b.staged() {
			continue
		}
		b.fresh = nil // its count is wrong from here on
		if err := t.exec(deleteStale, b.id, int64(b.published)); err != nil {
			return err
		}
	}
	return nil
}

// settle records a validated full completion.
func (t *txn) settle(c completion) error {
	for i := range c.Buckets {
		b := t.s.buckets[c.Buckets[i].Name]
		if b.settled && b.since == 0 && b.atLast == c.Buckets[i].Count {
			continue
		}
		b.settled, b.atLast, b.since = true, c.Buckets[i].Count, 0
		if err := t.save(b); err != nil {
			return err
		}
	}
	return t.exec(`UPDATE mr_state SET complete = ?, seen = ?, pending = 1`, int64(c.OpID), c.WriteCheckpoint)
}

// gateOpen tells whether the newest validated completion contains every local
// write: nothing waits for upload, and the write checkpoint asked for after the
// last upload has been seen.
func (t *txn) gateOpen() (open bool, err error) {
	err = t.row(`SELECT target <= seen AND NOT EXISTS (SELECT 1 FROM mr_queue) FROM mr_state`).Scan(&open)
	if err != nil {
		return false, fmt.Errorf("read the gate: %w", err)
	}
	return open, nil
}

// publishPending publishes the completion that waits for the gate, if there is
// one and the gate is open now.
func (s *store) publishPending(ctx context.Context) (published bool, err error) {
	err = s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		st, err := t.state()
		if err != nil || !st.pending {
			return err
		}
		if published, err = t.gateOpen(); err != nil || !published {
			return err
		}
		var staged []*bucket
		for _, b := range s.buckets {
			if b.staged() {
				staged = append(staged, b)
			}
		}
		return t.publish(staged, true, 0, st.complete)
	})
	return published, err
}

// The statements of a publication. A row version is published once its op id is
// not above its bucket's published mark; bucket 0 holds local writes.
const (
	touchDropped   = `INSERT OR IGNORE INTO mr_touched SELECT r.type, r.id FROM mr_buckets b JOIN mr_rows r ON r.bucket = b.id WHERE b.name IS NULL`
	deleteDropped  = `DELETE FROM mr_rows WHERE bucket IN (SELECT id FROM mr_buckets WHERE name IS NULL)`
	forgetDropped  = `DELETE FROM mr_buckets WHERE name IS NULL`
	touchLocal     = `INSERT OR IGNORE INTO mr_touched SELECT type, id FROM mr_rows WHERE bucket = 0`
	deleteLocal    = `DELETE FROM mr_rows WHERE bucket = 0`
	touchCleared   = `INSERT OR IGNORE INTO mr_touched SELECT type, id FROM mr_rows WHERE bucket = ? AND op_id <= ?`
	deleteCleared  = `DELETE FROM mr_rows WHERE bucket = ? AND op_id <= ?`
	changedTypes   = `INSERT OR IGNORE INTO mr_changes SELECT DISTINCT type FROM mr_rows WHERE bucket = ? AND op_id > ?`
	showOnly       = `UPDATE mr_rows SET shown = 1 WHERE bucket = ? AND op_id > ? AND data IS NOT NULL AND NOT EXISTS (SELECT 1 FROM mr_rows o WHERE o.type = mr_rows.type AND o.id = mr_rows.id AND o.rowid <> mr_rows.rowid)`
	touchContested = `INSERT OR IGNORE INTO mr_touched SELECT type, id FROM mr_rows WHERE bucket = ? AND op_id > ? AND shown = 0`

	deleteStale = `DELETE FROM mr_rows WHERE bucket = ? AND op_id > ? AND EXISTS (
  SELECT 1 FROM mr_rows n WHERE n.type = mr_rows.type AND n.id = mr_rows.id AND n.bucket = mr_rows.bucket AND n.subkey = mr_rows.subkey AND n.op_id > mr_rows.op_id)`

	deleteSuperseded = `DELETE FROM mr_rows WHERE rowid IN (
  SELECT r.rowid FROM mr_touched t CROSS JOIN mr_rows r ON r.type = t.type AND r.id = t.id JOIN mr_buckets b ON b.id = r.bucket
  WHERE r.op_id <= b.published AND (r.data IS NULL OR EXISTS (
    SELECT 1 FROM mr_rows n WHERE n.type = r.type AND n.id = r.id AND n.bucket = r.bucket AND n.subkey = r.subkey AND n.op_id > r.op_id AND n.op_id <= b.published)))`
	hideTouched = `UPDATE mr_rows SET shown = 0 WHERE rowid IN (
  SELECT r.rowid FROM mr_touched t CROSS JOIN mr_rows r ON r.type = t.type AND r.id = t.id WHERE r.shown = 1)`
	showWinners = `UPDATE mr_rows SET shown = 1 WHERE data IS NOT NULL AND rowid IN (
  SELECT (SELECT r.rowid FROM mr_rows r LEFT JOIN mr_buckets b ON b.id = r.bucket
          WHERE r.type = t.type AND r.id = t.id AND (r.bucket = 0 OR r.op_id <= b.published)
          ORDER BY r.bucket = 0 DESC, r.op_id DESC, r.bucket DESC LIMIT 1)
  FROM mr_touched t)`
)

// publish makes readers see what the given buckets have staged. A full
// publication also ends the rows of dropped buckets and the local writes, which
// the server's state contains now; a partial one leaves both as they are.
func (t *txn) publish(staged []*bucket, full bool, priority int, upTo millrace.OpID) error {
	if err := t.exec(`DELETE FROM mr_touched`); err != nil {
		return err
	}
	if full {
		for _, q := range []string{touchDropped, deleteDropped, forgetDropped, touchLocal, deleteLocal} {
			if err := t.exec(q); err != nil {
				return err
			}
		}
	}
	for _, b := range staged {
		if err := t.publishBucket(b); err != nil {
			return fmt.Errorf("publish bucket %s: %w", b.name, err)
		}
	}
	for _, q := range []string{
		deleteSuperseded, hideTouched, showWinners,
		`INSERT OR IGNORE INTO mr_changes SELECT DISTINCT type FROM mr_touched`,
	} {
		if err := t.exec(q); err != nil {
			return err
		}
	}
	if !full {
		return t.synced(priority, upTo)
	}
	if err := t.exec(`UPDATE mr_state SET pending = 0`); err != nil {
		return err
	}
	return t.synced(fullPriority, upTo)
}

func (t *txn) publishBucket(b *bucket) error {
	if b.cleared > 0 {
		for _, q := range []string{touchCleared, deleteCleared} {
			if err := t.exec(q, b.id, int64(b.cleared)); err != nil {
				return err
			}
		}
		b.cleared = 0
	}
	if err := t.noteTypes(b); err != nil {
		return err
	}
	shown, err := t.affected(showOnly, b.id, int64(b.published))
	if err != nil {
		return err
	}
	if b.fresh == nil || b.fresh.rows != shown { // some have other versions, or are removals
		if err := t.exec(touchContested, b.id, int64(b.published)); err != nil {
			return err
		}
	}
	b.fresh = newStaging()
	b.published = b.position
	return t.save(b)
}

// noteTypes tells watchers of the types a bucket has staged.
func (t *txn) noteTypes(b *bucket) error {
	if b.fresh == nil {
		return t.exec(changedTypes, b.id, int64(b.published))
	}
	for typ := range b.fresh.types {
		if err := t.exec(`INSERT OR IGNORE INTO mr_changes VALUES (?)`, typ); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) synced(priority int, upTo millrace.OpID) error {
	return t.exec(`INSERT INTO mr_synced (priority, op_id, at) VALUES (?, ?, ?) ON CONFLICT (priority) DO UPDATE SET op_id = excluded.op_id, at = excluded.at`,
		priority, int64(upTo), t.s.clock())
}
