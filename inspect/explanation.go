package inspect

import (
	"encoding/json"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// ExplainConfig says what to explain.
type ExplainConfig struct {
	// Sidecar is the connection string of the sidecar.
	Sidecar string
	// Sources are those of the sidecar, under their names. To explain a user
	// none are needed.
	Sources []Source
	// Request is what the user's device asks with; Claims nil means that
	// nobody in particular is asked about.
	Request syncrules.Request
}

// RowExplanation says where a source row is, and why it is there or not.
type RowExplanation struct {
	Table      string        `json:"table"` // schema.name, with the source where there are several
	ID         string        `json:"id"`
	RuleSet    int           `json:"rule_set"`
	Checkpoint millrace.OpID `json:"checkpoint"`
	// Exists tells whether the source has the row now.
	Exists bool `json:"exists"`
	// Queries are the rules' queries of the table with what they make of the
	// row; empty if it does not exist.
	Queries []QueryExplanation `json:"queries"`
	// Stays are the buckets the row is in, and was in as far as is known.
	Stays []Stay `json:"stays"`
	// Errors are of definitions that cannot evaluate or store the row.
	Errors []string `json:"errors"`
	// User says what the user of the request gets of it; nil without one.
	User *UserRow `json:"user,omitempty"`
	// Notes are what else a person should know.
	Notes []string `json:"notes"`
}

// QueryExplanation says what one query of the rules makes of a row.
type QueryExplanation struct {
	Definition string `json:"definition"`
	Kind       string `json:"kind"` // bucket, lookup or event
	At         string `json:"at"`   // file:line:column
	In         bool   `json:"in"`
	// Names are the buckets the row is in by this query, the keys a lookup finds
	// it under, or the write checkpoint it is, in words.
	Names []string `json:"names"`
	// Why are the conditions that keep the row out, or let it in, with the
	// values compared; one list for each alternative.
	Why [][]string `json:"why"`
}

// Stay is the time a row is in a bucket, as the sidecar has it.
type Stay struct {
	Bucket  string        `json:"bucket"` // wire name
	Table   string        `json:"table"`  // of the client
	Row     string        `json:"row"`    // client row id
	Since   millrace.OpID `json:"since"`
	SinceAt *time.Time    `json:"since_at,omitempty"`
	Until   millrace.OpID `json:"until,omitempty"` // 0: it is there
	UntilAt *time.Time    `json:"until_at,omitempty"`
	// Ops are those that carried the row, as far as they are kept.
	Ops []StayOp `json:"ops"`
}

// StayOp is an op that carried a row.
type StayOp struct {
	OpID millrace.OpID   `json:"op_id"`
	Kind string          `json:"kind"`
	At   *time.Time      `json:"at"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Here tells whether the row is in a bucket now.
func (s *Stay) Here() bool { return s.Until == 0 }

// UserRow says whether a user gets a row.
type UserRow struct {
	User string `json:"user"`
	Gets bool   `json:"gets"`
	// Buckets are those the row is in, with why the user has them or not.
	Buckets []GrantExplanation `json:"buckets"`
	// Sessions are the user's live connections.
	Sessions []SessionExplanation `json:"sessions"`
}

// GrantExplanation says why a user has a bucket or not.
type GrantExplanation struct {
	Bucket     string   `json:"bucket"` // logical name
	Definition string   `json:"definition"`
	Granted    bool     `json:"granted"`
	Why        []string `json:"why"`
}

// SessionExplanation is a live connection of a user.
type SessionExplanation struct {
	ClientID     string        `json:"client_id"`
	Transport    string        `json:"transport"`
	Agent        string        `json:"agent"`
	Since        time.Time     `json:"since"`
	Buckets      int           `json:"buckets"`
	Sent         millrace.OpID `json:"sent"`         // checkpoint completed last
	Acknowledged millrace.OpID `json:"acknowledged"` // 0 if the client does not tell
	// Has says of a row whether the session was sent its newest op.
	Has bool `json:"has"`
}

// UserExplanation says what a user gets, and why.
type UserExplanation struct {
	User        string               `json:"user"`
	RuleSet     int                  `json:"rule_set"`
	Checkpoint  millrace.OpID        `json:"checkpoint"`
	Buckets     []UserBucket         `json:"buckets"`
	Definitions []UserDefinition     `json:"definitions"`
	Refusals    []SimulationRefusal  `json:"refusals"`
	Errors      []string             `json:"errors"`
	Sessions    []SessionExplanation `json:"sessions"`
}

// UserDefinition sums up the buckets of a definition that a user has.
type UserDefinition struct {
	Definition string `json:"definition"`
	Buckets    int    `json:"buckets"`
	Rows       int64  `json:"rows"`
	Bytes      int64  `json:"bytes"`
}

// UserBucket is a bucket a user has.
type UserBucket struct {
	Bucket     string        `json:"bucket"` // wire name
	Definition string        `json:"definition"`
	Priority   int           `json:"priority"`
	Rows       int64         `json:"rows"`
	Ops        int64         `json:"ops"`
	Bytes      int64         `json:"bytes"` // of data of its ops
	LastOp     millrace.OpID `json:"last_op"`
	Why        []string      `json:"why"`
}
