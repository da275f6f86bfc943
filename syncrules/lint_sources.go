package syncrules

import (
	"slices"
	"strings"
)

// SourceTags is a configured source and the connection tags that mean it.
type SourceTags struct {
	Name string
	Tags []string
}

// CheckSources compares the rules with the sources they are for: it warns of
// connection tags that no source has, and of queries that read a table of
// several sources with an id that does not tell them apart. All findings are
// warnings: rows of two shards may well never share an id.
func (r *Rules) CheckSources(sources []SourceTags) Diagnostics {
	if r.rep == nil {
		return nil
	}
	l := &linter{rep: newReporter(r.rep.file, r.rep.src), seen: map[*relation]bool{}}
	for _, d := range r.defs {
		for _, q := range d.data {
			if names := l.sources(q.rel, sources); len(names) > 1 && !q.tellsSources() {
				l.warn(q.rel.span, "build the id from the source too, with _source_name in bucket definitions and t.source_name() in streams, unless no id is in two of them",
					"the table is read from the sources "+strings.Join(names, ", ")+": rows with the same id replace each other on the client")
			}
		}
		if d.lookup != nil {
			l.sources(d.lookup.rel, sources)
		}
		for _, q := range d.payloads {
			l.sources(q.rel, sources)
		}
	}
	return l.rep.sorted()
}

// sources names the sources whose tables a relation reads.
func (l *linter) sources(rel *relation, sources []SourceTags) (names []string) {
	var tags []string
	for _, s := range sources {
		tags = append(tags, s.Tags...)
		if slices.Contains(s.Tags, rel.table.tag) {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 && !l.seen[rel] {
		l.seen[rel] = true
		l.warn(rel.span, didYouMean(rel.table.tag, tags), "no source has the connection tag "+quote(rel.table.tag))
	}
	return names
}

// tellsSources tells whether the id of the query's rows depends on their
// source.
func (q *dataQuery) tellsSources() bool {
	for _, it := range q.items {
		if it.name == "id" && !it.star && it.e.any(func(x *expr) bool { return x.op == opMeta && x.name == "source_name" }) {
			return true
		}
	}
	return false
}
