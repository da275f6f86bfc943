package inspect

import (
	"encoding/json"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/syncrules"
)

// Source is a source whose rows are read.
type Source struct {
	Name string // of the configuration, for messages
	// Tags are the connection tags of the rules that mean this source.
	Tags    []string
	Catalog *catalog.Source
}

// SimulationConfig says what to simulate.
type SimulationConfig struct {
	Rules   *syncrules.Rules
	Request syncrules.Request
	Sources []Source
	// MaxBuckets is the limit of the relay (relay.max_buckets_per_user).
	// Defaults to 10000.
	MaxBuckets int
	// Progress is told now and then how far the reading is; it must be quick.
	// It may be nil.
	Progress func(SimulationProgress)

	maxLookupResults int // of tests; 0 is the constant
}

// SimulationProgress is how far a simulation is.
type SimulationProgress struct {
	Table string // being read
	For   string // "lookups" or "rows"
	// Rows of the table that were read, and the planner's estimate of all; -1
	// where it has none.
	Rows, Estimate int64
}

// Simulation is what a user would get from the rules, given the rows the
// sources have. Lists are in a fixed order, so that two simulations can be
// compared line by line.
type Simulation struct {
	User        string                `json:"user"` // the claim sub; empty without one
	Buckets     []SimulatedBucket     `json:"buckets"`
	Definitions []SimulatedDefinition `json:"definitions"`
	Tables      []SimulatedTable      `json:"tables"`
	Lookups     []SimulatedLookup     `json:"lookups"`
	Refusals    []SimulationRefusal   `json:"refusals"`
	Problems    []SimulationProblem   `json:"problems"`
}

// SimulatedBucket is a bucket the user gets.
type SimulatedBucket struct {
	Name       string `json:"name"` // logical, without the prefix of a deployment
	Definition string `json:"definition"`
	Source     string `json:"source"` // bucket definition or stream of the file
	Priority   int    `json:"priority"`
	Rows       int64  `json:"rows"`
	Bytes      int64  `json:"bytes"` // of the rows' JSON
	// Subscriptions are the indexes of those that ask for the bucket; Default
	// says that it comes without one.
	Subscriptions []int `json:"subscriptions,omitempty"`
	Default       bool  `json:"default"`
}

// SimulatedDefinition sums up the buckets of one definition that have the same
// priority.
type SimulatedDefinition struct {
	Definition string `json:"definition"`
	Priority   int    `json:"priority"`
	Buckets    int    `json:"buckets"`
	Rows       int64  `json:"rows"`
	Bytes      int64  `json:"bytes"`
}

// SimulatedTable is a table as the client will have it.
type SimulatedTable struct {
	Table string `json:"table"`
	// Rows with different ids. Bytes is their JSON, each row once.
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
	// Copies is how many more times rows of the table are sent, because they
	// are in several of the user's buckets.
	Copies int64 `json:"copies"`
	// Sources are the source tables the rows come from.
	Sources []string `json:"sources"`
}

// SimulatedLookup is what a lookup grants for one key.
type SimulatedLookup struct {
	Definition string   `json:"definition"`
	Tables     []string `json:"tables"` // source tables with entries for the key, or that were looked at
	Key        string   `json:"key"`    // JSON array
	// Results is how many different values the lookup gives, Outputs are the
	// first of them, each a JSON array.
	Results int               `json:"results"`
	Outputs []json.RawMessage `json:"outputs"`
	// Rows are the keys of the first source rows that give them.
	Rows []string `json:"rows"`
}

// SimulationRefusal is a way to buckets that gives the user none: a parameter
// query of a bucket definition or an alternative of a stream.
type SimulationRefusal struct {
	Source string `json:"source"` // bucket definition or stream
	At     string `json:"at"`     // file:line:column
	Why    string `json:"why"`
}

// SimulationProblem is something that would keep rows from the user.
type SimulationProblem struct {
	// Object is what it is about: a table, a definition, a stream.
	Object  string `json:"object"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Rows is how many rows have the problem, Row the key of the first; 0 and
	// empty if it is not about rows.
	Rows int64  `json:"rows,omitempty"`
	Row  string `json:"row,omitempty"`
}

// Limits of a simulation.
const (
	defaultMaxBuckets = 10_000
	// maxLookupResults bounds what lookups give to all keys together.
	maxLookupResults = 1_000_000
	// maxDistinctRows bounds the rows whose ids are remembered, 8 bytes each
	// beside the map, to count each once. A device will not have that many.
	maxDistinctRows = 5_000_000
	maxProblems     = 100 // of rows, different ones
	shownOutputs    = 20  // of a lookup
)
