package store

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// Rows said to be new are not looked for in row_state. That is proved when they
// are written: a row state that exists violates the primary key, and the flush
// fails with nothing of it visible. It can come to that if rows were deleted
// while the source's publication left their table out.

// distrustNew makes all writers of this process look for every row, once
// Change.New was wrong. The changes come again in the next term.
var distrustNew atomic.Bool

// errNotNew says that Change.New was wrong.
var errNotNew = errors.New("a row that its source calls new is there already: its table may have been out of the publication for a while; " +
	"from now on this process looks for every row")

// provable tells whether the row need not be looked for in row_state: each
// bucket definition gets a row state, and so the proof. Lookups are looked for
// in any case, since they have no key by row to prove it.
func provable(c *millrace.Change) bool {
	if !c.New || c.Kind != millrace.ChangeUpsert || len(c.Scope.Buckets) == 0 {
		return false
	}
	for _, d := range c.Scope.Buckets {
		has := false
		for i := range c.Outputs {
			has = has || c.Outputs[i].Definition == d && unstorable(&c.Outputs[i]) == ""
		}
		if !has {
			return false
		}
	}
	return true
}

// notNew stops believing Change.New.
func (w *Writer) notNew() error {
	if !distrustNew.Swap(true) {
		w.opts.Logger.Warn(errNotNew.Error(), "decoder", w.name)
	}
	return errNotNew
}

// stateFailure is failure for a COPY into row_state.
func (w *Writer) stateFailure(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" && strings.HasPrefix(pg.TableName, "row_state_") {
		return fmt.Errorf("write row states: %w: %w", w.notNew(), err)
	}
	return err
}
