package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// sidecar reads the public SQL surface.
type sidecar struct{ querier }

// bucket is a row of the view millrace.buckets.
type bucket struct {
	Wire       string
	Definition string
	Name       string
	Served     bool
	Rows       int64
	Ops        int64
	Bytes      int64
	Checksum   int64
	LastOp     int64
}

func (s sidecar) buckets(ctx context.Context) ([]bucket, error) {
	rows, err := s.Query(ctx, `SELECT bucket, definition, name, served, rows, ops, bytes, checksum, coalesce(last_op, 0) FROM millrace.buckets ORDER BY bucket`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[bucket])
}

// row is what identifies a row for a client, and its data.
type row struct{ Type, ID, Data string }

// rows is the content of a bucket.
func (s sidecar) rows(ctx context.Context, wire string) ([]row, error) {
	rows, err := s.Query(ctx, `SELECT type, row_id, data FROM millrace.bucket_rows($1)`, wire)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[row])
}

// wireName is the wire name of the bucket with a logical name; "" if there is
// none yet.
func (s sidecar) wireName(ctx context.Context, logical string) (string, error) {
	var wire string
	err := s.QueryRow(ctx, `SELECT bucket FROM millrace.buckets WHERE name = $1 AND served`, logical).Scan(&wire)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return wire, err
}

// rowData is the data of one row; "" if the row is not there.
func (s sidecar) rowData(ctx context.Context, logical, rowType, id string) (string, error) {
	wire, err := s.wireName(ctx, logical)
	if err != nil || wire == "" {
		return "", err
	}
	var data string
	err = s.QueryRow(ctx, `SELECT data FROM millrace.bucket_rows($1) WHERE type = $2 AND row_id = $3`, wire, rowType, id).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return data, err
}

// opsPage is what a relay would send next.
func (s sidecar) opsPage(ctx context.Context, wire string, after, upto int64, limit int) ([]millrace.Op, error) {
	rows, err := s.Query(ctx, `
		SELECT op_id, kind, coalesce(type, ''), coalesce(row_id, ''), coalesce(subkey, ''), checksum::bigint, coalesce(data, '')
		FROM millrace.ops_between($1, $2, $3, $4) ORDER BY op_id`, wire, after, upto, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (op millrace.Op, err error) {
		var checksum int64
		var kind string
		err = r.Scan(&op.ID, &kind, &op.Type, &op.RowID, &op.Subkey, &checksum, &op.Data)
		op.Checksum = millrace.Checksum(checksum)
		for k := millrace.OpPut; k <= millrace.OpClear; k++ {
			if k.String() == kind {
				op.Kind = k
			}
		}
		if err == nil && op.Kind == 0 {
			err = fmt.Errorf("op %d has kind %q", op.ID, kind)
		}
		return op, err
	})
}

// head is the newest checkpoint.
type head struct{ Seq, OpID, Fence int64 }

func (s sidecar) head(ctx context.Context) (h head, err error) {
	err = s.QueryRow(ctx, `SELECT seq, op_id, fence FROM millrace.head`).Scan(&h.Seq, &h.OpID, &h.Fence)
	return h, err
}

// checksum is the sum over the ops, as the sidecar computes it.
func (s sidecar) checksum(ctx context.Context, wire string) (checksum int64, err error) {
	err = s.QueryRow(ctx, `SELECT checksum FROM millrace.bucket_checksum($1)`, wire).Scan(&checksum)
	return checksum, err
}

// verified is what verify_bucket says.
func (s sidecar) verified(ctx context.Context, wire string) (ok bool, report string, err error) {
	err = s.QueryRow(ctx, `SELECT v.ok, v::text FROM millrace.verify_bucket($1) v`, wire).Scan(&ok, &report)
	return ok, report, err
}

// lookupsInForce lists the lookups at the head as (definition name, key, one
// output value).
const lookupsInForce = `
SELECT d.name, l.key, l.outputs FROM millrace.lookups l JOIN millrace.definition_versions d ON d.id = l.definition
WHERE l.removed > (SELECT op_id FROM millrace.head)`

// liveOutputs lists what the writer believes each source row to have.
const liveOutputs = `
SELECT d.wire_prefix || '#' || b.name, o.type, o.row_id, coalesce(o.subkey, ''), o.since_op
FROM millrace.row_state r CROSS JOIN LATERAL millrace.row_outputs(r) o
JOIN millrace.bucket_names b ON b.id = o.bucket JOIN millrace.definition_versions d ON d.id = b.definition`

// historyViolations are queries that count violations of what must hold over
// the whole history.
var historyViolations = map[string]string{
	"op ids used twice":                `SELECT count(*) FROM (SELECT op_id FROM millrace.ops GROUP BY 1 HAVING count(*) > 1) x`,
	"op ids beyond the head":           `SELECT count(*) FROM millrace.ops WHERE op_id > (SELECT op_id FROM millrace.head)`,
	"lookup changes beyond the head":   `SELECT count(*) FROM millrace.lookups, millrace.head WHERE added > op_id OR removed > op_id AND removed < 9223372036854775807`,
	"lookups and ops sharing an op id": `SELECT count(*) FROM millrace.lookups WHERE added IN (SELECT op_id FROM millrace.ops)`,
	// Rows that leave with a CLEAR have numbers of their own, right below its.
	"ended outputs that did not end with a REMOVE or a CLEAR": `SELECT count(*) FROM millrace.ended_outputs e
		WHERE NOT EXISTS (SELECT FROM millrace.ops o WHERE o.definition = e.definition AND o.bucket = e.bucket AND o.op_id = e.ended_op AND o.kind = 2)
		AND (SELECT o.kind FROM millrace.ops o WHERE o.definition = e.definition AND o.bucket = e.bucket AND o.op_id > e.ended_op ORDER BY o.op_id LIMIT 1) IS DISTINCT FROM 4`,
	"checkpoints out of order":  `SELECT count(*) FROM (SELECT op_id < lag(op_id) OVER w OR seq <> lag(seq) OVER w + 1 AS bad FROM millrace.checkpoint_log WINDOW w AS (ORDER BY seq)) x WHERE bad`,
	"checkpoints over the head": `SELECT count(*) FROM millrace.checkpoint_log c, millrace.head h WHERE c.op_id > h.op_id OR c.seq > h.seq`,
}

// membershipSQL lists the stays of a row in buckets, in order, and whether it is
// still there.
func membershipSQL(table, id string) string {
	return fmt.Sprintf(`SELECT split_part(bucket_name, '#', 2), CASE WHEN until_op IS NULL THEN 'in' ELSE 'left' END, jsonb_array_length(ops)
		FROM millrace.row_history('%s', '%s') ORDER BY since_op`, table, id)
}

const (
	verifySQL = `SELECT ok FROM millrace.verify_bucket('%s')`
	// uncommentedSQL lists objects of the schema that a DBA finds unexplained.
	uncommentedSQL = `
		SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'millrace'::regnamespace AND relkind IN ('r', 'p', 'v')
			AND NOT relispartition AND obj_description(c.oid, 'pg_class') IS NULL AND relname NOT LIKE '%migration%'
		UNION ALL
		SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = 'millrace'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL`
)

// standbyLine is the log line of a decoder that waits for leadership.
var standbyLine = regexp.MustCompile(`standing by`)
