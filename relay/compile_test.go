package relay

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/syncrules"
)

// resolveWith resolves a request whose lookups all give outputs.
func resolveWith(t *testing.T, rules, claims string, outputs []string) (Resolved, error) {
	t.Helper()
	compiled, err := CompileRules(&millrace.RuleSet{ID: 1, Content: rules})
	if err != nil {
		t.Fatal(err)
	}
	res := compiled.Resolve(RulesRequest{Claims: []byte(claims), Streams: protocol.StreamSelection{IncludeDefaults: true}})
	for pending := res.Pending(); len(pending) > 0; pending = res.Pending() {
		results := make([][]string, len(pending))
		for i := range results {
			results[i] = outputs
		}
		res.Feed(results)
	}
	return res.Result()
}

// Results count once, however many rows and ways grant them; what no limit
// allows is refused as such, with the name of what asks for it.
func TestResultsCountOnce(t *testing.T) {
	const rules = `
config: {edition: 3}
streams:
  teams:
    auto_subscribe: true
    queries:
      - SELECT * FROM tasks WHERE team IN (SELECT team FROM members WHERE user_id = auth.user_id()) OR team IN (SELECT team FROM owners WHERE user_id = auth.user_id())
`
	var same, different []string
	for i := range 150_000 {
		same = append(same, fmt.Sprintf(`["t%d"]`, i%7))
		different = append(different, fmt.Sprintf(`["t%d"]`, i))
	}
	got, err := resolveWith(t, rules, `{"sub":"u"}`, same)
	if err != nil || len(got.Buckets) != 7 {
		t.Errorf("%d buckets, %v; want 7", len(got.Buckets), err)
	}
	_, err = resolveWith(t, rules, `{"sub":"u"}`, different)
	var end ending
	if !errors.As(err, &end) || end.code != protocol.CodeTooMany || !strings.Contains(end.text, "teams alone comes to more than 100000") {
		t.Errorf("150,000 different results: %v", err)
	}
}

// TestRulesOfAnotherRelease: a relay does not serve rules with another meaning than
// that with which they were deployed.
func TestRulesOfAnotherRelease(t *testing.T) {
	set := &millrace.RuleSet{ID: 3, Content: "bucket_definitions:\n  a:\n    data:\n      - SELECT id FROM lists\n",
		Definitions: []millrace.Definition{{Key: "bucket:a", Hash: "another"}}}
	var unknown *syncrules.MeaningError
	if _, err := CompileRules(set); !errors.As(err, &unknown) || unknown.Definition != "bucket:a" {
		t.Errorf("%v", err)
	}
}
