package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/store"
)

const (
	rulesPoll     = 200 * time.Millisecond
	decoderSilent = 15 * time.Second // without a sign of life nobody decodes
)

// deployResult is the outcome for machines.
type deployResult struct {
	Request int64                 `json:"request,omitempty"`
	RuleSet millrace.RuleSetID    `json:"rule_set,omitempty"`
	State   millrace.RuleSetState `json:"state,omitempty"`
	Message string                `json:"message"`
	Rows    int64                 `json:"rows_copied"`
	Seconds float64               `json:"seconds"`
	Diff    *rulesDiff            `json:"diff,omitempty"`
}

// request stores a request and, unless it is not to wait, shows its progress
// until the rules are in force.
func (s *rulesSession) request(ctx context.Context, q millrace.RuleRequest, d *rulesDiff, wait bool) error {
	began := time.Now()
	id, err := s.rules.Request(ctx, q)
	if err != nil {
		return err
	}
	result := deployResult{Request: id, Message: "requested", Diff: d}
	if !wait {
		if s.asJSON {
			return printJSON(s.env.stdout, result)
		}
		_, err := fmt.Fprintf(s.env.stdout, "Requested, as number %d. `millrace rules status` shows how far it is.\n", id)
		return err
	}
	p, err := s.await(ctx, id)
	if err != nil {
		return err
	}
	result.RuleSet, result.State, result.Message, result.Rows = p.RuleSet, p.SetState, p.Message, p.Rows
	result.Seconds = time.Since(began).Seconds()
	if s.asJSON {
		return printJSON(s.env.stdout, result)
	}
	_, err = fmt.Fprintf(s.env.stdout, "%s. Rule set %d is in force (%s rows copied, %s).\n",
		capitalised(p.Message), p.RuleSet, grouped(p.Rows), time.Since(began).Round(time.Millisecond))
	return err
}

// await waits until what was asked for is in force, or never will be.
func (s *rulesSession) await(ctx context.Context, id int64) (p store.RequestProgress, err error) {
	bar := newProgress(s.env.stderr)
	err = bar.during(func() error {
		p, err = s.follow(ctx, id, func(text string) { bar.report(text, 0, 0) })
		return err
	})
	return p, err
}

// follow looks at a request until what was asked for is in force, or never will
// be.
func (s *rulesSession) follow(ctx context.Context, id int64, show func(string)) (store.RequestProgress, error) {
	for {
		p, err := s.rules.Progress(ctx, id)
		if ctx.Err() != nil {
			return p, finding(errors.New("stopped waiting; the decoder goes on with the deploy: `millrace rules status` shows how far it is"))
		}
		if err != nil {
			return p, err
		}
		switch {
		case p.State == "refused":
			return p, finding(errors.New(p.Message))
		case p.State == "superseded":
			return p, finding(errors.New(p.Message))
		case p.State == "done" && p.SetState == millrace.RuleSetAbandoned:
			return p, finding(fmt.Errorf("rule set %d was given up before it was built: another deploy or a roll-back took its place", p.RuleSet))
		case p.State == "done" && p.SetState != millrace.RuleSetBuilding:
			return p, nil // in force, or replaced by a later one already
		}
		show(describeProgress(p))
		pause(ctx, rulesPoll)
	}
}

// describeProgress says what a deploy is at.
func describeProgress(p store.RequestProgress) string {
	text := "waiting for the decoder"
	switch {
	case p.DecoderSeen > decoderSilent:
		return "no decoder is running: the request waits in the sidecar until one starts (`millrace serve`)"
	case p.State == "pending":
	case p.Tables == 0:
		text = fmt.Sprintf("rule set %d: preparing", p.RuleSet)
	default:
		text = fmt.Sprintf("rule set %d: %d of %d tables copied, %s of about %s rows", p.RuleSet, p.TablesDone, p.Tables, grouped(p.Rows), grouped(p.Estimate))
	}
	switch {
	case p.HeldBy != "":
		text += "; waits for " + p.HeldBy
	case p.Errors != "":
		text += "; " + p.Errors
	}
	return text
}

func capitalised(text string) string {
	if text == "" || text[0] < 'a' || text[0] > 'z' {
		return text
	}
	return string(text[0]-'a'+'A') + text[1:]
}
