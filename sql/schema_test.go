package sql_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

var update = flag.Bool("update", false, "write schema.sql anew")

// describe is the schema as the catalog has it, in a form that does not depend
// on the server's major version.
const describe = `
WITH class AS (
  SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.reloptions, c.reltype FROM pg_class c
  WHERE c.relnamespace = 'millrace'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c', 'S'))
SELECT text FROM (
  SELECT CASE c.relkind WHEN 'v' THEN 4 WHEN 'c' THEN 1 ELSE 2 END AS part, c.relname::text AS name,
    CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'c' THEN 'TYPE' WHEN 'S' THEN 'SEQUENCE'
      ELSE CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED TABLE' ELSE 'TABLE' END END || ' millrace.' || c.relname
    || coalesce(' PARTITION BY ' || pg_get_partkeydef(c.oid), '') || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
    || E'\n  -- ' || coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type'), 'NO COMMENT')
    || coalesce((
      SELECT string_agg(E'\n  ' || quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
        || CASE WHEN a.attcollation = '"C"'::regcollation THEN ' COLLATE "C"' ELSE '' END
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
        || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
        || E'\n    -- ' || coalesce(col_description(c.oid, a.attnum), 'NO COMMENT'), '' ORDER BY a.attnum)
      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S'), '')
    || coalesce((
      SELECT string_agg(E'\n  CONSTRAINT ' || k.conname || ' ' || regexp_replace(pg_get_constraintdef(k.oid), '\s+', ' ', 'g'), '' ORDER BY k.conname)
      FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c', 'f')), '')
    || coalesce((
      SELECT string_agg(E'\n  ' || replace(pg_get_indexdef(i.indexrelid), ' ONLY ', ' ') || E'\n    -- ' || coalesce(obj_description(i.indexrelid, 'pg_class'), 'NO COMMENT'), '' ORDER BY i.indexrelid::regclass::text)
      FROM pg_index i WHERE i.indrelid = c.oid AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u'))), '') AS text
  FROM class c
  UNION ALL
  SELECT 3, p.proname, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END || ' millrace.' || p.proname || '(' || pg_get_function_arguments(p.oid) || ')'
    || coalesce(' RETURNS ' || pg_get_function_result(p.oid), '')
    || CASE p.provolatile WHEN 'i' THEN ' IMMUTABLE' WHEN 's' THEN ' STABLE' ELSE ' VOLATILE' END
    || CASE WHEN p.proisstrict THEN ' STRICT' ELSE '' END
    || ' SET ' || coalesce(array_to_string(p.proconfig, ', '), 'NOTHING')
    || E'\n  -- ' || coalesce(obj_description(p.oid, 'pg_proc'), 'NO COMMENT')
  FROM pg_proc p WHERE p.pronamespace = 'millrace'::regnamespace) s
ORDER BY part, name COLLATE "C", text COLLATE "C"`

const schemaHead = `-- The schema of a freshly migrated sidecar, as the catalog has it; functions and
-- views by their signatures. For reading and for reviewing changes, not for
-- running. Made by: go test ./sql -run TestSchema -update

`

func TestSchema(t *testing.T) {
	conn := migrated(t)
	rows, err := conn.Query(t.Context(), describe)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	got := schemaHead + strings.Join(objects, "\n\n") + "\n"
	for _, o := range objects {
		name, _, _ := strings.Cut(o, "\n")
		if strings.Contains(o, "-- NO COMMENT") {
			t.Errorf("no comment on %s or a part of it", name)
		}
		if strings.HasSuffix(name, " SET NOTHING") {
			t.Errorf("no search_path on %s", name)
		}
	}
	if *update {
		if err := os.WriteFile("schema.sql", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("schema.sql differs from a freshly migrated sidecar (-file +sidecar); review, then run with -update:\n%s", d)
	}
}
