package millrace

import (
	"errors"
	"time"
)

// The types below are what is read of the sidecar to serve clients. All of it
// is read in snapshots: one snapshot shows one committed checkpoint.

// Head is the checkpoint a snapshot of the sidecar shows.
type Head struct {
	Checkpoint
	// RuleSet is the set in force at the checkpoint, since ActiveFrom; 0 if no
	// set was ever activated.
	RuleSet    RuleSetID
	ActiveFrom OpID
	// Replica is set if the snapshot is of a streaming replica, which may be
	// behind what a client was told elsewhere.
	Replica bool
	// Renewed counts how often all buckets got new names towards clients.
	Renewed int64
}

// Changes sums up the checkpoints after one sequence number.
type Changes struct {
	// Buckets are the changed ones, in no order, each once. Not to be used if
	// BucketsUnknown: then any may have changed.
	Buckets        []BucketID
	BucketsUnknown bool
	// Lookups are the lookup definitions with changed entries.
	Lookups        []DefinitionID
	LookupsUnknown bool
	// Published is the commit time on the source of the newest transaction
	// contained; zero if unknown.
	Published time.Time
}

// BucketName names a bucket that may have no history yet.
type BucketName struct {
	Definition DefinitionID
	Name       string // logical, without wire prefix
}

// BucketTotals is a bucket at a checkpoint.
type BucketTotals struct {
	ID       BucketID // 0 if the bucket never had an op
	Last     OpID     // newest op
	Ops      int64
	Checksum Checksum
	// Floor is how far compaction has rewritten the bucket: it may be served
	// at checkpoint C only if Floor ≤ C.
	Floor OpID
}

// NamedBucket is a bucket with its name.
type NamedBucket struct {
	ID BucketID
	BucketName
}

// BucketRange asks for the ops of a bucket after a position.
type BucketRange struct {
	Definition DefinitionID
	Bucket     BucketID
	After      OpID
}

// LookupKey is what is asked of a lookup definition; see Lookup.
type LookupKey struct {
	Definition DefinitionID
	Key        string
}

// WriteCheckpoint is the counter of one user's device. User is the token's
// subject, with "/<client id>" if the client has one.
type WriteCheckpoint struct {
	User string
	// ID is the newest number asked for; numbers of one user only grow.
	ID int64
	// Acknowledged is the newest number that a checkpoint contains, with the
	// sequence number of that checkpoint; both 0 if there is none.
	Acknowledged int64
	Seq          int64
}

// WriteRequest asks for a write checkpoint: the number to reach, or 0 for the
// next one.
type WriteRequest struct {
	User string
	ID   int64
}

// RelayReport describes a running relay and its sessions for the views relays
// and sessions. It replaces the one before.
type RelayReport struct {
	ID        string // random, one per process
	Name      string // host and process, for people
	Listen    string
	StartedAt time.Time
	OpID      OpID        // newest published
	RuleSets  []RuleSetID // in use by its sessions
	Sessions  []SessionReport
	// Connections counts sessions also beyond those listed.
	Connections int
}

// SessionReport is a live client.
type SessionReport struct {
	ID           int64 // within the relay
	User         string
	ClientID     string
	Transport    string // "http" or "ws"
	Agent        string // SDK and platform, as the client tells
	Buckets      int
	Sent         OpID // checkpoint completed last
	Sending      OpID // checkpoint being sent, 0 if none is
	Acknowledged OpID // applied by the client, 0 if it does not tell
	Bytes        int64
	Since        time.Time
}

// ErrUnavailable is in the chain of errors of a sidecar that is out of reach for
// now; asking again later may succeed.
var ErrUnavailable = errors.New("the sidecar is not reachable")
