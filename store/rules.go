package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// RulesChannel is notified of new requests to change the rules.
const RulesChannel = "millrace_rules"

const (
	// maxRetired is how many replaced rule sets are fed at most, however often
	// the rules change within Options.RulesKeep.
	maxRetired = 10

	rulesPoll  = 5 * time.Second // in case a notification got lost, and for what is due
	rulesAgain = time.Second     // while nobody acts on what was told
)

// sqlDueRuleSets are the replaced rule sets that need not be fed any longer.
const sqlDueRuleSets = `
	SELECT s.id FROM millrace.rule_sets s WHERE s.state = 'retired' AND (s.retired_at < clock_timestamp() - $1::interval
		OR s.id NOT IN (SELECT r.id FROM millrace.rule_sets r WHERE r.state = 'retired' ORDER BY r.active_from DESC LIMIT $2))`

// Deployed tells whether a content was ever deployed.
func (w *Writer) Deployed(ctx context.Context, content string) (deployed bool, err error) {
	err = w.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.rule_sets WHERE content = $1)`, content).Scan(&deployed)
	if err != nil {
		return false, w.failure("look for a deployed content", err)
	}
	return deployed, nil
}

// RuleRequests lists what people asked for and nobody answered, oldest first.
func (w *Writer) RuleRequests(ctx context.Context) ([]millrace.RuleRequest, error) {
	rows, err := w.conn.Query(ctx, `
		SELECT id, kind, coalesce(content, ''), file, coalesce(target, 0) FROM millrace.rule_requests WHERE state = 'pending' ORDER BY id`)
	if err != nil {
		return nil, w.failure("read requests to change the rules", err)
	}
	requests, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.RuleRequest, err error) {
		var target int32
		err = row.Scan(&r.ID, &r.Kind, &r.Content, &r.File, &target)
		r.Target = millrace.RuleSetID(target)
		return r, err
	})
	if err != nil {
		return nil, w.failure("read requests to change the rules", err)
	}
	return requests, nil
}

// AnswerRules carries out an answer and stores it, in one transaction. It gives
// the rule set that was deployed; nil if none was.
func (w *Writer) AnswerRules(ctx context.Context, a millrace.RuleAnswer) (*millrace.RuleSet, error) {
	var set *millrace.RuleSet
	err := w.attaching(ctx, func() error {
		return w.fenced(ctx, "answer a request to change the rules", func(tx pgx.Tx) (err error) {
			set, err = answer(ctx, tx, a)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return set, nil
}

func answer(ctx context.Context, tx pgx.Tx, a millrace.RuleAnswer) (set *millrace.RuleSet, err error) {
	state, led := "done", a.RuleSet
	switch {
	case a.Refused:
		state = "refused"
	case a.Superseded:
		state = "superseded"
	case a.Deploy != nil:
		if set, err = deploy(ctx, tx, a.Deploy.Content, a.Deploy.Definitions); err != nil {
			return nil, err
		}
		led = set.ID
		_, err = tx.Exec(ctx, `
			UPDATE millrace.rule_sets s SET file = r.file, rolls_back = nullif($3, 0)
			FROM millrace.rule_requests r WHERE s.id = $1 AND r.id = $2`, int32(led), a.Request, int32(a.RollsBack))
	case a.Abandon:
		var abandoned []int32
		if abandoned, err = abandonBuilding(ctx, tx); err == nil {
			err = retireDefinitions(ctx, tx, abandoned)
		}
	}
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE millrace.rule_requests SET state = $2, rule_set = nullif($3, 0), message = $4, answered_at = clock_timestamp()
		WHERE id = $1 AND state = 'pending'`, a.Request, state, int32(led), a.Message)
	return set, err
}

// abandonBuilding gives up the rule set being built; its definitions are left
// to retireDefinitions.
func abandonBuilding(ctx context.Context, tx pgx.Tx) ([]int32, error) {
	rows, err := tx.Query(ctx, `
		UPDATE millrace.rule_sets SET state = 'abandoned', ended_at = clock_timestamp() WHERE state = 'building' RETURNING id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int32])
}

// retireDefinitions ends the definitions that only rule sets that have ended
// use, with what is left to copy for them.
func retireDefinitions(ctx context.Context, tx pgx.Tx, ended []int32) error {
	if len(ended) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE millrace.definition_versions SET retired_at = clock_timestamp()
		WHERE retired_at IS NULL
			AND id IN (SELECT (m->>'definition')::int4 FROM millrace.rule_sets r, jsonb_array_elements(r.mapping) m WHERE r.id = ANY ($1::int4[]))
			AND id NOT IN (SELECT (m->>'definition')::int4 FROM millrace.rule_sets r, jsonb_array_elements(r.mapping) m
				WHERE r.state IN ('building', 'active', 'retired'))
		RETURNING id`, ended)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, sql := range []string{
		`DELETE FROM millrace.copies WHERE definitions <@ $1::int4[] AND definitions <> '{}'`,
		`UPDATE millrace.copies c SET definitions = ARRAY(SELECT d FROM unnest(c.definitions) d WHERE d <> ALL ($1::int4[])) WHERE c.definitions && $1::int4[]`,
	} {
		if _, err := tx.Exec(ctx, sql, ids); err != nil {
			return err
		}
	}
	return nil
}

// RetireRules ends the replaced rule sets that have been kept long enough, and
// the definitions that no other set has. Their history is dropped later, by the
// Writer itself. To be called while nothing is fed: what is fed next must not
// have the sets that are given back.
func (w *Writer) RetireRules(ctx context.Context) ([]millrace.RuleSetID, error) {
	var ended []int32
	err := w.fenced(ctx, "retire rule sets", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE millrace.rule_sets SET state = 'dropped', ended_at = clock_timestamp() WHERE id IN (`+sqlDueRuleSets+`) RETURNING id`,
			w.opts.RulesKeep, maxRetired)
		if err != nil {
			return err
		}
		if ended, err = pgx.CollectRows(rows, pgx.RowTo[int32]); err != nil {
			return err
		}
		return retireDefinitions(ctx, tx, ended)
	})
	if err != nil {
		return nil, err
	}
	ids := make([]millrace.RuleSetID, len(ended))
	for i, id := range ended {
		ids[i] = millrace.RuleSetID(id)
	}
	return ids, nil
}

// ForgetTables notes that no rules use the tables any more, but for those that
// a definition which is fed still has rows of, and gives the ones it noted. What
// is kept of them is deleted later; a table that is used again is a new one.
func (w *Writer) ForgetTables(ctx context.Context, tables []millrace.TableID) (forgotten []millrace.TableID, err error) {
	err = w.fenced(ctx, "forget tables", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE millrace.source_tables t SET forgotten_at = clock_timestamp()
			WHERE t.id = ANY ($1::int4[]) AND t.forgotten_at IS NULL AND NOT EXISTS (
				SELECT FROM millrace.definition_versions d WHERE d.retired_at IS NULL AND (
					EXISTS (SELECT FROM millrace.row_state s WHERE s.definition = d.id AND s.source_table = t.id)
					OR EXISTS (SELECT FROM millrace.lookups l WHERE l.definition = d.id AND l.source_table = t.id AND l.removed = 9223372036854775807)))
			RETURNING t.id`, ints[int32](tables))
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		for _, id := range ids {
			forgotten = append(forgotten, millrace.TableID(id))
		}
		return err
	})
	return forgotten, err
}

// WatchRules calls changed when there is a request to answer, a rule set to
// retire or a source to remove, soon after, and again as long as there is, until ctx ends.
func (w *Writer) WatchRules(ctx context.Context, changed func()) error {
	failing := false
	for ctx.Err() == nil {
		err := w.watchRules(ctx, changed, func() { failing = false })
		if ctx.Err() != nil {
			break
		}
		if !failing {
			w.opts.Logger.Warn("watching for changes of the rules", "error", err)
		}
		failing = true
		wait(ctx, rulesAgain)
	}
	return ctx.Err()
}

func (w *Writer) watchRules(ctx context.Context, changed, works func()) error {
	conn, err := w.store.connect(ctx, "millrace rules "+w.name)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+RulesChannel); err != nil {
		return fmt.Errorf("listen for changes of the rules: %w", err)
	}
	for {
		var due bool
		err := conn.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM millrace.rule_requests WHERE state = 'pending') OR EXISTS (`+sqlDueRuleSets+`) OR EXISTS (`+sqlRemovals+`)`,
			w.opts.RulesKeep, maxRetired).Scan(&due)
		if err != nil {
			return fmt.Errorf("look for changes of the rules: %w", err)
		}
		works()
		pause := rulesPoll
		if due {
			changed()
			pause = rulesAgain
		}
		waiting, cancel := context.WithTimeout(ctx, pause)
		_, err = conn.WaitForNotification(waiting)
		cancel()
		if err != nil && (ctx.Err() != nil || !pgconn.Timeout(err)) {
			return fmt.Errorf("wait for changes of the rules: %w", err)
		}
	}
}
