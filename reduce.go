package millrace

// RowIdentity is what identifies a row inside a bucket. Two source rows that
// map to one client id stay two rows; the client shows the one with the
// highest op id.
type RowIdentity struct {
	Type, RowID, Subkey string
}

// Reduced is what remains of a bucket's ops: the rows, and the sum of all
// checksums since the last CLEAR (I5).
type Reduced struct {
	Rows     map[RowIdentity]Op
	Checksum Checksum
	Last     OpID
}

// Reduce folds ops, in op id order, into the state a client ends with. It is
// the oracle that appending, compaction, the clients and the end-to-end tests
// are compared with. Start from the zero Reduced or from an earlier result.
func (r *Reduced) Reduce(ops ...Op) {
	if r.Rows == nil {
		r.Rows = map[RowIdentity]Op{}
	}
	for _, op := range ops {
		r.Last = op.ID
		id := RowIdentity{op.Type, op.RowID, op.Subkey}
		switch op.Kind {
		case OpClear:
			clear(r.Rows)
			r.Checksum = op.Checksum
			continue
		case OpPut:
			r.Rows[id] = op
		case OpRemove:
			delete(r.Rows, id)
		}
		r.Checksum += op.Checksum
	}
}
