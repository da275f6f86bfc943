package e2e

import (
	"slices"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

func TestFootprintNoticesObjects(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	execSQL(t, uri, `CREATE TABLE t (id int PRIMARY KEY)`)
	before := readFootprint(t, uri)
	if again := readFootprint(t, uri); !slices.Equal(before, again) {
		t.Error("two looks at an unchanged database differ")
	}
	for what, sql := range map[string][2]string{
		"a table":            {`CREATE TABLE x (id int)`, `DROP TABLE x`},
		"a function":         {`CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `DROP FUNCTION x()`},
		"a schema":           {`CREATE SCHEMA x`, `DROP SCHEMA x`},
		"an extension":       {`CREATE EXTENSION tablefunc`, `DROP EXTENSION tablefunc`},
		"a publication":      {`CREATE PUBLICATION x`, `DROP PUBLICATION x`},
		"a slot":             {`SELECT pg_create_logical_replication_slot('x', 'pgoutput')`, `SELECT pg_drop_replication_slot('x')`},
		"a replica identity": {`ALTER TABLE t REPLICA IDENTITY FULL`, `ALTER TABLE t REPLICA IDENTITY DEFAULT`},
		"a column":           {`ALTER TABLE t ADD x int`, ``},
		"a setting":          {`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''9MB''', current_database()); END $$`, ``},
	} {
		execSQL(t, uri, sql[0])
		if after := readFootprint(t, uri); slices.Equal(before, after) {
			t.Errorf("%s goes unnoticed", what)
		}
		execSQL(t, uri, sql[1])
	}
}
