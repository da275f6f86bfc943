package decoder

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/walstream"
)

// source is the appender's side of a source: what was evaluated of it, what is
// durable, what is not yet visible there. It belongs to the appender's
// goroutine. It outlives sessions, which are the connections to the source.
type source struct {
	config *SourceConfig
	origin origin
	saved  millrace.Source

	session *session // nil while there is none
	tables  map[millrace.TableID]*tableState
	copies  []*copyRun // unfinished
	opened  bool       // a session has registered the tables of this term's rule sets
	// builds are the definitions built for the rule set that is not in force yet
	// which read the source.
	builds  []millrace.DefinitionID
	eval    *evaluator
	wide    *wideCache
	awaited []millrace.RowRef // rows whose kept values will be needed next
	status  *status
	// finished has the copies that were done in this term.
	finished   map[millrace.CopyID]bool
	fixedPages bool // chunks do not adapt
	described  time.Time
	// reached is durable, for the source's runner.
	reached atomic.Uint64
	// merged counts chunks, likewise.
	merged atomic.Uint64
	unseen unseen

	// position is how far the source's transactions are evaluated, flushed how
	// far they were handed to the writer with a flush, durable how far they
	// are in the sidecar. No transaction is open at any of them.
	position, flushed, durable millrace.LSN
	// nagged counts keepalives that repeat a position which is not durable: a
	// server that shuts down sends them until it is confirmed (P89).
	nagged int
}

// advancement is how far a source has come; it changes with any progress.
type advancement struct{ reached, merged uint64 }

// advanced may be called by any goroutine.
func (s *source) advanced() advancement {
	return advancement{s.reached.Load(), s.merged.Load()}
}

// confirm tells the source what may be told: durable and visible (I4).
func (s *source) confirm() {
	if s.session == nil {
		return
	}
	upto := s.unseen.confirmable(s.durable)
	s.session.stream.Confirm(upto)
	if at := s.session.lookAt; at != 0 && s.durable >= at {
		s.session.lookAt = 0
		s.session.fail(errLookAgain)
	}
	s.status.progress(s.durable, upto)
}

// describe shows what the copies are at.
func (s *source) describe(now time.Time) {
	if s.session == nil || now.Sub(s.described) < describeEvery {
		return
	}
	s.described = now
	var list []string
	for _, c := range s.copies {
		list = append(list, c.describe())
	}
	if n := len(list); n > maxDescribed {
		list = append(list[:maxDescribed], fmt.Sprintf("and %d more tables", n-maxDescribed))
	}
	s.status.copying(strings.Join(list, "; "))
}

const (
	describeEvery = time.Second
	maxDescribed  = 5
)

// txEvent is a transaction of a source's stream.
type txEvent struct {
	session *session
	tx      *walstream.Tx
}

func (e txEvent) handle(ctx context.Context, a *appender) error {
	defer e.session.budget.Release(e.session.weight(e.tx))
	defer e.tx.Release()
	s := e.session.source
	if s.session != e.session {
		return nil // of a session that has ended
	}
	before, handed, rows := a.batch.mark(), a.handed, s.eval.rows
	err := s.apply(ctx, a, e.tx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	err = fmt.Errorf("transaction %d at %v: %w", e.tx.XID, e.tx.CommitLSN, err)
	if a.handed != handed || len(s.copies) > 0 && s.eval.rows != rows {
		if looksAgain(err) {
			return &tornError{s.config.Name, err}
		}
		a.log.Error("source stopped in the middle of a transaction", "source", s.config.Name, "error", err, "again_in", a.config.stopped)
		return &tornError{s.config.Name, err}
	}
	a.batch.cut(before)
	e.session.fail(err)
	s.close()
	return nil
}

// apply evaluates a transaction. One that the sidecar has already is only
// noted: it may not be visible on the source yet.
func (s *source) apply(ctx context.Context, a *appender, tx *walstream.Tx) error {
	x := s.unseen.widen(tx.XID)
	s.eval.commit = tx.CommitLSN
	replay := tx.EndLSN <= s.position
	changes := len(a.batch.changes)
	ahead := newLookahead(s, tx, replay)
	defer ahead.stop()
	evaluated, handed := 0, a.handed
	defer a.goOn(handed)
	for m, err := range tx.Messages() {
		if err != nil {
			return err
		}
		if err := ahead.before(); err != nil {
			return err
		}
		if err := s.eval.message(m.Data, x, replay, a.batch); err != nil {
			return err
		}
		before := a.handed
		if err := a.piece(ctx); err != nil {
			return err
		}
		if evaluated++; a.handed != before {
			a.holdUp(s, tx, evaluated)
		}
	}
	s.unseen.add(x, tx.EndLSN)
	if replay {
		return nil
	}
	s.position = tx.EndLSN
	if len(a.batch.changes) > changes || a.pieces {
		a.began()
		a.published = tx.CommitTime
	}
	return nil
}

// keepaliveEvent tells that the stream has nothing for us up to a position.
type keepaliveEvent struct {
	session *session
	end     millrace.LSN
}

func (e keepaliveEvent) handle(_ context.Context, _ *appender) error {
	s := e.session.source
	if s.session != e.session {
		return nil
	}
	s.unseen.move(e.end)
	if e.end <= s.position {
		s.nagged++
		return nil
	}
	s.position, s.nagged = e.end, 0
	return nil
}

// snapshotEvent is a snapshot taken on the source.
type snapshotEvent struct {
	session *session
	snap    *snapshot
}

func (e snapshotEvent) handle(_ context.Context, a *appender) error {
	if s := e.session.source; s.session == e.session {
		s.observe(a, e.snap)
	}
	return nil
}

func (s *source) observe(a *appender, snap *snapshot) {
	s.unseen.observe(snap)
	for _, c := range s.copies {
		c.machine.observe(snap)
		c.noteEntered(a)
	}
	s.confirm()
}

// closedEvent tells that a session has ended.
type closedEvent struct {
	session *session
	handled chan struct{} // closed when the appender has let go of the session
}

func (e closedEvent) handle(ctx context.Context, a *appender) error {
	s := e.session.source
	if s.session == e.session {
		s.close()
	}
	// A transaction may have been cut, and the next session may find that what is
	// kept of a table is void: nothing is known any more, and all that was
	// evaluated so far reaches the sidecar before what the session stores there.
	if a.hasWork() || a.moved() {
		if err := a.flush(ctx, 0); err != nil {
			return err
		}
	}
	s.wide.reset()
	s.awaited = nil
	close(e.handled)
	return nil
}

// close forgets what lives as long as a session.
func (s *source) close() {
	s.session = nil
	s.unseen.reset()
	for _, c := range s.copies {
		c.interrupted()
	}
}

// nagging is how many repeated keepalives mean that the server waits.
const nagging = 3

// mark is how far a batch was filled.
type mark struct {
	changes int
	bytes   int64
}

func (b *batch) mark() mark { return mark{len(b.changes), b.bytes} }

// cut takes back the changes since the mark. What they point to stays until
// the batch is reset.
func (b *batch) cut(m mark) {
	b.changes = b.changes[:m.changes]
	b.bytes = m.bytes
}

// prefetch asks for the kept long values that the queued transactions will
// need, all at once.
func (a *appender) prefetch(ctx context.Context, queue []event) error {
	needs := map[*source][]millrace.RowRef{}
	for _, e := range queue {
		t, ok := e.(txEvent)
		if !ok || t.session.source.session != t.session || t.tx.Count > lookaheadWindow {
			continue
		}
		s := t.session.source
		if !s.eval.keepsWide() || t.tx.EndLSN <= s.position {
			continue
		}
		for m := range t.tx.Messages() {
			if ref, ok := s.eval.needs(m.Data); ok {
				needs[s] = append(needs[s], ref)
			}
		}
	}
	for s, refs := range needs {
		if err := a.fetch(ctx, s, refs); err != nil {
			return err
		}
	}
	return nil
}

// fetch brings kept long values of a source's rows into its cache, of the first
// at least. A single row is one of which the cache knows nothing when its turn
// comes: those behind it, of the rows asked for before, come with it.
func (a *appender) fetch(ctx context.Context, s *source, refs []millrace.RowRef) error {
	if len(refs) == 1 {
		if i := slices.Index(s.awaited, refs[0]); i >= 0 {
			refs = s.awaited[i:]
		}
	}
	records, err := a.writer.wide(ctx, refs)
	if err != nil {
		return err
	}
	s.wide.remember(refs[:len(records)], records)
	if len(refs) > 1 {
		s.awaited = refs[len(records):]
	}
	return nil
}

// lookaheadWindow is how many messages of a long transaction are searched at
// once for rows whose kept values are needed.
const lookaheadWindow = 4096

// lookahead walks ahead of the evaluation of a long transaction.
type lookahead struct {
	source *source
	next   func() (walstream.Message, error, bool)
	stop   func()
	left   int // messages until the evaluation catches up
	refs   []millrace.RowRef
}

func newLookahead(s *source, tx *walstream.Tx, replay bool) *lookahead {
	l := &lookahead{source: s, stop: func() {}}
	if tx.Count > lookaheadWindow && !replay {
		l.next, l.stop = iter.Pull2(tx.Messages())
	}
	return l
}

// before is called before each message is evaluated.
func (l *lookahead) before() error {
	if l.next == nil {
		return nil
	}
	if l.left > 0 {
		l.left--
		return nil
	}
	l.refs = nil // some may be awaited
	for l.left < lookaheadWindow {
		m, err, ok := l.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		l.left++
		if ref, ok := l.source.eval.needs(m.Data); ok {
			l.refs = append(l.refs, ref)
		}
	}
	l.left--
	if len(l.refs) == 0 {
		return nil
	}
	return l.source.eval.fetch(l.refs)
}

// keepsWide tells whether any table told so far keeps long values.
func (e *evaluator) keepsWide() bool {
	for _, p := range e.plans {
		if p != nil && p.wide {
			return true
		}
	}
	return false
}

// needs tells which row's kept values a message will need. It is a hint: what
// is missed is asked for when it is needed.
func (e *evaluator) needs(msg []byte) (ref millrace.RowRef, ok bool) {
	if len(msg) == 0 || msg[0] != byte(pgoutput.KindUpdate) {
		return ref, false
	}
	m := &e.update
	if pgoutput.ParseUpdate(msg, m) != nil || m.OldKind == pgoutput.OldFull {
		return ref, false
	}
	p := e.plans[m.Relation]
	if p == nil || !p.wide || m.New.Len() != len(p.cells) || !hasUnchanged(&m.New) {
		return ref, false
	}
	t := &m.New
	if m.OldKind == pgoutput.OldKey {
		t = &m.Old
	}
	if p.read(p.cells, t, false) != nil {
		return ref, false
	}
	e.scratch.reset()
	key, err := p.rowKey(&e.scratch, p.cells)
	if err != nil {
		return ref, false
	}
	if _, known := e.wide.get(p.table.saved.ID, key); known {
		return ref, false
	}
	return millrace.RowRef{Table: p.table.saved.ID, Key: strings.Clone(key)}, true
}

func hasUnchanged(t *pgoutput.Tuple) bool {
	for i := range t.Len() {
		if t.Kind(i) == pgoutput.Unchanged {
			return true
		}
	}
	return false
}

// retryAfter is how long to wait before the next session. It grows with the
// number of attempts without progress (P11); a source that somebody has to look after rests.
func retryAfter(attempt int, first, rest time.Duration, err error) time.Duration {
	var stop *SourceError
	switch {
	case errors.As(err, &stop):
		return rest
	case looksAgain(err):
		return 0
	}
	return min(time.Minute, first<<min(attempt, 6))
}
