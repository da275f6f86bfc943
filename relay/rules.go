package relay

import (
	"github.com/millrace/millrace/protocol"
)

// Rules is one compiled rule set, safe for concurrent use. Like all of rule
// evaluation it does no I/O: what needs lookups is asked for and fed.
type Rules interface {
	// Definitions gives the keys of the definitions (Definition.Key), bucket
	// and lookup ones, in the order that Definition indexes refer to.
	Definitions() []string
	// Resolve begins to resolve a request to buckets.
	Resolve(RulesRequest) Resolution
}

// RulesRequest is what the buckets of a client are resolved from.
type RulesRequest struct {
	Claims     []byte // verified token payload, a JSON object
	Parameters []byte // of the connection, a JSON object or nil; unverified
	Streams    protocol.StreamSelection
}

// Resolution is the resolving of one request. Not for concurrent use.
type Resolution interface {
	// Pending lists the lookups whose results are needed next; none once the
	// result is known.
	Pending() []RulesLookup
	// Feed gives the outputs of each pending lookup, in order.
	Feed(results [][]string)
	// Result gives the buckets, each once, and the streams that the reasons
	// refer to. A request that fails in one stream has that stream's issue;
	// an error is for the request as a whole.
	Result() (Resolved, error)
}

// RulesLookup is a key of a lookup definition.
type RulesLookup struct {
	Definition int // index into Rules.Definitions
	Key        string
}

// Resolved is what a request resolves to.
type Resolved struct {
	Buckets []ResolvedBucket
	Streams []protocol.Stream
}

// ResolvedBucket is one bucket a client gets.
type ResolvedBucket struct {
	Definition int    // index into Rules.Definitions
	Name       string // logical, without wire prefix
	Priority   int
	Reasons    []protocol.Reason
}
