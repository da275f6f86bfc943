package clientsdk

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// UploadKind is what a local write did.
type UploadKind string

// The kinds.
const (
	UploadPut    UploadKind = "PUT"    // the row was inserted; Data holds its non-null columns
	UploadPatch  UploadKind = "PATCH"  // the row was updated; Data holds the changed columns
	UploadDelete UploadKind = "DELETE" // the row was deleted; no Data
)

// UploadOp is one written row, as the backend gets it.
type UploadOp struct {
	Kind UploadKind      `json:"op"`
	Type string          `json:"type"` // table
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data,omitempty"`
}

// UploadEntry is a queued UploadOp and the history of sending it.
type UploadEntry struct {
	UploadOp
	Number      int64 // place in the queue; never used twice
	Transaction int64
	Attempts    int       // failed uploads so far
	LastError   string    // of the newest failed one
	LastAttempt time.Time // when that was; zero before the first
}

// UploadTransaction is the oldest local transaction that waits for upload: all
// rows one Transaction or Execute wrote, in order. Send it to the backend as a
// whole, then call Complete, or Reject if it can never be accepted.
type UploadTransaction struct {
	// ID identifies the transaction on this device: with the client id it is
	// the key by which a backend can recognise one that is sent again.
	ID  int64
	Ops []UploadOp

	store *store
}

// NextTransaction gives the oldest transaction of the upload queue, nil if the
// queue is empty. It stays queued until its Complete or Reject.
func (db *DB) NextTransaction(ctx context.Context) (*UploadTransaction, error) {
	entries, err := db.store.entries(ctx, `WHERE tx = (SELECT tx FROM mr_queue ORDER BY id LIMIT 1) ORDER BY id`)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	t := &UploadTransaction{ID: entries[0].Transaction, store: db.store}
	for i := range entries {
		t.Ops = append(t.Ops, entries[i].UploadOp)
	}
	return t, nil
}

// UploadQueue lists what waits for upload, oldest first, at most limit entries,
// with the attempts made and the last error of each.
func (db *DB) UploadQueue(ctx context.Context, limit int) ([]UploadEntry, error) {
	return db.store.entries(ctx, `ORDER BY id LIMIT ?`, limit)
}

func (s *store) entries(ctx context.Context, tail string, args ...any) ([]UploadEntry, error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT id, tx, op, type, row_id, data, attempts, coalesce(last_error, ''), coalesce(last_attempt, 0) FROM mr_queue `+tail, args...)
	if err != nil {
		return nil, fmt.Errorf("read the upload queue: %w", err)
	}
	defer rows.Close()
	var out []UploadEntry
	for rows.Next() {
		var e UploadEntry
		var data sql.NullString
		var at int64
		if err := rows.Scan(&e.Number, &e.Transaction, &e.Kind, &e.Type, &e.ID, &data, &e.Attempts, &e.LastError, &at); err != nil {
			return nil, fmt.Errorf("read the upload queue: %w", err)
		}
		if data.Valid {
			e.Data = json.RawMessage(data.String)
		}
		if at != 0 {
			e.LastAttempt = time.UnixMilli(at)
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// Complete takes the transaction out of the queue: the backend has accepted it
// durably, and it will come back through sync. Completing it twice is harmless.
func (t *UploadTransaction) Complete(ctx context.Context) error {
	return t.store.write(ctx, true, func(w *txn) error {
		return w.exec(`DELETE FROM mr_queue WHERE tx = ?`, t.ID)
	})
}

// CompleteWith is Complete for a backend that applies uploads later: the device
// waits until the server tells it of a write checkpoint of at least this number,
// which the backend gave (custom write checkpoints). The number of the
// transaction that empties the queue counts; it is ignored while others wait.
// It is above 0 and at most 9223372036854775806, and only grows on a device.
func (t *UploadTransaction) CompleteWith(ctx context.Context, writeCheckpoint int64) error {
	if writeCheckpoint <= 0 || writeCheckpoint >= openTarget {
		return fmt.Errorf("complete: the write checkpoint is %d, it must be from 1 to %d", writeCheckpoint, int64(openTarget-1))
	}
	return t.store.write(ctx, true, func(w *txn) error {
		n, err := w.affected(`DELETE FROM mr_queue WHERE tx = ?`, t.ID)
		if err != nil || n == 0 {
			return err // completed before
		}
		return w.exec(`UPDATE mr_state SET target = ?, custom = 1 WHERE NOT EXISTS (SELECT 1 FROM mr_queue)`, writeCheckpoint)
	})
}

// Reject takes the transaction out of the queue because the backend will never
// accept it. It is kept, with the reason, among RejectedUploads. Its rows go
// back to the server's version with the next checkpoint.
func (t *UploadTransaction) Reject(ctx context.Context, reason string) error {
	return t.store.write(ctx, true, func(w *txn) error {
		if err := w.exec(`INSERT OR REPLACE INTO mr_rejected (id, tx, op, type, row_id, data, reason, at)
			SELECT id, tx, op, type, row_id, data, ?, ? FROM mr_queue WHERE tx = ?`, reason, t.store.clock(), t.ID); err != nil {
			return err
		}
		if err := w.exec(`DELETE FROM mr_rejected WHERE id <= (SELECT max(id) FROM mr_rejected) - ?`, maxRejected); err != nil {
			return err
		}
		return w.exec(`DELETE FROM mr_queue WHERE tx = ?`, t.ID)
	})
}

// maxRejected bounds the kept rejected entries; the oldest go first.
const maxRejected = 10_000

// RejectedUpload is a written row the backend refused for good.
type RejectedUpload struct {
	UploadOp
	Number      int64
	Transaction int64
	Reason      string
	At          time.Time
}

// RejectedUploads lists rejected entries, newest first, at most limit.
func (db *DB) RejectedUploads(ctx context.Context, limit int) ([]RejectedUpload, error) {
	rows, err := db.store.readers.QueryContext(ctx, `SELECT id, tx, op, type, row_id, data, reason, at FROM mr_rejected ORDER BY id DESC LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("read rejected uploads: %w", err)
	}
	defer rows.Close()
	var out []RejectedUpload
	for rows.Next() {
		var e RejectedUpload
		var data sql.NullString
		var at int64
		if err := rows.Scan(&e.Number, &e.Transaction, &e.Kind, &e.Type, &e.ID, &data, &e.Reason, &at); err != nil {
			return nil, fmt.Errorf("read rejected uploads: %w", err)
		}
		if data.Valid {
			e.Data = json.RawMessage(data.String)
		}
		e.At = time.UnixMilli(at)
		out = append(out, e)
	}
	return out, rows.Err()
}

// ForgetRejected deletes a rejected entry.
func (db *DB) ForgetRejected(ctx context.Context, number int64) error {
	return db.store.write(ctx, true, func(w *txn) error {
		return w.exec(`DELETE FROM mr_rejected WHERE id = ?`, number)
	})
}

// failed notes a failed upload on the entries of the oldest transaction.
func (s *store) failed(ctx context.Context, cause error) error {
	return s.write(ctx, false, func(w *txn) error {
		return w.exec(`UPDATE mr_queue SET attempts = attempts + 1, last_error = ?, last_attempt = ?
			WHERE tx = (SELECT tx FROM mr_queue ORDER BY id LIMIT 1)`, clip(cause.Error(), 1000), s.clock())
	})
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// errStalled: the upload function makes no progress and says no error.
var errStalled = errors.New("UploadData returned without completing the oldest transaction: call Complete or Reject on it, or return an error")
