package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The oracle is only worth something if it notices: each kind of damage, done
// to a real sidecar inside a transaction that is rolled back, must be found.
func TestOracleNoticesDamage(t *testing.T) {
	s := newSystem(t, options{})
	s.onSource(`INSERT INTO items SELECT g, 'o' || 1 + g % 3, 'a', g, 't' || g FROM generate_series(1, 30) g;
		INSERT INTO notes SELECT g, 'o1', 'n' || g FROM generate_series(1, 5) g`)
	s.start()
	s.caughtUp(startTimeout)
	s.onSource(`UPDATE items SET owner = 'o9' WHERE id <= 3; DELETE FROM items WHERE id = 4; DELETE FROM members WHERE owner = 'o3'`)
	s.caughtUp(waitTimeout)
	s.oracle()

	const some = `(SELECT op_id FROM millrace.ops WHERE kind = 1 AND type = 'items' ORDER BY op_id DESC LIMIT 1)`
	for _, c := range []struct{ name, sql, noticed string }{
		{"other data", `UPDATE millrace.ops SET data = replace(data, '"n":', '"n":1') WHERE op_id = ` + some, "rows of the buckets"},
		{"a lost op", `DELETE FROM millrace.ops WHERE op_id = ` + some, "history"},
		{"another checksum", `UPDATE millrace.ops SET checksum = checksum # 1 WHERE op_id = ` + some, "has checksum"},
		{"data of two rows swapped", `UPDATE millrace.ops a SET data = b.data FROM millrace.ops b
			WHERE a.type = 'notes' AND b.type = 'notes' AND a.bucket = b.bucket AND a.row_id IN ('1', '2') AND b.row_id IN ('1', '2') AND a.row_id <> b.row_id`, "rows of the buckets"},
		{"a wrong total", `UPDATE millrace.bucket_totals SET checksum = checksum # 1 WHERE bucket = (SELECT min(bucket) FROM millrace.bucket_totals)`, "running checksum"},
		{"an op in another bucket", `UPDATE millrace.ops SET bucket = (SELECT bucket FROM millrace.ops o WHERE o.definition = ops.definition AND o.bucket <> ops.bucket LIMIT 1)
			WHERE op_id = ` + some, "rows of the buckets"},
		{"an op beyond the head", `UPDATE millrace.head SET op_id = op_id - 1`, "beyond the head"},
		{"a lookup that ended", `UPDATE millrace.lookups SET removed = (SELECT op_id FROM millrace.head) WHERE added = (SELECT max(added) FROM millrace.lookups WHERE removed > 1000000000)`, "lookups"},
		{"a lookup that lives on", `UPDATE millrace.lookups SET removed = 9223372036854775807 WHERE removed < 9223372036854775807`, "lookups"},
		{"row state lost", `DELETE FROM millrace.row_state WHERE row_key = '30'`, "row_state"},
		{"row state of a row that left", `INSERT INTO millrace.row_state (definition, source_table, bucket, since_op, row_key, type, row_id)
			SELECT definition, source_table, bucket, since_op, 'ghost', type, '30' FROM millrace.row_state WHERE row_key = '30'`, "row_state"},
		{"a checkpoint lost", `DELETE FROM millrace.checkpoint_log WHERE seq = (SELECT max(seq) - 1 FROM millrace.checkpoint_log)`, "checkpoints out of order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			src, err := connectAs(ctx, s.sourceURI, "e2e-oracle")
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close(ctx)
			conn, err := connectAs(ctx, s.sidecarURI, "e2e-oracle")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(ctx)
			tag, err := tx.Exec(ctx, c.sql)
			if err != nil {
				t.Fatal(err)
			}
			if tag.RowsAffected() == 0 {
				t.Fatal("the damage was not done")
			}
			_, err = check(ctx, src, sidecar{tx}, s.rules, &folds{})
			if err == nil || !strings.Contains(err.Error(), c.noticed) {
				t.Errorf("the oracle should have said %q, it says: %v", c.noticed, err)
			}
		})
	}
}
