package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// Reading ops is the row path of serving: binary results, decoded in place. The
// statements name the partition of a definition: over the parent table each page
// would sort all that is left of a bucket.

// sqlOps reads one bucket.
func sqlOps(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		SELECT 1::int8, op_id, kind, checksum, type, row_id, subkey, data FROM millrace.ops_%d
		WHERE definition = $1::int4 AND bucket = $2::int8 AND op_id > $3::int8 AND op_id <= $4::int8
		ORDER BY op_id LIMIT $5::int8`, d)
}

// sqlOpsOfMany reads many buckets: one range scan of the primary key for each.
func sqlOpsOfMany(d millrace.DefinitionID) string {
	return fmt.Sprintf(`
		SELECT w.i, o.op_id, o.kind, o.checksum, o.type, o.row_id, o.subkey, o.data
		FROM unnest($2::int8[], $3::int8[]) WITH ORDINALITY AS w (bucket, after, i)
		CROSS JOIN LATERAL (
			SELECT * FROM millrace.ops_%d p
			WHERE p.definition = $1::int4 AND p.bucket = w.bucket AND p.op_id > w.after AND p.op_id <= $4::int8
			ORDER BY p.op_id LIMIT $5::int8) o
		ORDER BY w.i, o.op_id LIMIT $5::int8`, d)
}

// Ops reads at most limit ops with After < id <= upto, range by range, each in
// ascending order. op is valid during the call only; reading ends if visit
// returns false.
func (s *ReadSnapshot) Ops(ctx context.Context, ranges []millrace.BucketRange, upto millrace.OpID, limit int, visit func(i int, op *millrace.Op) bool) error {
	for first := 0; first < len(ranges) && limit > 0; {
		end := first + 1
		for end < len(ranges) && ranges[end].Definition == ranges[first].Definition {
			end++
		}
		n, more, err := s.opsOfDefinition(ctx, ranges[first:end], upto, limit, func(i int, op *millrace.Op) bool { return visit(first+i, op) })
		if err != nil || !more {
			return err
		}
		limit -= n
		first = end
	}
	return nil
}

// opsOfDefinition reads ranges that are all of one definition. It gives how many
// ops it read, and whether visit wants more.
func (s *ReadSnapshot) opsOfDefinition(ctx context.Context, ranges []millrace.BucketRange, upto millrace.OpID, limit int, visit func(i int, op *millrace.Op) bool) (n int, more bool, err error) {
	const doing = "read ops"
	def := ranges[0].Definition
	binary := pgx.QueryResultFormats{pgx.BinaryFormatCode}
	var rows pgx.Rows
	if len(ranges) == 1 {
		rows, err = s.conn.Query(ctx, sqlOps(def), binary, int32(def), int64(ranges[0].Bucket), int64(ranges[0].After), int64(upto), int64(limit))
	} else {
		buckets, after := make([]int64, len(ranges)), make([]int64, len(ranges))
		for i, r := range ranges {
			buckets[i], after[i] = int64(r.Bucket), int64(r.After)
		}
		rows, err = s.conn.Query(ctx, sqlOpsOfMany(def), binary, int32(def), buckets, after, int64(upto), int64(limit))
	}
	if err != nil {
		return 0, false, opsFailure(doing, def, err)
	}
	defer rows.Close()
	var op millrace.Op
	more = true
	for more && rows.Next() {
		i, err := decodeOp(rows.RawValues(), &op)
		if err != nil {
			return n, false, fmt.Errorf("%s: %w", doing, err)
		}
		n++
		more = visit(i, &op)
	}
	rows.Close()
	return n, more, opsFailure(doing, def, rows.Err())
}

// opsFailure takes a missing partition for what it is: the definition was just
// dropped, and a newer snapshot will not ask for it.
func opsFailure(doing string, def millrace.DefinitionID, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" {
		return fmt.Errorf("%s: definition %d was dropped: %w: %w", doing, def, millrace.ErrUnavailable, err)
	}
	return readFailure(doing, err)
}

// decodeOp reads a row. The op's strings point into the row, except for the
// type, whose copies are few.
func decodeOp(v [][]byte, op *millrace.Op) (int, error) {
	if len(v) != 8 || len(v[0]) != 8 || len(v[1]) != 8 || len(v[2]) != 2 || len(v[3]) != 4 {
		return 0, fmt.Errorf("a row of ops has an unexpected form")
	}
	op.ID = millrace.OpID(binary.BigEndian.Uint64(v[1]))
	op.Kind = millrace.OpKind(binary.BigEndian.Uint16(v[2]))
	op.Checksum = millrace.Checksum(binary.BigEndian.Uint32(v[3]))
	op.Type, op.RowID, op.Subkey, op.Data = view(v[4]), view(v[5]), view(v[6]), view(v[7])
	return int(binary.BigEndian.Uint64(v[0])) - 1, nil
}

// view is b as a string without a copy: valid as long as b is.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
