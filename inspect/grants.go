package inspect

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// grants is what a request resolves to with the sidecar's lookups.
type grants struct {
	set     *served
	buckets []syncrules.ResolvedBucket
	ways    []syncrules.RequestExplanation
	errors  []string
}

// grants resolves a request as a relay does.
func (c *contents) grants(ctx context.Context, set *served, request syncrules.Request) (*grants, error) {
	resolution, err := set.rules.Resolve(request)
	if err != nil {
		return nil, err
	}
	for {
		pending := resolution.Pending()
		if len(pending) == 0 {
			break
		}
		results := make([]syncrules.LookupResult, len(pending))
		for i, k := range pending {
			results[i].LookupKey = k
			if results[i].Outputs, err = c.lookup(ctx, set.definitions[k.Definition], k.Key); err != nil {
				return nil, err
			}
		}
		resolution.Feed(results)
	}
	g := &grants{set: set}
	var failed []syncrules.ResolveError
	g.buckets, failed = resolution.Buckets()
	for _, e := range failed {
		g.errors = append(g.errors, e.Source+": "+e.Message)
	}
	g.ways = resolution.Explain()
	return g, nil
}

// lookup gives the outputs in force for a key.
func (c *contents) lookup(ctx context.Context, definition millrace.DefinitionID, key string) ([]string, error) {
	rows, err := c.tx.Query(ctx, `SELECT DISTINCT outputs FROM millrace.lookups WHERE definition = $1 AND key = $2 AND removed > $3 AND added <= $3 ORDER BY outputs`, definition, key, c.head)
	if err != nil {
		return nil, fmt.Errorf("read lookups: %w", err)
	}
	outputs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read lookups: %w", err)
	}
	return outputs, nil
}

// has tells whether the request resolves to a bucket.
func (g *grants) has(b bucketKey) bool {
	return slices.ContainsFunc(g.buckets, func(r syncrules.ResolvedBucket) bool { return r.Definition == b.definition && r.Name == b.name })
}

// others counts the buckets of a definition.
func (g *grants) others(definition int) (n int) {
	for _, b := range g.buckets {
		if b.Definition == definition {
			n++
		}
	}
	return n
}

// shownKeys is how many keys of a lookup a person is told.
const shownKeys = 5

// why says for each way to a bucket whether and how it leads there.
func (g *grants) why(b bucketKey) (why []string) {
	granted := g.has(b)
	for _, x := range g.ways {
		if x.Definition != b.definition {
			continue
		}
		at := x.At.String() + ": "
		switch {
		case slices.Contains(x.Buckets, b.name):
			why = append(why, at+way(x))
		case granted: // another way is enough
		case !x.Granted():
			why = append(why, at+x.Refusal())
		default:
			why = append(why, at+fmt.Sprintf("%s, which gives %d other buckets of %s: %s", way(x), len(x.Buckets), x.Source, some(x.Buckets)))
		}
	}
	return why
}

// way says how a request came to buckets.
func way(x syncrules.RequestExplanation) string {
	var parts []string
	if x.Reason != syncrules.ByDefault {
		parts = append(parts, fmt.Sprintf("subscription %d to %s", int(x.Reason)+1, x.Source))
	}
	for _, c := range x.Conditions {
		parts = append(parts, c.String())
	}
	for _, s := range x.Steps {
		switch {
		case s.Table == "":
			parts = append(parts, "elements of "+s.Text)
		default:
			found, keys := 0, []string{}
			for _, k := range s.Keys {
				found += k.Found
				keys = append(keys, k.String())
			}
			parts = append(parts, fmt.Sprintf("%s of %s with %s", plural(found, "row"), s.Table, some(keys)))
		}
	}
	if len(parts) == 0 {
		return "the request itself"
	}
	return strings.Join(parts, ", then ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// some joins the first of a list.
func some(list []string) string {
	if len(list) > shownKeys {
		return strings.Join(list[:shownKeys], ", ") + fmt.Sprintf(" and %d more", len(list)-shownKeys)
	}
	return strings.Join(list, ", ")
}

// sessions lists a user's live connections. newest is an op that is asked
// about.
func (c *contents) sessions(ctx context.Context, user string, newest millrace.OpID) ([]SessionExplanation, error) {
	rows, err := c.tx.Query(ctx, `
		SELECT client_id, transport, agent, since, buckets, coalesce(sent_op, 0), coalesce(acknowledged_op, 0)
		FROM millrace.sessions WHERE user_id = $1 OR user_id = $1 || '/' || client_id ORDER BY since`, user)
	if err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	list := []SessionExplanation{}
	var s SessionExplanation
	if _, err := pgx.ForEachRow(rows, []any{&s.ClientID, &s.Transport, &s.Agent, &s.Since, &s.Buckets, &s.Sent, &s.Acknowledged}, func() error {
		s.Has = s.Sent >= newest
		list = append(list, s)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	return list, nil
}
