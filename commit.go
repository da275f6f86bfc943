package millrace

import "time"

// Scope is a source table and the definitions a change of it is compared
// with. For a change from the stream these are all definitions the table
// feeds, served or being built; for a row of a copy only those being built.
// Scopes are shared between changes and never modified.
type Scope struct {
	Table TableID
	// Buckets, Lookups and Events are the definitions of each kind, ascending.
	Buckets []DefinitionID
	Lookups []DefinitionID
	Events  []DefinitionID
	// Shadow is the copy in whose shadow the rows are kept, unseen, until a
	// ChangeReplace; 0 for rows that are compared with history. A shadow holds
	// the last upsert of each row and numbers nothing.
	Shadow CopyID
}

// ChangeKind is what happened to a source row.
type ChangeKind uint8

// The kinds of changes.
const (
	// ChangeUpsert: the row is now exactly what Outputs and Lookups say, in
	// every definition of the scope; whatever else it had there ends.
	ChangeUpsert ChangeKind = iota + 1
	// ChangeDelete: the row has nothing any more in the definitions of the scope.
	ChangeDelete
	// ChangeTruncate: no row of the table has anything any more in the
	// definitions of the scope, or in the shadow. Key is empty.
	ChangeTruncate
	// ChangeReplace: in the definitions of the scope the table has from now on
	// exactly what the scope's shadow holds, which ends with it. Rows that are
	// equal take no op. Key is empty.
	ChangeReplace
)

// Change is one evaluated change of a source row. A changed row key is a
// ChangeDelete of the old key followed by a ChangeUpsert of the new.
//
// The strings may share one buffer that the decoder reuses once Apply has
// returned: who keeps one longer copies it.
type Change struct {
	Scope *Scope
	Kind  ChangeKind
	Key   string // row key, see AppendRowKey
	// New says of an upsert that the row has nothing yet in any definition of
	// the scope, so that the sink need not look. A sink that finds otherwise
	// fails, and does not believe it any more.
	New     bool
	Outputs []Output
	Lookups []Lookup
	// Marks are the custom write checkpoints the row carries, of an upsert.
	Marks []WriteMark
	// Errors says which definitions could not evaluate the row; it has no
	// output there.
	Errors []RowError
	// Wide tells what becomes of the kept values of the row's toastable
	// columns (row_wide). An upsert with a scope of no definitions is about
	// nothing else.
	Wide       WideAction
	WideValues []byte // opaque to the store; set if Wide is WideStore
}

// Output is one row in one bucket.
type Output struct {
	Definition DefinitionID
	Bucket     string // logical name, without wire prefix
	Type       string // output table
	RowID      string // client row id
	Subkey     string // empty where the row key is the row id, see AppendSubkey
	Data       string // finished JSON object
}

// WriteMark is a custom write checkpoint, written by the app's backend as a row
// of a source: the device may show server data again once a checkpoint contains
// the row's transaction and all that its source committed before. It belongs to
// the checkpoint its flush makes, numbers no op, and stays when the row is
// changed or deleted; the greatest number of a device holds.
type WriteMark struct {
	Definition DefinitionID
	User       string // subject, with "/<client id>" if there is one
	ID         int64  // above 0, at most MaxWriteCheckpoint
}

// MaxWriteCheckpoint is the greatest write checkpoint: clients use the next
// number for "none yet". MaxWriteUserBytes bounds the name of its device.
const (
	MaxWriteCheckpoint = 1<<63 - 2
	MaxWriteUserBytes  = 2048
)

// RowError is a row that a definition could not evaluate.
type RowError struct {
	Definition DefinitionID
	Message    string // never holds the row's values in full; at most 500 bytes
}

// WideAction is what to do with the kept wide values of a row.
type WideAction uint8

// The actions. The kept values of a deleted or truncated row always go.
const (
	WideKeep  WideAction = iota // leave as it is
	WideStore                   // replace by WideValues
	WideDrop                    // there are none, or those kept are too old
)

// RowRef names a source row.
type RowRef struct {
	Table TableID
	Key   string
}

// Flush closes a sidecar transaction: what becomes durable together with the
// changes applied since the last one. Every committed flush is a checkpoint.
type Flush struct {
	// Positions are the sources that moved. They only grow.
	Positions []SourcePosition
	// Copies are stored as given; new ones get their ID here. A new shadow
	// copy also ends the kept wide values of its table.
	Copies []*Copy
	// Tables are descriptions of source tables, stored as given. They have IDs.
	Tables []*SourceTable
	// SchemaChanges are noted for people to see.
	SchemaChanges []SchemaChange
	// RereadAdd and RereadDone change the persisted lists of rows that must be
	// read from the source again.
	RereadAdd, RereadDone []Reread
	// Activate puts a rule set in force with a number of its own; 0 for none.
	// The flush then holds nothing else that clients see.
	Activate RuleSetID
	// Acknowledge are write checkpoints that this flush contains: its positions
	// have reached what the sources had committed when they were requested.
	Acknowledge []WriteRequest
	// Published is the commit time on the source of the newest transaction
	// contained; zero if there is none.
	Published time.Time
}

// SourcePosition is how far a source's transactions are contained.
type SourcePosition struct {
	Source SourceID
	LSN    LSN // end LSN: where reading resumes
}

// Reread is a row of a table being copied whose long values the stream did
// not tell.
type Reread struct {
	Copy CopyID
	Key  string
}

// Checkpoint is a committed state of the sidecar that clients may be told of.
type Checkpoint struct {
	Seq  int64 // grows by one with every flush
	OpID OpID  // every op at or below is committed
	At   time.Time
}

// DecoderState is what a new leader needs to go on where the last one stopped.
type DecoderState struct {
	Head        Checkpoint
	Sources     []Source
	Tables      []SourceTable
	RuleSets    []RuleSet // building and active and retired ones still fed
	Copies      []Copy    // not done, and done ones of rule sets still building
	Rereads     []Reread
	Definitions []Definition // of the rule sets above
	Recopies    []Recopy     // of RecopyWindow, oldest first
}
