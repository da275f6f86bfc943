package decoder

import (
	"github.com/millrace/millrace"
)

// bind finds what the plan feeds: rows of a table that is copied into a shadow
// go there, for the definitions that the shadow will replace, and to history
// for the others.
func (p *tablePlan) bind(f *feed, o *origin, want func(millrace.DefinitionID) bool) {
	p.targets = nil
	t := p.table
	shadowed := func(id millrace.DefinitionID) bool { return t.shadow != nil && t.shadow.fills(id) }
	for _, hidden := range []bool{false, true} {
		target := f.bind(o, t.saved.ID, t.rule, p.columns, func(id millrace.DefinitionID) bool {
			return want(id) && shadowed(id) == hidden
		})
		if target == nil {
			continue
		}
		if hidden {
			target.scope.Shadow = t.shadow.saved.ID
		}
		p.targets = append(p.targets, target)
	}
}

// reads tells whether a definition that the plan feeds reads a column.
func (p *tablePlan) reads(column int) bool {
	for _, t := range p.targets {
		for i := range t.evaluations {
			if t.evaluations[i].needed[column] {
				return true
			}
		}
	}
	return false
}

// definitions are those that the plan feeds.
func (p *tablePlan) definitions() []millrace.DefinitionID {
	var ids []millrace.DefinitionID
	for _, t := range p.targets {
		ids = append(ids, definitionsIn(t.scope)...)
	}
	return ids
}

// upsert evaluates a row for all targets. The change it gives is the last one,
// which carries the row's long values.
func (p *tablePlan) upsert(b *batch, key string, cells []cell) (c *millrace.Change) {
	for _, t := range p.targets {
		c = t.upsert(b, key, cells)
	}
	return c
}

func (p *tablePlan) remove(b *batch, key string) {
	for _, t := range p.targets {
		b.remove(t.scope, key)
	}
}

func (p *tablePlan) truncate(b *batch) {
	for _, t := range p.targets {
		b.truncate(t.scope)
	}
}

// fail leaves the row without output, see target.fail.
func (p *tablePlan) fail(b *batch, key string, skip func(millrace.DefinitionID) bool, message string) {
	for _, t := range p.targets {
		t.fail(b, key, skip, message)
	}
}
