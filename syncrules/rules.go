package syncrules

import (
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// Rules is a compiled rules file. It is immutable and safe for concurrent use.
type Rules struct {
	options   ValueOptions
	exact     bool // unstable_sqlite_expression_engine
	language  int
	defs      []*definition
	resolvers []*resolver
	streams   map[string]bool // names a subscription may have
	tables    []*tablePattern
	ctes      []*cteConfig
	rep       *reporter // of the compilation, for the file
}

// ValueOptions say how the file wants source values mapped. The definitions'
// hashes cover them.
type ValueOptions struct {
	// TimestampsISO8601 writes date and time with a T and six digits.
	TimestampsISO8601 bool
	// CustomPostgresTypes decodes domains, composites, ranges and their arrays.
	CustomPostgresTypes bool
	// TimestampPrecision is the number of fractional digits, 0, 3 or 6; it
	// only has a meaning with TimestampsISO8601.
	TimestampPrecision int
}

// Definition is a bucket definition, a lookup index or an event definition. The
// store keeps its history under the hash.
type Definition struct {
	Kind millrace.DefinitionKind
	// Key is unique in a file: "bucket:by_owner", "bucket:my_lists|0",
	// "lookup:by_owner/1", "event:write_checkpoints".
	Key string
	// Name is the bucket definition, stream or event it came from.
	Name string
	// Hash is the lower-case hex SHA-256 of the normalised meaning.
	Hash string
}

// TablePattern is a table as the rules name it.
type TablePattern struct {
	Tag, Schema, Name string
	// SchemaPrefix and NamePrefix say that the name is a prefix: it was
	// written with a % at the end, which is not part of it here.
	SchemaPrefix, NamePrefix bool
	// Line and Column of its first use in the file.
	Line, Column int
}

// Matches tells whether the pattern names the table.
func (p TablePattern) Matches(tag, schema, table string) bool {
	t := tablePattern{tag: p.Tag, schema: p.Schema, name: p.Name, schemaPrefix: p.SchemaPrefix, namePrefix: p.NamePrefix}
	return t.matches(tag, schema, table)
}

// Names of what is not said: the connection and the schema.
const (
	defaultTag    = "default"
	defaultSchema = "public"
)

// Compile reads a rules file. file is its name for messages only. Rules are
// nil if any diagnostic is fatal.
func Compile(file string, src []byte) (*Rules, Diagnostics) {
	return compile(file, src, newestLanguage)
}

func compile(file string, src []byte, lang int) (*Rules, Diagnostics) {
	rep := newReporter(file, src)
	f := readFile(rep)
	if f == nil {
		return nil, rep.sorted()
	}
	r := &Rules{options: f.options, exact: f.exact, language: lang, streams: map[string]bool{}}
	b := &builder{rules: r, file: f, byHash: map[string]int{}, counts: map[string]int{}}
	for _, c := range f.buckets {
		b.bucketDefinition(c)
	}
	b.streamDefinitions()
	for _, c := range f.events {
		b.eventDefinition(c)
	}
	if rep.fatal > 0 {
		return nil, rep.sorted()
	}
	b.finish()
	r.rep = rep
	return r, rep.sorted()
}

// Options tells how source values are to be mapped.
func (r *Rules) Options() ValueOptions { return r.options }

// Definitions lists what the rules define. The index of a definition is what
// outputs, lookups and errors refer to.
func (r *Rules) Definitions() []Definition {
	list := make([]Definition, len(r.defs))
	for i, d := range r.defs {
		list[i] = Definition{Kind: d.kind, Key: d.key, Name: d.name, Hash: d.hash}
	}
	return list
}

// Reads lists, by index, the definitions that read a table of a connection with
// one of the tags.
func (r *Rules) Reads(tags []string) (list []int) {
	for i, d := range r.defs {
		reads := d.lookup != nil && slices.Contains(tags, d.lookup.rel.table.tag)
		for _, q := range d.data {
			reads = reads || slices.Contains(tags, q.rel.table.tag)
		}
		for _, q := range d.payloads {
			reads = reads || slices.Contains(tags, q.rel.table.tag)
		}
		if reads {
			list = append(list, i)
		}
	}
	return list
}

// Streams lists the names of streams, in no order.
func (r *Rules) Streams() []string {
	var list []string
	for name := range r.streams {
		list = append(list, name)
	}
	return list
}

// Uses tells whether any definition reads the table. An empty tag is the
// default connection.
func (r *Rules) Uses(tag, schema, table string) bool {
	for _, p := range r.tables {
		if p.matches(tag, schema, table) {
			return true
		}
	}
	return false
}

// Tables lists what the rules name, each once.
func (r *Rules) Tables() []TablePattern {
	list := make([]TablePattern, len(r.tables))
	for i, p := range r.tables {
		list[i] = TablePattern{Tag: p.tag, Schema: p.schema, Name: p.name, SchemaPrefix: p.schemaPrefix, NamePrefix: p.namePrefix, Line: p.line, Column: p.column}
	}
	return list
}

// tablePattern is a table as named in a query, wildcards taken apart.
type tablePattern struct {
	tag, schema, name        string
	schemaPrefix, namePrefix bool
	line, column             int
}

func (p *tablePattern) wildcard() bool { return p.schemaPrefix || p.namePrefix }

func (p *tablePattern) matches(tag, schema, table string) bool {
	if tag == "" {
		tag = defaultTag
	}
	if tag != p.tag {
		return false
	}
	if p.schemaPrefix {
		if !strings.HasPrefix(schema, p.schema) || strings.HasPrefix(schema, "pg_") || schema == "information_schema" {
			return false
		}
	} else if schema != p.schema {
		return false
	}
	if p.namePrefix {
		return strings.HasPrefix(table, p.name)
	}
	return table == p.name
}

// same tells whether two patterns name the same tables.
func (p *tablePattern) same(o *tablePattern) bool {
	return p.tag == o.tag && p.schema == o.schema && p.name == o.name && p.schemaPrefix == o.schemaPrefix && p.namePrefix == o.namePrefix
}

// pattern reads the table a source names. nil means an error was reported.
func pattern(s source, schemaWildcards bool) *tablePattern {
	p := &tablePattern{tag: defaultTag, schema: defaultSchema, name: s.name.name}
	if s.schema != nil {
		p.schema = s.schema.name
		if tag, schema, ok := strings.Cut(p.schema, "."); ok {
			if strings.Contains(schema, ".") || tag == "" || schema == "" {
				s.schema.fatal("write \"tag.schema\".table", "a schema has at most a connection tag and a name")
				return nil
			}
			p.tag, p.schema = tag, schema
		}
	}
	p.name, p.namePrefix = strings.CutSuffix(p.name, "%")
	if schemaWildcards {
		p.schema, p.schemaPrefix = strings.CutSuffix(p.schema, "%")
	}
	start, _ := s.at.file()
	p.line, p.column = s.at.q.rep.position(start)
	return p
}
