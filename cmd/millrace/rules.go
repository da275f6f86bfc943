package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/store"
	"github.com/millrace/millrace/syncrules"
)

// rulesFlags are what all rules commands share.
type rulesFlags struct {
	file, data string
	asJSON     bool
}

func newRules(env *environment) *cobra.Command {
	var f rulesFlags
	cmd := &cobra.Command{
		Use:   "rules diff|deploy|status|rollback",
		Short: "Change the sync rules while everything runs, or show them",
		Long: `Change the sync rules while everything runs, or show them. The commands talk to
the sidecar; the decoder that works on it does the rest, without a restart.
Without -c they talk to the development servers.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("say what to do: rules diff, deploy, status or rollback"))
		},
	}
	flags := cmd.PersistentFlags()
	flags.StringVarP(&f.file, "config", "c", "", "the configuration file")
	flags.StringVar(&f.data, "data", ".millrace", "folder of the development servers, without -c")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")

	var noWait bool
	deploy := &cobra.Command{
		Use:   "deploy [FILE]",
		Short: "Deploy a rules file and wait until it is in force",
		Long: `Deploy a rules file (default: the configured one) and wait until it is in force.

Definitions that did not change keep their history, and clients what they have of
them. The others are built while the old rules serve. A deploy while another one is
being built takes its place. Rules that are not valid change nothing, and rules
that are in force already do nothing.`,
		Example: "  millrace rules deploy -c millrace.yaml\n  millrace rules deploy -c millrace.yaml sync.yaml --no-wait",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRules(cmd.Context(), env, &f, func(ctx context.Context, s *rulesSession) error { return s.deploy(ctx, args, !noWait) })
		},
	}
	deploy.Flags().BoolVar(&noWait, "no-wait", false, "return once the request is stored")
	diff := &cobra.Command{
		Use:   "diff [FILE]",
		Short: "Show what a deploy would keep, build and retire",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRules(cmd.Context(), env, &f, func(ctx context.Context, s *rulesSession) error { return s.diff(ctx, args) })
		},
	}
	var to int32
	rollback := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to the rules before, at once",
		Long: `Go back to the rules that were in force before, or to a rule set that is still
kept (rules_keep). It takes a moment: they were fed all the while. While new rules
are being built, a roll-back gives them up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRules(cmd.Context(), env, &f, func(ctx context.Context, s *rulesSession) error {
				return s.request(ctx, millrace.RuleRequest{Kind: millrace.RequestRollback, Target: millrace.RuleSetID(to)}, nil, !noWait)
			})
		},
	}
	rollback.Flags().Int32Var(&to, "to", 0, "the rule set to go back to (default: the one before)")
	rollback.Flags().BoolVar(&noWait, "no-wait", false, "return once the request is stored")
	status := &cobra.Command{
		Use:   "status",
		Short: "Show the rule sets: in force, being built, kept",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRules(cmd.Context(), env, &f, func(ctx context.Context, s *rulesSession) error { return s.status(ctx) })
		},
	}
	cmd.AddCommand(diff, deploy, status, rollback)
	return cmd
}

// rulesSession is one command at work.
type rulesSession struct {
	env     *environment
	uri     string // of the sidecar
	sources []config.Source
	file    string // configured
	rules   *store.Rules
	asJSON  bool
}

func withRules(ctx context.Context, env *environment, f *rulesFlags, do func(context.Context, *rulesSession) error) error {
	s := &rulesSession{env: env, asJSON: f.asJSON}
	if f.file != "" {
		cfg, err := loadConfig(f.file)
		if err != nil {
			return err
		}
		s.uri, s.sources, s.file = string(cfg.Sidecar.URI), cfg.Sources, cfg.Rules
	} else {
		dev, err := devserver.ReadDevFile(f.data)
		if err != nil {
			return &coded{exitUnreachable, err}
		}
		s.uri, s.file = dev.SidecarURI, dev.Rules
		s.sources = []config.Source{{Name: "main", Tags: []string{"main", "default"}, URI: config.URI(dev.SourceURI)}}
	}
	st, err := store.Open(ctx, s.uri, store.Options{})
	if err != nil {
		return err
	}
	if s.rules, err = st.Rules(ctx); err != nil {
		return err
	}
	defer s.rules.Close()
	return do(ctx, s)
}

// compile reads and compiles a rules file. Warnings are printed.
func (s *rulesSession) compile(args []string) (file string, content []byte, rules *syncrules.Rules, err error) {
	file = s.file
	if len(args) > 0 {
		file = args[0]
	}
	if content, err = os.ReadFile(file); err != nil {
		return "", nil, nil, usage(fmt.Errorf("read the rules: %w", err))
	}
	if err := checkRules(file, content); err != nil {
		return "", nil, nil, err
	}
	rules, diagnostics := syncrules.Compile(file, content)
	if diagnostics = append(diagnostics, rules.Warnings()...); len(diagnostics) > 0 {
		fmt.Fprintln(s.env.stderr, rendered(diagnostics, content))
	}
	return file, content, rules, nil
}

func (s *rulesSession) diff(ctx context.Context, args []string) error {
	file, content, rules, err := s.compile(args)
	if err != nil {
		return err
	}
	d, _, err := s.compare(ctx, file, content, rules)
	if err != nil {
		return err
	}
	if s.asJSON {
		return printJSON(s.env.stdout, d)
	}
	return d.print(s.env.stdout)
}

func (s *rulesSession) deploy(ctx context.Context, args []string, wait bool) error {
	file, content, rules, err := s.compile(args)
	if err != nil {
		return err
	}
	d, deployed, err := s.compare(ctx, file, content, rules)
	if err != nil {
		return err
	}
	if a := deployed.Active; a != nil && deployed.Building == nil && syncrules.SameContent([]byte(a.Content), content) {
		if s.asJSON {
			return printJSON(s.env.stdout, deployResult{RuleSet: a.ID, State: a.State, Message: "nothing to do", Diff: d})
		}
		_, err := fmt.Fprintf(s.env.stdout, "Rule set %d has this content and is in force: nothing to do.\n", a.ID)
		return err
	}
	if !s.asJSON {
		if err := d.print(s.env.stdout); err != nil {
			return err
		}
	}
	return s.request(ctx, millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: string(content), File: file}, d, wait)
}

// shownSets is how many rule sets `rules status` lists, besides those that are
// in force or being built.
const shownSets = 10

func (s *rulesSession) status(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.uri)
	if err != nil {
		return fmt.Errorf("reach the sidecar: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sets, err := readView(ctx, conn, "rules")
	if err != nil {
		return err
	}
	definitions, err := readView(ctx, conn, "definitions")
	if err != nil {
		return err
	}
	requests, err := readView(ctx, conn, "rule_requests")
	if err != nil {
		return err
	}
	pending := requests.where("state", "pending")
	if s.asJSON {
		return printJSON(s.env.stdout, map[string]any{"rule_sets": sets.objects(), "definitions": definitions.objects(), "pending_requests": pending.objects()})
	}
	w := tabwriter.NewWriter(s.env.stdout, 0, 0, 2, ' ', 0)
	if len(sets.rows) == 0 {
		fmt.Fprintln(w, "No rules are deployed yet.")
	} else {
		fmt.Fprintln(w, "RULE SET\tSTATE\tSINCE\tDEFINITIONS\tBUILT FOR IT\tROWS COPIED\tFILE")
	}
	for i := range sets.rows {
		state := sets.at(i, "state")
		if len(sets.rows)-i > shownSets && state != "active" && state != "building" {
			continue
		}
		since := map[string]string{"building": "created_at", "active": "activated_at", "retired": "retired_at"}[state]
		if since == "" {
			since = "ended_at"
		}
		rows := sets.at(i, "copy_rows")
		if state == "building" {
			rows += " of about " + sets.at(i, "copy_estimate")
		}
		file := sets.at(i, "file")
		if back := sets.at(i, "rolls_back"); back != "" {
			file = "roll-back to " + back
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", sets.at(i, "rule_set"), state, shortTime(sets.at(i, since)),
			sets.at(i, "definitions"), sets.at(i, "new_definitions"), rows, file)
	}
	for i := range sets.rows {
		if waits := sets.at(i, "waiting_for"); waits != "" {
			fmt.Fprintf(w, "\nRule set %s waits for %s\n", sets.at(i, "rule_set"), waits)
		}
	}
	for i := range pending.rows {
		fmt.Fprintf(w, "\nRequest %s waits for a decoder: %s %s, since %s\n", pending.at(i, "id"), pending.at(i, "kind"), pending.at(i, "file"), shortTime(pending.at(i, "requested_at")))
	}
	return w.Flush()
}

// shortTime is a timestamp as JSON has it, without fractions of seconds.
func shortTime(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	return t.Format("2006-01-02 15:04:05Z07:00")
}
