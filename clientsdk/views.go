package clientsdk

import (
	"fmt"
	"strings"
)

// statements gives the view of a table, its triggers and its indexes.
func (t *Table) statements() []string {
	out := []string{t.view()}
	switch {
	case t.LocalOnly:
		out = append(out, t.localTriggers()...)
	case t.InsertOnly:
		out = append(out, t.insertOnlyTriggers()...)
	default:
		out = append(out, t.syncedTriggers()...)
	}
	return append(out, t.indexes()...)
}

// rows is the table the view reads and the condition that selects its rows.
func (t *Table) rows() (table, where string) {
	switch {
	case t.LocalOnly:
		return "mr_local", "type = " + sqlText(t.Name)
	case t.InsertOnly:
		return "mr_rows", "0"
	}
	return "mr_rows", "type = " + sqlText(t.Name) + " AND shown = 1"
}

func (t *Table) view() string {
	table, where := t.rows()
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE VIEW %s AS SELECT id", sqlName(t.Name))
	for _, c := range t.Columns {
		fmt.Fprintf(&b, ", %s AS %s", c.value("data"), sqlName(c.Name))
	}
	fmt.Fprintf(&b, " FROM %s WHERE %s", table, where)
	return b.String()
}

func (t *Table) indexes() []string {
	table, where := t.rows()
	if t.InsertOnly {
		return nil
	}
	var out []string
	for _, ix := range t.Indexes {
		var terms []string
		for _, c := range ix.Columns {
			term := "id"
			for _, col := range t.Columns {
				if strings.EqualFold(col.Name, c.Name) {
					term = col.value("data")
				}
			}
			if c.Descending {
				term += " DESC"
			}
			terms = append(terms, term)
		}
		out = append(out, fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (%s) WHERE %s",
			sqlName(viewPrefix+t.Name+"_"+ix.Name), table, strings.Join(terms, ", "), where))
	}
	return out
}

// trigger is an INSTEAD OF trigger of the view.
func (t *Table) trigger(event string, body ...string) string {
	return fmt.Sprintf("CREATE TRIGGER %s INSTEAD OF %s ON %s BEGIN\n  %s;\nEND",
		sqlName(viewPrefix+t.Name+"_"+strings.ToLower(event)), event, sqlName(t.Name), strings.Join(body, ";\n  "))
}

func (t *Table) guard(condition, message string) string {
	return fmt.Sprintf("SELECT RAISE(ABORT, %s) WHERE %s", sqlText(t.Name+": "+message), condition)
}

// object is the JSON object of the columns for which the condition holds.
func (t *Table) object(condition func(column string) string) string {
	if len(t.Columns) == 0 {
		return "'{}'"
	}
	var terms []string
	for _, c := range t.Columns {
		terms = append(terms, fmt.Sprintf("SELECT %s AS k, NEW.%s AS v WHERE %s", sqlText(c.Name), sqlName(c.Name), condition(sqlName(c.Name))))
	}
	return "(SELECT json_group_object(k, v) FROM (" + strings.Join(terms, " UNION ALL ") + "))"
}

func (t *Table) inserted() string {
	return t.object(func(c string) string { return "NEW." + c + " IS NOT NULL" })
}

func (t *Table) patched() string {
	return t.object(func(c string) string { return "NEW." + c + " IS NOT OLD." + c })
}

// merged is data with the changed columns: one set to null loses its key, what
// no column names stays.
func (t *Table) merged() string { return "json_patch(data, " + t.patched() + ")" }

// enqueue puts the statement's row into the upload queue and shuts the gate:
// until the server has acknowledged the write, nothing is published over it.
func (t *Table) enqueue(op, id, data string) []string {
	return []string{
		fmt.Sprintf("INSERT INTO mr_queue (tx, op, type, row_id, data) SELECT tx, '%s', %s, %s, %s FROM mr_state", op, sqlText(t.Name), id, data),
		"UPDATE mr_state SET target = 9223372036854775807, seen = 0",
		t.noted(),
	}
}

func (t *Table) noted() string {
	return fmt.Sprintf("INSERT OR IGNORE INTO mr_changes VALUES (%s)", sqlText(t.Name))
}

// checks are the guards of the values of an inserted or updated row.
func (t *Table) checks() []string {
	var out []string
	for _, c := range t.Columns {
		out = append(out, t.guard("typeof(NEW."+sqlName(c.Name)+") = 'blob'", "column "+c.Name+" cannot hold a BLOB: rows are JSON; encode it as text"))
	}
	return out
}

const (
	noID     = "an inserted row needs a text id: generate one (a UUID)"
	badID    = "NEW.id IS NULL OR typeof(NEW.id) <> 'text' OR NEW.id = ''"
	changeID = "the id of a row cannot change: delete it and insert another"
)

func (t *Table) syncedTriggers() []string {
	name := sqlText(t.Name)
	row := func(id string) string { return fmt.Sprintf("type = %s AND id = %s", name, id) }
	queued := "(SELECT max(id) FROM mr_queue)"
	insert := append(append(t.checks(),
		t.guard(badID, noID),
		t.guard("EXISTS (SELECT 1 FROM mr_rows WHERE "+row("NEW.id")+" AND shown = 1)", "UNIQUE constraint failed: a row with this id exists"),
	), t.enqueue("PUT", "NEW.id", t.inserted())...)
	insert = append(insert,
		"DELETE FROM mr_rows WHERE "+row("NEW.id")+" AND bucket = 0",
		fmt.Sprintf("INSERT INTO mr_rows (bucket, op_id, type, id, subkey, checksum, data, shown) VALUES (0, %s, %s, NEW.id, '', 0, %s, 1)", queued, name, t.inserted()),
	)
	update := append(append(t.checks(), t.guard("NEW.id IS NOT OLD.id", changeID)),
		t.enqueue("PATCH", "OLD.id", t.patched())...)
	update = append(update,
		fmt.Sprintf("INSERT INTO mr_rows (bucket, op_id, type, id, subkey, checksum, data, shown) SELECT 0, %s, type, id, '', 0, data, 0 FROM mr_rows WHERE %s AND shown = 1 AND bucket <> 0", queued, row("OLD.id")),
		fmt.Sprintf("UPDATE mr_rows SET shown = (bucket = 0), data = CASE WHEN bucket = 0 THEN %s ELSE data END WHERE %s AND (bucket = 0 OR shown = 1)", t.merged(), row("OLD.id")),
	)
	remove := append(t.enqueue("DELETE", "OLD.id", "NULL"),
		"DELETE FROM mr_rows WHERE "+row("OLD.id")+" AND bucket = 0",
		"UPDATE mr_rows SET shown = 0 WHERE "+row("OLD.id")+" AND shown = 1",
		fmt.Sprintf("INSERT INTO mr_rows (bucket, op_id, type, id, subkey, checksum, data, shown) VALUES (0, %s, %s, OLD.id, '', 0, NULL, 0)", queued, name),
	)
	return []string{t.trigger("INSERT", insert...), t.trigger("UPDATE", update...), t.trigger("DELETE", remove...)}
}

func (t *Table) localTriggers() []string {
	name := sqlText(t.Name)
	return []string{
		t.trigger("INSERT", append(t.checks(),
			t.guard(badID, noID),
			fmt.Sprintf("INSERT INTO mr_local (type, id, data) VALUES (%s, NEW.id, %s)", name, t.inserted()),
			t.noted())...),
		t.trigger("UPDATE", append(t.checks(),
			t.guard("NEW.id IS NOT OLD.id", changeID),
			fmt.Sprintf("UPDATE mr_local SET data = %s WHERE type = %s AND id = OLD.id", t.merged(), name),
			t.noted())...),
		t.trigger("DELETE",
			fmt.Sprintf("DELETE FROM mr_local WHERE type = %s AND id = OLD.id", name),
			t.noted()),
	}
}

func (t *Table) insertOnlyTriggers() []string {
	insert := append(append(t.checks(), t.guard(badID, noID)), t.enqueue("PUT", "NEW.id", t.inserted())...)
	return []string{t.trigger("INSERT", insert...)}
}
