package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace"
)

// ReadSnapshot is one consistent view of the sidecar: the checkpoint that was
// newest when it was opened. It holds a connection and is used by one goroutine
// at a time.
type ReadSnapshot struct {
	conn *pgxpool.Conn
	head millrace.Head
}

// The statements of snapshots, each with a test of its plan.
const (
	sqlHead = `
		SELECT h.op_id, h.seq, h.at, coalesce(r.id, 0), coalesce(r.active_from, 0), pg_is_in_recovery(), h.renewed
		FROM millrace.head h LEFT JOIN LATERAL (
			SELECT s.id, s.active_from FROM millrace.rule_sets s WHERE s.active_from <= h.op_id ORDER BY s.active_from DESC LIMIT 1) r ON true`
	sqlChanges = `
		SELECT seq, published, buckets, lookups FROM millrace.checkpoint_log
		WHERE seq > $1::int8 AND seq <= $2::int8 ORDER BY seq LIMIT $3::int4`
	sqlBuckets = `
		SELECT w.i, n.id, coalesce(t.last_op, 0), coalesce(t.ops, 0), coalesce(t.checksum, 0), coalesce(f.floor_op, 0)
		FROM unnest($1::int4[], $2::text[]) WITH ORDINALITY AS w (definition, name, i)
		JOIN millrace.bucket_names n ON n.definition = w.definition AND n.name = w.name
		LEFT JOIN millrace.bucket_totals t ON t.bucket = n.id
		LEFT JOIN millrace.bucket_floors f ON f.bucket = n.id`
	sqlTotals = `
		SELECT w.i, t.bucket, t.last_op, t.ops, t.checksum, coalesce(f.floor_op, 0)
		FROM unnest($1::int8[]) WITH ORDINALITY AS w (bucket, i)
		JOIN millrace.bucket_totals t ON t.bucket = w.bucket
		LEFT JOIN millrace.bucket_floors f ON f.bucket = w.bucket`
	sqlBucketsAfter = `
		SELECT id, definition, name FROM millrace.bucket_names WHERE id > $1::int8 ORDER BY id LIMIT $2::int4`
	sqlLastBucket = `SELECT coalesce(max(id), 0) FROM millrace.bucket_names`
	sqlLookups    = `
		SELECT DISTINCT w.i, l.outputs
		FROM unnest($1::int4[], $2::text[]) WITH ORDINALITY AS w (definition, key, i)
		JOIN millrace.lookups l ON l.definition = w.definition AND l.key = w.key AND l.removed = 9223372036854775807`
	sqlChangedLookups = `
		SELECT definition, key FROM millrace.lookups WHERE added > $1::int8 AND definition = ANY ($3::int4[])
		UNION ALL
		SELECT definition, key FROM millrace.lookups
		WHERE removed > $1::int8 AND removed < 9223372036854775807 AND definition = ANY ($3::int4[])
		LIMIT $2::int8`
	sqlWriteCheckpoints = `
		SELECT user_id, id, acked_id, acked_seq FROM millrace.write_requests WHERE user_id = ANY ($1::text[])`
	sqlAcknowledged = `
		SELECT user_id, id, acked_id, acked_seq FROM millrace.write_requests WHERE acked_seq > $1::int8 LIMIT $2::int8`
	sqlEvents = `
		SELECT (m->>'definition')::int4 FROM millrace.rule_sets r, jsonb_array_elements(r.mapping) m
		WHERE r.id = $1::int4 AND m->>'kind' = 'event' ORDER BY 1`
	// With events, numbers are those of their rows, and those that clients gave:
	// the server's own are on another scale.
	sqlCustomWriteCheckpoints = `
		SELECT u.user_id, greatest(c.id, w.id), greatest(c.id, w.acked_id), greatest(c.seq, w.acked_seq)
		FROM unnest($1::text[]) AS u (user_id)` + customCounters
	sqlCustomAcknowledged = `
		SELECT u.user_id, greatest(c.id, w.id), greatest(c.id, w.acked_id), greatest(c.seq, w.acked_seq)
		FROM (
			SELECT c.user_id FROM millrace.custom_write_checkpoints c WHERE c.seq > $1::int8 AND c.definition = ANY ($2::int4[])
			UNION
			SELECT w.user_id FROM millrace.write_requests w WHERE w.acked_seq > $1::int8 AND NOT w.managed
			LIMIT $3::int8) u` + customCounters
	customCounters = `
		CROSS JOIN LATERAL (
			SELECT coalesce(max(c.id), 0) AS id, coalesce(max(c.seq), 0) AS seq FROM unnest($2::int4[]) AS e (definition)
			CROSS JOIN LATERAL (SELECT c.id, c.seq FROM millrace.custom_write_checkpoints c
				WHERE c.definition = e.definition AND c.user_id = u.user_id OFFSET 0) c) c
		LEFT JOIN LATERAL (
			SELECT w.id, w.acked_id, w.acked_seq FROM millrace.write_requests w WHERE w.user_id = u.user_id AND NOT w.managed OFFSET 0) w ON true
		WHERE c.id > 0 OR w.id > 0`
)

// Snapshot opens a snapshot of the newest checkpoint.
func (r *Reader) Snapshot(ctx context.Context) (*ReadSnapshot, error) {
	const doing = "open a snapshot of the sidecar"
	conn, err := r.reads.Acquire(ctx)
	if err != nil {
		return nil, readFailure(doing, err)
	}
	s := &ReadSnapshot{conn: conn}
	var b pgx.Batch
	b.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	var op, seq, from int64
	var set int32
	b.Queue(sqlHead).QueryRow(func(row pgx.Row) error {
		return row.Scan(&op, &seq, &s.head.At, &set, &from, &s.head.Replica, &s.head.Renewed)
	})
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		s.Close()
		return nil, readFailure(doing, err)
	}
	s.head.OpID, s.head.Seq = millrace.OpID(op), seq
	s.head.RuleSet, s.head.ActiveFrom = millrace.RuleSetID(set), millrace.OpID(from)
	return s, nil
}

// Head is the checkpoint the snapshot shows.
func (s *ReadSnapshot) Head() millrace.Head { return s.head }

// Close ends the snapshot.
func (s *ReadSnapshot) Close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// A session that cannot end its transaction is not used again: the pool
	// drops sessions that are not idle.
	_, _ = s.conn.Exec(ctx, `COMMIT`)
	s.conn.Release()
	s.conn = nil
}

// changesMax bounds how many checkpoints are summed up one by one, and
// changedBucketsMax about how many buckets are named.
const (
	changesMax        = 10_000
	changedBucketsMax = 100_000
)

// Changes sums up the checkpoints after seq.
func (s *ReadSnapshot) Changes(ctx context.Context, seq int64) (millrace.Changes, error) {
	var c millrace.Changes
	buckets := map[millrace.BucketID]struct{}{}
	lookups := map[millrace.DefinitionID]struct{}{}
	n := int64(0)
	err := s.query(ctx, "read the log of checkpoints", sqlChanges, func(rows pgx.Rows) error {
		var at int64
		var published *time.Time
		var ids []int64
		var defs []int32
		if err := rows.Scan(&at, &published, &ids, &defs); err != nil {
			return err
		}
		n++
		c.BucketsUnknown = c.BucketsUnknown || ids == nil
		c.LookupsUnknown = c.LookupsUnknown || defs == nil
		if len(buckets) > changedBucketsMax {
			c.BucketsUnknown = true
		}
		if c.BucketsUnknown {
			clear(buckets)
			ids = nil
		}
		for _, id := range ids {
			buckets[millrace.BucketID(id)] = struct{}{}
		}
		for _, id := range defs {
			lookups[millrace.DefinitionID(id)] = struct{}{}
		}
		if published != nil {
			c.Published = *published
		}
		return nil
	}, seq, s.head.Seq, int32(changesMax))
	if err != nil {
		return millrace.Changes{}, err
	}
	if n < s.head.Seq-seq { // some are thinned already, or there are too many
		c.BucketsUnknown, c.LookupsUnknown = true, true
	}
	for id := range buckets {
		c.Buckets = append(c.Buckets, id)
	}
	for id := range lookups {
		c.Lookups = append(c.Lookups, id)
	}
	return c, nil
}

// Buckets finds buckets by name.
func (s *ReadSnapshot) Buckets(ctx context.Context, names []millrace.BucketName) ([]millrace.BucketTotals, error) {
	defs, texts := make([]int32, len(names)), make([]string, len(names))
	for i, n := range names {
		defs[i], texts[i] = int32(n.Definition), n.Name
	}
	return s.totals(ctx, len(names), sqlBuckets, defs, texts)
}

// Totals finds buckets by id; one whose history is gone has ID 0.
func (s *ReadSnapshot) Totals(ctx context.Context, ids []millrace.BucketID) ([]millrace.BucketTotals, error) {
	return s.totals(ctx, len(ids), sqlTotals, ints[int64](ids))
}

func (s *ReadSnapshot) totals(ctx context.Context, n int, sql string, args ...any) ([]millrace.BucketTotals, error) {
	out := make([]millrace.BucketTotals, n)
	err := s.query(ctx, "read the totals of buckets", sql, func(rows pgx.Rows) error {
		var i, id, last, ops, floor int64
		var sum int32
		if err := rows.Scan(&i, &id, &last, &ops, &sum, &floor); err != nil {
			return err
		}
		out[i-1] = millrace.BucketTotals{ID: millrace.BucketID(id), Last: millrace.OpID(last), Ops: ops, Checksum: millrace.Checksum(sum), Floor: millrace.OpID(floor)}
		return nil
	}, args...)
	return out, err
}

// BucketsAfter lists buckets with greater ids, ascending.
func (s *ReadSnapshot) BucketsAfter(ctx context.Context, after millrace.BucketID, limit int) ([]millrace.NamedBucket, error) {
	var out []millrace.NamedBucket
	err := s.query(ctx, "list new buckets", sqlBucketsAfter, func(rows pgx.Rows) error {
		var id int64
		var def int32
		var b millrace.NamedBucket
		if err := rows.Scan(&id, &def, &b.Name); err != nil {
			return err
		}
		b.ID, b.Definition = millrace.BucketID(id), millrace.DefinitionID(def)
		out = append(out, b)
		return nil
	}, int64(after), int32(limit))
	return out, err
}

// LastBucket is the greatest bucket id given so far.
func (s *ReadSnapshot) LastBucket(ctx context.Context) (millrace.BucketID, error) {
	var id int64
	err := s.conn.QueryRow(ctx, sqlLastBucket).Scan(&id)
	return millrace.BucketID(id), readFailure("read the greatest bucket id", err)
}

// RuleSet reads a rule set with the definitions it maps to.
func (s *ReadSnapshot) RuleSet(ctx context.Context, id millrace.RuleSetID) (*millrace.RuleSet, error) {
	doing := fmt.Sprintf("read rule set %d", id)
	set := &millrace.RuleSet{ID: id}
	var state string
	var from int64
	var mapping []byte
	err := s.conn.QueryRow(ctx, `SELECT content, state, coalesce(active_from, 0), mapping FROM millrace.rule_sets WHERE id = $1`, int32(id)).
		Scan(&set.Content, &state, &from, &mapping)
	if err != nil {
		return nil, readFailure(doing, err)
	}
	set.State, set.ActiveFrom = millrace.RuleSetState(state), millrace.OpID(from)
	var entries []mapped
	if err := json.Unmarshal(mapping, &entries); err != nil {
		return nil, fmt.Errorf("%s: mapping: %w", doing, err)
	}
	known := map[millrace.DefinitionID]millrace.Definition{}
	err = s.query(ctx, doing, `SELECT id, hash, coalesce(wire_prefix, '') FROM millrace.definition_versions`, func(rows pgx.Rows) error {
		var def int32
		var d millrace.Definition
		if err := rows.Scan(&def, &d.Hash, &d.WirePrefix); err != nil {
			return err
		}
		d.ID = millrace.DefinitionID(def)
		known[d.ID] = d
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		d, ok := known[e.Definition]
		if !ok {
			return nil, fmt.Errorf("%s: definition %d of %q does not exist any more", doing, e.Definition, e.Key)
		}
		d.Key, d.Kind, d.Name = e.Key, e.Kind, e.Name
		set.Definitions = append(set.Definitions, d)
	}
	return set, nil
}

// Lookups gives the outputs in force for each key, each once: many rows may
// grant the same.
func (s *ReadSnapshot) Lookups(ctx context.Context, keys []millrace.LookupKey) ([][]string, error) {
	defs, texts := make([]int32, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		defs[i], texts[i] = int32(k.Definition), k.Key
	}
	out := make([][]string, len(keys))
	err := s.query(ctx, "read lookups", sqlLookups, func(rows pgx.Rows) error {
		var i int64
		var outputs string
		if err := rows.Scan(&i, &outputs); err != nil {
			return err
		}
		out[i-1] = append(out[i-1], outputs)
		return nil
	}, defs, texts)
	return out, err
}

// ChangedLookups gives the keys of some definitions whose entries changed after an
// op id; ok is false if they are more than limit.
func (s *ReadSnapshot) ChangedLookups(ctx context.Context, definitions []millrace.DefinitionID, after millrace.OpID, limit int) (keys []millrace.LookupKey, ok bool, err error) {
	seen := map[millrace.LookupKey]struct{}{}
	n := 0
	err = s.query(ctx, "read changed lookups", sqlChangedLookups, func(rows pgx.Rows) error {
		var def int32
		var k millrace.LookupKey
		if err := rows.Scan(&def, &k.Key); err != nil {
			return err
		}
		n++
		k.Definition = millrace.DefinitionID(def)
		if _, dup := seen[k]; !dup {
			seen[k] = struct{}{}
			keys = append(keys, k)
		}
		return nil
	}, int64(after), int64(limit)+1, ints[int32](definitions))
	return keys, n <= limit, err
}

// Events lists the event definitions of the rule set in force: with any, write
// checkpoints are custom.
func (s *ReadSnapshot) Events(ctx context.Context) (events []millrace.DefinitionID, err error) {
	err = s.query(ctx, "read the events of the rules in force", sqlEvents, func(rows pgx.Rows) error {
		var id int32
		err := rows.Scan(&id)
		events = append(events, millrace.DefinitionID(id))
		return err
	}, int32(s.head.RuleSet))
	return events, err
}

// WriteCheckpoints reads the users' counters, custom ones if there are events;
// users without one are left out.
func (s *ReadSnapshot) WriteCheckpoints(ctx context.Context, events []millrace.DefinitionID, users []string) ([]millrace.WriteCheckpoint, error) {
	if len(events) > 0 {
		return s.counters(ctx, sqlCustomWriteCheckpoints, users, ints[int32](events))
	}
	return s.counters(ctx, sqlWriteCheckpoints, users)
}

// AcknowledgedAfter lists the counters, custom ones if there are events, that
// were acknowledged by checkpoints after seq; ok is false if they are more than
// limit.
func (s *ReadSnapshot) AcknowledgedAfter(ctx context.Context, events []millrace.DefinitionID, seq int64, limit int) (acks []millrace.WriteCheckpoint, ok bool, err error) {
	if len(events) > 0 {
		acks, err = s.counters(ctx, sqlCustomAcknowledged, seq, ints[int32](events), int64(limit)+1)
	} else {
		acks, err = s.counters(ctx, sqlAcknowledged, seq, int64(limit)+1)
	}
	return acks, len(acks) <= limit, err
}

func (s *ReadSnapshot) counters(ctx context.Context, sql string, args ...any) ([]millrace.WriteCheckpoint, error) {
	var out []millrace.WriteCheckpoint
	err := s.query(ctx, "read write checkpoints", sql, func(rows pgx.Rows) error {
		var w millrace.WriteCheckpoint
		if err := rows.Scan(&w.User, &w.ID, &w.Acknowledged, &w.Seq); err != nil {
			return err
		}
		out = append(out, w)
		return nil
	}, args...)
	return out, err
}

// query calls each for every row.
func (s *ReadSnapshot) query(ctx context.Context, doing, sql string, each func(pgx.Rows) error, args ...any) error {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return readFailure(doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return readFailure(doing, err)
		}
	}
	return readFailure(doing, rows.Err())
}
