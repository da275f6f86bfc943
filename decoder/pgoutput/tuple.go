package pgoutput

// Kinds of a column's value in a tuple.
const (
	Null      byte = 'n' // SQL null, or not told in an OldKey tuple
	Unchanged byte = 'u' // out-of-line value that the update did not touch
	Text      byte = 't' // in text format
	Binary    byte = 'b' // in binary format
)

// Tuple is a row as the stream tells it: a view of the message it was parsed
// from. It is meant to be reused for one message after the other; after the
// first few rows parsing does not allocate. The zero Tuple has no columns.
type Tuple struct {
	columns []column
}

type column struct {
	kind byte
	data []byte
}

// Len is the number of columns.
func (t *Tuple) Len() int { return len(t.columns) }

// Kind tells what is known of column i: Null, Unchanged, Text or Binary.
func (t *Tuple) Kind(i int) byte { return t.columns[i].kind }

// Bytes is the value of column i if its kind is Text or Binary, else nil. It
// points into the message.
func (t *Tuple) Bytes(i int) []byte { return t.columns[i].data }

// Reset empties the tuple and drops its references to the message.
func (t *Tuple) Reset() {
	clear(t.columns[:cap(t.columns)])
	t.columns = t.columns[:0]
}

// AppendColumn adds a column, for tuples that come from somewhere else than
// the stream (a copy of the table). data is kept, not copied.
func (t *Tuple) AppendColumn(kind byte, data []byte) {
	t.columns = append(t.columns, column{kind, data})
}
