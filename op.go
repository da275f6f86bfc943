package millrace

import (
	"fmt"
	"strconv"
)

// OpID numbers everything that changes what a client may see: ops, lookup
// changes, activations of rule sets. There is one sequence per sidecar, it
// strictly increases in commit order and is never reused (I1). Zero is before
// the first. On the wire it is a decimal string.
type OpID int64

// String gives the wire form: decimal digits.
func (id OpID) String() string { return strconv.FormatInt(int64(id), 10) }

// ParseOpID reads the wire form. Negative numbers are refused.
func ParseOpID(s string) (OpID, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse op id %q: %w", s, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("parse op id %q: negative", s)
	}
	return OpID(n), nil
}

// OpKind is what an op does to a bucket.
type OpKind uint8

// The kinds, with the numbers the sidecar stores.
const (
	OpPut    OpKind = 1 // the row has this data now
	OpRemove OpKind = 2 // the row left the bucket
	OpMove   OpKind = 3 // superseded, kept for its checksum; made by compaction
	OpClear  OpKind = 4 // everything below is void; carries the sum of what it replaces
)

// String gives the wire name of the kind.
func (k OpKind) String() string {
	switch k {
	case OpPut:
		return "PUT"
	case OpRemove:
		return "REMOVE"
	case OpMove:
		return "MOVE"
	case OpClear:
		return "CLEAR"
	}
	return "OpKind(" + strconv.Itoa(int(k)) + ")"
}

// Op is one entry of a bucket's history.
type Op struct {
	ID       OpID
	Kind     OpKind
	Type     string // output table; empty for MOVE and CLEAR
	RowID    string // client row id; empty for MOVE and CLEAR
	Subkey   string // source row inside (Type, RowID); empty where the source row's key is the row id
	Checksum Checksum
	Data     string // finished JSON object of a PUT, exactly the text that was hashed; else empty
}
