package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// Writer appends to the sidecar's history during one term of leadership: the
// only code that writes ops, row state, lookups and the head. Methods must not
// be called concurrently, but for Report, Lost and Close.
//
// A flush is one sidecar transaction. Apply collects it in memory, and writes
// what is collected into the open transaction whenever it exceeds
// Options.PieceBytes; Commit writes the rest. Every writing transaction proves
// last that the fence is still this Writer's.
type Writer struct {
	store *Store
	opts  Options
	name  string
	fence int64

	conn       *pgx.Conn // the writing session, whose end is the end of the term
	pg         *pgconn.PgConn
	outputOID  uint32 // of type millrace.row_output
	leadership        // heartbeat and reports, on a session of their own

	// Committed state.
	head       millrace.Checkpoint
	lsns       map[millrace.SourceID]millrace.LSN // durable position of each source
	lastBucket millrace.BucketID                  // greatest bucket id
	lastCopy   millrace.CopyID
	hasWide    map[millrace.TableID]bool // tables with kept wide values, at least
	hasErrors  map[millrace.TableID]bool // tables with row errors, at least
	upkeep     upkeep

	// Caches. They hold the open flush too, and are dropped whole when it is
	// rolled back.
	rows    generations[rowKey, *rowState]
	buckets generations[bucketKey, millrace.BucketID]
	types   map[string]string
	scopes  scopes

	flush flush
	load  loader
}

// bucketKey names a bucket. In the cache 0 means that the tables have no such
// bucket.
type bucketKey struct {
	definition millrace.DefinitionID
	name       string
}

// flush is the sidecar transaction under way.
type flush struct {
	begun  bool // BEGIN was sent
	op     millrace.OpID
	bucket millrace.BucketID // greatest bucket id, committed or not

	// Collected and not written yet.
	ops         opLog
	opOrder     opOrder
	ended       copyBuffer
	names       copyBuffer
	states      copyBuffer        // filled when it is written
	bucketBase  millrace.BucketID // buckets above it have no row in bucket_totals yet
	dirty       []*rowState
	totals      map[millrace.BucketID]int32 // index into deltas
	deltas      []delta
	opened      []openedLookup // ascending by op
	openedBase  millrace.OpID  // lookups added at or below are in the tables
	closedAdded []millrace.OpID
	closedAt    []millrace.OpID
	undone      []millrace.OpID // lookups of this flush that were written and closed since
	wide        map[rowKey][]byte
	wideBytes   int
	errors      map[errorKey]string // message, empty to clear
	shadows     map[millrace.CopyID]*shadowPart
	marks       map[markKey]int64 // greatest custom write checkpoint
	shadowBytes int

	// Contained, written or not.
	changed        map[millrace.BucketID]struct{} // buckets of earlier pieces
	changedUnknown bool
	lookups        map[millrace.DefinitionID]struct{}
}

// delta is what a flush adds to a bucket's totals.
type delta struct {
	bucket           millrace.BucketID
	lastOp           millrace.OpID
	ops, rows, bytes int64
	checksum         millrace.Checksum
}

type openedLookup struct {
	definition millrace.DefinitionID
	row        *rowState
	added      millrace.OpID
	key        string
	outputs    string
	gone       bool // closed again
}

type errorKey struct {
	definition millrace.DefinitionID
	row        rowKey
}

// maxChangedBuckets is how many changed buckets a checkpoint names; above it
// says that it does not know.
const maxChangedBuckets = 10_000

func (w *Writer) initCaches() {
	w.rows = newGenerations[rowKey, *rowState](w.opts.CacheBytes)
	w.buckets = newGenerations[bucketKey, millrace.BucketID](w.opts.CacheBytes / 4)
	w.types = map[string]string{}
	w.flush.totals = map[millrace.BucketID]int32{}
	w.flush.wide = map[rowKey][]byte{}
	w.flush.errors = map[errorKey]string{}
	w.flush.shadows = map[millrace.CopyID]*shadowPart{}
	w.flush.marks = map[markKey]int64{}
	w.flush.changed = map[millrace.BucketID]struct{}{}
	w.flush.lookups = map[millrace.DefinitionID]struct{}{}
	w.resetFlush()
}

// resetFlush makes the flush empty, beginning at the committed state.
func (w *Writer) resetFlush() {
	f := &w.flush
	f.begun = false
	f.op, f.openedBase = w.head.OpID, w.head.OpID
	f.bucket, f.bucketBase = w.lastBucket, w.lastBucket
	f.changedUnknown = false
	clear(f.changed)
	clear(f.lookups)
	f.undone = f.undone[:0]
	w.resetPiece()
}

// resetPiece forgets what was collected, after it was written or given up.
func (w *Writer) resetPiece() {
	f := &w.flush
	keep := 2 * w.opts.PieceBytes
	f.ops.reset(keep)
	f.ended.reset(keep)
	f.names.reset(keep)
	f.states.reset(keep)
	f.bucketBase = f.bucket
	clear(f.dirty)
	f.dirty = f.dirty[:0]
	clear(f.totals)
	f.deltas = f.deltas[:0]
	clear(f.opened)
	f.opened = f.opened[:0]
	f.openedBase = f.op
	f.closedAdded, f.closedAt = f.closedAdded[:0], f.closedAt[:0]
	clear(f.wide)
	f.wideBytes = 0
	clear(f.errors)
	clear(f.shadows)
	clear(f.marks)
	f.shadowBytes = 0
}

// Rollback drops the open flush and every cache. It is harmless when no flush
// is open.
func (w *Writer) Rollback(ctx context.Context) error {
	begun := w.flush.begun
	w.rows.drop()
	w.buckets.drop()
	w.resetFlush()
	if !begun || w.pg.IsClosed() {
		return nil
	}
	if _, err := w.pg.Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
		return w.failure("roll back", err)
	}
	return nil
}

// abandon rolls back after err, which it returns. A caller whose context has
// ended loses the session with it: that rolls back too.
func (w *Writer) abandon(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if rollback := w.Rollback(ctx); rollback != nil && !errors.Is(err, ErrLeadershipLost) {
		return errors.Join(err, rollback)
	}
	return err
}

// open checks that the term is not over.
func (w *Writer) open() error {
	select {
	case <-w.lost:
		return fmt.Errorf("decoder %s: %w", w.name, ErrLeadershipLost)
	default:
	}
	if w.pg.IsClosed() {
		return fmt.Errorf("decoder %s: the session to the sidecar is closed: %w", w.name, ErrLeadershipLost)
	}
	return nil
}

// failure describes an error of the writing session. The end of the session is
// the end of the term, whoever ended it: a standby may lead already.
func (w *Writer) failure(doing string, err error) error {
	if w.pg.IsClosed() || sessionEnded(err) {
		w.lose()
		return fmt.Errorf("%s: %w: %w", doing, ErrLeadershipLost, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// sessionEnded tells whether the server or the network ended the session.
func sessionEnded(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Severity == "FATAL" || pgErr.Severity == "PANIC" ||
			pgErr.SeverityUnlocalized == "FATAL" || pgErr.SeverityUnlocalized == "PANIC"
	}
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// Close ends the term. An open flush is dropped.
func (w *Writer) Close(ctx context.Context) error {
	w.lose()
	w.leadership.stop()
	return w.conn.Close(ctx)
}

// leadership is the part of a Writer that other goroutines may use.
type leadership struct {
	lost     chan struct{} // closed at the end of the term
	loseOnce sync.Once
	cancel   context.CancelFunc // ends the heartbeat
	beating  sync.WaitGroup

	mu   sync.Mutex // guards side
	side *pgx.Conn  // heartbeat and reports; nil while it is down
}

// Lost is closed when the term is over: another decoder has the fence, the
// session ended, or Close was called.
func (l *leadership) Lost() <-chan struct{} { return l.lost }

func (l *leadership) lose() { l.loseOnce.Do(func() { close(l.lost) }) }

func (l *leadership) stop() {
	l.cancel()
	l.beating.Wait()
}
