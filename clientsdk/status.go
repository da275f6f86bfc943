package clientsdk

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"sync"
	"time"
)

// Status is what there is to know about being in sync. Values are snapshots.
type Status struct {
	// Connected: the server is reached and lines come in. Connecting: it is
	// being tried. Both false: Connect was not called, or the next try waits.
	Connected, Connecting bool
	// HasSynced: everything was there at least once, at LastSyncedAt. Both
	// survive restarts.
	HasSynced    bool
	LastSyncedAt time.Time
	// Partial tells, by priority, when the buckets of that priority and more
	// urgent ones were last shown ahead of the rest.
	Partial map[int]time.Time
	// Downloading: ops of a newer checkpoint are coming in, Downloaded of Total.
	Downloading       bool
	Downloaded, Total int64
	// Held: a newer state of the server is stored and not shown yet, because it
	// does not contain this device's newest writes.
	Held bool
	// Uploading: the upload function runs, or its result is being confirmed.
	Uploading bool
	// DownloadError and UploadError are the last failures; nil once it works
	// again. Trying goes on in any case.
	DownloadError, UploadError error
	// Warning is the last complaint of the server that did not end the stream.
	Warning error
	// Streams are those the server says are in force.
	Streams []StreamStatus

	covered int64 // version of the list of streams that was last completed
}

// StreamStatus is a stream in force.
type StreamStatus struct {
	Name    string
	Default bool     // given without asking
	Errors  []string // why subscriptions of it give nothing
}

// SyncedAt tells when the buckets of a priority were last shown complete.
func (s *Status) SyncedAt(priority int) (at time.Time, ok bool) {
	at, ok = s.LastSyncedAt, s.HasSynced
	for p, t := range s.Partial {
		if p >= priority && t.After(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// board holds the current status and wakes those who wait for another.
type board struct {
	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed when status is replaced
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

func (b *board) get() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.changed
}

func (b *board) update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.status
	change(&next)
	if reflect.DeepEqual(next, b.status) {
		return
	}
	b.status = next
	close(b.changed)
	b.changed = make(chan struct{})
}

// Status gives the present status.
func (db *DB) Status() Status {
	s, _ := db.board.get()
	return s
}

// StatusChanges gives the present status and then each later one, until ctx
// ends or the database is closed. A slow consumer misses intermediate ones.
func (db *DB) StatusChanges(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for {
			s, changed := db.board.get()
			if !yield(s) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-db.closed:
				return
			}
		}
	}
}

// WaitFor waits until the status satisfies a condition.
func (db *DB) WaitFor(ctx context.Context, condition func(Status) bool) error {
	for s := range db.StatusChanges(ctx) {
		if condition(s) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("wait for a sync status: %w", context.Cause(ctx))
	}
	return ErrClosed
}

// WaitForFirstSync waits until everything was there once. On a device that has
// synced before it returns at once, also offline.
func (db *DB) WaitForFirstSync(ctx context.Context) error {
	return db.WaitFor(ctx, func(s Status) bool { return s.HasSynced })
}

// loadSynced reads what mr_synced says into the status.
func (db *DB) loadSynced(ctx context.Context) error {
	rows, err := db.store.readers.QueryContext(ctx, `SELECT priority, at FROM mr_synced`)
	if err != nil {
		return fmt.Errorf("read sync times: %w", err)
	}
	defer rows.Close()
	var full time.Time
	partial := map[int]time.Time{}
	for rows.Next() {
		var priority int
		var at int64
		if err := rows.Scan(&priority, &at); err != nil {
			return fmt.Errorf("read sync times: %w", err)
		}
		if priority == fullPriority {
			full = time.UnixMilli(at)
		} else {
			partial[priority] = time.UnixMilli(at)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read sync times: %w", err)
	}
	db.board.update(func(s *Status) {
		s.HasSynced, s.LastSyncedAt, s.Partial = !full.IsZero(), full, partial
	})
	return nil
}
