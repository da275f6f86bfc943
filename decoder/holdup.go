package decoder

import (
	"fmt"

	"github.com/millrace/millrace/decoder/walstream"
)

// A transaction that is larger than a batch goes to the sidecar in pieces of one
// flush. The other sources are read on meanwhile, and what they bring is merged
// after it: a flush is never a part of a transaction, and the order of history
// is the order in which transactions came in whole.

// holdUp shows what every source waits for, after a piece.
func (a *appender) holdUp(s *source, tx *walstream.Tx, evaluated int) {
	text := fmt.Sprintf("transaction %d of source %s, of which %d of %d changes are written", tx.XID, s.config.Name, evaluated, tx.Count)
	for _, other := range a.sources {
		if other.session != nil {
			other.status.heldUp(text)
		}
	}
}

// goOn shows that nothing is waited for any more, if anything was since so many
// batches had been handed over.
func (a *appender) goOn(handed int) {
	if a.handed == handed {
		return
	}
	for _, s := range a.sources {
		s.status.heldUp("")
	}
}
