package clientsdk

import (
	"context"
	"fmt"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// badBucketError says that what is stored of a bucket, or what the server sent
// of it, cannot be right. The cure is to drop that bucket, and only that one,
// and download it again.
type badBucketError struct {
	Bucket string
	Reason string
}

func (e *badBucketError) Error() string {
	return fmt.Sprintf("bucket %s: %s; it is downloaded again", e.Bucket, e.Reason)
}

// progress counts ops towards the current checkpoint.
type progress struct{ Done, Total int64 }

// begin makes the stored buckets those of a new target checkpoint: updated ones
// are created where missing; removed ones, and with whole all that are not in
// updated, are dropped. Readers notice nothing before a completion.
func (s *store) begin(ctx context.Context, whole bool, updated []protocol.Bucket, removed []string) (p progress, err error) {
	err = s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE mr_state SET pending = 0 WHERE pending = 1`); err != nil {
			return err
		}
		if whole {
			keep := make(map[string]bool, len(updated))
			for i := range updated {
				keep[updated[i].Name] = true
			}
			for name := range s.buckets {
				if !keep[name] {
					removed = append(removed, name)
				}
			}
		}
		for _, name := range removed {
			if err := t.drop(name); err != nil {
				return err
			}
		}
		restart := false
		for i := range updated {
			b, err := t.bucket(updated[i].Name)
			if err != nil {
				return err
			}
			b.count = updated[i].Count
			restart = restart || b.count < b.atLast+b.since
		}
		if restart { // the history was compacted: what was counted is no measure any more
			for _, b := range s.buckets {
				b.atLast, b.since = 0, 0
			}
			if err := t.exec(`UPDATE mr_buckets SET at_last = 0, since = 0`); err != nil {
				return err
			}
		}
		for _, b := range s.buckets {
			if b.count > b.atLast {
				p.Done += b.since
				p.Total += b.count - b.atLast
			}
		}
		return nil
	})
	return p, err
}

// bucket gives the live bucket of that name, making it where missing.
func (t *txn) bucket(name string) (*bucket, error) {
	if b := t.s.buckets[name]; b != nil {
		return b, nil
	}
	b := &bucket{name: name, fresh: newStaging()}
	if err := t.row(`INSERT INTO mr_buckets (name) VALUES (?) RETURNING id`, name).Scan(&b.id); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	t.s.buckets[name] = b
	return b, nil
}

// drop forgets a bucket. Its published rows stay visible until the next full
// publication; what was staged goes at once.
func (t *txn) drop(name string) error {
	b := t.s.buckets[name]
	if b == nil {
		return nil
	}
	delete(t.s.buckets, name)
	if err := t.exec(`DELETE FROM mr_rows WHERE bucket = ? AND op_id > ?`, b.id, int64(b.published)); err != nil {
		return err
	}
	return t.exec(`UPDATE mr_buckets SET name = NULL, position = published WHERE id = ?`, b.id)
}

// dropBad drops buckets that turned out wrong, so that the next request asks
// for them from the start.
func (s *store) dropBad(ctx context.Context, names []string) error {
	return s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE mr_state SET pending = 0 WHERE pending = 1`); err != nil {
			return err
		}
		for _, name := range names {
			if err := t.drop(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// stage stores ops in one transaction without showing them. An op that the
// protocol forbids, or whose checksum is wrong where verify is set, gives a
// *badBucketError and nothing of the call is stored.
func (s *store) stage(ctx context.Context, lines []*protocol.Data, verify bool) error {
	return s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE mr_state SET pending = 0 WHERE pending = 1`); err != nil {
			return err
		}
		in := inserter{t: t}
		touched := map[*bucket]bool{}
		for _, line := range lines {
			b := s.buckets[line.Bucket]
			if b == nil {
				return &badBucketError{line.Bucket, "the server sent ops of a bucket that is not in the checkpoint"}
			}
			touched[b] = true
			s.unpruned += len(line.Ops)
			if err := in.line(b, line, verify); err != nil {
				return err
			}
		}
		if err := in.flush(); err != nil {
			return err
		}
		for b := range touched {
			if err := t.save(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// insertRows is how many rows one INSERT carries: enough to hide the cost of a
// call of the driver.
const insertRows = 64

var (
	insertHead = `INSERT INTO mr_rows (bucket, op_id, type, id, subkey, checksum, data, shown) VALUES `
	insertMany = insertHead + strings.Repeat("(?,?,?,?,?,?,?,0),", insertRows-1) + "(?,?,?,?,?,?,?,0)"
	insertOne  = insertHead + "(?,?,?,?,?,?,?,0)"
)

// inserter collects rows for multi-row inserts.
type inserter struct {
	t    *txn
	args []any
}

const insertColumns = 7

func (in *inserter) line(b *bucket, line *protocol.Data, verify bool) error {
	for i := range line.Ops {
		op := &line.Ops[i]
		if op.ID <= b.position {
			return &badBucketError{b.name, fmt.Sprintf("op %d came after %d", op.ID, b.position)}
		}
		b.position = op.ID
		b.since++
		switch op.Kind {
		case millrace.OpPut:
			if verify && millrace.PutChecksum(op.Type, op.RowID, op.Subkey, op.Data) != op.Checksum {
				return &badBucketError{b.name, fmt.Sprintf("op %d (%s %s) does not match its checksum", op.ID, op.Type, op.RowID)}
			}
			if err := in.add(b, op, op.Data); err != nil {
				return err
			}
		case millrace.OpRemove:
			if verify && millrace.RemoveChecksum(op.Type, op.RowID, op.Subkey) != op.Checksum {
				return &badBucketError{b.name, fmt.Sprintf("op %d (removal of %s %s) does not match its checksum", op.ID, op.Type, op.RowID)}
			}
			if err := in.add(b, op, nil); err != nil {
				return err
			}
		case millrace.OpClear:
			if err := in.clear(b, op); err != nil {
				return err
			}
			b.checksum = op.Checksum
			continue
		}
		b.checksum += op.Checksum
	}
	return nil
}

func (in *inserter) add(b *bucket, op *millrace.Op, data any) error {
	if in.args == nil {
		in.args = make([]any, 0, insertRows*insertColumns)
	}
	if b.fresh != nil {
		b.fresh.rows++
		if b.fresh.last != op.Type {
			b.fresh.last = op.Type
			b.fresh.types[op.Type] = struct{}{}
		}
	}
	in.args = append(in.args, b.id, int64(op.ID), op.Type, op.RowID, op.Subkey, int64(op.Checksum), data)
	if len(in.args) == insertRows*insertColumns {
		err := in.t.exec(insertMany, in.args...)
		in.args = in.args[:0]
		return err
	}
	return nil
}

// clear voids what the bucket has staged, and marks what it has published.
func (in *inserter) clear(b *bucket, op *millrace.Op) error {
	if err := in.flush(); err != nil {
		return err
	}
	b.cleared = op.ID
	if b.fresh != nil { // all that is staged has lower op ids
		b.fresh.rows = 0
	}
	return in.t.exec(`DELETE FROM mr_rows WHERE bucket = ? AND op_id > ? AND op_id <= ?`, b.id, int64(b.published), int64(op.ID))
}

func (in *inserter) flush() error {
	for i := 0; i < len(in.args); i += insertColumns {
		if err := in.t.exec(insertOne, in.args[i:i+insertColumns]...); err != nil {
			return err
		}
	}
	in.args = in.args[:0]
	return nil
}
