package decoder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// answerRequests carries out what people asked for. Of several requests the
// last one counts.
func answerRequests(ctx context.Context, c *Config, r Registry) error {
	requests, err := r.RuleRequests(ctx)
	if err != nil {
		return err
	}
	for i := range requests {
		q := &requests[i]
		a := millrace.RuleAnswer{Request: q.ID, Superseded: true, Message: "a later request came before a decoder saw this one"}
		if i == len(requests)-1 {
			state, err := r.State(ctx)
			if err != nil {
				return fmt.Errorf("read the state of the sidecar: %w", err)
			}
			a = decideRequest(q, state.RuleSets)
		}
		var span millrace.Span
		if a.Deploy != nil {
			span = millrace.BeginTrace(c.Tracer, spanDeploy)
			span.Set(slog.Int64("request", int64(q.ID)))
		}
		set, err := r.AnswerRules(span.In(ctx), a)
		span.End(err)
		if err != nil {
			return fmt.Errorf("answer request %d to change the rules: %w", q.ID, err)
		}
		if set != nil {
			a.RuleSet = set.ID
		}
		c.Logger.Info("request to change the rules", "request", q.ID, "kind", q.Kind, "file", q.File, "rule_set", a.RuleSet, "answer", a.Message)
	}
	return nil
}

// decideRequest says what becomes of a request, given the rule sets that are
// fed.
func decideRequest(q *millrace.RuleRequest, sets []millrace.RuleSet) millrace.RuleAnswer {
	a := millrace.RuleAnswer{Request: q.ID}
	var active, building *millrace.RuleSet
	for i := range sets {
		switch sets[i].State {
		case millrace.RuleSetActive:
			active = &sets[i]
		case millrace.RuleSetBuilding:
			building = &sets[i]
		case millrace.RuleSetRetired, millrace.RuleSetDropped, millrace.RuleSetAbandoned:
		}
	}
	if q.Kind == millrace.RequestRollback {
		decideRollback(&a, q.Target, sets, active, building)
		return a
	}
	rules, _, err := compileRules(q.File, q.Content)
	switch {
	case err != nil:
		a.Refused, a.Message = true, err.Error()
	case building != nil && syncrules.SameContent([]byte(building.Content), []byte(q.Content)) && means(building, rules):
		a.RuleSet, a.Message = building.ID, fmt.Sprintf("rule set %d has this content and is being built", building.ID)
	case active != nil && !lostHistory(active) && syncrules.SameContent([]byte(active.Content), []byte(q.Content)) && means(active, rules):
		stay(&a, active, building)
	default:
		a.Deploy = &millrace.RuleSet{Content: q.Content, Definitions: definitionsOf(rules)}
		a.Message = "deployed"
		if building != nil {
			a.Message += fmt.Sprintf(", in place of rule set %d, which was being built", building.ID)
		}
	}
	return a
}

// stay answers that the rule set in force is what is asked for. One that is
// being built is given up.
func stay(a *millrace.RuleAnswer, active, building *millrace.RuleSet) {
	a.RuleSet, a.Message = active.ID, fmt.Sprintf("rule set %d has this content and is in force: nothing to do", active.ID)
	if building != nil {
		a.Abandon, a.Message = true, fmt.Sprintf("rule set %d stays in force; rule set %d, which was being built, is given up", active.ID, building.ID)
	}
}

// lostHistory tells whether a definition of a rule set has what a lost history of
// a source told, and no more.
func lostHistory(s *millrace.RuleSet) bool {
	return slices.ContainsFunc(s.Definitions, func(d millrace.Definition) bool { return plainHash(d.Hash) != d.Hash })
}

// decideRollback goes back to a rule set that is still fed. While one is being
// built, going back means to give it up.
func decideRollback(a *millrace.RuleAnswer, target millrace.RuleSetID, sets []millrace.RuleSet, active, building *millrace.RuleSet) {
	refuse := func(format string, args ...any) { a.Refused, a.Message = true, fmt.Sprintf(format, args...) }
	switch {
	case active == nil:
		refuse("no rule set is in force yet: there is nothing to go back to")
		return
	case (target == active.ID || target == 0) && building != nil && lostHistory(active):
		refuse("rule set %d stands still, since the history of a source is lost: rule set %d, which takes its place, cannot be given up", active.ID, building.ID)
		return
	case target == active.ID, target == 0 && building != nil:
		stay(a, active, building)
		return
	}
	var back *millrace.RuleSet
	for i := range sets {
		s := &sets[i]
		if s.State != millrace.RuleSetRetired || target != 0 && s.ID != target || target == 0 && sameMeaning(s, active) {
			continue
		}
		if back == nil || s.ActiveFrom > back.ActiveFrom {
			back = s
		}
	}
	switch {
	case back == nil && target != 0:
		refuse("rule set %d is not kept (any more): deploy its content again, from millrace.rule_sets; rules_keep says how long replaced sets are kept", target)
	case back == nil:
		refuse("no earlier rule set is kept any more: deploy its content again, from millrace.rule_sets; rules_keep says how long replaced sets are kept")
	default:
		a.Deploy = &millrace.RuleSet{Content: back.Content, Definitions: slices.Clone(back.Definitions)}
		for i := range a.Deploy.Definitions {
			// A definition that lost the history of a source has successors.
			d := &a.Deploy.Definitions[i]
			d.Hash = plainHash(d.Hash)
		}
		a.RollsBack, a.Message = back.ID, fmt.Sprintf("rolled back to rule set %d", back.ID)
	}
}
