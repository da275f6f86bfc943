package decoder

import (
	"context"

	"github.com/millrace/millrace"
)

// Sink is the sidecar as the appender sees it during one term of leadership.
// It is used by one goroutine at a time, in the order of the op ids it gives.
//
// Every method fails once leadership is lost (another decoder took the fence):
// the term is over then, and nothing of the open flush becomes visible.
type Sink interface {
	// Apply compares the changes, in order, with what their rows had before,
	// numbers the resulting ops and lookup changes, and writes them into the
	// open sidecar transaction, beginning one if none is open. The work of
	// several source transactions may share a flush; one of them may take
	// several calls. Nothing is visible before Commit. The changes may be
	// reused once Apply has returned.
	Apply(ctx context.Context, changes []millrace.Change) error
	// Wide returns the kept wide values of the rows as of the changes applied
	// so far, the open transaction included; nil where nothing is kept. It may
	// return those of the first rows only, at least of one, so that their values
	// take a bounded amount of memory.
	Wide(ctx context.Context, rows []millrace.RowRef) ([][]byte, error)
	// Commit writes the flush, moves the head under the fence and commits,
	// synchronously. A flush without changes is a position-only checkpoint.
	// After an error nothing of the flush is visible and Rollback has
	// happened, with one exception: if the connection broke during COMMIT the
	// outcome is unknown, and the term must end and be begun again from State.
	Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error)
	// Rollback drops the open transaction and everything cached from it.
	Rollback(ctx context.Context) error
}

// WriteRequests is the part of the sidecar that remembers which devices wait to
// see what they wrote. A sidecar need not have it.
type WriteRequests interface {
	// WatchWriteRequests gives take the requests that no checkpoint contains,
	// soon after they were stored, until ctx ends. take tells positions that
	// the sources had reached after that; they are noted for people to see.
	// Requests that take fails for are given again later. It uses a connection
	// of its own, and waits while it has none.
	WatchWriteRequests(ctx context.Context, take func(context.Context, []millrace.WriteRequest) ([]millrace.SourcePosition, error)) error
}

// Registry is the part of the sidecar that remembers sources, tables and rule
// sets. Its writes are transactions of their own under the same fence, made
// while no flush is open. Not for concurrent use with Sink, but for Report and
// WatchRules.
type Registry interface {
	// State reads everything a new term starts from.
	State(ctx context.Context) (*millrace.DecoderState, error)
	// SaveSource stores a source by name, giving it an ID if it has none.
	SaveSource(ctx context.Context, s *millrace.Source) error
	// SaveTable stores a source table, giving it an ID if it has none.
	SaveTable(ctx context.Context, t *millrace.SourceTable) error
	// ForgetTables notes that no rules use the tables any more, but for those
	// that a definition which is fed still has rows of, and gives the ones it
	// noted. State does not give them again; a table that is used again is a
	// new one.
	ForgetTables(ctx context.Context, tables []millrace.TableID) ([]millrace.TableID, error)
	// Deploy stores a rule set in state building, in place of one that is being
	// built: that one is abandoned, and its copies go on for the definitions
	// that both have. Definitions whose hash is known keep their ID, wire prefix
	// and history; the others are created with their partitions. The given
	// Definitions carry Kind, Key, Name and Hash.
	Deploy(ctx context.Context, content string, defs []millrace.Definition) (*millrace.RuleSet, error)
	// RestartHistory puts a source of the same name in the place of one whose
	// history is lost, and stores the rule set that takes the place of what it
	// was in. State is to be read anew after it.
	RestartHistory(ctx context.Context, r millrace.HistoryRestart) error
	// RemoveSource ends a source that nothing which is fed has rows of, with its
	// tables. Its name is free then: a source that takes it is another one.
	RemoveSource(ctx context.Context, id millrace.SourceID) error
	// KeepSource forgets that somebody asked for the removal of a source.
	KeepSource(ctx context.Context, id millrace.SourceID) error
	// Deployed tells whether a content was ever deployed.
	Deployed(ctx context.Context, content string) (bool, error)
	// RuleRequests lists what people asked for and nobody answered, oldest
	// first.
	RuleRequests(ctx context.Context) ([]millrace.RuleRequest, error)
	// AnswerRules carries out an answer and stores it, in one transaction. It
	// gives the rule set that was deployed; nil if none was.
	AnswerRules(ctx context.Context, a millrace.RuleAnswer) (*millrace.RuleSet, error)
	// RetireRules ends the replaced rule sets that have been kept long enough,
	// and the definitions that no other set has: their history is dropped soon
	// after. It is called while nothing is fed, and the sets it gives back must
	// not be fed any more.
	RetireRules(ctx context.Context) ([]millrace.RuleSetID, error)
	// WatchRules calls changed when there is a request to answer, a rule set
	// to retire or a source to remove, soon after, and again as long as there is, until ctx ends. It
	// uses a connection of its own, and waits while it has none.
	WatchRules(ctx context.Context, changed func()) error
	// Report replaces what the status views show of a source. It may be called
	// at any time, by any goroutine, and uses a connection of its own.
	Report(ctx context.Context, r millrace.SourceReport) error
}
