package decoder

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/millrace/millrace"
)

// deploy compiles the rules, stores them as a new rule set if this content was
// never deployed, and gives what is to be fed. The new set's definitions that
// no other set has are copied; it is put in force when they are exact.
func deploy(ctx context.Context, c *Config, r Registry, state *millrace.DecoderState) (*feed, error) {
	rules, diagnostics, err := compileRules(c.RulesFile, c.Rules)
	if err != nil {
		return nil, err
	}
	for _, d := range append(diagnostics, rules.Warnings()...) {
		c.Logger.Warn(d.Message, "file", c.RulesFile, "line", d.Line, "column", d.Column)
	}
	sets := slices.Clone(state.RuleSets)
	deployed := slices.ContainsFunc(sets, func(s millrace.RuleSet) bool { return s.Content == c.Rules })
	if !deployed {
		for _, s := range sets {
			if s.State == millrace.RuleSetBuilding {
				return nil, fmt.Errorf("rules %s are new, but rule set %d is still being built: start with its rules again and deploy these once it is active", c.RulesFile, s.ID)
			}
		}
		var definitions []millrace.Definition
		for _, d := range rules.Definitions() {
			definitions = append(definitions, millrace.Definition{Kind: d.Kind, Key: d.Key, Name: d.Name, Hash: d.Hash})
		}
		set, err := r.Deploy(ctx, c.Rules, definitions)
		if err != nil {
			return nil, fmt.Errorf("deploy %s: %w", c.RulesFile, err)
		}
		c.Logger.Info("rules deployed", "file", c.RulesFile, "rule_set", set.ID, "definitions", len(definitions))
		sets = append(sets, *set)
	}
	f := &feed{}
	slices.SortFunc(sets, func(a, b millrace.RuleSet) int {
		return cmp.Or(cmp.Compare(feedOrder[a.State], feedOrder[b.State]), cmp.Compare(b.ID, a.ID))
	})
	for _, s := range sets {
		set, err := openRuleset(s)
		if err != nil {
			return nil, err
		}
		f.sets = append(f.sets, set)
	}
	return f, nil
}

var feedOrder = map[millrace.RuleSetState]int{
	millrace.RuleSetActive:   0,
	millrace.RuleSetBuilding: 1,
	millrace.RuleSetRetired:  2,
}

// building is the rule set that is not in force yet, if there is one.
func (f *feed) building() *ruleset {
	for _, s := range f.sets {
		if s.set.State == millrace.RuleSetBuilding {
			return s
		}
	}
	return nil
}

// isNew tells whether a definition belongs to the rule set alone, so that its
// content has to be copied.
func (f *feed) isNew(set *ruleset, id millrace.DefinitionID) bool {
	for _, other := range f.sets {
		if other != set && slices.Contains(other.ids, id) {
			return false
		}
	}
	return slices.Contains(set.ids, id)
}

// activate puts the rule set being built in force once every source has
// registered its tables and every copy is done.
func (a *appender) activate(ctx context.Context) error {
	set := a.feed.building()
	if set == nil {
		return nil
	}
	for _, s := range a.sources {
		if !s.opened || len(s.copies) > 0 {
			return nil
		}
	}
	if a.hasWork() {
		if err := a.flush(ctx, 0); err != nil {
			return err
		}
	}
	if err := a.flush(ctx, set.set.ID); err != nil {
		return err
	}
	set.set.State = millrace.RuleSetActive
	for _, other := range a.feed.sets {
		if other != set && other.set.State == millrace.RuleSetActive {
			other.set.State = millrace.RuleSetRetired
		}
	}
	a.log.Info("rule set is in force", "rule_set", set.set.ID, slog.Int("definitions", len(set.ids)))
	return nil
}
