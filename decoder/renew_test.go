package decoder

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/syncrules"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// renewing is a sidecar with rules in force that another release deployed: the
// definition a has a hash that this one does not give it.
func renewing(t *testing.T) (*sinktest.Sidecar, *Config) {
	t.Helper()
	c := &Config{RulesFile: "rules", Rules: twoBuckets, Logger: slog.New(slog.DiscardHandler)}
	rules, _, err := compileRules("rules", twoBuckets)
	check(t, err)
	old := definitionsOf(rules)
	for i := range old {
		if old[i].Key == "bucket:a" {
			old[i].Hash = "another"
		}
	}
	s := sinktest.New()
	_, err = s.Deploy(t.Context(), twoBuckets, old)
	check(t, err)
	return s, c
}

const twoBuckets = `bucket_definitions:
  a:
    data: [SELECT id FROM lists]
  b:
    data: [SELECT id FROM todos]
`

// TestRulesOfAnotherRelease: an upgrade builds successors of what it gives another
// meaning, once; the other definitions stay.
func TestRulesOfAnotherRelease(t *testing.T) {
	for _, activated := range []bool{false, true} {
		s, c := renewing(t)
		if activated {
			_, err := s.Commit(t.Context(), &millrace.Flush{Activate: 1})
			check(t, err)
		}
		check(t, renewRules(t.Context(), c, s))
		state, err := s.State(t.Context())
		check(t, err)
		set := state.RuleSets[len(state.RuleSets)-1]
		if set.ID != 2 || set.State != millrace.RuleSetBuilding || set.Content != twoBuckets {
			t.Fatalf("activated %t: %+v", activated, state.RuleSets)
		}
		for _, d := range set.Definitions {
			if isNew := d.ID > 2; isNew != (d.Key == "bucket:a") {
				t.Errorf("activated %t: definition %s has id %d", activated, d.Key, d.ID)
			}
		}
		// Asking for the same content is answered by it.
		if a := decideRequest(&millrace.RuleRequest{ID: 1, Kind: millrace.RequestDeploy, File: "rules", Content: twoBuckets}, state.RuleSets); a.Deploy != nil || a.RuleSet != 2 {
			t.Errorf("a deploy of the same content: %+v", a)
		}
		for range 2 {
			check(t, renewRules(t.Context(), c, s))
		}
		if state, err = s.State(t.Context()); err != nil || state.RuleSets[len(state.RuleSets)-1].ID != 2 {
			t.Errorf("deployed once more: %+v, %v", state.RuleSets, err)
		}
		// The former meaning cannot be fed by this release.
		if activated {
			_, err := openRuleset(state.RuleSets[0])
			var unknown *syncrules.MeaningError
			if !errors.As(err, &unknown) || errors.Is(err, ErrRules) || !strings.Contains(err.Error(), "rule set 1: definition bucket:a was deployed by a release that") {
				t.Errorf("opening what another release deployed: %v", err)
			}
		}
	}
}

// TestDeployOfAnotherMeaning: the content in force is deployed again if this release
// gives it another meaning and that was not done yet.
func TestDeployOfAnotherMeaning(t *testing.T) {
	s, _ := renewing(t)
	_, err := s.Commit(t.Context(), &millrace.Flush{Activate: 1})
	check(t, err)
	state, err := s.State(t.Context())
	check(t, err)
	q := &millrace.RuleRequest{ID: 1, Kind: millrace.RequestDeploy, File: "rules", Content: twoBuckets}
	if a := decideRequest(q, state.RuleSets); a.Deploy == nil {
		t.Errorf("%+v", a)
	}
}

// TestRollBackToAnotherMeaning: a rule set of the same content is gone back to if it
// means something else, and not if it is the same with a history that was lost.
func TestRollBackToAnotherMeaning(t *testing.T) {
	set := func(id millrace.RuleSetID, state millrace.RuleSetState, hash string) millrace.RuleSet {
		return millrace.RuleSet{ID: id, Content: twoBuckets, State: state, ActiveFrom: millrace.OpID(id),
			Definitions: []millrace.Definition{{ID: millrace.DefinitionID(id), Kind: millrace.BucketDefinition, Key: "bucket:a", Hash: hash}}}
	}
	for hash, back := range map[string]bool{"former": true, "present": false, "present~1": false} {
		sets := []millrace.RuleSet{set(1, millrace.RuleSetRetired, hash), set(2, millrace.RuleSetActive, "present")}
		a := decideRequest(&millrace.RuleRequest{ID: 1, Kind: millrace.RequestRollback}, sets)
		if back != (a.Deploy != nil && a.RollsBack == 1 && a.Deploy.Definitions[0].Hash == hash) || back == a.Refused {
			t.Errorf("hash %s: %+v", hash, a)
		}
	}
}
