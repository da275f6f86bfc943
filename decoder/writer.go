package decoder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace"
)

// writer is the only user of the sink. It takes its work in order: batches,
// questions for kept values, and whatever needs the sidecar with no flush
// open. The first error ends the term.
type writer struct {
	sidecar Sidecar
	work    chan job
	// done is told of every batch applied. It never blocks the writer: it has
	// room for every batch there is.
	done chan written

	trace    flushSpan
	open     bool  // a sidecar transaction is open
	deferred []job // for when none is

	stop, ended chan struct{}
}

// job is one of: a batch, a question, a call.
type job struct {
	batch *batch
	rows  []millrace.RowRef
	call  func(context.Context, Sidecar) error
	reply chan answer // of rows and call; has room for one
}

type answer struct {
	records [][]byte
	err     error
}

// written is a batch that was applied, and the checkpoint if it closed a flush.
type written struct {
	batch      *batch
	checkpoint millrace.Checkpoint
	took       time.Duration // of the commit and the applies since the last one
}

func newWriter(s Sidecar, batches int) *writer {
	return &writer{sidecar: s, work: make(chan job), done: make(chan written, batches), stop: make(chan struct{}), ended: make(chan struct{})}
}

// finish ends run after the job it is at, and waits for that. Nobody gives it
// another one.
func (w *writer) finish() {
	close(w.stop)
	<-w.ended
}

// run works until the context ends, it is to finish, or the sidecar fails. What
// is open then is rolled back.
func (w *writer) run(ctx context.Context) (err error) {
	defer close(w.ended)
	defer func() {
		if w.open || err != nil {
			// The term's context may have ended; the transaction still has to.
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			w.trace.end(nil, millrace.Checkpoint{}, errors.Join(err, errInterrupted))
			err = errors.Join(err, w.rollback(clean))
		}
	}()
	var busy time.Duration
	for {
		var j job
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.stop:
			return nil
		case j = <-w.work:
		}
		began := time.Now()
		switch {
		case j.rows != nil:
			records, err := w.sidecar.Wide(ctx, j.rows)
			j.reply <- answer{records, err}
			if err != nil {
				return fmt.Errorf("read kept long values: %w", err)
			}
		case j.call != nil:
			if w.open {
				w.deferred = append(w.deferred, j)
			} else if err := w.do(ctx, j); err != nil {
				return err
			}
		default:
			checkpoint, err := w.write(ctx, j.batch)
			if err != nil {
				return err
			}
			busy += time.Since(began)
			result := written{batch: j.batch, checkpoint: checkpoint}
			if !w.open {
				result.took, busy = busy, 0
			}
			w.done <- result
			for !w.open && len(w.deferred) > 0 {
				next := w.deferred[0]
				w.deferred = w.deferred[1:]
				if err := w.do(ctx, next); err != nil {
					return err
				}
			}
		}
	}
}

func (w *writer) rollback(ctx context.Context) error {
	w.open = false
	if err := w.sidecar.Rollback(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

func (w *writer) do(ctx context.Context, j job) error {
	err := j.call(ctx, w.sidecar)
	j.reply <- answer{err: err}
	return err
}

func (w *writer) write(ctx context.Context, b *batch) (millrace.Checkpoint, error) {
	w.trace.piece(b)
	ctx = w.trace.span.In(ctx)
	if len(b.changes) > 0 {
		w.open = true
		if err := w.sidecar.Apply(ctx, b.changes); err != nil {
			return millrace.Checkpoint{}, fmt.Errorf("apply %d changes: %w", len(b.changes), err)
		}
	}
	if b.flush == nil {
		return millrace.Checkpoint{}, nil
	}
	checkpoint, err := w.sidecar.Commit(ctx, b.flush)
	if err != nil {
		return millrace.Checkpoint{}, fmt.Errorf("commit: %w", err)
	}
	w.open = false
	w.trace.end(b.flush, checkpoint, nil)
	return checkpoint, nil
}

// wide asks for the kept values of rows as of the batches handed over so far.
func (w *writer) wide(ctx context.Context, rows []millrace.RowRef) ([][]byte, error) {
	a := w.ask(ctx, job{rows: rows})
	return a.records, a.err
}

// call runs f in the writer's goroutine when no flush is open. An error of f
// ends the term.
func (w *writer) call(ctx context.Context, f func(context.Context, Sidecar) error) error {
	return w.ask(ctx, job{call: f}).err
}

func (w *writer) ask(ctx context.Context, j job) answer {
	j.reply = make(chan answer, 1)
	select {
	case w.work <- j:
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
	select {
	case a := <-j.reply:
		return a
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
}
