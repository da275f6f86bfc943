package decoder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// settles waits until the decoder has all there is and every check holds. What
// does not hold in the end is shown with the events.
func (s *soak) settles() {
	s.t.Helper()
	ctx := s.t.Context()
	heads := map[string]millrace.LSN{}
	for _, shard := range s.shards {
		var head string
		if err := shard.db.QueryRow(ctx, "select pg_current_wal_insert_lsn()::text").Scan(&head); err != nil {
			s.t.Fatal(err)
		}
		heads[shard.name] = mustLSN(s.t, head)
	}
	// A difference may be a table of which the catalog was not looked at yet.
	last := errors.New("nothing was compared")
	for deadline := time.Now().Add(soakPatience); time.Now().Before(deadline); wait(ctx, 100*time.Millisecond) {
		if last = s.check(ctx, heads); last == nil {
			return
		}
	}
	s.log.printf("not settled: %v", last)
	s.evidence()
	s.t.Fatal(last)
}

// evidence logs what the sidecar knows of the rows that differ, and of itself.
func (s *soak) evidence() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.sidecar.uri)
	if err != nil {
		s.log.printf("no evidence: %v", err)
		return
	}
	defer conn.Close(ctx)
	show := func(what, sql string, args ...any) {
		lines := map[string]int{}
		if err := collect(ctx, conn, "SELECT left(x::text, 300) FROM ("+sql+") x", lines, args...); err != nil {
			s.log.printf("%s: %v", what, err)
		}
		for _, line := range slices.Sorted(maps.Keys(lines)) {
			s.log.printf("%s: %s", what, line)
		}
	}
	show("sources", `SELECT id, name, was, slot, durable, lost_reason FROM millrace.sources`)
	show("reports", `SELECT source, waiting_for, error FROM millrace.source_reports`)
	show("tables", `SELECT id, source, oid, schema, name, identity, key_columns FROM millrace.source_tables`)
	show("rule sets", `SELECT id, state, active_from, created_at, activated_at, left(content, 12), (SELECT string_agg((m ->> 'definition'), ' ') FROM jsonb_array_elements(mapping) m) FROM millrace.rule_sets`)
	show("definitions", `SELECT id, key, without, retired_at, dropped_at FROM millrace.definition_versions`)
	show("copies", `SELECT id, rule_set, source_table, definitions, state, started_at, done_at, shadow FROM millrace.copies`)
	show("events", `SELECT id, at, source, object, change, action, copy FROM millrace.schema_events`)
	for _, row := range s.wrong {
		show("ops", `SELECT o.op_id, o.definition, o.bucket, o.kind, o.type, o.row_id, o.subkey, left(o.data, 60),
			(SELECT min(at) FROM millrace.checkpoint_log c WHERE c.op_id >= o.op_id) FROM millrace.ops o WHERE definition = $1 AND row_id = $2`, row.definition, row.id)
		show("row state", `SELECT r.definition, source_table, bucket, since_op, row_key, row_id, subkey FROM millrace.row_state r WHERE definition = $1 AND row_id = $2`, row.definition, row.id)
		show("ended outputs", `SELECT * FROM millrace.ended_outputs WHERE definition = $1 AND row_id = $2`, row.definition, row.id)
		show("shadow rows", `SELECT copy, row_key, definition, bucket FROM millrace.shadow_rows WHERE row_id = $1`, row.id)
	}
}

// wrongRow is a row that differs from the sources.
type wrongRow struct {
	definition int32
	id         string
}

// check compares the sidecar, in one snapshot, with the sources at rest.
func (s *soak) check(ctx context.Context, heads map[string]millrace.LSN) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.sidecar.uri)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := s.caughtUp(ctx, tx, heads); err != nil {
		return err
	}
	history, err := readHistory(ctx, tx)
	if err != nil {
		return err
	}
	return errors.Join(s.checkContent(ctx, tx, history), history.check(ctx, tx), s.checkLookups(ctx, tx), s.checkSlots(ctx))
}

// busy are queries that count what is not done yet.
var busy = map[string]string{
	"rule sets are being built":      `SELECT count(*) FROM millrace.rule_sets WHERE state = 'building'`,
	"requests are pending":           `SELECT count(*) FROM millrace.rule_requests WHERE state = 'pending'`,
	"copies are under way":           `SELECT count(*) FROM millrace.copies WHERE state <> 'done'`,
	"sources report an error":        `SELECT count(*) FROM millrace.source_reports r JOIN millrace.sources s ON s.id = r.source WHERE s.lost_at IS NULL AND r.error <> ''`,
	"rule sets in force are missing": `SELECT 1 - count(*) FROM millrace.rule_sets WHERE state = 'active'`,
	"sources have no history":        `SELECT 2 - count(*) FROM millrace.sources WHERE lost_at IS NULL AND durable > '0/0'`,
}

func (s *soak) caughtUp(ctx context.Context, tx pgx.Tx, heads map[string]millrace.LSN) error {
	rows, err := tx.Query(ctx, `SELECT name, durable::text FROM millrace.sources WHERE lost_at IS NULL`)
	if err != nil {
		return err
	}
	var errs []error
	var name, durable string
	if _, err := pgx.ForEachRow(rows, []any{&name, &durable}, func() error {
		if at := mustLSN(s.t, durable); at < heads[name] {
			errs = append(errs, fmt.Errorf("source %s is durable at %v, its head was %v", name, at, heads[name]))
		}
		return nil
	}); err != nil {
		return err
	}
	for what, query := range busy {
		var n int64
		if err := tx.QueryRow(ctx, query).Scan(&n); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		if n != 0 {
			errs = append(errs, fmt.Errorf("%d %s", n, what))
		}
	}
	return errors.Join(errs...)
}

// soakSet is a rule set that is fed.
type soakSet struct {
	id      int32
	variant int
	keys    map[string]int32 // definitions that have the rows of all sources
}

func fedSets(ctx context.Context, tx pgx.Tx) ([]soakSet, error) {
	rows, err := tx.Query(ctx, `
		SELECT r.id, r.content, coalesce(jsonb_object_agg(m ->> 'key', v.id) FILTER (WHERE NOT v.without && ARRAY(SELECT id FROM millrace.sources WHERE lost_at IS NULL)), '{}')
		FROM millrace.rule_sets r CROSS JOIN jsonb_array_elements(r.mapping) m JOIN millrace.definition_versions v ON v.id = (m ->> 'definition')::int
		WHERE r.state IN ('active', 'retired') GROUP BY r.id ORDER BY r.id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (set soakSet, err error) {
		var content string
		if err := row.Scan(&set.id, &content, &set.keys); err != nil {
			return set, err
		}
		set.variant, err = variantOf(content)
		return set, err
	})
}

// checkContent compares every definition of the rule sets that are fed with its
// query on the sources (I6).
func (s *soak) checkContent(ctx context.Context, tx pgx.Tx, h *soakHistory) error {
	sets, err := fedSets(ctx, tx)
	if err != nil {
		return err
	}
	var errs []error
	s.wrong = nil
	seen := map[int32]bool{}
	for _, set := range sets {
		queries := [2]map[string]string{}
		for i, shard := range s.shards {
			queries[i] = soakQueries(set.variant, shard.name)
		}
		for key, id := range set.keys {
			if seen[id] || key[:7] == "lookup:" {
				continue
			}
			seen[id] = true
			want := map[string]int{}
			for i, shard := range s.shards {
				if err := collect(ctx, shard.db, queries[i][key], want); err != nil {
					return fmt.Errorf("%s: %s: %w", key, queries[i][key], err)
				}
			}
			got := h.content(id)
			for row := range got {
				if want[row] != got[row] && len(s.wrong) < 8 {
					s.wrong = append(s.wrong, wrongRow{id, strings.Fields(row)[1]})
				}
			}
			for row := range want {
				if want[row] != got[row] && len(s.wrong) < 8 {
					s.wrong = append(s.wrong, wrongRow{id, strings.Fields(row)[1]})
				}
			}
			if err := differ(want, got); err != nil {
				errs = append(errs, fmt.Errorf("rule set %d, variant %d, definition %d, %s: %w", set.id, set.variant, id, key, err))
			}
		}
		for key := range queries[0] {
			if _, ok := set.keys[key]; !ok && set.id == sets[len(sets)-1].id {
				errs = append(errs, fmt.Errorf("rule set %d, variant %d has no definition %s of all sources", set.id, set.variant, key))
			}
		}
	}
	return errors.Join(errs...)
}

// collect counts the rows that a query gives, as text.
func collect(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, sql string, counts map[string]int, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		values, err := row.Values()
		counts[fmt.Sprintln(values...)]++
		return struct{}{}, err
	})
	return err
}

// differ says which rows are there more or less often than they should be.
func differ(want, got map[string]int) error {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var lines []error
	n := 0
	for _, row := range slices.Sorted(maps.Keys(all)) {
		if want[row] == got[row] {
			continue
		}
		if n++; n <= 8 {
			lines = append(lines, fmt.Errorf("there %d times, want %d: %.110s", got[row], want[row], row))
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d rows differ: %w", n, errors.Join(lines...))
}

func (s *soak) checkLookups(ctx context.Context, tx pgx.Tx) error {
	want, got := map[string]int{}, map[string]int{}
	for _, shard := range s.shards {
		if err := collect(ctx, shard.db, soakLookups, want); err != nil {
			return err
		}
	}
	if err := collect(ctx, tx, `
		SELECT l.key, l.outputs FROM millrace.lookups l, millrace.rule_sets r, jsonb_array_elements(r.mapping) m
		WHERE r.state = 'active' AND l.definition = (m ->> 'definition')::int AND l.removed > (SELECT op_id FROM millrace.head)`, got); err != nil {
		return err
	}
	if err := differ(want, got); err != nil {
		return fmt.Errorf("lookups: %w", err)
	}
	return nil
}

// checkSlots: one slot for each source, and nothing else of ours (I7).
func (s *soak) checkSlots(ctx context.Context) error {
	for _, shard := range s.shards {
		var n int
		if err := shard.db.QueryRow(ctx, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary").Scan(&n); err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("source %s has %d slots", shard.name, n)
		}
	}
	return nil
}

// balanceWatch reads, again and again, what clients have of the accounts: a
// transaction that moves money is there wholly or not at all (I3).
type balanceWatch struct {
	s      *soak
	cancel context.CancelFunc
	wg     sync.WaitGroup
	polls  int
	torn   error
}

const balances = `
WITH served AS (
	SELECT (m ->> 'definition')::int AS id FROM millrace.rule_sets r, jsonb_array_elements(r.mapping) m WHERE r.state = 'active' AND m ->> 'key' = 'bucket:acct'
), last AS (
	SELECT DISTINCT ON (o.bucket, o.row_id, o.subkey) o.kind, o.data FROM millrace.ops o JOIN served ON o.definition = served.id
	WHERE o.kind IN (1, 2) ORDER BY o.bucket, o.row_id, o.subkey, o.op_id DESC
)
SELECT (SELECT count(*) FROM served), count(*), coalesce(sum((data::json ->> 'balance')::int), 0) FROM last WHERE kind = 1`

func (s *soak) watchBalances() *balanceWatch {
	ctx, cancel := context.WithCancel(s.t.Context())
	w := &balanceWatch{s: s, cancel: cancel}
	w.wg.Go(func() {
		var conn *pgx.Conn
		defer func() {
			if conn != nil {
				_ = conn.Close(context.Background())
			}
		}()
		for ; ctx.Err() == nil && w.torn == nil; wait(ctx, 40*time.Millisecond) {
			if conn == nil || conn.IsClosed() {
				var err error
				if conn, err = pgx.Connect(ctx, s.sidecar.uri); err != nil {
					conn = nil
					continue // it is down
				}
			}
			var sets, accounts, sum int
			if conn.QueryRow(ctx, balances).Scan(&sets, &accounts, &sum) != nil || sets == 0 {
				continue
			}
			w.polls++
			if accounts != 10 || sum != 10_000 {
				w.torn = fmt.Errorf("a checkpoint shows %d accounts with a sum of %d, want 10 with 10000", accounts, sum)
				s.log.printf("%v", w.torn)
			}
		}
	})
	s.t.Cleanup(w.stop)
	return w
}

func (w *balanceWatch) stop() {
	w.cancel()
	w.wg.Wait()
}

func (w *balanceWatch) finish() {
	w.stop()
	if w.torn != nil {
		w.s.t.Fatal(w.torn)
	}
	w.s.count["looks at the balances"] = w.polls
}
