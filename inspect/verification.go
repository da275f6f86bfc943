package inspect

import (
	"encoding/json"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// VerifyConfig says what to verify.
type VerifyConfig struct {
	// Sidecar is the connection string of the sidecar.
	Sidecar string
	// Sources are those of the sidecar, under their names.
	Sources []Source
	// Bucket, if not empty, is the one bucket to verify: its wire name or its
	// logical name.
	Bucket string
	// Sample is the share of buckets to verify, chosen by name; 0 and 1 mean
	// all.
	Sample float64
	// Wait bounds the time for the sidecar to reach what was read of the
	// sources. Defaults to 2 minutes.
	Wait time.Duration
	// Progress is told now and then how far it is; it may be nil.
	Progress func(SimulationProgress)
}

// Verification is the outcome of a comparison of buckets with the sources.
type Verification struct {
	RuleSet    int           `json:"rule_set"`
	Checkpoint millrace.OpID `json:"checkpoint"` // at which the last comparison was made
	Buckets    int64         `json:"buckets"`    // compared
	Rows       int64         `json:"rows"`       // of the sources' rows in these buckets
	// Excepted are rows that cannot be synced and are listed in row_errors.
	Excepted int64 `json:"excepted"`
	// Differing is how many buckets differ. Findings are the differences, at
	// most 1000; More tells that there are others.
	Differing int                 `json:"differing_buckets"`
	Findings  []Difference        `json:"findings"`
	More      bool                `json:"more"`
	Problems  []SimulationProblem `json:"problems"` // of tables and rows; never a finding
	// Unsettled are rows that changed again before every look, so that nothing
	// can be said of them but that they are synced: no finding.
	Unsettled []Difference `json:"unsettled"`
}

// Equal tells whether there is no finding.
func (v *Verification) Equal() bool { return v.Differing == 0 }

// Difference is a row of which a bucket and the source do not agree.
type Difference struct {
	Bucket string `json:"bucket"` // wire name; logical if the sidecar has no such bucket
	Table  string `json:"table"`  // of the client
	Row    string `json:"row"`    // client row id
	// Kind is "missing" (the rules give the row, the bucket does not have it),
	// "extra" (the bucket has it, the rules do not give it) or "different".
	Kind string `json:"kind"`
	// OpID is the op that put what the bucket has; 0 for a missing row.
	OpID millrace.OpID `json:"op_id,omitempty"`
	// Source is the source table of what the rules give, Key its row key;
	// empty for an extra row.
	Source string `json:"source,omitempty"`
	Key    string `json:"key,omitempty"`
	// Want and Have are the data of both, absent where there is none.
	Want json.RawMessage `json:"want,omitempty"`
	Have json.RawMessage `json:"have,omitempty"`
}

// Limits of a verification.
const (
	maxVerifiedBuckets = 5_000_000 // about 150 bytes each
	maxLookedInto      = 1000      // buckets whose rows are compared one by one
	maxLookedRows      = 2_000_000 // rows of these, about 100 bytes each
	maxFindings        = 1000
	maxLooks           = 12
	defaultVerifyWait  = 2 * time.Minute
)

// served is the rule set in force on the sidecar, compiled.
type served struct {
	id    int32
	rules *syncrules.Rules
	// definitions has the sidecar's number of each definition of the rules, 0
	// for lookups.
	definitions []millrace.DefinitionID
	prefixes    []string // wire prefixes, alike
}
