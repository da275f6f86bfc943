package clientsdk

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// ColumnType is the type a column is read as. Values are stored as the server
// sent them and cast on reading, so changing a type moves no data.
type ColumnType string

// The column types. Text is the default.
const (
	Text    ColumnType = "TEXT"
	Integer ColumnType = "INTEGER"
	Real    ColumnType = "REAL"
)

// Schema is the app's view of its data. It can change at every start of the
// app: rows are stored without a schema, and only views, triggers and indexes
// are made anew. Rows of types that no table names are kept, and appear once a
// table does.
type Schema struct {
	Tables []Table
}

// Table is one table of the app: a view of the synced rows whose type is its
// name, writable like a table. It has a text column "id", unique and required,
// beside Columns.
type Table struct {
	Name    string
	Columns []Column
	Indexes []Index
	// LocalOnly: rows stay on the device, are neither uploaded nor downloaded.
	LocalOnly bool
	// InsertOnly: inserts are queued for upload and kept nowhere else; the
	// table itself stays empty. For logs and events.
	InsertOnly bool
}

// Column is a column of a table. Blobs cannot be stored: rows are JSON.
type Column struct {
	Name string
	Type ColumnType // default Text
}

// Index speeds up queries by columns, like CREATE INDEX.
type Index struct {
	Name    string // unique in the table
	Columns []IndexColumn
}

// IndexColumn is a column of an index.
type IndexColumn struct {
	Name       string
	Descending bool
}

// Limits of names in a schema.
const maxNameBytes = 128

func (sc *Schema) validate() error {
	seen := map[string]bool{}
	for i := range sc.Tables {
		t := &sc.Tables[i]
		if err := checkName(t.Name); err != nil {
			return fmt.Errorf("schema: table %q: %w", t.Name, err)
		}
		if seen[strings.ToLower(t.Name)] {
			return fmt.Errorf("schema: table %q is there twice (SQLite ignores case)", t.Name)
		}
		seen[strings.ToLower(t.Name)] = true
		if err := t.validate(); err != nil {
			return fmt.Errorf("schema: table %q: %w", t.Name, err)
		}
	}
	return nil
}

func (t *Table) validate() error {
	if t.LocalOnly && t.InsertOnly {
		return fmt.Errorf("LocalOnly and InsertOnly exclude each other: its rows would be kept nowhere")
	}
	columns := map[string]bool{"id": true}
	for _, c := range t.Columns {
		if err := checkName(c.Name); err != nil {
			return fmt.Errorf("column %q: %w", c.Name, err)
		}
		switch c.Type {
		case "", Text, Integer, Real:
		default:
			return fmt.Errorf("column %q: unknown type %q (Text, Integer or Real)", c.Name, c.Type)
		}
		low := strings.ToLower(c.Name)
		if low == "id" {
			return fmt.Errorf("column %q: every table has an id column already, leave it out", c.Name)
		}
		if columns[low] {
			return fmt.Errorf("column %q is there twice (SQLite ignores case)", c.Name)
		}
		columns[low] = true
	}
	indexes := map[string]bool{}
	for _, ix := range t.Indexes {
		if err := checkName(ix.Name); err != nil {
			return fmt.Errorf("index %q: %w", ix.Name, err)
		}
		if indexes[strings.ToLower(ix.Name)] {
			return fmt.Errorf("index %q is there twice", ix.Name)
		}
		indexes[strings.ToLower(ix.Name)] = true
		if len(ix.Columns) == 0 {
			return fmt.Errorf("index %q has no columns", ix.Name)
		}
		for _, c := range ix.Columns {
			if !columns[strings.ToLower(c.Name)] {
				return fmt.Errorf("index %q: no column %q", ix.Name, c.Name)
			}
		}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > maxNameBytes:
		return fmt.Errorf("the name is longer than %d bytes", maxNameBytes)
	case strings.HasPrefix(strings.ToLower(name), "mr_"), strings.HasPrefix(strings.ToLower(name), "sqlite_"):
		return fmt.Errorf("names that start with mr_ or sqlite_ are taken")
	case strings.ContainsAny(name, "\"'\\`[]\x00\n\r"):
		return fmt.Errorf("the name has a quote, bracket, backslash or line end")
	}
	return nil
}

// table finds a table by name, as SQLite compares names.
func (sc *Schema) table(name string) *Table {
	for i := range sc.Tables {
		if strings.EqualFold(sc.Tables[i].Name, name) {
			return &sc.Tables[i]
		}
	}
	return nil
}

// value is the expression that reads a column out of a row's data. Views and
// expression indexes use the same text, or SQLite would not use the index.
func (c Column) value(data string) string {
	return "CAST(json_extract(" + data + ", " + c.path() + ") AS " + c.typeName() + ")"
}

func (c Column) path() string { return sqlText(`$."` + c.Name + `"`) }

func (c Column) typeName() string {
	if c.Type == "" {
		return string(Text)
	}
	return string(c.Type)
}

const viewPrefix = "mr_t_" // names of triggers and indexes made from the schema

// statements gives the SQL that makes the views, triggers and indexes.
func (sc *Schema) statements() []string {
	var out []string
	for i := range sc.Tables {
		out = append(out, sc.Tables[i].statements()...)
	}
	return out
}

// applySchema rebuilds the views if they differ from what sc asks for. No row
// is read or written, except that SQLite fills new indexes.
func (s *store) applySchema(ctx context.Context, sc *Schema) error {
	if err := sc.validate(); err != nil {
		return err
	}
	made := sc.statements()
	h := fnv.New64a()
	for _, q := range made {
		h.Write([]byte(q)) //nolint:errcheck // hash writers do not fail
	}
	print := strconv.FormatUint(h.Sum64(), 16)
	return s.write(ctx, false, func(t *txn) error {
		var have string
		if err := t.row(`SELECT views FROM mr_state`).Scan(&have); err != nil {
			return err
		}
		if have == print {
			return nil
		}
		if err := t.dropViews(ctx, made); err != nil {
			return err
		}
		for _, q := range made {
			if _, err := s.conn.ExecContext(ctx, q); err != nil {
				return fmt.Errorf("schema: %s: %w", q, err)
			}
		}
		return t.exec(`UPDATE mr_state SET views = ?`, print)
	})
}

// dropViews drops what an earlier schema made, except indexes that stay as
// they are: filling one anew costs time.
func (t *txn) dropViews(ctx context.Context, made []string) error {
	keep := map[string]bool{}
	for _, q := range made {
		keep[strings.Replace(q, " IF NOT EXISTS", "", 1)] = true
	}
	rows, err := t.query(`SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name LIKE 'mr\_t\_%' ESCAPE '\'`)
	if err != nil {
		return err
	}
	defer rows.Close()
	drops := map[string]bool{}
	for rows.Next() {
		var kind, name, table, sql string
		if err := rows.Scan(&kind, &name, &table, &sql); err != nil {
			return err
		}
		switch {
		case kind == "index" && !keep[sql]:
			drops["DROP INDEX "+sqlName(name)] = true
		case kind == "trigger": // its view, and with it all its triggers
			drops["DROP VIEW "+sqlName(table)] = true
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close() // before the schema changes under it
	for q := range drops {
		if _, err := t.s.conn.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}
