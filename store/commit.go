package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// Commit writes the flush, moves the head under the fence and commits. See
// decoder.Sink. It fails with ErrLeadershipLost or ErrOutcomeUnknown when the
// term is over.
func (w *Writer) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	if err := w.open(); err != nil {
		return millrace.Checkpoint{}, w.abandon(ctx, err)
	}
	ctx, span := millrace.ChildSpan(ctx, "store.commit")
	c, err := w.commit(ctx, f)
	span.End(err)
	if err != nil {
		return millrace.Checkpoint{}, w.abandon(ctx, err)
	}
	w.maintain(ctx)
	return c, nil
}

func (w *Writer) commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	var none millrace.Checkpoint
	if f.Activate != 0 && w.flush.op > w.head.OpID {
		return none, fmt.Errorf("activate rule set %d: the flush holds other changes; activation needs a flush of its own", f.Activate)
	}
	var b batch
	if w.collected() > 0 || storesParts(f) || f.Activate != 0 {
		if err := w.begin(ctx); err != nil {
			return none, err
		}
		if err := w.copyRows(ctx); err != nil {
			return none, err
		}
		w.addUpkeep(&b)
	} else if !w.flush.begun {
		b.text("BEGIN")
		w.flush.begun = true
	}
	if f.Activate != 0 {
		if err := w.activate(ctx, f.Activate); err != nil {
			return none, err
		}
	}
	copyIDs, err := w.saveCopies(ctx, f)
	if err != nil {
		return none, err
	}
	lsns, err := w.movedPositions(f)
	if err != nil {
		return none, err
	}
	for _, p := range f.Positions {
		b.add(stmtPosition, binary.BigEndian.AppendUint16(nil, uint16(p.Source)), []byte(p.LSN.String()))
	}
	c := millrace.Checkpoint{Seq: w.head.Seq + 1, OpID: w.flush.op}
	w.addCheckpoint(&b, c, lsns, f)
	c.At, err = w.finish(ctx, &b)
	if err != nil {
		return none, err
	}
	w.committed(c, lsns)
	for i, id := range copyIDs {
		f.Copies[i].ID = id
	}
	return c, nil
}

// movedPositions is the vector of the new checkpoint. Positions never go back.
func (w *Writer) movedPositions(f *millrace.Flush) (map[millrace.SourceID]millrace.LSN, error) {
	lsns := make(map[millrace.SourceID]millrace.LSN, len(w.lsns))
	for s, l := range w.lsns {
		lsns[s] = l
	}
	for _, p := range f.Positions {
		if _, ok := lsns[p.Source]; !ok {
			return nil, fmt.Errorf("commit: source %d is not known to the sidecar", p.Source)
		}
		lsns[p.Source] = max(lsns[p.Source], p.LSN)
	}
	return lsns, nil
}

// addCheckpoint adds what ends every flush: the checkpoint's row, the write
// checkpoints it acknowledges, the notification, and last the head.
func (w *Writer) addCheckpoint(b *batch, c millrace.Checkpoint, lsns map[millrace.SourceID]millrace.LSN, f *millrace.Flush) {
	seq, op, at := int8Param(c.Seq), int8Param(c.OpID), timestampParam(f.Published)
	buckets, lookups := w.changes()
	b.add(stmtCheckpoint, seq, op, at, appendPositions(nil, lsns), buckets, lookups)
	if len(f.Acknowledge) > 0 {
		users, ids := latestRequests(f.Acknowledge)
		b.add(stmtAcknowledge, textArray(users), int8Array(ids), seq)
	}
	if w.store.notify.on() {
		b.add(stmtNotify, fmt.Appendf(nil, `{"seq":%d,"op_id":"%d"}`, c.Seq, c.OpID))
	}
	b.add(stmtHead, int8Param(w.fence), op, seq, at)
}

// changes are the arrays of changed buckets and lookup definitions; nil for
// too many.
func (w *Writer) changes() (buckets, lookups []byte) {
	f := &w.flush
	lookups = int4Array(sortedKeys(f.lookups))
	n := len(f.changed) + len(f.deltas)
	if f.changedUnknown || n > 2*maxChangedBuckets {
		return nil, lookups
	}
	ids := make([]millrace.BucketID, 0, n)
	for id := range f.changed {
		ids = append(ids, id)
	}
	for i := range f.deltas {
		ids = append(ids, f.deltas[i].bucket)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) > maxChangedBuckets {
		return nil, lookups
	}
	return int8Array(ids), lookups
}

func sortedKeys[K ~int16 | ~int32, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// appendPositions writes {"<source>":"<lsn>"}.
func appendPositions(b []byte, lsns map[millrace.SourceID]millrace.LSN) []byte {
	b = append(b, '{')
	for i, s := range sortedKeys(lsns) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, '"'), int64(s), 10), `":"`...)
		b = append(append(b, lsns[s].String()...), '"')
	}
	return append(b, '}')
}

// postgresEpoch is the zero of binary timestamps.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// timestampParam is nil, null, for the zero time.
func timestampParam(t time.Time) []byte {
	if t.IsZero() {
		return nil
	}
	return int8Param(t.UnixMicro() - postgresEpoch.UnixMicro())
}

// finish sends the rest of the flush with its COMMIT.
func (w *Writer) finish(ctx context.Context, b *batch) (at time.Time, err error) {
	ctx, span := millrace.ChildSpan(ctx, "store.finish")
	if span.On() {
		span.Set(slog.Int("statements", b.n), slog.Int("buckets", len(w.flush.changed)+len(w.flush.deltas)))
		defer func() { span.End(err) }()
	}
	head := b.n - 1
	b.text("COMMIT")
	done, err := w.run(ctx, b, func(statement int, row [][]byte) error {
		if statement == head && len(row[0]) == 8 {
			at = postgresEpoch.Add(time.Duration(binary.BigEndian.Uint64(row[0])) * time.Microsecond)
		}
		return nil
	})
	if err == nil {
		w.flush.begun = false
		return at, nil
	}
	var pgErr *pgconn.PgError
	isServer := errors.As(err, &pgErr)
	switch {
	case isServer && done == head && pgErr.Code == "22012": // division by zero
		w.lose()
		return at, fmt.Errorf("commit a flush: another decoder took fence %d: %w", w.fence, ErrLeadershipLost)
	case isServer && !sessionEnded(err):
		// The server answered every statement up to an ordinary error, which
		// ended the transaction.
		if done > head && pgErr.Code == "54000" {
			w.store.notify.suspend()
		}
		return at, w.failure("commit a flush", err)
	case isServer && done <= head:
		// The session was ended by the server before it came to COMMIT.
		return at, w.failure("commit a flush", err)
	default:
		w.lose()
		return at, fmt.Errorf("commit a flush: %w: %w: %w", ErrOutcomeUnknown, ErrLeadershipLost, err)
	}
}

// committed makes what was the open flush the committed state.
func (w *Writer) committed(c millrace.Checkpoint, lsns map[millrace.SourceID]millrace.LSN) {
	w.head = c
	w.lsns = lsns
	w.lastBucket = w.flush.bucket
	w.resetFlush()
	w.rows.age()
	w.buckets.age()
}

// notifyGate keeps NOTIFY out of flushes for a while after the server's queue
// was found full: that error comes at COMMIT and takes the whole flush with
// it, so the flush that comes again from the source must not meet it again.
type notifyGate struct{ until atomic.Int64 } // UnixNano

// notifyPause is how long relays are left to their polling.
const notifyPause = time.Minute

func (g *notifyGate) on() bool { return time.Now().UnixNano() >= g.until.Load() }

func (g *notifyGate) suspend() { g.until.Store(time.Now().Add(notifyPause).UnixNano()) }
