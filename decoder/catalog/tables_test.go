package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestTablesAndKeys(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TABLE plain (id uuid PRIMARY KEY, title text, n numeric(10, 2), gone int);
		ALTER TABLE plain DROP COLUMN gone;
		CREATE TABLE swapped (b int, a int, c text, PRIMARY KEY (a, b));
		CREATE TABLE by_index (x int NOT NULL, y text NOT NULL, z int);
		CREATE UNIQUE INDEX by_index_y ON by_index (y);
		ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_y;
		CREATE TABLE full_key (id int PRIMARY KEY, v text);
		ALTER TABLE full_key REPLICA IDENTITY FULL;
		CREATE TABLE full_free (v text);
		ALTER TABLE full_free REPLICA IDENTITY FULL;
		CREATE TABLE no_key (v text);
		CREATE TABLE nothing (id int PRIMARY KEY);
		ALTER TABLE nothing REPLICA IDENTITY NOTHING;
		CREATE TABLE later (id int PRIMARY KEY DEFERRABLE);
		CREATE TABLE lost (x int NOT NULL);
		CREATE UNIQUE INDEX lost_x ON lost (x);
		ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_x;
		DROP INDEX lost_x;
		CREATE TABLE computed (id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED);
		ALTER TABLE computed ALTER v SET STORAGE PLAIN;
		CREATE PUBLICATION p FOR ALL TABLES`)
	tables := d.tables(d.source(), all)
	for _, want := range []struct {
		name, key string
		identity  millrace.Identity
		findings  string
	}{
		{"plain", "id", millrace.IdentityDefault, ""},
		{"swapped", "b,a", millrace.IdentityDefault, ""},
		{"by_index", "y", millrace.IdentityIndex, ""},
		{"full_key", "id", millrace.IdentityFull, ""},
		{"full_free", "", millrace.IdentityFull, "MR1017 warn public.full_free"},
		{"no_key", "", millrace.IdentityDefault, "MR1017 warn public.no_key"},
		{"nothing", "", millrace.IdentityNothing, "MR1017 warn public.nothing"},
		{"later", "", millrace.IdentityDefault, "MR1018 warn public.later"},
		{"lost", "", millrace.IdentityIndex, "MR1017 warn public.lost"},
		{"computed", "id", millrace.IdentityDefault, "MR1021 warn public.computed"},
	} {
		got := table(t, tables, want.name)
		if key := strings.Join(got.KeyColumns(), ","); key != want.key || got.Identity != want.identity || codes(got.Findings) != want.findings {
			t.Errorf("%s: key %q, %s, findings %q", want.name, key, got.Identity, codes(got.Findings))
		}
		if usable := !strings.Contains(want.findings, "fatal"); got.Usable() != usable {
			t.Errorf("%s: usable %v", want.name, got.Usable())
		}
	}
	plain := table(t, tables, "plain")
	if st := plain.SourceTable(); len(st.Columns) != 3 || st.Columns[2].Type != "numeric(10,2)" || st.OID != plain.OID || st.Columns[0].TypeOID != 2950 {
		t.Errorf("%+v", st)
	}
	if plain.Columns[0].Toastable || !plain.Columns[1].Toastable || !plain.Columns[2].Toastable || !plain.AllColumns || !plain.Heap || plain.Filenode == 0 {
		t.Errorf("%+v", plain)
	}
	computed := table(t, tables, "computed")
	if len(computed.Columns) != 2 || computed.AllColumns || computed.Columns[1].Toastable || computed.Unpublished[0] != "twice" {
		t.Errorf("%+v", computed)
	}
}

func TestUnsupportedRelations(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TABLE base (id int PRIMARY KEY);
		CREATE VIEW v AS SELECT * FROM base;
		CREATE MATERIALIZED VIEW m AS SELECT * FROM base;
		CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
		CREATE PUBLICATION p FOR ALL TABLES`)
	tables := d.tables(d.source(), func(_, name string) bool { return name != "base" })
	for _, name := range []string{"v", "m", "u"} {
		if got := codes(table(t, tables, name).Findings); got != "MR1019 fatal-table public."+name {
			t.Errorf("%s: %s", name, got)
		}
	}
	if len(catalog.Publishable(tables)) != 0 {
		t.Errorf("publishable: %v", catalog.Publishable(tables))
	}
}

// P78: a rule on the parent finds the leaves.
func TestPartitions(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TABLE parent (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE low PARTITION OF parent FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
		CREATE TABLE lowest PARTITION OF low FOR VALUES FROM (0) TO (5);
		CREATE TABLE high PARTITION OF parent FOR VALUES FROM (10) TO (20);
		CREATE TABLE other (id int PRIMARY KEY);
		CREATE PUBLICATION p FOR TABLE parent`)
	tables := d.tables(d.source(), func(_, name string) bool { return name == "parent" })
	if len(tables) != 2 {
		t.Fatalf("%d tables", len(tables))
	}
	for _, name := range []string{"lowest", "high"} {
		got := table(t, tables, name)
		if got.Root != (catalog.TableName{Schema: "public", Name: "parent"}) || !got.Published || !got.Usable() {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// RA-18, P24: column list and row filter.
func TestColumnListAndFilter(t *testing.T) {
	server := pgtest.Shared(t)
	d := newDatabase(t, server.Database(t), "CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
	s := d.source()
	id, err := s.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id.Version < 150000 {
		t.Skip("column lists come with 15")
	}
	d.exec("CREATE PUBLICATION p FOR TABLE t (id, a) WHERE (id > 10)")
	got := table(t, d.tables(s, all), "t")
	if len(got.Columns) != 2 || !got.ColumnList || got.Filter != "(id > 10)" || got.AllColumns || got.Unpublished[0] != "b" {
		t.Errorf("%+v", got)
	}
	if c := codes(got.Findings); c != "MR1020 warn public.t; MR1020 warn public.t" || !got.Usable() {
		t.Errorf("findings %s", c)
	}
}

func TestCustomTypes(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE SCHEMA other;
		CREATE TYPE other.mood AS ENUM ('calm', 'a,b');
		CREATE DOMAIN qty AS int;
		CREATE TYPE addr AS (street text, nr qty, moods other.mood[]);
		CREATE TYPE floatrange AS RANGE (subtype = float8);
		CREATE TABLE t (id int PRIMARY KEY, m other.mood, q qty, a addr, list addr[], r floatrange, mr floatmultirange, qs qty[], v int2vector);
		CREATE PUBLICATION p FOR ALL TABLES;
		INSERT INTO t VALUES (1, 'calm', 7, '(Main,3,{calm})', '{"(Main,3,{calm})"}', '[1,2.5)', '{[1,2)}', '{1,2}', '1 2')`)
	s := d.source()
	types := s.Types()
	tables, err := s.Tables(t.Context(), all, types)
	if err != nil {
		t.Fatal(err)
	}
	tab := table(t, tables, "t")
	want := map[string]string{
		"m": `"calm"`, "q": "7", "a": `"{\"street\":\"Main\",\"nr\":3,\"moods\":[\"calm\"]}"`,
		"list": `"[{\"street\":\"Main\",\"nr\":3,\"moods\":[\"calm\"]}]"`,
		"r":    `"{\"lower\":1.0,\"upper\":2.5,\"lower_exclusive\":0,\"upper_exclusive\":1}"`,
		"mr":   `"[{\"lower\":1.0,\"upper\":2.0,\"lower_exclusive\":0,\"upper_exclusive\":1}]"`,
		"qs":   `"[1,2]"`, "v": `"1 2"`, "id": "1",
	}
	var arena pgvalue.Arena
	for _, c := range tab.Columns {
		text := d.text(fmt.Sprintf("SELECT %s::text FROM t", c.Name))
		v, err := pgvalue.For(c.Type, pgvalue.Options{CustomTypes: true})([]byte(text), &arena)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(v.AppendJSON(nil)); got != want[c.Name] {
			t.Errorf("%s: %s, want %s", c.Name, got, want[c.Name])
		}
	}
	// P15: what is new is found at a miss.
	d.exec("CREATE TYPE fresh AS ENUM ('x')")
	var oid uint32
	if err := d.conn.QueryRow(t.Context(), "SELECT 'fresh'::regtype::oid").Scan(&oid); err != nil {
		t.Fatal(err)
	}
	if types.Type(oid) != nil {
		t.Error("known before it was loaded")
	}
	if err := types.Load(t.Context(), oid, 4_000_000_000); err != nil {
		t.Fatal(err)
	}
	if got := types.Type(oid); got == nil || got.Kind != pgvalue.Enum || got.Name != "fresh" {
		t.Errorf("%+v", got)
	}
	if types.Type(4_000_000_000) != nil {
		t.Error("a type that does not exist is known")
	}
}

// The table of built-in types agrees with the server's.
func TestBuiltinTypes(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t))
	rows, err := d.conn.Query(t.Context(), `
		SELECT t.oid, t.typname::text, t.typlen, t.typstorage::text, t.typdelim::text, t.typtype::text, t.typarray,
		       coalesce((SELECT rngsubtype FROM pg_range WHERE t.oid IN (rngtypid, rngmultitypid)), 0::oid)
		FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm')
		  AND t.typarray <> 0 AND t.typname NOT LIKE 'pg\_%' AND t.typname NOT LIKE '\_%' AND t.typname NOT IN ('gtsvector', 'aclitem')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var (
			oid, array, subtype               uint32
			name, storage, delimiter, typtype string
			length                            int16
		)
		if err := rows.Scan(&oid, &name, &length, &storage, &delimiter, &typtype, &array, &subtype); err != nil {
			t.Fatal(err)
		}
		n++
		got, list := pgvalue.Builtin(oid), pgvalue.Builtin(array)
		if got == nil || list == nil {
			t.Errorf("%s (%d, %d) is missing", name, oid, array)
			continue
		}
		if got.Name != name || got.Length != length || string(got.Storage) != storage || string(got.Delimiter) != delimiter ||
			list.Element != got || list.Kind != pgvalue.Array {
			t.Errorf("%s: %+v", name, got)
		}
		if subtype != 0 && got.Element.OID != subtype {
			t.Errorf("%s: subtype %d", name, got.Element.OID)
		}
	}
	if err := rows.Err(); err != nil || n < 50 {
		t.Errorf("%d types, %v", n, err)
	}
}

// RA-41, P69: the number of queries does not grow with the tables.
func TestRA41_ManyTables(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t))
	var sql strings.Builder
	for i := range 100 {
		fmt.Fprintf(&sql, "CREATE SCHEMA tenant_%d; CREATE TABLE tenant_%d.t (id int PRIMARY KEY, v text);", i, i)
	}
	d.exec(sql.String(), "CREATE PUBLICATION p FOR ALL TABLES")
	s := d.source()
	before := d.text("SELECT xact_commit::text FROM pg_stat_database WHERE datname = current_database()")
	tables := d.tables(s, func(schema, name string) bool { return strings.HasPrefix(schema, "tenant_") && name == "t" })
	if len(tables) != 100 {
		t.Errorf("%d tables (after %s transactions)", len(tables), before)
	}
	for i := range tables {
		if !tables[i].Usable() {
			t.Errorf("%s: %v", tables[i].TableName, tables[i].Findings)
		}
	}
}
