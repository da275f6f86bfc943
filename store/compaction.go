package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// Defaults of CompactionOptions.
const (
	DefaultCompactionInterval = time.Minute
	DefaultCompactionHorizon  = 10 * time.Minute
)

// CompactionOptions say what compaction may do. The zero value compacts
// everything up to now, without defragmenting.
type CompactionOptions struct {
	// Interval is how often buckets that changed are looked at; see
	// Writer.Compact.
	Interval time.Duration
	// Horizon is the age from which ops may be rewritten. A client that has been
	// downloading a checkpoint for longer has to begin with a newer one.
	Horizon time.Duration
	// Defragment lets the decoder append old rows again, once a day and bucket,
	// where what was superseded around them outweighs them: devices fetch those
	// rows once more.
	Defragment bool
	// Bucket restricts the work to one, given by wire name or logical name.
	Bucket string
	// Progress is told now and then what was done so far. May be nil.
	Progress func(CompactionReport)
	// Done is told after each round of Writer.Compact what it did, how long it
	// took, and the error that ended it early. May be nil.
	Done func(CompactionReport, time.Duration, error)
}

// CompactionReport sums up work on buckets.
type CompactionReport struct {
	Buckets int64 `json:"buckets"` // looked at, since they had something to gain
	Done    int64 `json:"done"`    // compacted up to the horizon
	Deleted int64 `json:"deleted"` // ops that are gone
	Emptied int64 `json:"emptied"` // ops of which op id and checksum are left (MOVE)
	Bytes   int64 `json:"bytes"`   // of data given back
	Asked   int64 `json:"asked"`   // buckets whose old rows the decoder will append again
	Skipped int64 `json:"skipped"` // left for the next time: in use at the moment
	Failed  int64 `json:"failed"`  // left because of an error, which is logged or returned
	// Horizon is the op id up to which ops were rewritten.
	Horizon millrace.OpID `json:"horizon"`
}

// compactor is a session that compacts, during one term of leadership.
type compactor struct {
	conn   *pgx.Conn
	opts   CompactionOptions
	limits compactLimits
	fence  int64
	// gentle makes it rest as long as it works.
	gentle bool

	seen   int64 // checkpoints up to this seq were looked at; 0: look at every bucket
	walked time.Time
	report CompactionReport
	told   time.Time
}

const (
	compactWalk     = time.Hour      // every bucket is looked at this often
	compactDeep     = 24 * time.Hour // and compacted for whatever little is to gain
	compactPage     = 10_000         // buckets looked at in one query
	compactTell     = time.Second
	sessionPatience = 6 // horizons that a slow download is waited for
)

func (s *Store) compactor(ctx context.Context, opts CompactionOptions, fence int64) (*compactor, error) {
	conn, err := s.connect(ctx, "millrace compaction")
	if err != nil {
		return nil, err
	}
	// A flush that is being committed may hold the totals of a bucket.
	_, err = conn.Exec(ctx, `
		SET lock_timeout = '2s'; SET statement_timeout = '60s';
		SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up a session for compaction: %w", err), conn.Close(context.WithoutCancel(ctx)))
	}
	return &compactor{conn: conn, opts: opts, limits: defaultCompactLimits, fence: fence}, nil
}

// Compact compacts buckets during the term, on a session of its own, until ctx
// ends or the term is over. It never returns nil.
func (w *Writer) Compact(ctx context.Context, opts CompactionOptions) error {
	if opts.Interval <= 0 {
		opts.Interval = DefaultCompactionInterval
	}
	var c *compactor
	defer func() {
		if c != nil {
			_ = c.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	tick := time.NewTicker(opts.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.lost:
			return fmt.Errorf("compaction: %w", ErrLeadershipLost)
		case <-tick.C:
		}
		if c == nil || c.conn.IsClosed() {
			var err error
			if c, err = w.store.compactor(ctx, opts, w.fence); err != nil {
				w.opts.Logger.Warn("compaction waits", "error", err)
				continue
			}
			c.gentle = true
		}
		c.report = CompactionReport{}
		began := time.Now()
		err := c.round(ctx)
		if opts.Done != nil && ctx.Err() == nil {
			opts.Done(c.report, time.Since(began), err)
		}
		switch {
		case errors.Is(err, ErrLeadershipLost):
			w.lose()
			return err
		case err != nil && ctx.Err() == nil:
			w.opts.Logger.Warn("compaction failed, trying again", "error", err)
		case c.report.Done > 0:
			w.opts.Logger.Info("compacted", "buckets", c.report.Done, "ops_deleted", c.report.Deleted, "ops_emptied", c.report.Emptied, "bytes", c.report.Bytes)
		}
	}
}

// CompactNow compacts every bucket, or the one of opts, for whatever is to gain,
// beside a decoder that may be at work.
func (s *Store) CompactNow(ctx context.Context, opts CompactionOptions) (CompactionReport, error) {
	c, err := s.compactor(ctx, opts, 0)
	if err != nil {
		return CompactionReport{}, err
	}
	defer func() { _ = c.conn.Close(context.WithoutCancel(ctx)) }()
	if err := c.conn.QueryRow(ctx, `SELECT fence FROM millrace.head`).Scan(&c.fence); err != nil {
		return c.report, fmt.Errorf("read the head: %w", err)
	}
	horizon, _, err := c.horizon(ctx)
	if err != nil || horizon == 0 && opts.Bucket == "" {
		return c.report, err
	}
	if opts.Bucket == "" {
		err = c.walk(ctx, horizon, true)
		return c.report, err
	}
	var due dueBucket
	err = c.conn.QueryRow(ctx, `
		SELECT n.id, n.definition FROM millrace.bucket_names n WHERE n.id = millrace.find_bucket($1)`, opts.Bucket).
		Scan(&due.bucket, &due.definition)
	if err != nil {
		return c.report, fmt.Errorf("find the bucket: %w", err)
	}
	if horizon == 0 {
		return c.report, nil
	}
	err = c.work(ctx, []dueBucket{due}, horizon)
	return c.report, err
}

// round looks at the buckets that changed since the last one and compacts those
// that are worth it.
func (c *compactor) round(ctx context.Context) error {
	horizon, seq, err := c.horizon(ctx)
	if err != nil || horizon == 0 {
		return err
	}
	var deep bool
	err = c.conn.QueryRow(ctx, `SELECT deep_at < clock_timestamp() - $1::interval FROM millrace.compaction`, compactDeep).Scan(&deep)
	if err != nil {
		return fmt.Errorf("read the state of compaction: %w", err)
	}
	if deep || c.seen == 0 || time.Since(c.walked) > compactWalk {
		return c.everything(ctx, horizon, seq, deep)
	}
	due, known, err := c.changed(ctx, seq)
	if err != nil {
		return err
	}
	if !known {
		return c.everything(ctx, horizon, seq, false)
	}
	if err := c.work(ctx, due, horizon); err != nil {
		return err
	}
	c.seen = seq
	return nil
}

// everything looks at every bucket.
func (c *compactor) everything(ctx context.Context, horizon, seq int64, deep bool) error {
	if err := c.walk(ctx, horizon, deep); err != nil {
		return err
	}
	if deep {
		_, err := c.conn.Exec(ctx, `
			WITH gone AS (
				DELETE FROM millrace.bucket_compactions c WHERE NOT EXISTS (SELECT FROM millrace.bucket_names n WHERE n.id = c.bucket))
			UPDATE millrace.compaction SET deep_at = clock_timestamp()`)
		if err != nil {
			return fmt.Errorf("note the state of compaction: %w", err)
		}
	}
	c.seen, c.walked = seq, time.Now()
	return nil
}

// horizon is the op id up to which ops may be rewritten: that of the newest
// checkpoint that is old enough, or less for the sake of clients that are
// downloading an older one, though not for ever.
func (c *compactor) horizon(ctx context.Context) (op, seq int64, err error) {
	err = c.conn.QueryRow(ctx, `
		WITH old AS MATERIALIZED (
			SELECT seq, op_id FROM millrace.checkpoint_log WHERE at <= clock_timestamp() - $1::interval ORDER BY seq DESC LIMIT 1),
		oldest AS MATERIALIZED (
			SELECT op_id FROM millrace.checkpoint_log WHERE at <= clock_timestamp() - $1::interval * $2::int ORDER BY seq DESC LIMIT 1)
		SELECT coalesce((SELECT seq FROM old), 0), coalesce(greatest((SELECT op_id FROM oldest), least((SELECT op_id FROM old), (
			SELECT min(s.sending_op) FROM millrace.session_reports s JOIN millrace.relay_reports r ON r.id = s.relay
			WHERE s.sending_op > 0 AND r.at > clock_timestamp() - interval '1 minute'))), 0)`,
		c.opts.Horizon, sessionPatience).Scan(&seq, &op)
	if err != nil {
		return 0, 0, fmt.Errorf("find the horizon of compaction: %w", err)
	}
	c.report.Horizon = millrace.OpID(op)
	return op, seq, nil
}

// dueBucket is a bucket worth compacting.
type dueBucket struct {
	definition int32
	bucket     int64
}

// sqlDue is the test whether a bucket is worth a pass. Of bucket definitions
// that are served or could be again; deep ($1): for whatever is to gain.
const sqlDue = `
	FROM millrace.bucket_totals t
	JOIN millrace.bucket_names n ON n.id = t.bucket
	LEFT JOIN millrace.bucket_compactions c ON c.bucket = t.bucket
	CROSS JOIN LATERAL (SELECT t.ops - t.rows AS waste, t.ops - t.rows - coalesce(c.residue, 0) AS gain) g
	WHERE t.last_op > coalesce(c.compacted_to, 0) AND g.waste > 1
	AND (c.upto > 0 OR g.gain > 0 AND ($1::bool OR g.gain >= 100000 OR g.gain >= 16 AND 2 * g.gain >= t.rows))
	AND n.definition = ANY (ARRAY(
		SELECT (m->>'definition')::int FROM millrace.rule_sets r CROSS JOIN LATERAL jsonb_array_elements(r.mapping) m
		WHERE r.state IN ('active', 'retired') AND m->>'kind' = 'bucket'))`

// walk looks at every bucket, page by page, and compacts those that are due.
func (c *compactor) walk(ctx context.Context, horizon int64, deep bool) (failed error) {
	for after := int64(0); ; {
		var end *int64
		err := c.conn.QueryRow(ctx, `
			SELECT max(bucket) FROM (SELECT bucket FROM millrace.bucket_totals WHERE bucket > $1::int8 ORDER BY bucket LIMIT $2::int8) p`,
			after, compactPage).Scan(&end)
		if err != nil {
			return fmt.Errorf("look for buckets to compact: %w", err)
		}
		if end == nil {
			return failed
		}
		due, err := c.due(ctx, `SELECT n.definition, t.bucket`+sqlDue+` AND t.bucket > $2::int8 AND t.bucket <= $3::int8 ORDER BY t.bucket`, deep, after, *end)
		if err != nil {
			return err
		}
		before := c.report.Failed
		if err := c.work(ctx, due, horizon); err != nil && c.report.Failed == before {
			return err
		} else if err != nil {
			failed = cmp.Or(failed, err)
		}
		after = *end
	}
}

// changed gives the due ones of the buckets that changed in checkpoints after
// the last round's, up to seq; known is false if these do not name them.
func (c *compactor) changed(ctx context.Context, seq int64) (due []dueBucket, known bool, err error) {
	if seq <= c.seen {
		return nil, true, nil
	}
	err = c.conn.QueryRow(ctx, `
		SELECT count(*) = $2::int8 - $1::int8 AND count(*) = count(buckets) AND coalesce(sum(cardinality(buckets)), 0) <= 1000000
		FROM millrace.checkpoint_log WHERE seq > $1::int8 AND seq <= $2::int8`, c.seen, seq).Scan(&known)
	if err != nil {
		return nil, false, fmt.Errorf("look for changed buckets: %w", err)
	}
	if !known {
		return nil, false, nil
	}
	due, err = c.due(ctx, `
		SELECT n.definition, t.bucket`+sqlDue+`
		AND t.bucket = ANY (ARRAY(
			SELECT DISTINCT b FROM millrace.checkpoint_log l CROSS JOIN LATERAL unnest(l.buckets) b WHERE l.seq > $2::int8 AND l.seq <= $3::int8))`,
		false, c.seen, seq)
	return due, true, err
}

func (c *compactor) due(ctx context.Context, query string, args ...any) ([]dueBucket, error) {
	rows, err := c.conn.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("look for buckets to compact: %w", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d dueBucket, err error) {
		return d, row.Scan(&d.definition, &d.bucket)
	})
	if err != nil {
		return nil, fmt.Errorf("look for buckets to compact: %w", err)
	}
	return due, nil
}

// work compacts buckets up to the horizon, one after the other. One that fails
// does not keep the others from it: the first such error is given at the end.
func (c *compactor) work(ctx context.Context, due []dueBucket, horizon int64) (failed error) {
	c.report.Buckets += int64(len(due))
	for _, d := range due {
		for more := true; more; {
			began := time.Now()
			step, err := c.compactBucket(ctx, millrace.DefinitionID(d.definition), d.bucket, horizon)
			if err != nil && passing(err) {
				c.report.Skipped++
				break
			}
			if err != nil {
				err = fmt.Errorf("compact bucket %d: %w", d.bucket, err)
				if ctx.Err() != nil || c.conn.IsClosed() || errors.Is(err, ErrLeadershipLost) {
					return err
				}
				c.report.Failed++
				failed = cmp.Or(failed, err)
				break
			}
			c.report.Deleted += step.deleted
			c.report.Emptied += step.moved
			c.report.Bytes += step.bytes
			if step.asked {
				c.report.Asked++
			}
			if more = step.more; !more {
				c.report.Done++
			}
			c.tell()
			if c.gentle {
				wait(ctx, time.Since(began))
			}
		}
	}
	return failed
}

func (c *compactor) tell() {
	if c.opts.Progress != nil && time.Since(c.told) > compactTell {
		c.told = time.Now()
		c.opts.Progress(c.report)
	}
}
