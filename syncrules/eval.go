package syncrules

import (
	"strconv"

	"github.com/millrace/millrace"
)

// Limits of what a row may produce.
const (
	maxNameBytes = 1000     // bucket names, lookup keys and row ids
	maxRowBytes  = 15 << 20 // JSON of a row
	// maxRowOutputs bounds how many buckets or lookup entries one row may
	// produce in one definition.
	maxRowOutputs = 10000
)

// Output is what rows evaluate to. Its strings point into an arena of its own
// and are valid until Reset. Reuse it from row to row.
type Output struct {
	Rows    []OutputRow
	Lookups []OutputLookup
	Marks   []OutputMark
	Errors  []OutputError
	arena   []byte
}

// OutputRow is a row in a bucket.
type OutputRow struct {
	Definition int
	Bucket     string // logical name
	Type       string // output table
	RowID      string
	Data       string // JSON object
	// SingleTable: in this definition the type is fed by one source table,
	// named without wildcards.
	SingleTable bool
}

// OutputLookup is an entry of a lookup index.
type OutputLookup struct {
	Definition int
	Key        string // canonical JSON array
	Outputs    string // JSON array of the values a match yields
}

// OutputMark is a custom write checkpoint: a device may show server data again
// once it has everything up to the row's transaction.
type OutputMark struct {
	Definition int
	User       string // with "/<client id>" if the row names a client
	Checkpoint int64
}

// OutputError says that a definition could not evaluate the row in one of its
// queries; that query has no output for it.
type OutputError struct {
	Definition int
	Message    string
}

// Reset empties the output and keeps its memory.
func (o *Output) Reset() {
	o.Rows, o.Lookups, o.Marks, o.Errors, o.arena = o.Rows[:0], o.Lookups[:0], o.Marks[:0], o.Errors[:0], o.arena[:0]
}

// Evaluator evaluates rows of one table. It holds scratch memory: one
// goroutine uses it at a time.
type Evaluator struct {
	plan  *TablePlan
	env   env
	made  []projected
	tapes []jsonTape // one per level of expansion
	// ids are what the query at hand emitted for the row; seen is the same
	// once there are many.
	ids  []string
	seen map[string]struct{}
}

// projected is what a projection gave for the row at hand.
type projected struct {
	done     bool
	data, id string
	err      string
}

// Evaluator returns a new evaluator of the plan.
func (p *TablePlan) Evaluator() *Evaluator {
	return &Evaluator{
		plan: p,
		env:  env{vars: make([]millrace.Value, p.vars), exact: p.exact},
		made: make([]projected, len(p.projections)),
		// A branch never has more levels than variables.
		tapes: make([]jsonTape, p.vars/2),
		seen:  map[string]struct{}{},
	}
}

// Eval appends to out what the row evaluates to. The row has its values in
// the order of Table.Columns; they are not kept.
func (ev *Evaluator) Eval(row []millrace.Value, out *Output) {
	ev.env.reset()
	ev.env.row = row
	clear(ev.made)
	for _, q := range ev.plan.queries {
		rows, lookups := len(out.Rows), len(out.Lookups)
		ev.env.err = ""
		for i := range q.branches {
			br := &q.branches[i]
			branchRows, branchLookups, ids := len(out.Rows), len(out.Lookups), len(ev.ids)
			if br.before == nil || ev.env.holds(br.before(&ev.env)) {
				ev.expand(q, br, 0, out)
			}
			if ev.env.err != "" && q.apart {
				out.Rows, out.Lookups = out.Rows[:branchRows], out.Lookups[:branchLookups]
				out.Errors = append(out.Errors, OutputError{q.def, ev.env.err})
				ev.forget(ids)
				ev.env.err = ""
			}
		}
		ev.ids = ev.ids[:0]
		if len(ev.seen) > 0 {
			clear(ev.seen)
		}
		if ev.env.err != "" {
			out.Rows, out.Lookups = out.Rows[:rows], out.Lookups[:lookups]
			out.Errors = append(out.Errors, OutputError{q.def, ev.env.err})
		}
	}
	ev.env.row = nil
}

// expand runs through the elements of the expansions from level on, and emits
// the row for each combination.
func (ev *Evaluator) expand(q *boundQuery, br *boundBranch, level int, out *Output) {
	e := &ev.env
	if e.err != "" {
		return
	}
	if level == len(br.expansions) {
		if br.after != nil && !e.holds(br.after(e)) || e.err != "" {
			return
		}
		switch {
		case q.mark != nil:
			ev.emitMark(q, out)
		case q.projection < 0:
			ev.emitLookup(q, br, out)
		default:
			ev.emitRow(q, br, out)
		}
		return
	}
	x := &br.expansions[level]
	arg := x.arg(e)
	if arg.IsNull() || e.err != "" {
		return
	}
	tape := &ev.tapes[level]
	if ok, msg := openEach(e, tape, arg, x.mode); msg != "" {
		e.fail("%s", msg)
		return
	} else if !ok {
		return
	}
	for it := eachElement(tape); it.next(e); {
		e.vars[x.key], e.vars[x.val] = it.key, it.value
		ev.expand(q, br, level+1, out)
		if e.err != "" {
			return
		}
	}
}

func (ev *Evaluator) emitRow(q *boundQuery, br *boundBranch, out *Output) {
	start := len(out.arena)
	out.arena = append(out.arena, q.prefix...)
	var ok bool
	if out.arena, ok = ev.appendKeys(out.arena, br); !ok {
		out.arena = out.arena[:start]
		return
	}
	name := view(out.arena[start:])
	if len(name) > maxNameBytes {
		ev.env.fail("bucket name would be %d bytes long, more than %d", len(name), maxNameBytes)
		return
	}
	if ev.repeated(name) {
		out.arena = out.arena[:start]
		return
	}
	p := &ev.made[q.projection]
	if !p.done {
		ev.project(ev.plan.projections[q.projection], p, out)
	}
	if p.err != "" {
		ev.env.fail("%s", p.err)
		return
	}
	out.Rows = append(out.Rows, OutputRow{q.def, name, q.typeName, p.id, p.data, q.single})
}

func (ev *Evaluator) emitLookup(q *boundQuery, br *boundBranch, out *Output) {
	start := len(out.arena)
	out.arena = append(out.arena, '[')
	var ok bool
	if out.arena, ok = ev.appendKeys(out.arena, br); !ok {
		out.arena = out.arena[:start]
		return
	}
	key := view(out.arena[start:])
	if len(key) > maxNameBytes {
		ev.env.fail("lookup key would be %d bytes long, more than %d", len(key), maxNameBytes)
		return
	}
	mid := len(out.arena)
	out.arena = append(out.arena, '[')
	for i, f := range q.outputs {
		if i > 0 {
			out.arena = append(out.arena, ',')
		}
		out.arena = appendMatch(out.arena, f(&ev.env))
	}
	out.arena = append(out.arena, ']')
	outputs := view(out.arena[mid:])
	if ev.repeated(view(out.arena[start:])) {
		out.arena = out.arena[:start]
		return
	}
	out.Lookups = append(out.Lookups, OutputLookup{q.def, key, outputs})
}

// repeated tells whether the query emitted id for this row already, and
// remembers it. More than maxRowOutputs fail the row.
func (ev *Evaluator) repeated(id string) bool {
	const few = 16
	n := len(ev.ids)
	switch {
	case n >= maxRowOutputs:
		ev.env.fail("row would be in more than %d places of one definition", maxRowOutputs)
		return true
	case n < few:
		for _, other := range ev.ids {
			if other == id {
				return true
			}
		}
	default:
		if n == few {
			for _, other := range ev.ids {
				ev.seen[other] = struct{}{}
			}
		}
		if _, ok := ev.seen[id]; ok {
			return true
		}
		ev.seen[id] = struct{}{}
	}
	ev.ids = append(ev.ids, id)
	return false
}

// forget takes back what was emitted after the first n.
func (ev *Evaluator) forget(n int) {
	for _, id := range ev.ids[n:] {
		delete(ev.seen, id)
	}
	ev.ids = ev.ids[:n]
}

// appendKeys appends the values of a key and the closing bracket. ok is false
// if a value cannot match anything.
func (ev *Evaluator) appendKeys(b []byte, br *boundBranch) ([]byte, bool) {
	for i, part := range br.keys {
		if i > 0 {
			b = append(b, ',')
		}
		v := part[0](&ev.env)
		if !matchable(v) {
			return b, false
		}
		for _, f := range part[1:] {
			if w := f(&ev.env); !matchable(w) || !equal(v, w) {
				return b, false
			}
		}
		b = appendMatch(b, v)
	}
	return append(b, ']'), ev.env.err == ""
}

// matchable tells whether a value can be part of a key: null and blobs never
// match.
func matchable(v millrace.Value) bool {
	return v.Kind() != millrace.KindNull && v.Kind() != millrace.KindBlob
}

// appendMatch appends a value as it stands in bucket names and lookup keys:
// numbers that are equal look the same, whether integer or real.
func appendMatch(b []byte, v millrace.Value) []byte {
	if v.Kind() != millrace.KindReal {
		return v.AppendJSON(b)
	}
	f := v.Float()
	if i := int64(f); f >= -1<<63 && f < 1<<63 && float64(i) == f {
		return strconv.AppendInt(b, i, 10)
	}
	if f != f || f-f != 0 {
		return append(b, "null"...)
	}
	return millrace.AppendRealText(b, f)
}

// project writes the row's JSON and id.
func (ev *Evaluator) project(pr *projection, p *projected, out *Output) {
	p.done = true
	e := &ev.env
	outer := e.err
	e.err = ""
	defer func() { e.err = outer }()
	start := len(out.arena)
	b := append(out.arena, '{')
	id := millrace.Null
	for i := range pr.columns {
		c := &pr.columns[i]
		var v millrace.Value
		if c.col >= 0 {
			v = e.row[c.col]
		} else {
			v = c.fn(e)
		}
		if c.fallback >= 0 && v.IsNull() {
			v = e.row[c.fallback]
		}
		if v.Kind() == millrace.KindBlob {
			continue
		}
		if i == pr.id {
			id = v
		}
		if len(b) > start+1 {
			b = append(b, ',')
		}
		b = append(b, c.key...)
		b = v.AppendJSON(b)
	}
	b = append(b, '}')
	out.arena = b
	p.data = view(b[start:])
	idStart := len(b)
	if id.Kind() == millrace.KindReal && id.Str() == "" {
		out.arena = millrace.AppendRealText(out.arena, id.Float()) // whatever the engine
	} else {
		out.arena = append(out.arena, e.text(id)...)
	}
	p.id = view(out.arena[idStart:])
	switch {
	case e.err != "":
		p.err = e.err
	case len(p.data) > maxRowBytes:
		p.err = "row is " + strconv.Itoa(len(p.data)) + " bytes of JSON, more than " + strconv.Itoa(maxRowBytes)
	case len(p.id) > maxNameBytes:
		p.err = "row id is " + strconv.Itoa(len(p.id)) + " bytes long, more than " + strconv.Itoa(maxNameBytes)
	}
}

// each runs through the rows of json_each.
type each struct {
	tape       *jsonTape
	at, end    int
	node       int // of the value
	keyNode    int // of the key, in an object
	array      bool
	object     bool
	index      int64
	key, value millrace.Value
}

// openEach reads the argument of json_each. ok is false if it has no rows.
func openEach(e *env, t *jsonTape, arg millrace.Value, mode eachMode) (ok bool, msg string) {
	if arg.IsNull() {
		return false, ""
	}
	if e.exact && isNumber(arg) {
		arg = millrace.Text(e.text(arg)) // SQLite reads a number as JSON
	}
	if arg.Kind() != millrace.KindText {
		msg = "json_each needs the text of JSON, not " + arg.Kind().String()
	} else if msg = t.parse(arg.Str()); msg != "" {
		msg = "json_each: " + msg
	} else if mode != eachAny && t.nodes[0].kind != jsonArray {
		msg = "IN needs the text of a JSON array, not of another JSON value"
	}
	if mode == eachLenient && msg != "" {
		return false, ""
	}
	return msg == "", msg
}

func eachElement(t *jsonTape) each {
	root := t.nodes[0]
	it := each{tape: t, at: 1, end: len(t.nodes), array: root.kind == jsonArray, object: root.kind == jsonObject}
	if !it.array && !it.object {
		it.at = 0
	}
	return it
}

// step moves to the next row; false at the end.
func (it *each) step() bool {
	if it.at >= it.end {
		return false
	}
	it.node = it.at
	if it.object {
		it.node = int(it.tape.nodes[it.at].next)
	}
	it.keyNode = it.at
	it.at = int(it.tape.nodes[it.node].next)
	return true
}

// next is step that also makes the key and the value. Texts it makes stand in
// the env's buffer.
func (it *each) next(e *env) bool {
	if !it.step() {
		return false
	}
	switch {
	case it.array:
		it.key = millrace.Integer(it.index)
		it.index++
	case it.object:
		it.key = it.tape.sqlValue(e, it.keyNode)
	default:
		it.key = millrace.Null
	}
	it.value = it.tape.sqlValue(e, it.node)
	return true
}
