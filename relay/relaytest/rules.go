package relaytest

import (
	"encoding/json"
	"errors"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
)

// The fixed definitions.
var (
	definitionKeys = []string{"global", "urgent", "mine", "list", "project", "grants"}
	definitions    = func() map[string]millrace.Definition {
		m := map[string]millrace.Definition{}
		for i, key := range definitionKeys {
			d := millrace.Definition{ID: millrace.DefinitionID(i + 1), Kind: millrace.BucketDefinition, Key: key, Name: key, WirePrefix: "t" + string(rune('0'+i))}
			if key == "grants" {
				d.Kind, d.WirePrefix = millrace.LookupDefinition, ""
			}
			m[key] = d
		}
		return m
	}()
)

// marksDefinition is an event definition.
var marksDefinition = millrace.Definition{ID: 100, Kind: millrace.EventDefinition, Key: "event:write_checkpoints", Name: "write_checkpoints"}

func index(key string) int { return int(definitions[key].ID) - 1 }

// bucketName is the logical name of a bucket.
func bucketName(definition, key string) string {
	if key == "" {
		return definition + "[]"
	}
	b, _ := json.Marshal([]string{key})
	return definition + string(b)
}

// Wire is the name clients see of a bucket.
func Wire(definition, key string) string {
	return millrace.WireBucketName(definitions[definition].WirePrefix, bucketName(definition, key))
}

func grantKey(sub string) millrace.LookupKey {
	b, _ := json.Marshal([]string{sub})
	return millrace.LookupKey{Definition: definitions["grants"].ID, Key: string(b)}
}

// Foreign is the content of a rule set that does not compile.
const Foreign = "foreign"

// rules resolve requests to the fixed definitions.
type rules struct{ none bool }

func compile(set *millrace.RuleSet) (relay.Rules, error) {
	if set.Content == Foreign {
		return nil, errors.New("the rules are of another release")
	}
	return rules{none: set.Content == "none"}, nil
}

func (rules) Definitions() []string { return definitionKeys }

func (r rules) Resolve(req relay.RulesRequest) relay.Resolution {
	return &resolution{rules: r, request: req}
}

type resolution struct {
	rules   rules
	request relay.RulesRequest
	fed     bool
	lists   []string
}

func (r *resolution) sub() string {
	var c struct {
		Sub string `json:"sub"`
	}
	json.Unmarshal(r.request.Claims, &c) // verified by then
	return c.Sub
}

func (r *resolution) Pending() []relay.RulesLookup {
	if r.fed || r.rules.none {
		return nil
	}
	return []relay.RulesLookup{{Definition: index("grants"), Key: grantKey(r.sub()).Key}}
}

func (r *resolution) Feed(results [][]string) {
	r.fed = true
	for _, out := range results[0] {
		var v []string
		json.Unmarshal([]byte(out), &v)
		r.lists = append(r.lists, v...)
	}
}

func (r *resolution) Result() (relay.Resolved, error) {
	var out relay.Resolved
	if r.rules.none {
		return out, nil
	}
	if r.request.Streams.IncludeDefaults {
		out.Streams = []protocol.Stream{{Name: "defaults", IsDefault: true}}
		add := func(definition, key string, priority int) {
			out.Buckets = append(out.Buckets, relay.ResolvedBucket{Definition: index(definition), Name: bucketName(definition, key),
				Priority: priority, Reasons: []protocol.Reason{{Default: true}}})
		}
		add("global", "", 3)
		add("urgent", "", 0)
		add("mine", r.sub(), 2)
		for _, l := range r.lists {
			add("list", l, 1)
		}
	}
	r.subscriptions(&out)
	return out, nil
}

func (r *resolution) subscriptions(out *relay.Resolved) {
	stream := protocol.Stream{Name: "project"}
	listed := false
	for i, s := range r.request.Streams.Subscriptions {
		if s.Stream != "project" {
			continue
		}
		listed = true
		var p struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(s.Parameters, &p) != nil || p.ID == "" {
			stream.Errors = append(stream.Errors, protocol.StreamIssue{Subscription: i, Message: "parameter id is missing"})
			continue
		}
		priority := 3
		if s.Priority != protocol.DefaultPriority {
			priority = s.Priority
		}
		name := bucketName("project", p.ID)
		merged := false
		for j := range out.Buckets {
			if b := &out.Buckets[j]; b.Name == name {
				b.Reasons = append(b.Reasons, protocol.Reason{Index: i})
				b.Priority = min(b.Priority, priority)
				merged = true
			}
		}
		if !merged {
			out.Buckets = append(out.Buckets, relay.ResolvedBucket{Definition: index("project"), Name: name, Priority: priority, Reasons: []protocol.Reason{{Index: i}}})
		}
	}
	if listed {
		out.Streams = append(out.Streams, stream)
	}
}
