package catalog

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/decoder/pgvalue"
)

// TableName is a table's name with its schema.
type TableName struct{ Schema, Name string }

// String is "schema.name", for people.
func (n TableName) String() string { return n.Schema + "." + n.Name }

// SQL is the name quoted for SQL.
func (n TableName) SQL() string { return session.Ident(n.Schema) + "." + session.Ident(n.Name) }

// Match tells whether the rules read a table.
type Match func(schema, table string) bool

// Table is a relation that the rules match, as it is now.
type Table struct {
	OID uint32
	TableName
	Kind        byte // relkind: 'r' table, 'v' view, 'm' materialized view, 'f' foreign table
	Persistence byte // relpersistence: 'p' permanent, 'u' unlogged, 't' temporary
	// Root is the topmost partitioned table above; empty if the table is no
	// partition. A partition is listed if the rules match it or its root.
	Root TableName
	// Heap: the access method is heap, which copies by page need.
	Heap     bool
	Filenode uint32
	Rows     float64 // estimate, -1 unknown

	Identity millrace.Identity
	// Key are the columns of the row key in attribute order, as positions in
	// Columns; nil if there is none, so that rows are told apart by all columns.
	Key []int
	// Columns are the published columns in attribute order. For a table that
	// is not published they are all but the generated ones.
	Columns []Column
	// AllColumns: every column of the table is published, generated ones
	// included.
	AllColumns bool
	// Unpublished are the names of the columns that are not.
	Unpublished []string
	// Published: the publication has the table.
	Published bool
	// ColumnList: the publication names columns of it. Filter is its row filter
	// as an SQL expression, or empty (15 and later).
	ColumnList bool
	Filter     string
	// Member is the oid of the table's entry in the publication: another one
	// tells that it was out of it. 0 if the publication has all tables.
	Member uint32
	// Findings that concern this table alone.
	Findings []Finding
}

// Column is a published column.
type Column struct {
	Name      string
	Number    int16 // attnum
	TypeOID   uint32
	TypeName  string // format_type(): can be used in a cast
	Storage   byte   // attstorage
	Toastable bool   // values can be moved out of line
	Defaulted bool   // rows written before the column was added may have a value
	Type      *pgvalue.Type
}

// Usable tells whether the table can be replicated.
func (t *Table) Usable() bool {
	return t.Published && !slices.ContainsFunc(t.Findings, func(f Finding) bool { return f.Level != Warn })
}

// KeyColumns are the names of the key columns.
func (t *Table) KeyColumns() []string {
	names := make([]string, len(t.Key))
	for i, c := range t.Key {
		names[i] = t.Columns[c].Name
	}
	return names
}

// SourceTable gives what is stored of a table, without the ids of the sidecar.
func (t *Table) SourceTable() millrace.SourceTable {
	st := millrace.SourceTable{OID: t.OID, Schema: t.Schema, Name: t.Name, Identity: t.Identity,
		KeyColumns: t.KeyColumns(), Member: t.Member, Filter: t.Filter}
	for _, c := range t.Columns {
		st.Columns = append(st.Columns, millrace.SourceColumn{Name: c.Name, TypeOID: c.TypeOID, Type: c.TypeName, Number: c.Number})
	}
	return st
}

// Tables lists the relations that the rules match with what is wrong with
// them, and resolves their column types into types (nil leaves Column.Type
// out). It takes three queries, however many tables there are (P69).
func (s *Source) Tables(ctx context.Context, match Match, types *Types) ([]Table, error) {
	oids, err := s.matching(ctx, match)
	if err != nil {
		return nil, s.explain("list tables", err)
	}
	tables, err := s.describe(ctx, oids)
	if err != nil {
		return nil, s.explain("describe tables", err)
	}
	if types == nil {
		return tables, nil
	}
	var need []uint32
	for _, t := range tables {
		for _, c := range t.Columns {
			need = append(need, c.TypeOID)
		}
	}
	if err := types.Load(ctx, need...); err != nil {
		return nil, err
	}
	for i := range tables {
		for j := range tables[i].Columns {
			c := &tables[i].Columns[j]
			if c.Type = types.Type(c.TypeOID); c.Type == nil {
				c.Type = pgvalue.Unknown(c.TypeOID)
			}
			c.Toastable = pgvalue.Toastable(c.Type, c.Storage)
		}
	}
	return tables, nil
}

// matching lists relations by name. Partitioned tables stand for their leaves.
func (s *Source) matching(ctx context.Context, match Match) ([]uint32, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT c.oid, n.nspname::text, c.relname::text, coalesce(rn.nspname::text, ''), coalesce(r.relname::text, '')
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
		LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
		WHERE c.relkind IN ('r', 'v', 'm', 'f')
		  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		ORDER BY n.nspname, c.relname`)
	if err != nil {
		return nil, err
	}
	var oids []uint32
	var (
		oid             uint32
		table, relation TableName
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &table.Schema, &table.Name, &relation.Schema, &relation.Name}, func() error {
		if match(table.Schema, table.Name) || relation.Name != "" && match(relation.Schema, relation.Name) {
			oids = append(oids, oid)
		}
		return nil
	})
	return oids, err
}

// describeSQL gives a row for each relation. $1 oids, $2 publication.
const describeSQL = `
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       coalesce(rn.nspname::text, ''), coalesce(r.relname::text, ''),
       coalesce(am.amname = 'heap', false), coalesce(pg_relation_filenode(c.oid), 0::oid), c.reltuples::float8,
       p.relation IS NOT NULL, p.attnames, coalesce(p.rowfilter, ''), (MEMBER),
       me.rolname::text, has_schema_privilege(n.oid, 'USAGE'),
       c.relrowsecurity AND NOT (me.rolsuper OR me.rolbypassrls OR pg_has_role(c.relowner, 'USAGE') AND NOT c.relforcerowsecurity),
       coalesce(k.keys, '{}'), coalesce(k.deferrable, false),
       a.names, a.types, a.type_names, a.storage, a.generated, a.numbers, a.readable, a.defaulted
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles me ON me.rolname = current_user
LEFT JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN (PUBLISHED) p ON p.relation = c.oid
LEFT JOIN LATERAL (
    SELECT i.indkey::int2[]::int4[] AS keys, NOT i.indimmediate AS deferrable
    FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid
      AND (c.relreplident IN ('d', 'f') AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)) k ON true
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') AS names,
           coalesce(array_agg(atttypid ORDER BY attnum), '{}') AS types,
           coalesce(array_agg(format_type(atttypid, atttypmod) ORDER BY attnum), '{}') AS type_names,
           coalesce(array_agg(attstorage::text ORDER BY attnum), '{}') AS storage,
           coalesce(array_agg(attgenerated::text ORDER BY attnum), '{}') AS generated,
           coalesce(array_agg(attnum::int4 ORDER BY attnum), '{}') AS numbers,
           coalesce(array_agg(atthasdef OR atthasmissing ORDER BY attnum), '{}') AS defaulted,
           coalesce(array_agg(has_column_privilege(c.oid, attnum, 'SELECT') ORDER BY attnum), '{}') AS readable
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a
WHERE c.oid = ANY($1)
ORDER BY n.nspname, c.relname`

// The relations of the publication; from 15 on with columns and row filter.
const (
	published14 = `SELECT pc.oid AS relation, NULL::text[] AS attnames, NULL::text AS rowfilter` + publishedFrom
	published15 = `SELECT pc.oid AS relation, pt.attnames::text[] AS attnames, pt.rowfilter` + publishedFrom

	// The entry of a table, or of the partitioned table or schema it is in.
	member14 = `SELECT coalesce(min(pr.oid), 0::oid) FROM pg_publication_rel pr JOIN pg_publication pb ON pb.oid = pr.prpubid
		WHERE pb.pubname = $2 AND (pr.prrelid = c.oid OR pr.prrelid IN (SELECT relid FROM pg_partition_ancestors(c.oid)))`
	member15 = `SELECT coalesce((` + member14 + ` HAVING count(*) > 0), (SELECT min(pn.oid) FROM pg_publication_namespace pn
		JOIN pg_publication pb ON pb.oid = pn.pnpubid WHERE pb.pubname = $2 AND pn.pnnspid = c.relnamespace), 0::oid)`

	publishedFrom = ` FROM pg_publication_tables pt JOIN pg_namespace pn ON pn.nspname = pt.schemaname
		JOIN pg_class pc ON pc.relnamespace = pn.oid AND pc.relname = pt.tablename WHERE pt.pubname = $2`
)

// tableRow is what describeSQL gives beside the Table itself.
type tableRow struct {
	kind, persistence, identity string
	attnames                    []string // nil before 15
	role                        string
	schemaUsage, hidden         bool // hidden: row security applies to the role
	keys                        []int32
	deferrable                  bool

	// Of each column.
	names, typeNames   []string
	types              []uint32
	storage, generated []string
	numbers            []int32
	readable           []bool
	defaulted          []bool

	unreadable []string // published columns without SELECT
}

func (s *Source) describe(ctx context.Context, oids []uint32) ([]Table, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	version, err := s.version(ctx)
	if err != nil {
		return nil, err
	}
	published, member := published15, member15
	if version < 150000 {
		published, member = published14, member14
	}
	rows, err := s.pool.Query(ctx, strings.NewReplacer("PUBLISHED", published, "MEMBER", member).Replace(describeSQL), oids, s.config.Publication)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
		var (
			t Table
			r tableRow
		)
		err := row.Scan(&t.OID, &t.Schema, &t.Name, &r.kind, &r.persistence, &r.identity,
			&t.Root.Schema, &t.Root.Name, &t.Heap, &t.Filenode, &t.Rows,
			&t.Published, &r.attnames, &t.Filter, &t.Member, &r.role, &r.schemaUsage, &r.hidden, &r.keys, &r.deferrable,
			&r.names, &r.types, &r.typeNames, &r.storage, &r.generated, &r.numbers, &r.readable, &r.defaulted)
		if err != nil {
			return t, err
		}
		t.Kind, t.Persistence = first(r.kind), first(r.persistence)
		t.columns(&r, version >= generatedSince)
		t.identify(&r)
		t.Findings = t.judge(&r, s.config.Publication)
		return t, nil
	})
}

func (s *Source) version(ctx context.Context) (int, error) {
	var version int
	err := s.pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version)
	return version, err
}

// generatedSince is the first version that can publish generated columns. Those
// before list them among a publication's columns and never send them.
const generatedSince = 180000

// columns picks the published columns (P24).
func (t *Table) columns(r *tableRow, generated bool) {
	t.AllColumns = true
	for i, name := range r.names {
		computed := r.generated[i] != ""
		published := !computed
		if r.attnames != nil {
			listed := slices.Contains(r.attnames, name)
			published = listed && (!computed || generated)
			t.ColumnList = t.ColumnList || !listed && !computed
		}
		if !published {
			t.AllColumns = false
			t.Unpublished = append(t.Unpublished, name)
			continue
		}
		if !r.readable[i] {
			r.unreadable = append(r.unreadable, name)
		}
		t.Columns = append(t.Columns, Column{
			Name: name, Number: int16(r.numbers[i]), TypeOID: r.types[i], TypeName: r.typeNames[i], Storage: first(r.storage[i]), Defaulted: r.defaulted[i],
		})
	}
}

// identify finds the row key: primary key, also of a FULL table, or the index
// of the identity, in attribute order.
func (t *Table) identify(r *tableRow) {
	switch r.identity {
	case "d":
		t.Identity = millrace.IdentityDefault
	case "i":
		t.Identity = millrace.IdentityIndex
	case "f":
		t.Identity = millrace.IdentityFull
	default:
		t.Identity = millrace.IdentityNothing
		return
	}
	if r.deferrable || len(r.keys) == 0 {
		return
	}
	var key []int
	for i, number := range r.numbers {
		if !slices.Contains(r.keys, number) {
			continue
		}
		at := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == r.names[i] })
		if at < 0 {
			return // a key column is not published
		}
		key = append(key, at)
	}
	t.Key = key
}

func first(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

// ErrTableChanged is a table that is not what it was when it was planned:
// dropped, replaced, renamed.
var ErrTableChanged = errors.New("table has changed")
