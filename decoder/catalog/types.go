package catalog

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/pgvalue"
)

// Types resolves type oids, those of extensions and users with the source's
// catalog. What it knows it keeps; Load asks for what it does not (P15). Enum
// labels are not kept, and renames do not matter. Safe for concurrent use.
type Types struct {
	source *Source

	mu    sync.RWMutex
	known map[uint32]*pgvalue.Type
}

// Types gives an empty cache for this source.
func (s *Source) Types() *Types { return &Types{source: s, known: map[uint32]*pgvalue.Type{}} }

// Type gives a known type, or nil: then Load.
func (t *Types) Type(oid uint32) *pgvalue.Type {
	if b := pgvalue.Builtin(oid); b != nil {
		return b
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.known[oid]
}

// typesSQL follows elements, base types, subtypes and fields.
const typesSQL = `
WITH RECURSIVE need(oid) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT part.oid
    FROM need
    JOIN pg_type t ON t.oid = need.oid
    LEFT JOIN pg_range g ON t.oid IN (g.rngtypid, g.rngmultitypid)
    CROSS JOIN LATERAL (
        SELECT unnest(ARRAY[t.typelem, t.typbasetype, g.rngsubtype])
        UNION ALL
        SELECT a.atttypid FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) part(oid)
    WHERE part.oid <> 0)
SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typlen, t.typstorage::text, t.typdelim::text,
       CASE WHEN e.typarray = t.oid THEN t.typelem ELSE 0::oid END, t.typbasetype, coalesce(g.rngsubtype, 0::oid),
       coalesce(f.names, '{}'), coalesce(f.types, '{}')
FROM need
JOIN pg_type t ON t.oid = need.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_type e ON e.oid = t.typelem
LEFT JOIN pg_range g ON t.oid IN (g.rngtypid, g.rngmultitypid)
LEFT JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names, array_agg(a.atttypid ORDER BY a.attnum) AS types
    FROM pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) f ON true`

type typeRow struct {
	typ                    pgvalue.Type
	kind                   string
	element, base, subtype uint32
	fieldNames             []string
	fieldTypes             []uint32
}

// Load makes the types of the oids known, with one query for all that are not.
// An oid that the source does not know stays unknown.
func (t *Types) Load(ctx context.Context, oids ...uint32) error {
	missing := map[uint32]bool{}
	for _, oid := range oids {
		if t.Type(oid) == nil {
			missing[oid] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ask := make([]uint32, 0, len(missing))
	for oid := range missing {
		ask = append(ask, oid)
	}
	rows, err := t.source.pool.Query(ctx, typesSQL, ask)
	if err != nil {
		return t.source.explain("read types", err)
	}
	found := map[uint32]*typeRow{}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*typeRow, error) {
		var r typeRow
		var storage, delimiter string
		err := row.Scan(&r.typ.OID, &r.typ.Schema, &r.typ.Name, &r.kind, &r.typ.Length, &storage, &delimiter,
			&r.element, &r.base, &r.subtype, &r.fieldNames, &r.fieldTypes)
		r.typ.Storage, r.typ.Delimiter = first(storage), first(delimiter)
		return &r, err
	})
	if err != nil {
		return t.source.explain("read types", err)
	}
	for _, r := range list {
		found[r.typ.OID] = r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for oid := range found {
		t.known[oid] = build(oid, found, map[uint32]*pgvalue.Type{})
	}
	return nil
}

// build links a type with its parts. A type that would contain itself, which
// Postgres does not allow, gets an unknown part instead.
func build(oid uint32, found map[uint32]*typeRow, made map[uint32]*pgvalue.Type) *pgvalue.Type {
	if b := pgvalue.Builtin(oid); b != nil {
		return b
	}
	if t, ok := made[oid]; ok {
		if t == nil {
			return pgvalue.Unknown(oid)
		}
		return t
	}
	r := found[oid]
	if r == nil {
		return pgvalue.Unknown(oid)
	}
	made[oid] = nil // being made
	t := r.typ
	switch {
	case r.kind == "e":
		t.Kind = pgvalue.Enum
	case r.kind == "d":
		t.Kind, t.Element = pgvalue.Domain, build(r.base, found, made)
	case r.kind == "r":
		t.Kind, t.Element = pgvalue.Range, build(r.subtype, found, made)
	case r.kind == "m":
		t.Kind, t.Element = pgvalue.Multirange, build(r.subtype, found, made)
	case r.kind == "c":
		t.Kind = pgvalue.Composite
		for i, name := range r.fieldNames {
			t.Fields = append(t.Fields, pgvalue.Field{Name: name, Type: build(r.fieldTypes[i], found, made)})
		}
	case r.element != 0:
		t.Kind, t.Element = pgvalue.Array, build(r.element, found, made)
	}
	made[oid] = &t
	return &t
}
