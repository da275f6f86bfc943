package syncrules

import (
	"fmt"

	"github.com/millrace/millrace"
)

// requestData is a request as expressions see it: JSON texts in normal form,
// with every number a real.
type requestData struct {
	token, connection, subscription millrace.Value
}

// normalJSON puts an object of the request in normal form. Nothing at all is
// read as empty.
func normalJSON(what string, text []byte) (millrace.Value, error) {
	if len(text) == 0 {
		return millrace.Text("{}"), nil
	}
	var t jsonTape
	if msg := t.parse(string(text)); msg != "" {
		return millrace.Null, fmt.Errorf("%s: %s", what, msg)
	}
	if t.nodes[0].kind != jsonObject {
		return millrace.Null, fmt.Errorf("%s: not a JSON object", what)
	}
	return millrace.Text(string(t.appendJSON(nil, 0, true))), nil
}

// compileRequest compiles what reads the request itself.
func compileRequest(x *expr) evalFn {
	part := func(e *env) millrace.Value { return e.req.token }
	switch x.name {
	case "connection":
		part = func(e *env) millrace.Value { return e.req.connection }
	case "subscription":
		part = func(e *env) millrace.Value { return e.req.subscription }
	}
	if x.op == opRequest {
		return part
	}
	key := x.val.Str()
	return func(e *env) millrace.Value {
		v := part(e)
		switch {
		case x.name == "token" && key == "user_id":
			v = extract(e, v, "sub", pathKey, true)
		case x.name == "token":
			v = extract(e, extract(e, v, "parameters", pathKey, false), key, pathKey, true)
		default:
			v = extract(e, v, key, pathKey, true)
		}
		if v.Kind() == millrace.KindReal {
			if f := v.Float(); float64(int64(f)) == f && f >= -1<<63 && f < 1<<63 {
				return millrace.Integer(int64(f))
			}
		}
		return v
	}
}

// program is a resolver compiled.
type program struct {
	filter evalFn // nil if there is none
	stages []stageProgram
	values [][]evalFn
	vars   int
}

type stageProgram struct {
	lookup  int // definition; -1 for json_each
	arg     evalFn
	mode    eachMode
	nulls   millrace.Value // what a JSON null element is
	keys    [][]evalFn
	filter  evalFn
	base    int // first of the variables the stage sets
	outputs int
	// live tells which variables are needed after the stage.
	live []bool
}

// layout gives the values of each stage their variables.
type layout struct {
	base map[*relation]int
	vars int
	used []bool // what the compiled expressions read; nil to not care
}

// resolverCompiler compiles expressions over the request and the stages.
func resolverCompiler(r *resolver, exact bool) (*compiler, *layout) {
	lay := &layout{base: map[*relation]int{}}
	for _, st := range r.stages {
		lay.base[st.rel] = lay.vars
		if st.lookup < 0 {
			lay.vars += 2
		} else {
			lay.vars += st.outputs
		}
	}
	return &compiler{
		exact: exact,
		slot: func(e *expr) (int, bool, bool) {
			i, ok := lay.base[e.rel]
			switch {
			case e.op == opOutput:
				n := 0
				for _, d := range e.name {
					n = n*10 + int(d-'0')
				}
				i += n
			case e.name == "value":
				i++
			}
			if ok && lay.used != nil {
				lay.used[i] = true
			}
			return i, false, ok
		},
		meta: func(*expr) string { return "" },
	}, lay
}

// compileResolver turns a resolver into its program.
func compileResolver(r *resolver, exact bool) *program {
	c, lay := resolverCompiler(r, exact)
	p := &program{vars: lay.vars}
	all := func(parts []keyPart) (list [][]evalFn) {
		for _, part := range parts {
			var fns []evalFn
			for _, e := range part {
				fns = append(fns, c.compile(e))
			}
			list = append(list, fns)
		}
		return list
	}
	if r.filter != nil {
		p.filter = c.compile(r.filter)
	}
	// Backwards, so that what later stages use is known.
	lay.used = make([]bool, p.vars)
	p.values = all(r.values)
	p.stages = make([]stageProgram, len(r.stages))
	for i := len(r.stages) - 1; i >= 0; i-- {
		st := r.stages[i]
		sp := stageProgram{lookup: st.lookup, mode: st.rel.mode, base: lay.base[st.rel], outputs: st.outputs, live: append([]bool{}, lay.used...)}
		sp.keys = all(st.keys)
		if st.filter != nil {
			sp.filter = c.compile(st.filter)
		}
		if st.rel.legacyNull {
			sp.nulls = millrace.Text("null")
		}
		if st.lookup < 0 {
			sp.arg = c.compile(st.rel.arg)
		}
		p.stages[i] = sp
	}
	return p
}
