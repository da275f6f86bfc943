package syncrules

import (
	"go.yaml.in/yaml/v4"
)

// rulesFile is a rules file before its queries are looked at.
type rulesFile struct {
	edition    int
	options    ValueOptions
	legacyJSON bool // fixed_json_extract is off
	exact      bool // unstable_sqlite_expression_engine
	buckets    []*bucketConfig
	streams    []*streamConfig
	with       []*cteConfig
	events     []*eventConfig
}

type bucketConfig struct {
	name     string
	at       span // of the name
	priority *int
	accept   bool
	static   bool     // no parameters key at all
	params   []*query // nil entries were reported
	data     []*query
	ok       bool // parameters are known, so data queries can be checked
}

type streamConfig struct {
	name     string
	auto     bool
	priority int
	accept   bool
	with     []*cteConfig
	queries  []*query
}

type cteConfig struct {
	name string
	key  keySpan
	q    *query
	used bool
}

// keySpan is where a key stands in the file.
type keySpan struct {
	rep        *reporter
	start, end int
}

func (k keySpan) warn(hint, message string) { k.rep.add(Warning, k.start, k.end, hint, message) }

var rootKeys = []string{"config", "bucket_definitions", "streams", "with", "event_definitions"}

// readFile reads the YAML layer and checks its shape.
func readFile(rep *reporter) *rulesFile {
	root := readYAML(rep)
	if root == nil {
		return nil
	}
	d := &document{rep, rep.src}
	f := &rulesFile{edition: 1}
	list, _ := d.entries(root, "a rules file")
	byKey := map[string]entry{}
	strange := false
	for _, e := range list {
		switch e.key.Value {
		case "config", "bucket_definitions", "streams", "with", "event_definitions":
			byKey[e.key.Value] = e
		default:
			strange = true
			d.unknownKey(e.key, "the rules file", rootKeys...)
		}
	}
	if known := d.config(f, byKey["config"]); known {
		d.checkEdition(f, root, byKey, strange)
	}
	names := map[string]bool{}
	if e, ok := byKey["bucket_definitions"]; ok {
		if defs, ok := d.entries(e.value, "bucket_definitions"); ok {
			for _, def := range defs {
				names[def.key.Value] = true
				if b := d.bucket(def); b != nil {
					f.buckets = append(f.buckets, b)
				}
			}
		}
	}
	if e, ok := byKey["with"]; ok {
		f.with = d.ctes(e, "with")
	}
	if e, ok := byKey["streams"]; ok {
		if defs, ok := d.entries(e.value, "streams"); ok {
			for _, def := range defs {
				if names[def.key.Value] {
					d.fatal(def.key, "give one of them another name", quote(def.key.Value)+" is a bucket definition and a stream")
				}
				if s := d.stream(def, f.edition); s != nil {
					f.streams = append(f.streams, s)
				}
			}
		}
	}
	if e, ok := byKey["event_definitions"]; ok {
		f.events = d.events(e)
	}
	return f
}

// checkEdition reports sections that do not go with the edition. strange says
// that there are unknown ones, which may be what seems to be missing.
func (d *document) checkEdition(f *rulesFile, root *yaml.Node, byKey map[string]entry, strange bool) {
	buckets, hasBuckets := byKey["bucket_definitions"]
	streams, hasStreams := byKey["streams"]
	switch {
	case f.edition >= 3 && hasBuckets:
		d.fatal(buckets.key, "use edition: 2, or write them as streams", "bucket_definitions cannot be used in edition 3")
	case strange && !hasStreams && !hasBuckets:
	case f.edition >= 3 && !hasStreams:
		d.fatal(root, "an empty map will do: streams: {}", "edition 3 needs streams")
	case !hasBuckets && !hasStreams:
		d.fatal(root, "", "neither streams nor bucket_definitions are defined")
	case f.edition < 2 && hasStreams:
		d.fatal(streams.value, "add config: {edition: 3}", "streams need edition 3")
	}
	if w, ok := byKey["with"]; ok && f.edition < 3 {
		d.fatal(w.value, "add config: {edition: 3}", "with needs edition 3")
	}
}

var configKeys = []string{"edition", "timestamps_iso8601", "versioned_bucket_ids", "fixed_json_extract", "custom_postgres_types",
	"unstable_sqlite_expression_engine", "timestamp_max_precision", "storage_version"}

// config reads the section; known is false if the edition cannot be told.
func (d *document) config(f *rulesFile, c entry) (known bool) {
	known = true
	given := map[string]bool{}
	var list []entry
	if c.value != nil {
		list, _ = d.entries(c.value, "config")
	}
	for _, e := range list {
		if e.key.Value == "edition" {
			v, ok := d.integer(e, 1, 2, 3)
			if known = ok; ok {
				f.edition = v
			} else {
				f.edition = 3 // to go on with
			}
		}
	}
	var precision *entry
	var engine *yaml.Node
	for _, e := range list {
		switch e.key.Value {
		case "edition":
		case "timestamps_iso8601", "versioned_bucket_ids", "fixed_json_extract", "custom_postgres_types":
			v, ok := d.boolean(e)
			given[e.key.Value] = ok && v
		case "unstable_sqlite_expression_engine":
			if v, ok := d.boolean(e); ok && v {
				f.exact = true
				engine = e.value
			}
		case "timestamp_max_precision":
			precision = &e
		case "storage_version":
			if v, ok := d.integer(e, 2, 3); ok && v == 3 {
				d.warn(e.value, "leave the key out", "storage_version has no effect here")
			}
		default:
			d.unknownKey(e.key, "config", configKeys...)
		}
	}
	on := func(key string) bool {
		if v, ok := given[key]; ok {
			return v
		}
		return f.edition >= 2
	}
	f.options = ValueOptions{TimestampsISO8601: on("timestamps_iso8601"), CustomPostgresTypes: on("custom_postgres_types"), TimestampPrecision: 6}
	f.legacyJSON = !on("fixed_json_extract")
	if f.exact && (f.edition < 3 || f.legacyJSON) {
		d.fatal(engine, "set edition: 3 and leave fixed_json_extract out", "unstable_sqlite_expression_engine needs edition 3 and fixed_json_extract")
	}
	if precision != nil {
		d.precision(f, *precision)
	}
	return known
}

func (d *document) precision(f *rulesFile, e entry) {
	digits, ok := map[string]int{"seconds": 0, "milliseconds": 3, "microseconds": 6, "nanoseconds": 6}[e.value.Value]
	switch {
	case !ok || e.value.Kind != yaml.ScalarNode:
		d.fatal(e.value, "", "timestamp_max_precision must be seconds, milliseconds, microseconds or nanoseconds")
	case !f.options.TimestampsISO8601:
		d.fatal(e.value, "set timestamps_iso8601: true", "timestamp_max_precision needs timestamps_iso8601")
	default:
		f.options.TimestampPrecision = digits
	}
}

func (d *document) priority(e entry) *int {
	if v, ok := d.integer(e, 0, 1, 2, 3); ok {
		return &v
	}
	return nil
}

func (d *document) bucket(def entry) *bucketConfig {
	list, ok := d.entries(def.value, "a bucket definition")
	if !ok {
		return nil
	}
	b := &bucketConfig{name: def.key.Value, at: d.keyText(def.key), static: true, ok: true}
	hasData := false
	for _, e := range list {
		switch e.key.Value {
		case "priority":
			b.priority = d.priority(e)
		case "accept_potentially_dangerous_queries":
			b.accept, _ = d.boolean(e)
		case "parameters":
			b.static = false
			b.params, b.ok = d.parameterQueries(e)
		case "data":
			hasData = true
			b.data = d.queryList(e)
		default:
			d.unknownKey(e.key, "a bucket definition", "priority", "accept_potentially_dangerous_queries", "parameters", "data")
		}
	}
	if !hasData {
		d.fatal(def.value, "an empty list will do: data: []", "bucket definition "+quote(b.name)+" has no data")
	}
	return b
}

// keyText is the place of a key, as a span.
func (d *document) keyText(k *yaml.Node) span {
	start := d.start(k)
	q := &query{text: string(d.src[start:max(start, d.end(k))]), rep: d.rep, base: start}
	return q.whole()
}

func (d *document) parameterQueries(e entry) (list []*query, ok bool) {
	switch {
	case e.value.Kind == yaml.SequenceNode:
		ok = true
		for _, n := range e.value.Content {
			q := d.query(n, "a parameter query")
			ok = ok && q != nil
			list = append(list, q)
		}
		return list, ok
	case e.value.Kind == yaml.ScalarNode && e.value.ShortTag() == "!!null":
		d.fatal(e.value, "leave the key out for a bucket that everybody gets", "parameters is empty")
		return nil, false
	}
	q := d.query(e.value, "parameters")
	return []*query{q}, q != nil
}

// queryList reads a list of queries; those in error are left out.
func (d *document) queryList(e entry) []*query {
	if e.value.Kind != yaml.SequenceNode {
		d.fatal(e.value, "write one \"- SELECT …\" per query", e.key.Value+" must be a list of queries")
		return nil
	}
	var list []*query
	for _, n := range e.value.Content {
		if q := d.query(n, "a query"); q != nil {
			list = append(list, q)
		}
	}
	return list
}

func (d *document) stream(def entry, edition int) *streamConfig {
	list, ok := d.entries(def.value, "a stream")
	if !ok {
		return nil
	}
	s := &streamConfig{name: def.key.Value, priority: 3}
	var one, many *entry
	for _, e := range list {
		switch e.key.Value {
		case "auto_subscribe":
			s.auto, _ = d.boolean(e)
		case "priority":
			if p := d.priority(e); p != nil {
				s.priority = *p
			}
		case "accept_potentially_dangerous_queries":
			s.accept, _ = d.boolean(e)
		case "with":
			s.with = d.ctes(e, "with")
			if edition < 3 {
				d.fatal(e.key, "use edition: 3", "with needs edition 3")
			}
		case "query":
			one = &e
		case "queries":
			many = &e
			if edition < 3 {
				d.fatal(e.key, "use edition: 3", "queries needs edition 3")
			}
		default:
			d.unknownKey(e.key, "a stream", "auto_subscribe", "priority", "accept_potentially_dangerous_queries", "with", "query", "queries")
		}
	}
	switch {
	case one == nil && many == nil:
		d.fatal(def.value, "add query: SELECT …", "stream "+quote(s.name)+" has no query")
	case one != nil && many != nil:
		d.fatal(def.value, "put them all under queries", "stream "+quote(s.name)+" has both query and queries")
	case one != nil:
		if q := d.query(one.value, "query"); q != nil {
			s.queries = []*query{q}
		}
	default:
		s.queries = d.queryList(*many)
	}
	if edition == 2 {
		d.warn(def.value, "use edition: 3", "streams in edition 2 are outdated; they are read as in edition 3")
	}
	return s
}

func (d *document) ctes(e entry, what string) []*cteConfig {
	list, ok := d.entries(e.value, what)
	if !ok {
		return nil
	}
	var ctes []*cteConfig
	for _, c := range list {
		if q := d.queryText(c.value, "a common table expression"); q != nil {
			ctes = append(ctes, &cteConfig{name: c.key.Value, key: keySpan{d.rep, d.start(c.key), d.end(c.key)}, q: q})
		}
	}
	return ctes
}
