package pgoutput

import (
	"time"

	"github.com/millrace/millrace"
)

// Kind is the first byte of a message.
type Kind byte

// The kinds of protocol version 1.
const (
	KindBegin    Kind = 'B'
	KindCommit   Kind = 'C'
	KindOrigin   Kind = 'O'
	KindRelation Kind = 'R'
	KindType     Kind = 'Y'
	KindInsert   Kind = 'I'
	KindUpdate   Kind = 'U'
	KindDelete   Kind = 'D'
	KindTruncate Kind = 'T'
	KindMessage  Kind = 'M'
)

// String gives the name of the kind.
func (k Kind) String() string {
	switch k {
	case KindBegin:
		return "Begin"
	case KindCommit:
		return "Commit"
	case KindOrigin:
		return "Origin"
	case KindRelation:
		return "Relation"
	case KindType:
		return "Type"
	case KindInsert:
		return "Insert"
	case KindUpdate:
		return "Update"
	case KindDelete:
		return "Delete"
	case KindTruncate:
		return "Truncate"
	case KindMessage:
		return "Message"
	}
	return "unknown"
}

// Begin starts a transaction.
type Begin struct {
	FinalLSN   millrace.LSN // the commit LSN: start of the commit record
	CommitTime time.Time
	XID        uint32 // top-level transaction id, low 32 bits
}

// Commit ends a transaction.
type Commit struct {
	CommitLSN  millrace.LSN
	EndLSN     millrace.LSN // end of the commit record: what is confirmed and resumed from
	CommitTime time.Time
}

// Origin names the replication origin a transaction came from.
type Origin struct {
	CommitLSN millrace.LSN
	Name      string
}

// Relation describes a table. The server sends it before the first change of
// the table on a connection and again after an invalidation.
type Relation struct {
	OID      uint32
	Schema   string // "pg_catalog" where the wire has an empty name
	Name     string
	Identity byte // relreplident: 'd' default, 'i' index, 'f' full, 'n' nothing
	Columns  []RelationColumn
}

// RelationColumn is a published column, in attribute order.
type RelationColumn struct {
	Key     bool // part of the replica identity
	Name    string
	TypeOID uint32
	TypMod  int32
}

// Type names a type that is not built in. For a domain it is the base type
// that is named (P15).
type Type struct {
	OID    uint32
	Schema string // "pg_catalog" where the wire has an empty name
	Name   string
}

// Identity kinds of an old tuple.
const (
	OldNone byte = 0   // no old tuple: the key did not change
	OldKey  byte = 'K' // only key columns are told, all others come as null
	OldFull byte = 'O' // replica identity full: the whole old row
)

// Insert is a new row.
type Insert struct {
	Relation uint32
	New      Tuple
}

// Update is a changed row.
type Update struct {
	Relation uint32
	OldKind  byte
	Old      Tuple // empty if OldKind is OldNone
	New      Tuple
}

// Delete is a removed row.
type Delete struct {
	Relation uint32
	OldKind  byte // OldKey or OldFull
	Old      Tuple
}

// Truncate empties tables, those reached by CASCADE included.
type Truncate struct {
	Cascade         bool
	RestartIdentity bool
	Relations       []uint32
}

// Message is a logical message (pg_logical_emit_message).
type Message struct {
	Transactional bool
	LSN           millrace.LSN
	Prefix        string
	Content       []byte // points into the message
}

// postgresEpoch is 2000-01-01 in microseconds since 1970.
const postgresEpoch = 946684800000000

func timestamp(us int64) time.Time {
	// Wrapping addition: a hostile value gives a strange time, not a panic.
	return time.UnixMicro(us + postgresEpoch).UTC()
}
