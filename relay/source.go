package relay

import (
	"context"

	"github.com/millrace/millrace"
)

// Source is the sidecar as the relay sees it. All methods are for concurrent
// use.
type Source interface {
	// Snapshot opens a consistent view of the newest checkpoint: everything
	// read through it belongs to that checkpoint.
	Snapshot(ctx context.Context) (Snapshot, error)
	// PrimaryHead is the newest op id of the primary sidecar, where Snapshot may
	// read a replica.
	PrimaryHead(ctx context.Context) (millrace.OpID, error)
	// Watch calls changed after every new checkpoint, soon after it was
	// committed, and whenever it may have missed one; it blocks until ctx ends.
	// A call is a hint only. It never calls while a call is running.
	Watch(ctx context.Context, changed func()) error
	// RequestWriteCheckpoints stores the requests, in order, on the primary
	// sidecar and gives the number each user has after it: for a request of
	// the next number a new one above all the user ever had, for a request of
	// a given number the greater of that and the stored one. A stored number
	// stays pending until a checkpoint contains everything the sources had
	// committed when the request was stored.
	RequestWriteCheckpoints(ctx context.Context, requests []millrace.WriteRequest) ([]int64, error)
	// Report replaces what the views relays and sessions show of this relay.
	Report(ctx context.Context, r millrace.RelayReport) error
}

// ErrUnavailable is in the chain of errors of a Source that is out of reach for
// now.
var ErrUnavailable = millrace.ErrUnavailable

// Snapshot is one consistent view of the sidecar. It is used by one goroutine
// at a time and must be closed. Slices of results follow the order asked.
type Snapshot interface {
	// Head is the checkpoint the snapshot shows.
	Head() millrace.Head
	// Changes sums up the checkpoints after seq.
	Changes(ctx context.Context, seq int64) (millrace.Changes, error)

	// Buckets finds buckets by name.
	Buckets(ctx context.Context, names []millrace.BucketName) ([]millrace.BucketTotals, error)
	// Totals finds buckets by id. A bucket whose history is gone, because its
	// definition was dropped, has ID 0.
	Totals(ctx context.Context, ids []millrace.BucketID) ([]millrace.BucketTotals, error)
	// BucketsAfter lists the buckets with greater ids than after, ascending, at
	// most limit.
	BucketsAfter(ctx context.Context, after millrace.BucketID, limit int) ([]millrace.NamedBucket, error)
	// LastBucket is the greatest bucket id given so far.
	LastBucket(ctx context.Context) (millrace.BucketID, error)
	// Ops reads at most limit ops with After < id ≤ upto, range by range, each
	// in ascending order. i is the index of the range; op is valid during the
	// call only. Reading ends early if visit returns false.
	Ops(ctx context.Context, ranges []millrace.BucketRange, upto millrace.OpID, limit int, visit func(i int, op *millrace.Op) bool) error

	// RuleSet reads a rule set with the definitions it maps to.
	RuleSet(ctx context.Context, id millrace.RuleSetID) (*millrace.RuleSet, error)
	// Lookups gives the outputs in force for each key.
	Lookups(ctx context.Context, keys []millrace.LookupKey) ([][]string, error)
	// ChangedLookups gives the keys of some lookup definitions whose entries
	// changed after an op id. ok is false if they are more than limit.
	ChangedLookups(ctx context.Context, definitions []millrace.DefinitionID, after millrace.OpID, limit int) (keys []millrace.LookupKey, ok bool, err error)

	// Events lists the event definitions of the rule set in force. With any,
	// write checkpoints are custom: their numbers come from rows of a source, or
	// from clients, and never from the server.
	Events(ctx context.Context) ([]millrace.DefinitionID, error)
	// WriteCheckpoints reads the users' counters, custom ones if there are
	// events; users without one are left out.
	WriteCheckpoints(ctx context.Context, events []millrace.DefinitionID, users []string) ([]millrace.WriteCheckpoint, error)
	// AcknowledgedAfter lists the counters, custom ones if there are events, that
	// were acknowledged by checkpoints after seq. ok is false if they are more
	// than limit.
	AcknowledgedAfter(ctx context.Context, events []millrace.DefinitionID, seq int64, limit int) (acks []millrace.WriteCheckpoint, ok bool, err error)

	// Close ends the snapshot.
	Close()
}

// Open makes a Source's Snapshot method out of one that returns the concrete
// type: how a package that does not know this one satisfies Source.
func Open[S Snapshot](open func(context.Context) (S, error)) func(context.Context) (Snapshot, error) {
	return func(ctx context.Context) (Snapshot, error) {
		s, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}
