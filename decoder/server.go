package decoder

import (
	"context"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

// server is a source by ordinary SQL.
type server interface {
	probe
	Close()
	Head(ctx context.Context) (millrace.LSN, error)
	Inspect(ctx context.Context, c *SourceConfig, patterns []syncrules.TablePattern) (*inspection, error)
	InspectSlot(ctx context.Context, name string) (*slotState, error)
	CreateSlot(ctx context.Context, name string, waits func(string)) (millrace.LSN, string, error)
	DropSlot(ctx context.Context, name string) error
	TakeSlot(ctx context.Context, name string, pid uint32) error
}

// chunkReader reads chunks of tables, each in a transaction of its own.
type chunkReader interface {
	// ReadChunk fills in the result for its chunk.
	ReadChunk(ctx context.Context, t *millrace.SourceTable, r *chunkResult) error
	Close()
}

// inspection is what a source looks like when a session begins.
type inspection struct {
	SystemID       string
	Timeline       int32
	Database       string
	PublicationOID uint32
	Tables         []foundTable
	Types          pgvalue.Types
}

// foundTable is a published table that the rules read.
type foundTable struct {
	Saved    millrace.SourceTable
	Bounded  bool
	Estimate int64
}

// slotState is a replication slot.
type slotState struct {
	Confirmed millrace.LSN
	ActivePID uint32
	Status    string
	Lost      bool
}
