package syncrules

import (
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/millrace/millrace"
)

// The events that have a meaning: their rows are custom write checkpoints.
const (
	// EventWriteCheckpoints: the backend chooses the numbers and hands them to
	// the client.
	EventWriteCheckpoints = "write_checkpoints"
	// EventCheckpointRequests: the client chooses them and hands them to the
	// backend.
	EventCheckpointRequests = "checkpoint_requests"
)

var eventNames = []string{EventWriteCheckpoints, EventCheckpointRequests}

// markColumns are what a payload query of these events selects.
var markColumns = [...]string{"user_id", "client_id", "checkpoint"}

const (
	markUser = iota
	markClient
	markCheckpoint
)

// eventConfig is an entry of event_definitions.
type eventConfig struct {
	name     string
	payloads []*query
}

func (c *eventConfig) known() bool {
	return c.name == EventWriteCheckpoints || c.name == EventCheckpointRequests
}

// payloadQuery makes custom write checkpoints of rows of a table.
type payloadQuery struct {
	rowQuery
	columns [len(markColumns)]*expr // nil: the query does not select it
}

// events reads event_definitions. Events of other names are checked all the
// same.
func (d *document) events(e entry) []*eventConfig {
	list, _ := d.entries(e.value, "event_definitions")
	var all []*eventConfig
	for _, ev := range list {
		c := &eventConfig{name: ev.key.Value}
		all = append(all, c)
		if !c.known() {
			hint := didYouMean(c.name, eventNames)
			if hint == "" {
				hint = "the events that have one are " + strings.Join(eventNames, " and ")
			}
			d.warn(ev.key, hint, "event "+quote(c.name)+" has no effect here")
		}
		keys, ok := d.entries(ev.value, "an event definition")
		found := !ok // said enough
		for _, k := range keys {
			found = true
			if k.key.Value != "payloads" {
				d.unknownKey(k.key, "an event definition", "payloads")
				continue
			}
			c.payloads = append(c.payloads, d.queryList(k)...)
			if c.known() && k.value.Kind == yaml.SequenceNode && len(k.value.Content) == 0 {
				d.fatal(k.value, "leave the event out, or select user_id, client_id and checkpoint from a table", "event "+quote(c.name)+" has no payload query")
			}
		}
		if !found {
			d.fatal(ev.value, "", "event "+quote(c.name)+" has no payloads")
		}
	}
	return all
}

// eventDefinition compiles an entry of event_definitions.
func (b *builder) eventDefinition(c *eventConfig) {
	def := &definition{kind: millrace.EventDefinition, key: "event:" + c.name, name: c.name}
	for _, q := range c.payloads {
		if p := b.payload(q, c.known()); p != nil {
			def.payloads = append(def.payloads, p)
		}
	}
	if c.known() {
		b.rules.defs = append(b.rules.defs, def)
	}
}

// payload compiles a payload query. nil means that an error was reported.
func (b *builder) payload(q *query, known bool) *payloadQuery {
	before := q.rep.fatal
	sel := parseSelect(q, parseOptions{})
	if sel == nil {
		return nil
	}
	src, ok := bucketSource(sel)
	switch {
	case !ok:
		return nil
	case src == nil || src.call != nil:
		sel.fatal("", "a payload is selected from a table")
		return nil
	}
	p := pattern(*src, false)
	if p == nil {
		return nil
	}
	out := &payloadQuery{rowQuery: rowQuery{rel: b.relation(src.at, p)}}
	scope := &bucketScope{b: b, rel: out.rel, name: src.name.name, data: true, event: true}
	if src.alias != nil {
		scope.name = src.alias.name
	}
	l := b.bucketLowerer(scope)
	items := b.bucketItems(sel, scope, l)
	branch := rowBranch{}
	if sel.where != nil {
		branch.filter = l.expr(sel.where)
	}
	if known {
		out.choose(sel, items)
	}
	if q.rep.fatal != before {
		return nil
	}
	out.branches = []rowBranch{branch}
	return out
}

// choose finds the columns of a write checkpoint among the selected ones.
func (p *payloadQuery) choose(sel *selectStmt, items []outputItem) {
	star := false
	var names []string
	for _, it := range items {
		star = star || it.star
		names = append(names, it.name)
	}
	for i, column := range markColumns {
		for _, it := range items {
			switch {
			case it.star && p.columns[i] == nil:
				p.columns[i] = &expr{op: opColumn, span: p.rel.span, rel: p.rel, name: column}
			case it.name == column:
				p.columns[i] = it.e
			}
		}
		if p.columns[i] != nil {
			continue
		}
		at := sel.span
		if len(sel.items) > 0 {
			at = sel.items[0].span.to(sel.items[len(sel.items)-1].span)
		}
		if i == markClient {
			at.warn("select a column as client_id: PowerSync and Millrace SDKs always have one",
				"the payload does not select client_id: its write checkpoints are for clients without one")
			continue
		}
		hint := didYouMean(column, names)
		if hint == "" {
			hint = "select a column as " + column
		}
		at.fatal(hint, "the payload does not select %s", column)
	}
}

func (b *binding) payload(def int, q *payloadQuery) {
	bound := &boundQuery{def: def, projection: -1, mark: &[len(markColumns)]evalFn{}}
	branches, vars := b.branches(&q.rowQuery)
	bound.branches = branches
	c := b.compilerFor(q.rel.table, vars)
	for i, e := range q.columns {
		switch {
		case e == nil, e.op == opColumn && !b.has(e.name): // of *, too
			bound.mark[i] = func(*env) millrace.Value { return millrace.Null }
		default:
			bound.mark[i] = c.compile(e)
		}
	}
	b.plan.queries = append(b.plan.queries, bound)
}

func (b *binding) has(column string) bool {
	_, ok := b.columns[column]
	return ok
}

// emitMark makes the write checkpoint of the row.
func (ev *Evaluator) emitMark(q *boundQuery, out *Output) {
	e := &ev.env
	user := q.mark[markUser](e)
	client := q.mark[markClient](e)
	number := q.mark[markCheckpoint](e)
	if e.err != "" {
		return
	}
	id, ok := markNumber(number)
	if !ok {
		e.fail("checkpoint must be a whole number from 1 to %d", int64(millrace.MaxWriteCheckpoint))
		return
	}
	if !matchable(user) || client.Kind() == millrace.KindBlob {
		e.fail("user_id must be a text or a number, client_id likewise or null")
		return
	}
	start := len(out.arena)
	out.arena = append(out.arena, e.text(user)...)
	if len(out.arena) == start {
		e.fail("user_id is empty")
		return
	}
	if !client.IsNull() {
		if c := e.text(client); c != "" {
			out.arena = append(append(out.arena, '/'), c...)
		}
	}
	device := view(out.arena[start:])
	switch {
	case len(device) > millrace.MaxWriteUserBytes:
		e.fail("user_id and client_id have %d bytes, at most %d are stored", len(device), millrace.MaxWriteUserBytes)
	case strings.IndexByte(device, 0) >= 0:
		e.fail("user_id or client_id is not valid text")
	default:
		out.Marks = append(out.Marks, OutputMark{q.def, device, id})
		return
	}
	out.arena = out.arena[:start]
}

// markNumber reads a write checkpoint: an integer, or one written as a text or a
// real (numeric columns come as such).
func markNumber(v millrace.Value) (id int64, ok bool) {
	switch v.Kind() {
	case millrace.KindInteger:
		id, ok = v.Int(), true
	case millrace.KindReal:
		f := v.Float()
		if f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			id, ok = int64(f), true
		}
	case millrace.KindText:
		n, err := strconv.ParseInt(v.Str(), 10, 64)
		id, ok = n, err == nil
	}
	return id, ok && id > 0 && id <= millrace.MaxWriteCheckpoint
}
