package migrations

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// seeds are the data a sidecar has since a migration, for every table it makes.
var seeds = map[int]string{
	1: `
		INSERT INTO millrace.sources (id, name, system_id, timeline, database, slot, publication, publication_oid, durable)
			VALUES (1, 'main', '7', 1, 'app', 'millrace_main', 'millrace', 1, '0/10');
		INSERT INTO millrace.source_reports (source, received, applied, confirmed, head, slot_state, waiting_for, error_code, error, at)
			VALUES (1, '0/20', '0/10', '0/10', '0/20', 'reserved', '', '', '', now());
		INSERT INTO millrace.source_tables (id, source, oid, schema, name, identity, key_columns, columns)
			VALUES (1, 1, 100, 'public', 'lists', 'default', '{id}', '[{"name": "id", "type_oid": 25, "type": "text"}]');
		INSERT INTO millrace.definition_versions (id, kind, hash, key, name, wire_prefix)
			VALUES (1, 'bucket', 'aa', 'bucket:by_owner', 'by_owner', 'abcde'), (2, 'lookup', 'bb', 'lookup:by_owner/1', 'by_owner', NULL);
		INSERT INTO millrace.rule_sets (id, content, state, active_from, mapping, activated_at)
			VALUES (1, 'rules', 'active', 1, '[{"key": "bucket:by_owner", "kind": "bucket", "name": "by_owner", "definition": 1},
				{"key": "lookup:by_owner/1", "kind": "lookup", "name": "by_owner", "definition": 2}]', now());
		INSERT INTO millrace.copies (id, rule_set, source_table, definitions, state, filenode, end_page, cursor_page, rows, estimate, wait_for)
			VALUES (1, 1, 1, '{1}', 'running', 5, 10, 3, 100, 200, '{}');
		INSERT INTO millrace.rereads VALUES (1, 'k1', NULL);`,
	2: `
		INSERT INTO millrace.bucket_names VALUES (1, 1, 'by_owner["u1"]'), (2, 1, 'by_owner["u2"]');
		CREATE TABLE millrace.ops_1 PARTITION OF millrace.ops FOR VALUES IN (1);
		CREATE TABLE millrace.row_state_1 PARTITION OF millrace.row_state FOR VALUES IN (1);
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
			VALUES (1, 2, 1, 11, 1, 'lists', 'k1', '{"id":"k1"}'), (1, 3, 1, 12, 2, 'lists', 'k2', NULL), (1, 4, 1, 13, 3, NULL, NULL, NULL), (2, 5, 1, 14, 4, NULL, NULL, NULL);
		INSERT INTO millrace.bucket_totals VALUES (1, 4, 3, 1, 11, 36), (2, 5, 1, 0, 0, 14);
		INSERT INTO millrace.row_state (definition, source_table, bucket, since_op, row_key, type, more)
			VALUES (1, 1, 1, 2, 'k1', 'lists', ARRAY[ROW(2, 2, NULL, 'lists', 'k1', NULL)::millrace.row_output]);
		INSERT INTO millrace.ended_outputs VALUES (1, 1, 'k2', 3, 2, 1, 'lists', 'k2', NULL);
		INSERT INTO millrace.row_wide VALUES (1, 'k1', '\x0102');
		INSERT INTO millrace.row_errors VALUES (1, 1, 'k3', 'division by zero');
		INSERT INTO millrace.lookups (added, removed, definition, source_table, row_key, key, outputs) VALUES (6, 7, 2, 1, 'k1', '["u1"]', '["k1"]');
		INSERT INTO millrace.lookups (added, definition, source_table, row_key, key, outputs) VALUES (8, 2, 1, 'k1', '["u2"]', '["k1"]');`,
	3: `
		UPDATE millrace.head SET fence = 3, op_id = 8, seq = 2, writer = 'host/1';
		UPDATE millrace.leader SET fence = 3, beat = 7;
		INSERT INTO millrace.checkpoint_log VALUES (1, 5, now(), now(), '{"1": "0/8"}', '{1,2}', '{}'), (2, 8, now(), NULL, '{"1": "0/10"}', NULL, '{2}');`,
	4: `
		INSERT INTO millrace.write_requests (user_id, id, managed, heads) VALUES ('u1/phone', 5, true, '{"1": "0/10"}'), ('u2', 7, false, NULL);
		INSERT INTO millrace.bucket_floors VALUES (1, 3);
		INSERT INTO millrace.relay_reports VALUES ('r1', 'host/2', '', now(), 8, '{1}', 1, now());
		INSERT INTO millrace.session_reports (relay, id, user_id, client_id, transport, agent, buckets, sent_op, acked_op, bytes, since)
			VALUES ('r1', 1, 'u1/phone', 'phone', 'ws', 'sdk', 1, 8, 8, 100, now());`,
	5: `
		INSERT INTO millrace.rule_requests (kind, content, file, state, answered_at) VALUES ('deploy', 'rules', 'sync.yaml', 'done', now());`,
	6: `
		INSERT INTO millrace.shadow_rows VALUES (1, 'k1', 1, 'by_owner["u1"]', 'lists', 'k1', NULL, 11, NULL, '{"id":"k1"}');
		INSERT INTO millrace.shadow_lookups VALUES (1, 'k1', 2, '["u2"]', '["k1"]');
		INSERT INTO millrace.shadow_errors VALUES (1, 'k3', 1, 'division by zero');
		INSERT INTO millrace.schema_events (source, object, change, action, code, cure) VALUES (1, 'public.lists', 'renamed', 'copied again', 'MR1004', 'nothing to do');`,
	7: `
		INSERT INTO millrace.shared_ids (definition, ids, example) VALUES (1, 2, 'by_owner["u1"] lists k1')`,
	10: `
		INSERT INTO millrace.definition_versions (id, kind, hash, key, name) VALUES (3, 'event', 'cc', 'event:write_checkpoints', 'write_checkpoints');
		INSERT INTO millrace.custom_write_checkpoints VALUES (3, 'u1/phone', 5, 2, now());`,
	8: `
		INSERT INTO millrace.bucket_compactions (bucket, compacted_to, upto, scanned, residue, finished_at) VALUES (1, 3, 4, 2, 1, now());
		INSERT INTO millrace.bucket_rewrites (bucket, definition, live_at, op_ids) VALUES (1, 1, 3, '{2}');`,
}

// contents gives the rows of every table of the schema as text, with the columns
// that the table had when before was taken; nil: all there are.
func contents(t *testing.T, conn *pgx.Conn, before map[string][]string) (rows map[string]string, columns map[string][]string) {
	t.Helper()
	list, err := conn.Query(t.Context(), `
		SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'millrace'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname !~ '^schema_migrations' GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	columns = map[string][]string{}
	var name string
	var names []string
	if _, err := pgx.ForEachRow(list, []any{&name, &names}, func() error { columns[name] = append([]string(nil), names...); return nil }); err != nil {
		t.Fatal(err)
	}
	if before == nil {
		before = columns
	}
	rows = map[string]string{}
	for table, cols := range before {
		quoted := make([]string, len(cols))
		for i, c := range cols {
			quoted[i] = pgx.Identifier{c}.Sanitize()
		}
		var text string
		err := conn.QueryRow(t.Context(), fmt.Sprintf(`SELECT coalesce(string_agg(r::text, E'\n' ORDER BY r::text COLLATE "C"), '') FROM (SELECT %s FROM millrace.%s) r`,
			strings.Join(quoted, ", "), pgx.Identifier{table}.Sanitize())).Scan(&text)
		if err != nil {
			t.Errorf("table %s: %v", table, err)
		}
		rows[table] = text
	}
	return rows, columns
}

// TestEverySchemaWithData: from every earlier schema, with rows in every table it
// has, Up loses and changes nothing, and the views and functions work on it.
func TestEverySchemaWithData(t *testing.T) {
	versions := schemaVersions(t)
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			uri := pgtest.Shared(t).Database(t)
			conn := connect(t, uri)
			for _, v := range versions {
				if v > version {
					break
				}
				err := run(t.Context(), uri, func(_ *pgx.Conn, m *migrate.Migrate) error { return m.Migrate(uint(v)) })
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Exec(t.Context(), seeds[v]); err != nil {
					t.Fatalf("the data of migration %d: %v", v, err)
				}
			}
			before, columns := contents(t, conn, nil)
			for table, rows := range before {
				if rows == "" {
					t.Errorf("the data have no row of table %s: add one to seeds", table)
				}
			}
			if err := Up(t.Context(), uri); err != nil {
				t.Fatal(err)
			}
			after, _ := contents(t, conn, columns)
			if d := cmp.Diff(before, after); d != "" {
				t.Errorf("data changed (-before +after):\n%s", d)
			}
			if version < 3 {
				return
			}
			for _, sql := range []string{
				`SELECT * FROM millrace.status`, `SELECT * FROM millrace.replication`, `SELECT * FROM millrace.definitions`,
				`SELECT * FROM millrace.buckets`, `SELECT * FROM millrace.bucket_bloat`, `SELECT * FROM millrace.checkpoints`,
				`SELECT * FROM millrace.bucket_rows('by_owner["u1"]')`, `SELECT * FROM millrace.bucket_checksum('by_owner["u1"]')`,
				`SELECT * FROM millrace.row_history('lists', 'k1')`, `SELECT * FROM millrace.why('lists', 'k1', 'u2')`,
			} {
				tag, err := conn.Exec(t.Context(), sql)
				if err != nil || tag.RowsAffected() == 0 {
					t.Errorf("%s: %d rows, %v", sql, tag.RowsAffected(), err)
				}
			}
		})
	}
}

// schemaVersions lists the migrations there are, ascending.
func schemaVersions(t *testing.T) (versions []int) {
	t.Helper()
	names, err := fs.Glob(files, "*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		v, err := strconv.Atoi(name[:4])
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, v)
	}
	slices.Sort(versions)
	return versions
}
