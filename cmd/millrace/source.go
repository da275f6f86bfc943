package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/store"
)

func newSource(env *environment) *cobra.Command {
	var f rulesFlags
	cmd := &cobra.Command{
		Use:   "source remove",
		Short: "Remove a source that is not configured any more, with its rows",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("say what to do: source remove NAME"))
		},
	}
	cmd.PersistentFlags().StringVarP(&f.file, "config", "c", "", "the configuration file; without it, the development servers")
	cmd.PersistentFlags().StringVar(&f.data, "data", ".millrace", "folder of the development servers")
	cmd.PersistentFlags().BoolVar(&f.asJSON, "json", false, "print JSON")
	var noWait bool
	remove := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take the rows of a source that is not configured any more from clients",
		Long: `Take the rows of a source that is not configured any more out of every bucket and
lookup, in one checkpoint, and forget the source.

Taking a source out of the configuration does not do that by itself: it may come
back, and goes on where it was as long as its slot is there. Take it out, restart
every decoder, then remove it. A source that takes its name later is another one:
its tables are copied.`,
		Example: "  millrace source remove us -c millrace.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRules(cmd.Context(), env, &f, func(ctx context.Context, s *rulesSession) error { return s.removeSource(ctx, args[0], !noWait) })
		},
	}
	remove.Flags().BoolVar(&noWait, "no-wait", false, "return once the request is stored")
	cmd.AddCommand(remove)
	return cmd
}

// stillConfigured is why a source is not removed.
func stillConfigured(name, where string) error {
	return finding(fmt.Errorf("source %s is in the configuration of %s: take it out of sources, restart every decoder, and run this again", name, where))
}

// removedSource is the outcome for machines.
type removedSource struct {
	Source  string `json:"source"`
	Slot    string `json:"slot"`
	Removed bool   `json:"removed"` // false: asked for, with --no-wait
}

func (s *rulesSession) removeSource(ctx context.Context, name string, wait bool) error {
	if slices.ContainsFunc(s.sources, func(c config.Source) bool { return c.Name == name }) {
		return stillConfigured(name, "this command")
	}
	id, slot, err := s.rules.RequestRemoval(ctx, name)
	if errors.Is(err, store.ErrNoSource) {
		return finding(err)
	}
	if err != nil {
		return err
	}
	if wait {
		if err := s.awaitRemoval(ctx, id, name); err != nil {
			return err
		}
	}
	if s.asJSON {
		return printJSON(s.env.stdout, removedSource{name, slot, wait})
	}
	text := fmt.Sprintf("Source %s is removed, with its rows.\n", name)
	if !wait {
		text = fmt.Sprintf("Requested. Source %s is removed as soon as a decoder runs that does not have it in its configuration.\n", name)
	}
	if slot != "" {
		text += fmt.Sprintf("Its slot holds back WAL until it is dropped there: SELECT pg_drop_replication_slot('%s');\n", strings.ReplaceAll(slot, "'", "''"))
	}
	_, err = fmt.Fprint(s.env.stdout, text)
	return err
}

// awaitRemoval waits until a source is removed, or will not be.
func (s *rulesSession) awaitRemoval(ctx context.Context, id millrace.SourceID, name string) error {
	bar := newProgress(s.env.stderr)
	return bar.during(func() error {
		for {
			m, err := s.rules.Removal(ctx, id)
			switch {
			case ctx.Err() != nil:
				return finding(errors.New("stopped waiting; the request stays: the decoder carries it out"))
			case err != nil:
				return err
			case m.Done:
				return nil
			case m.Refused:
				return stillConfigured(name, "the decoder that leads")
			case m.DecoderSeen > decoderSilent:
				bar.report("no decoder is running: the request waits in the sidecar until one starts (`millrace serve`)", 0, 0)
			default:
				bar.report("removing the rows of source "+name, 0, 0)
			}
			pause(ctx, rulesPoll)
		}
	})
}
