package syncrules

// Warnings finds what is allowed but may be a mistake, without looking at a
// source: tables whose rows go to everybody. What Compile warns of, such as
// parameters a client can choose, is not repeated. The query's key
// accept_potentially_dangerous_queries silences it.
func (r *Rules) Warnings() Diagnostics {
	if r.rep == nil {
		return nil
	}
	rep := newReporter(r.rep.file, r.rep.src)
	for _, res := range r.resolvers {
		if res.accept || res.uses("token") || res.uses("connection") || res.uses("subscription") {
			continue
		}
		for _, q := range r.defs[res.def].data {
			what := "all rows of"
			if len(q.branches) > 0 && q.branches[0].filter != nil {
				what = "the selected rows of"
			}
			start, end := q.rel.file()
			rep.add(Warning, start, end, "compare with a value of the token, or set accept_potentially_dangerous_queries: true if everybody may read them",
				what+" table "+q.rel.table.name+" are synced to every user: no condition depends on the token")
		}
	}
	return rep.sorted()
}

// uses tells whether a part of the request decides on the resolver's buckets.
func (r *resolver) uses(part string) bool {
	if usesPart(r.filter, part) || anyUses(r.values, part) {
		return true
	}
	for _, st := range r.stages {
		if usesPart(st.filter, part) || usesPart(st.rel.arg, part) || anyUses(st.keys, part) {
			return true
		}
	}
	return false
}

func anyUses(parts []keyPart, part string) bool {
	for _, p := range parts {
		for _, e := range p {
			if usesPart(e, part) {
				return true
			}
		}
	}
	return false
}
