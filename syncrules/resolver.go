package syncrules

// resolver says how a request comes to the buckets of one definition: the
// stages, one after the other, each turn one set of values into none, one or
// several.
type resolver struct {
	def      int    // bucket definition
	name     string // bucket definition or stream
	stream   bool
	auto     bool // part of the defaults
	priority int
	at       span  // of the query
	accept   bool  // accept_potentially_dangerous_queries
	filter   *expr // over the request; nil if there is none
	stages   []stage
	values   []keyPart // of the bucket name, over the request and the stages
	program  *program
}

// stage is a lookup or a json_each over the request.
type stage struct {
	rel    *relation // what opElement and opOutput of other expressions refer to
	lookup int       // definition; -1 for json_each
	keys   []keyPart // of the lookup, over the request and earlier stages
	filter *expr     // over the request, earlier stages and this one; nil if there is none
	// outputs is how many values a lookup yields.
	outputs int
}

// output refers to a value that a lookup stage yields.
func output(at span, rel *relation, i int) *expr {
	return &expr{op: opOutput, span: at, rel: rel, name: itoa(i)}
}
