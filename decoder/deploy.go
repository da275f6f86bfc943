package decoder

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// deployFile deploys the configured rules if this content never was. A content
// that was deployed before is left alone: people may have gone on to another
// one, or back from it.
func deployFile(ctx context.Context, c *Config, r Registry) error {
	rules, diagnostics, err := compileRules(c.RulesFile, c.Rules)
	if err != nil {
		return err
	}
	for _, d := range append(diagnostics, rules.Warnings()...) {
		c.Logger.Warn(d.Message, "file", c.RulesFile, "line", d.Line, "column", d.Column)
	}
	deployed, err := r.Deployed(ctx, c.Rules)
	if err != nil || deployed {
		return err
	}
	span := millrace.BeginTrace(c.Tracer, spanDeploy)
	set, err := r.Deploy(span.In(ctx), c.Rules, definitionsOf(rules))
	span.End(err)
	if err != nil {
		return fmt.Errorf("deploy %s: %w", c.RulesFile, err)
	}
	c.Logger.Info("rules deployed", "file", c.RulesFile, "rule_set", set.ID, "definitions", len(set.Definitions))
	return nil
}

// renewRules deploys rules anew that an earlier release deployed and to which this
// one gives another meaning: its results are built beside what is served. The
// rules being built are renewed if there are any, otherwise those in force, unless
// people went back from that.
func renewRules(ctx context.Context, c *Config, r Registry) error {
	state, err := r.State(ctx)
	if err != nil {
		return fmt.Errorf("read the state of the sidecar: %w", err)
	}
	var newest *millrace.RuleSet
	for i := range state.RuleSets {
		s := &state.RuleSets[i]
		if s.State == millrace.RuleSetBuilding || s.State == millrace.RuleSetActive && newest == nil {
			newest = s
		}
	}
	if newest == nil {
		return nil
	}
	name := fmt.Sprintf("rule set %d", newest.ID)
	rules, _, err := compileRules(name, newest.Content)
	if err != nil {
		c.Logger.Warn("this release does not take the rules that an earlier one deployed: it goes on with their former meaning", "rule_set", newest.ID, "error", err)
		return nil
	}
	for i := range state.RuleSets {
		if s := &state.RuleSets[i]; s.Content == newest.Content && means(s, rules) {
			return nil
		}
	}
	set, err := r.Deploy(ctx, newest.Content, definitionsOf(rules))
	if err != nil {
		return fmt.Errorf("deploy %s with the meaning of this release: %w", name, err)
	}
	c.Logger.Info("rules deployed again: this release gives them another meaning", "former", newest.ID, "rule_set", set.ID)
	return nil
}

// means tells whether a rule set was deployed with the meaning of the rules.
func means(s *millrace.RuleSet, rules *syncrules.Rules) bool {
	hashes := s.Hashes()
	return !slices.ContainsFunc(rules.Definitions(), func(d syncrules.Definition) bool { return plainHash(hashes[d.Key]) != d.Hash })
}

// sameMeaning tells whether two rule sets were deployed from one content by releases
// that give it one meaning.
func sameMeaning(a, b *millrace.RuleSet) bool {
	return a.Content == b.Content && maps.EqualFunc(a.Hashes(), b.Hashes(), func(x, y string) bool { return plainHash(x) == plainHash(y) })
}

// plainHash is the hash of a definition that did not lose its history.
func plainHash(hash string) string {
	plain, _, _ := strings.Cut(hash, "~")
	return plain
}

// definitionsOf are the definitions of compiled rules as they are deployed.
func definitionsOf(rules *syncrules.Rules) []millrace.Definition {
	var list []millrace.Definition
	for _, d := range rules.Definitions() {
		list = append(list, millrace.Definition{Kind: d.Kind, Key: d.Key, Name: d.Name, Hash: d.Hash})
	}
	return list
}

// openFeed gives what is to be fed, after what people asked for was carried out
// and what has been kept long enough was retired.
func openFeed(ctx context.Context, c *Config, r Registry) (*feed, *millrace.DecoderState, error) {
	if err := answerRequests(ctx, c, r); err != nil {
		return nil, nil, err
	}
	ended, err := r.RetireRules(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ended {
		c.Logger.Info("rule set is not kept any longer", "rule_set", id)
	}
	state, err := r.State(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read the state of the sidecar: %w", err)
	}
	sets := state.RuleSets
	slices.SortFunc(sets, func(a, b millrace.RuleSet) int {
		return cmp.Or(cmp.Compare(feedOrder[a.State], feedOrder[b.State]), cmp.Compare(b.ID, a.ID))
	})
	if !slices.ContainsFunc(sets, func(s millrace.RuleSet) bool { return s.Content == c.Rules }) {
		c.Logger.Info("the rules in the configured file are not in force: they were deployed before, and others after them", "file", c.RulesFile)
	}
	f := &feed{}
	for _, s := range sets {
		set, err := openRuleset(s)
		if err != nil {
			return nil, nil, err
		}
		f.sets = append(f.sets, set)
	}
	return f, state, nil
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

// newFrom are the definitions built for the rule set that is not in force yet
// which read a source known by tags.
func (f *feed) newFrom(tags []string) (ids []millrace.DefinitionID) {
	set := f.building()
	if set == nil {
		return nil
	}
	for _, i := range set.rules.Reads(tags) {
		if id := set.ids[i]; f.isNew(set, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// holdsUp tells whether the rule set being built has to wait for the source: it
// has not registered its tables, or has not copied them in full, for a definition
// that is new. One that has changed is registered when the stream has come to its
// change. A definition that is fed already has the source's rows, so that a
// source may be down whose tables only such definitions read.
func (s *source) holdsUp() bool {
	if len(s.builds) == 0 {
		return false
	}
	for _, t := range s.tables {
		if t.outdated {
			return true
		}
	}
	return !s.opened || slices.ContainsFunc(s.copies, func(c *copyRun) bool { return slices.ContainsFunc(s.builds, c.fills) })
}

// awaits finds the sources that the rule set being built has to wait for, and
// shows of each whether it is one.
func (a *appender) awaits(set *ruleset) bool {
	any := false
	for _, s := range a.sources {
		held := millrace.RuleSetID(0)
		if s.holdsUp() {
			held, any = set.set.ID, true
		}
		s.status.holds(held)
	}
	return any
}

// activate puts the rule set being built in force once every source that its new
// definitions read has registered its tables and has copied them for these.
func (a *appender) activate(ctx context.Context) error {
	set := a.feed.building()
	if set == nil || a.awaits(set) {
		return nil
	}
	if a.hasWork() {
		if err := a.flush(ctx, 0); err != nil {
			return err
		}
	}
	if err := a.flush(ctx, set.set.ID); err != nil {
		return err
	}
	a.build.End(nil)
	a.build = millrace.Span{}
	set.set.State = millrace.RuleSetActive
	for _, other := range a.feed.sets {
		if other != set && other.set.State == millrace.RuleSetActive {
			other.set.State = millrace.RuleSetRetired
		}
	}
	a.log.Info("rule set is in force", "rule_set", set.set.ID, slog.Int("definitions", len(set.ids)))
	return nil
}
