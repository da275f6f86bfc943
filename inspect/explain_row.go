package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

// ExplainRow says which buckets a source row is in and which not, by which
// conditions; since when, and by which ops; and, if the request has claims,
// whether that user gets it and why.
//
// table is name, schema.name or source.schema.name. id is the row key: the text
// of the key column, or the JSON array of several.
func ExplainRow(ctx context.Context, c ExplainConfig, table, id string) (*RowExplanation, error) {
	side, err := openSidecar(ctx, c.Sidecar)
	if err != nil {
		return nil, err
	}
	defer side.close()
	set, err := side.served(ctx)
	if err != nil {
		return nil, err
	}
	if err := side.name(ctx, c.Sources); err != nil {
		return nil, err
	}
	scan, err := openScanner(ctx, &SimulationConfig{Rules: set.rules, Sources: c.Sources})
	if err != nil {
		return nil, err
	}
	defer scan.close()
	tables, err := scan.named(table)
	if err != nil {
		return nil, err
	}
	x := &explainer{set: set, out: &RowExplanation{Table: tables[0].name, ID: id, RuleSet: int(set.id),
		Queries: []QueryExplanation{}, Stays: []Stay{}, Errors: []string{}, Notes: []string{}}}
	if root := tables[0].table.Root; root.Name != "" && len(tables) > 1 {
		x.out.Table = root.String()
	}
	for _, t := range tables {
		if err := x.queries(ctx, c.source(t), t, id); err != nil {
			return nil, err
		}
	}
	at, err := side.contents(ctx, set.id)
	if err != nil {
		return nil, err
	}
	defer at.close(ctx)
	x.out.Checkpoint = at.head
	for _, t := range tables {
		if err := x.history(ctx, at, t, id); err != nil {
			return nil, err
		}
	}
	if c.Request.Claims != nil {
		if err := x.user(ctx, at, c.Request); err != nil {
			return nil, err
		}
	}
	x.compare()
	return x.out, nil
}

// source is the catalog of a table's source.
func (c *ExplainConfig) source(t *scannedTable) *Source {
	i := slices.IndexFunc(c.Sources, func(s Source) bool { return s.Name == t.source })
	return &c.Sources[i]
}

// named finds the tables that a person means: one, or the partitions of one.
func (s *scanner) named(name string) ([]*scannedTable, error) {
	var found []*scannedTable
	parents := map[string]bool{}
	for _, t := range s.tables {
		full := t.table.TableName
		if t.table.Root.Name != "" && (matches(name, t.source, t.table.Root)) {
			full = t.table.Root
		} else if !matches(name, t.source, full) {
			continue
		}
		parents[t.source+"."+full.String()] = true
		found = append(found, t)
	}
	if len(found) == 0 {
		var names []string
		for _, t := range s.tables {
			names = append(names, t.name)
		}
		return nil, fmt.Errorf("the rules in force read no table %s; they read: %s", name, some(names))
	}
	if len(parents) > 1 {
		var names []string
		for n := range parents {
			names = append(names, n)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("table %s is not only one: name one of %s", name, strings.Join(names, ", "))
	}
	return found, nil
}

// matches tells whether a person's name of a table means one.
func matches(name, source string, t catalog.TableName) bool {
	return name == t.Name || name == t.Schema+"."+t.Name || name == source+"."+t.Schema+"."+t.Name
}

type explainer struct {
	set  *served
	out  *RowExplanation
	want map[bucketKey]bool // buckets that the rules give the row now
}

// title is what people call a definition.
func (s *served) title(definition int) string {
	key := s.rules.Definitions()[definition].Key
	if _, name, ok := strings.Cut(key, ":"); ok {
		return name
	}
	return key
}

// queries reads the row and asks the rules about it.
func (x *explainer) queries(ctx context.Context, src *Source, t *scannedTable, id string) error {
	keys, err := pgvalue.SplitKey(id, len(t.table.Key))
	if err != nil {
		return fmt.Errorf("the key of %s is (%s): give %w", t.name, strings.Join(t.table.KeyColumns(), ", "), err)
	}
	request := &catalog.ChunkRequest{Table: t.table.OID, Name: t.table.TableName, Filter: t.table.Filter, Keys: [][]string{keys}}
	names, types := make([]string, len(t.table.Columns)), make([]string, len(t.table.Columns))
	for i, c := range t.table.Columns {
		names[i], types[i] = c.Name, c.TypeName
	}
	request.Columns = names
	for _, i := range t.table.Key {
		request.KeyColumns, request.KeyTypes = append(request.KeyColumns, names[i]), append(request.KeyTypes, types[i])
	}
	var arena pgvalue.Arena
	row := make([]millrace.Value, len(names))
	found := false
	reader := src.Catalog.Reader()
	defer reader.Close()
	options := valueOptions(x.set.rules.Options())
	_, err = reader.ReadChunk(ctx, request, func(tuple *pgoutput.Tuple) error {
		found = true
		for i := range names {
			if tuple.Kind(i) == pgoutput.Null {
				row[i] = millrace.Null
				continue
			}
			v, err := pgvalue.For(t.table.Columns[i].Type, options)(tuple.Bytes(i), &arena)
			if err != nil {
				return fmt.Errorf("column %s: %w", names[i], err)
			}
			row[i] = v
		}
		return nil
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "22") {
		return fmt.Errorf("%q is no key of %s (%s): %s", id, t.name, strings.Join(t.table.KeyColumns(), ", "), pg.Message)
	}
	if err != nil || !found {
		return err
	}
	x.out.Exists = true
	rule := t.table.TableName
	if root := t.table.Root; root.Name != "" && slices.ContainsFunc(src.Tags, func(tag string) bool { return x.set.rules.Uses(tag, root.Schema, root.Name) }) {
		rule = root
	}
	if x.want == nil {
		x.want = map[bucketKey]bool{}
	}
	for _, tag := range src.Tags {
		for _, e := range x.set.rules.ExplainRow(syncrules.Table{Tag: tag, Source: src.Name, Schema: rule.Schema, Name: rule.Name, Columns: names}, row) {
			q := QueryExplanation{Definition: x.set.title(e.Definition), Kind: string(x.set.rules.Definitions()[e.Definition].Kind), At: e.At.String(), In: e.In(), Names: append([]string{}, e.Names...), Why: [][]string{}}
			switch millrace.DefinitionKind(q.Kind) {
			case millrace.LookupDefinition:
			case millrace.EventDefinition:
				for i, n := range e.Names {
					q.Names[i] = "write checkpoint " + e.Outputs[i] + " for " + n
				}
			case millrace.BucketDefinition:
				for _, n := range e.Names {
					x.want[bucketKey{e.Definition, n}] = true
				}
			}
			if e.Err != "" {
				q.Why = append(q.Why, []string{"it fails: " + e.Err})
			} else {
				for _, b := range e.Branches {
					q.Why = append(q.Why, branch(b))
				}
			}
			x.out.Queries = append(x.out.Queries, q)
		}
	}
	return nil
}

// branch says why an alternative of a query takes a row or not.
func branch(b syncrules.BranchExplanation) []string {
	why := []string{}
	for _, c := range b.Conditions {
		if c.Holds == b.Matches {
			why = append(why, c.String())
		}
	}
	for _, k := range b.Keys {
		if !b.Matches && k.Value.Kind() == millrace.KindNull {
			why = append(why, k.String()+" matches nothing")
		}
	}
	return why
}

// history reads what the sidecar knows of the row.
func (x *explainer) history(ctx context.Context, at *contents, t *scannedTable, id string) error {
	name := t.source + "." + t.table.TableName.String()
	var known bool
	if err := at.tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.source_tables t JOIN millrace.sources s ON s.id = t.source WHERE s.name || '.' || t.schema || '.' || t.name = $1)`, name).Scan(&known); err != nil {
		return fmt.Errorf("find table %s in the sidecar: %w", name, err)
	}
	if !known {
		x.out.Notes = append(x.out.Notes, "the sidecar has not taken up table "+name+" yet")
		return nil
	}
	rows, err := at.tx.Query(ctx, `SELECT bucket_name, type, client_row_id, since_op, since, coalesce(until_op, 0), until, coalesce(ops, '[]') FROM millrace.row_history($1, $2)`, name, id)
	if err != nil {
		return fmt.Errorf("read the history of the row: %w", err)
	}
	var s Stay
	var ops []byte
	if _, err := pgx.ForEachRow(rows, []any{&s.Bucket, &s.Table, &s.Row, &s.Since, &s.SinceAt, &s.Until, &s.UntilAt, &ops}, func() error {
		s.Ops = nil
		if err := json.Unmarshal(ops, &s.Ops); err != nil {
			return err
		}
		x.out.Stays = append(x.out.Stays, s)
		return nil
	}); err != nil {
		return fmt.Errorf("read the history of the row: %w", err)
	}
	rows, err = at.tx.Query(ctx, `
		SELECT e.definition, e.message FROM millrace.row_errors e JOIN millrace.source_tables t ON t.id = e.source_table JOIN millrace.sources s ON s.id = t.source
		WHERE s.name || '.' || t.schema || '.' || t.name = $1 AND e.row_key = $2`, name, id)
	if err != nil {
		return fmt.Errorf("read the errors of the row: %w", err)
	}
	var definition millrace.DefinitionID
	var message string
	if _, err := pgx.ForEachRow(rows, []any{&definition, &message}, func() error {
		if i := slices.Index(x.set.definitions, definition); i >= 0 {
			x.out.Errors = append(x.out.Errors, x.set.title(i)+": "+message)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read the errors of the row: %w", err)
	}
	return nil
}

// user says what of the row a user gets.
func (x *explainer) user(ctx context.Context, at *contents, request syncrules.Request) error {
	g, err := at.grants(ctx, x.set, request)
	if err != nil {
		return err
	}
	u := &UserRow{User: subject(request.Claims), Buckets: []GrantExplanation{}}
	x.out.User = u
	x.out.Errors = append(x.out.Errors, g.errors...)
	in := map[bucketKey]bool{}
	newest := millrace.OpID(0)
	for _, s := range x.out.Stays {
		if !s.Here() {
			continue
		}
		if b, ok := x.set.bucket(s.Bucket); ok {
			in[b] = true
			newest = max(newest, s.Since)
			for _, o := range s.Ops {
				newest = max(newest, o.OpID)
			}
		}
	}
	for b := range x.want {
		in[b] = true
	}
	list := make([]bucketKey, 0, len(in))
	for b := range in {
		list = append(list, b)
	}
	slices.SortFunc(list, compareBuckets)
	for _, b := range list {
		granted := g.has(b)
		u.Gets = u.Gets || granted
		u.Buckets = append(u.Buckets, GrantExplanation{Bucket: b.name, Definition: x.set.title(b.definition), Granted: granted, Why: append([]string{}, g.why(b)...)})
	}
	u.Sessions, err = at.sessions(ctx, u.User, newest)
	return err
}

// bucket resolves a wire name.
func (s *served) bucket(wire string) (bucketKey, bool) {
	prefix, name, ok := strings.Cut(wire, "#")
	i := slices.Index(s.prefixes, prefix)
	return bucketKey{i, name}, ok && i >= 0
}

// compare notes where the sidecar and the rules do not agree.
func (x *explainer) compare() {
	have := map[bucketKey]bool{}
	for _, s := range x.out.Stays {
		if b, ok := x.set.bucket(s.Bucket); ok && s.Here() {
			have[b] = true
		}
	}
	var missing, extra []string
	for b := range x.want {
		if !have[b] {
			missing = append(missing, b.name)
		}
	}
	for b := range have {
		if !x.want[b] {
			extra = append(extra, b.name)
		}
	}
	slices.Sort(missing)
	slices.Sort(extra)
	if len(missing)+len(extra) == 0 {
		return
	}
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, "not in "+some(missing)+" yet")
	}
	if len(extra) > 0 {
		parts = append(parts, "still in "+some(extra))
	}
	x.out.Notes = append(x.out.Notes, "the sidecar has the row "+strings.Join(parts, ", ")+
		": it changed on the source just now, or the sidecar lags (SELECT * FROM millrace.replication), or it is wrong (millrace verify)")
}
