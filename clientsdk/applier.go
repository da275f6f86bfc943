package clientsdk

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// Bounds of what is staged in one transaction: large enough that committing
// costs little, small enough that a local write need not wait long.
const (
	batchOps   = 8_000
	batchBytes = 8 << 20
)

// applier runs the storage actions of the download half. Ops are collected and
// staged together; everything else stages them first.
type applier struct {
	store  *store
	verify bool

	batch      []*protocol.Data
	ops, bytes int

	progress progress // towards the target
}

// add collects a data line. full tells that it is time to flush.
func (a *applier) add(d *protocol.Data) (full bool) {
	a.batch = append(a.batch, d)
	a.ops += len(d.Ops)
	for i := range d.Ops {
		a.bytes += len(d.Ops[i].Data)
	}
	return a.ops >= batchOps || a.bytes >= batchBytes
}

// discard forgets what was collected: its stream is gone.
func (a *applier) discard() {
	clear(a.batch)
	a.batch, a.ops, a.bytes = a.batch[:0], 0, 0
}

// flush stages what was collected. A nil event means success.
func (a *applier) flush(ctx context.Context, attempt int) machine.Event {
	if len(a.batch) == 0 {
		return nil
	}
	defer a.discard()
	if err := a.store.stage(ctx, a.batch, a.verify); err != nil {
		return failure(attempt, err)
	}
	a.progress.Done += int64(a.ops)
	return nil
}

// run does a storage action after staging what was collected before it. The
// event, nil if there is none, goes back into the machine; after Corrupt or
// StorageFailed the remaining actions of the same step are void.
func (a *applier) run(ctx context.Context, attempt int, action machine.Action) machine.Event {
	if e := a.flush(ctx, attempt); e != nil {
		return e
	}
	switch act := action.(type) {
	case machine.Begin:
		p, err := a.store.begin(ctx, act.Whole, act.Updated, act.Removed)
		a.progress = p
		return failure(attempt, err)
	case machine.DropBuckets:
		return failure(attempt, a.store.dropBad(ctx, act.Names))
	case machine.Complete:
		out, err := a.store.complete(ctx, completion{
			OpID: act.OpID, WriteCheckpoint: act.WriteCheckpoint, Buckets: act.Buckets, Full: act.Full, Priority: act.Priority,
		})
		if err != nil {
			return failure(attempt, err)
		}
		if len(out.Bad) > 0 {
			return machine.Corrupt{Attempt: attempt, Buckets: out.Bad, Err: &badBucketError{out.Bad[0], fmt.Sprintf(
				"the sum of its checksums differs from the server's at checkpoint %d", act.OpID)}}
		}
		return machine.Applied{Attempt: attempt, OpID: act.OpID, Full: act.Full, Published: out.Published}
	}
	return failure(attempt, fmt.Errorf("unknown storage action %T", action))
}

func failure(attempt int, err error) machine.Event {
	var bad *badBucketError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		return machine.Corrupt{Attempt: attempt, Buckets: []string{bad.Bucket}, Err: err}
	}
	return machine.StorageFailed{Attempt: attempt, Err: fmt.Errorf("local database: %w", err)}
}
