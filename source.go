package millrace

import "time"

// SourceID is the sidecar's number for a source Postgres.
type SourceID int16

// TableID is the sidecar's number for a source table. A table keeps it when it
// is renamed, made again under its name, or changes its identity: what clients
// have of it is then replaced by what is in it now.
type TableID int32

// Source is what the sidecar knows of a source Postgres. All positions belong
// to (SystemID, Timeline, Database); positions of another identity never
// compare.
type Source struct {
	ID             SourceID
	Name           string // connection tag
	SystemID       string // pg_control_system().system_identifier
	Timeline       int32
	Database       string
	Slot           string
	Publication    string
	PublicationOID uint32
	// ConsistentPoint is where the slot began; 0 while the slot is recorded
	// but not known to exist.
	ConsistentPoint LSN
	// Exported is the text of the snapshot exported when the slot was
	// created ("xmin:xmax:xip"): it tells which transactions the slot will
	// never deliver.
	Exported string
	// Durable is the end LSN up to which everything is in the sidecar.
	Durable LSN
	// PlainIDs: its rows may go to clients without a subkey, since no other
	// source with one of its tags does so. Given once, when the source is
	// registered.
	PlainIDs bool
	// RemovalRequested: somebody asked for its rows to be removed, since it is not
	// configured any more.
	RemovalRequested bool
	// LostAt is when its history was found to be lost; zero while it is
	// followed. Its place was taken by a source of the name Was, and its rows
	// stay in the definitions they are in. One that was removed is lost too: it has
	// no rows, and the name Was is free.
	LostAt time.Time
	Was    string
}

// HistoryRestart begins a new history of a source whose old one is lost: what
// the definitions have of it stays as it is, and is served, until a rule set of
// new definitions takes their place.
type HistoryRestart struct {
	Source SourceID // the one that is lost
	Reason string   // in words
	// Restored: the sidecar went back in time, so that what clients hold may be
	// ahead of it. Every bucket gets a new name towards clients, and the
	// counter of op ids jumps.
	Restored bool
	// Lost are the definitions that read the source, of all rule sets.
	Lost []DefinitionID
	// Content and Definitions are the rule set to build; what is not lost keeps
	// its history.
	Content     string
	Definitions []Definition
}

// Identity says which columns identify a row of a source table.
type Identity string

// Replica identities. A FULL table with a primary key is keyed by it.
const (
	IdentityDefault Identity = "default"
	IdentityIndex   Identity = "index"
	IdentityFull    Identity = "full"
	IdentityNothing Identity = "nothing"
)

// Unique tells whether the source allows no two rows with one row key, not
// even for the length of a transaction.
func (i Identity) Unique() bool { return i == IdentityDefault || i == IdentityIndex }

// SourceTable is a table the rules use, as last seen on the source. One without
// Columns has to be copied before anything of its stream counts; one without
// OID is not there any more.
type SourceTable struct {
	ID         TableID
	Source     SourceID
	OID        uint32
	Schema     string
	Name       string
	Identity   Identity
	KeyColumns []string
	Columns    []SourceColumn
	Member     uint32 // oid of its entry in the publication; 0 if there is none
	Filter     string // the publication's row filter, SQL
}

// SourceColumn is a published column.
type SourceColumn struct {
	Name    string `json:"name"`
	TypeOID uint32 `json:"type_oid"`
	Type    string `json:"type"` // format_type() text
	// Number is the attribute number: another one under the same name is
	// another column. 0 if it is not known.
	Number int16 `json:"number,omitempty"`
	// Rewrites counts how often its values became others without a row being
	// told, as by a change of its type. Long values kept before are not its any
	// more.
	Rewrites int `json:"rewrites,omitempty"`
}

// SchemaChange is a change of a source's tables, or of what the rules can read
// of them, as it was noticed.
type SchemaChange struct {
	Source SourceID
	Object string // table (schema.name) or other object
	Change string // what happened, in words
	Action string // what was done about it or what it needs, in words
	Code   string // MR1014, …, where a person must act; else empty
	Cure   string // the exact SQL or setting; empty if nobody must act
	// Copy is the copy that it caused; 0 for none. In a flush it is filled in
	// from CopyOf, which points to one of the flush's copies.
	Copy   CopyID
	CopyOf *Copy
}

// Recopy is a copy of a table that a change of the table caused.
type Recopy struct {
	Table  TableID
	Change string // as in SchemaChange
	At     time.Time
}

// RecopyWindow is how far back recopies are known.
const RecopyWindow = time.Hour

// CopyID numbers copies of tables.
type CopyID int64

// CopyState is where a copy of a table stands.
type CopyState string

// The states, in order.
const (
	CopyWaiting CopyState = "waiting" // for its entry condition
	CopyRunning CopyState = "running"
	CopyDone    CopyState = "done" // every page merged, re-read list empty
)

// Copy is one copying of a source table, by the exact chunk: into definitions
// that are being built, or into a shadow that replaces the table's part of
// definitions that have it already. It is stored with the flush that merges a chunk, so that
// a crash resumes at the cursor.
type Copy struct {
	ID          CopyID // 0 until stored for the first time
	RuleSet     RuleSetID
	Table       TableID
	Definitions []DefinitionID
	Shadow      bool
	// Since is where the source stood when a shadow was registered. What was
	// committed up to there is in the rows that the copy reads, and is not taken
	// from the stream. 0: all is.
	Since    LSN
	State    CopyState
	Filenode uint32 // relfilenode the cursor belongs to; 0 until planned
	EndPage  uint32 // first page that need not be read
	Cursor   uint32 // first page not merged yet
	Rows     int64  // rows merged
	Estimate int64  // rows expected, -1 unknown
	// WaitFor lists transactions that must be visible before the copy may be
	// planned; Exported sources are kept in Source.
	WaitFor []uint64
	// StartedAt and DoneAt are zero until known.
	StartedAt, DoneAt time.Time
}

// SourceReport is the present condition of a source, for the status views. It
// is a description for people, replaced as a whole; nothing depends on it.
type SourceReport struct {
	Source    SourceID
	Received  LSN       // end of the newest WAL received
	Applied   LSN       // contained in the newest checkpoint
	Confirmed LSN       // told to the slot
	Head      LSN       // the source's insert position when last asked
	HeadAt    time.Time // when that was
	Retained  int64     // bytes of WAL the slot holds back, -1 unknown
	SlotState string    // wal_status of the slot
	Restart   LSN       // restart_lsn of the slot, 0 unknown
	SafeWAL   int64     // bytes of WAL until the slot is in danger, -1 no limit or unknown
	WALRate   int64     // bytes of WAL in an hour, -1 unknown
	// Findings stop nothing but should be looked after, each with its code.
	Findings []string
	// WaitingFor says in words what keeps the source from going on, with the
	// object and the process that is waited for; empty when nothing does.
	WaitingFor string
	// Holds is the rule set being built that cannot come into force before this
	// source has copied what it needs; 0 for none.
	Holds RuleSetID
	// ErrorCode (MR1003, …) and Error describe the last failure; both empty
	// once progress was made.
	ErrorCode, Error string
}
