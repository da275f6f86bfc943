package catalog

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// judge lists what is wrong with a table that the rules read.
func (t *Table) judge(r *tableRow, publication string) []Finding {
	var list []Finding
	add := func(code string, level Level, message, repair string) {
		list = append(list, Finding{Code: code, Level: level, Object: t.TableName.String(), Message: message, Repair: repair})
	}
	if what := t.unsupported(); what != "" {
		add("MR1019", FatalTable, what, "use permanent tables in the rules; for a view, the tables it reads")
		return list
	}
	if !t.Published {
		add("MR1014", FatalTable, fmt.Sprintf("the table is not in publication %s", publication),
			fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", session.Ident(publication), t.SQL()))
	}
	// The stream shows every published row to a replication role, but a copy
	// needs rights of its own: without them the table would get its new rows
	// and never its old ones (P8).
	role := session.Ident(r.role)
	switch {
	case !r.schemaUsage:
		add("MR1015", FatalTable, "the role may not use the schema", fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", session.Ident(t.Schema), role))
	case len(r.unreadable) > 0:
		add("MR1015", FatalTable, "the role may not read "+columnList(r.unreadable, len(t.Columns)),
			fmt.Sprintf("GRANT SELECT ON %s TO %s;", t.SQL(), role))
	}
	if r.hidden {
		add("MR1016", FatalTable, "row security hides rows from the role", fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", role))
	}
	t.judgeKey(r, add)
	if t.ColumnList {
		add("MR1020", Warn, "the publication has a column list: only "+strings.Join(names(t.Columns), ", ")+" are synced", "")
	}
	if t.Filter != "" {
		add("MR1020", Warn, "the publication has a row filter: only rows with "+t.Filter+" are synced", "")
	}
	for i, name := range r.names {
		if r.generated[i] != "" && !hasColumn(t.Columns, name) {
			add("MR1021", Warn, fmt.Sprintf("generated column %s is not published: rules cannot use it", name),
				"compute it in the rules, or on PostgreSQL 18 ALTER PUBLICATION "+session.Ident(publication)+" SET (publish_generated_columns = stored);")
		}
	}
	return list
}

func (t *Table) unsupported() string {
	switch {
	case t.Kind == 'v':
		return "views are not in the stream"
	case t.Kind == 'm':
		return "materialized views are not in the stream"
	case t.Kind == 'f':
		return "foreign tables are not in the stream"
	case t.Persistence == 'u':
		return "unlogged tables are not in the stream"
	case t.Persistence == 't':
		return "temporary tables are not in the stream"
	}
	return ""
}

func (t *Table) judgeKey(r *tableRow, add func(code string, level Level, message, repair string)) {
	if len(t.Key) > 0 {
		return
	}
	// PostgreSQL refuses UPDATE and DELETE on all but FULL tables.
	const (
		byValues = "its rows are told apart by all their values"
		refused  = byValues + ", and PostgreSQL refuses UPDATE and DELETE on it while it is published"
	)
	alter := "ALTER TABLE " + t.SQL()
	switch {
	case t.Identity == millrace.IdentityFull && len(r.keys) == 0:
		add("MR1017", Warn, "there is no primary key: "+byValues+". Clients get one of several equal rows, and lose it when one of them is deleted", alter+" ADD PRIMARY KEY (…);")
	case t.Identity == millrace.IdentityNothing:
		add("MR1017", Warn, "the replica identity is NOTHING: "+refused, alter+" REPLICA IDENTITY DEFAULT; (with a primary key)")
	case r.deferrable:
		add("MR1018", Warn, "the primary key is deferrable, which PostgreSQL does not take as replica identity: "+refused,
			"make the primary key NOT DEFERRABLE")
	case len(r.keys) > 0:
		add("MR1017", FatalTable, "a column of the key is not published: without a key its rows cannot be told apart", "add it to the publication's column list")
	case t.Identity == millrace.IdentityIndex:
		add("MR1017", Warn, "the index of the replica identity is gone: "+refused, alter+" REPLICA IDENTITY DEFAULT; (with a primary key)")
	default:
		add("MR1017", Warn, "there is no primary key: "+refused, alter+" ADD PRIMARY KEY (…);")
	}
}

func columnList(hidden []string, of int) string {
	if len(hidden) == of {
		return "the table"
	}
	return "columns " + strings.Join(hidden, ", ")
}

func names(columns []Column) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.Name
	}
	return out
}

func hasColumn(columns []Column, name string) bool {
	for _, c := range columns {
		if c.Name == name {
			return true
		}
	}
	return false
}
