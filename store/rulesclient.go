package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// Rules is the sidecar as people change the rules through it: it asks, and a
// Writer answers. One goroutine uses it.
type Rules struct {
	conn *pgx.Conn
}

// Rules connects. It must be closed.
func (s *Store) Rules(ctx context.Context) (*Rules, error) {
	conn, err := s.connect(ctx, "millrace rules")
	if err != nil {
		return nil, err
	}
	return &Rules{conn}, nil
}

// Close ends the connection.
func (r *Rules) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = r.conn.Close(ctx) // the server ends it in any case
}

// DeployedRules are the rule sets there are, and what is fed.
type DeployedRules struct {
	// Active is in force, Building is being built; nil if there is none.
	Active, Building *millrace.RuleSet
	// Fed are the definitions of all rule sets that are fed, retired ones
	// included.
	Fed []millrace.Definition
}

// Deployed reads what is deployed.
func (r *Rules) Deployed(ctx context.Context) (*DeployedRules, error) {
	var state millrace.DecoderState
	err := pgx.BeginTxFunc(ctx, r.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return readRuleSets(ctx, tx, &state)
	})
	if err != nil {
		return nil, fmt.Errorf("read the rule sets of the sidecar: %w", err)
	}
	d := &DeployedRules{Fed: state.Definitions}
	for i := range state.RuleSets {
		switch s := &state.RuleSets[i]; s.State {
		case millrace.RuleSetActive:
			d.Active = s
		case millrace.RuleSetBuilding:
			d.Building = s
		case millrace.RuleSetRetired, millrace.RuleSetDropped, millrace.RuleSetAbandoned:
		}
	}
	return d, nil
}

// Request stores a request for the decoder that leads, and gives its number.
func (r *Rules) Request(ctx context.Context, q millrace.RuleRequest) (id int64, err error) {
	var content *string
	if q.Kind == millrace.RequestDeploy {
		content = &q.Content
	}
	err = pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			INSERT INTO millrace.rule_requests (kind, content, file, target) VALUES ($1, $2, $3, nullif($4, 0)) RETURNING id`,
			string(q.Kind), content, q.File, int32(q.Target)).Scan(&id)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `SELECT pg_notify($1, $2)`, RulesChannel, fmt.Sprint(id))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store the request in the sidecar: %w", err)
	}
	return id, nil
}

// RequestProgress is how far a request is.
type RequestProgress struct {
	State    string // pending, done, refused or superseded
	Message  string
	RuleSet  millrace.RuleSetID    // it led to; 0 while there is none
	SetState millrace.RuleSetState // of that rule set
	SetProgress
	// DecoderSeen is how long ago a decoder last gave a sign of life.
	DecoderSeen time.Duration
	// HeldBy says which sources the rule set waits for, and what each is at or
	// why it is down, in words; empty while it waits for none.
	HeldBy string
	// WaitingFor and Errors say what holds any source up, in words.
	WaitingFor, Errors string
}

// SetProgress is how far the copies of a rule set are.
type SetProgress struct {
	Tables, TablesDone int
	Rows, Estimate     int64
}

// Progress reads how far a request is.
func (r *Rules) Progress(ctx context.Context, id int64) (p RequestProgress, err error) {
	var set int32
	var seen float64
	err = r.conn.QueryRow(ctx, `
		SELECT q.state, q.message, coalesce(q.rule_set, 0), coalesce(r.state, ''),
			coalesce(r.copy_tables, 0), coalesce(r.copy_tables_done, 0), coalesce(r.copy_rows, 0), coalesce(r.copy_estimate, 0),
			extract(epoch FROM clock_timestamp() - l.at), coalesce(r.waiting_for, ''), coalesce(s.waiting_for, ''), coalesce(s.errors, '')
		FROM millrace.rule_requests q CROSS JOIN millrace.leader l CROSS JOIN millrace.status s
		LEFT JOIN millrace.rules r ON r.rule_set = q.rule_set
		WHERE q.id = $1`, id).
		Scan(&p.State, &p.Message, &set, &p.SetState, &p.Tables, &p.TablesDone, &p.Rows, &p.Estimate, &seen, &p.HeldBy, &p.WaitingFor, &p.Errors)
	p.RuleSet, p.DecoderSeen = millrace.RuleSetID(set), time.Duration(seen*float64(time.Second))
	if errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("request %d is not in the sidecar", id)
	}
	if err != nil {
		return p, fmt.Errorf("read how far request %d is: %w", id, err)
	}
	return p, nil
}
