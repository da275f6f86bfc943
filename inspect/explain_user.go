package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// ExplainUser says which buckets a request gets from the sidecar at its newest
// checkpoint, how large they are, and why it gets them or not.
func ExplainUser(ctx context.Context, c ExplainConfig) (*UserExplanation, error) {
	side, err := openSidecar(ctx, c.Sidecar)
	if err != nil {
		return nil, err
	}
	defer side.close()
	set, err := side.served(ctx)
	if err != nil {
		return nil, err
	}
	at, err := side.contents(ctx, set.id)
	if err != nil {
		return nil, err
	}
	defer at.close(ctx)
	g, err := at.grants(ctx, set, c.Request)
	if err != nil {
		return nil, err
	}
	out := &UserExplanation{User: subject(c.Request.Claims), RuleSet: int(set.id), Checkpoint: at.head,
		Buckets: []UserBucket{}, Definitions: []UserDefinition{}, Refusals: []SimulationRefusal{}, Errors: append([]string{}, g.errors...)}
	totals := map[int]*UserDefinition{}
	for _, b := range g.buckets {
		u := UserBucket{Bucket: set.prefixes[b.Definition] + "#" + b.Name, Definition: set.title(b.Definition), Priority: b.Priority, Why: g.why(bucketKey{b.Definition, b.Name})}
		err := at.tx.QueryRow(ctx, `
			SELECT coalesce(t.rows, 0), coalesce(t.ops, 0), coalesce(t.bytes, 0), coalesce(t.last_op, 0)
			FROM millrace.bucket_names n LEFT JOIN millrace.bucket_totals t ON t.bucket = n.id
			WHERE n.definition = $1 AND n.name = $2`, set.definitions[b.Definition], b.Name).Scan(&u.Rows, &u.Ops, &u.Bytes, &u.LastOp)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) { // a bucket that never had a row is not stored
			return nil, fmt.Errorf("read the totals of bucket %s: %w", u.Bucket, err)
		}
		out.Buckets = append(out.Buckets, u)
		d := totals[b.Definition]
		if d == nil {
			d = &UserDefinition{Definition: u.Definition}
			totals[b.Definition] = d
		}
		d.Buckets, d.Rows, d.Bytes = d.Buckets+1, d.Rows+u.Rows, d.Bytes+u.Bytes
	}
	for _, d := range totals {
		out.Definitions = append(out.Definitions, *d)
	}
	slices.SortFunc(out.Definitions, func(a, b UserDefinition) int { return cmp.Compare(a.Definition, b.Definition) })
	slices.SortFunc(out.Buckets, func(a, b UserBucket) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Bucket, b.Bucket))
	})
	for _, x := range g.ways {
		if why := x.Refusal(); why != "" {
			out.Refusals = append(out.Refusals, SimulationRefusal{Source: x.Source, At: x.At.String(), Why: why})
		}
	}
	out.Sessions, err = at.sessions(ctx, out.User, 0)
	return out, err
}
