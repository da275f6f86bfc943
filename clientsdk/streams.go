package clientsdk

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/protocol"
)

// DefaultStreamTTL is how long a stream is still synced after its last
// subscriber left.
const DefaultStreamTTL = 24 * time.Hour

// SubscribeOptions tune a subscription. The zero value is right for most.
type SubscribeOptions struct {
	// Priority, 0 (most urgent) to 3, replaces the one the rules give; nil keeps it.
	Priority *int
	// TTL is how long the stream's rows stay after Unsubscribe, also over
	// restarts. Defaults to DefaultStreamTTL; negative: they go at once.
	TTL time.Duration
}

// Subscription is an interest in a stream, held until Unsubscribe. Several may
// name the same stream and parameters.
type Subscription struct {
	db      *DB
	key     streamKey
	version int64 // of the list of streams that first had it
	once    sync.Once
}

type streamKey struct{ name, params string }

// subscriptions counts the holders of streams in this process, and numbers the
// lists of streams.
type subscriptions struct {
	mu      sync.Mutex
	held    map[streamKey]int
	version int64
}

func (s *subscriptions) current() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// SyncStream subscribes to a stream of the sync rules with parameters. It is
// remembered in the database: offline and after a restart its rows are there.
// Parameters must be JSON values.
func (db *DB) SyncStream(ctx context.Context, name string, params map[string]any, o SubscribeOptions) (*Subscription, error) {
	if params == nil {
		params = map[string]any{}
	}
	text, err := json.Marshal(params) // with sorted keys
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: parameters: %w", name, err)
	}
	priority := protocol.DefaultPriority
	if o.Priority != nil {
		if priority = *o.Priority; priority < 0 || priority > protocol.MaxPriority {
			return nil, fmt.Errorf("subscribe to %s: priority %d is not 0 to %d", name, priority, protocol.MaxPriority)
		}
	}
	ttl := o.TTL
	switch {
	case ttl == 0:
		ttl = DefaultStreamTTL
	case ttl < 0:
		ttl = 0
	}
	sub := &Subscription{db: db, key: streamKey{name, string(text)}}
	db.subs.mu.Lock()
	defer db.subs.mu.Unlock()
	changed := false
	err = db.store.write(ctx, true, func(t *txn) error {
		var old int64
		var expired bool
		found := t.row(`SELECT priority, expires IS NOT NULL AND expires <= ? FROM mr_streams WHERE name = ? AND params = ?`,
			db.store.clock(), name, string(text)).Scan(&old, &expired) == nil
		lower := priority
		if found && old >= 0 && (priority < 0 || old < int64(priority)) && db.subs.held[sub.key] > 0 {
			lower = int(old)
		}
		changed = !found || expired || int64(lower) != old
		return t.exec(`INSERT INTO mr_streams (name, params, priority, ttl, expires) VALUES (?, ?, ?, ?, NULL)
			ON CONFLICT (name, params) DO UPDATE SET priority = excluded.priority, ttl = max(ttl, excluded.ttl), expires = NULL`,
			name, string(text), lower, ttl.Milliseconds())
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", name, err)
	}
	db.subs.held[sub.key]++
	if changed {
		db.subs.version++
		db.wake()
	}
	sub.version = db.subs.version
	return sub, nil
}

// Unsubscribe ends the interest. The last holder's leaving starts the TTL.
func (s *Subscription) Unsubscribe(ctx context.Context) (err error) {
	s.once.Do(func() { err = s.db.release(ctx, s.key) })
	return err
}

func (db *DB) release(ctx context.Context, key streamKey) error {
	db.subs.mu.Lock()
	defer db.subs.mu.Unlock()
	db.subs.held[key]--
	if db.subs.held[key] > 0 {
		return nil
	}
	delete(db.subs.held, key)
	err := db.store.write(ctx, false, func(t *txn) error {
		return t.exec(`UPDATE mr_streams SET expires = ? + ttl WHERE name = ? AND params = ?`, db.store.clock(), key.name, key.params)
	})
	if err != nil {
		return fmt.Errorf("unsubscribe from %s: %w", key.name, err)
	}
	return db.expireStreamsLocked(ctx)
}

// WaitForFirstSync waits until the stream's rows are there, as far as the
// server grants them.
func (s *Subscription) WaitForFirstSync(ctx context.Context) error {
	return s.db.WaitFor(ctx, func(st Status) bool { return st.covered >= s.version })
}

// expireStreams forgets streams whose time is over.
func (db *DB) expireStreams(ctx context.Context) error {
	db.subs.mu.Lock()
	defer db.subs.mu.Unlock()
	return db.expireStreamsLocked(ctx)
}

func (db *DB) expireStreamsLocked(ctx context.Context) error {
	var any bool
	now := db.store.clock()
	if err := db.store.readers.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM mr_streams WHERE expires <= ?)`, now).Scan(&any); err != nil {
		return fmt.Errorf("expire streams: %w", err)
	}
	if !any {
		return nil
	}
	err := db.store.write(ctx, false, func(t *txn) error {
		return t.exec(`DELETE FROM mr_streams WHERE expires <= ?`, now)
	})
	if err != nil {
		return fmt.Errorf("expire streams: %w", err)
	}
	db.subs.version++
	db.wake()
	return nil
}

// selection is the list of streams for a request. Its order is stable.
func (s *store) selection(ctx context.Context) (out []protocol.Subscription, err error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT name, params, priority FROM mr_streams WHERE expires IS NULL OR expires > ? ORDER BY rowid LIMIT ?`,
		s.clock(), protocol.MaxSubscriptions)
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var sub protocol.Subscription
		var params string
		if err := rows.Scan(&sub.Stream, &params, &sub.Priority); err != nil {
			return nil, fmt.Errorf("read subscriptions: %w", err)
		}
		if params != "{}" {
			sub.Parameters = []byte(params)
		}
		out = append(out, sub)
	}
	return out, rows.Err()
}

// adoptStreams starts the TTL of streams an earlier process held.
func (s *store) adoptStreams(ctx context.Context) error {
	return s.write(ctx, false, func(t *txn) error {
		return t.exec(`UPDATE mr_streams SET expires = ? + ttl WHERE expires IS NULL`, s.clock())
	})
}
