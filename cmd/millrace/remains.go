package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/inspect"
)

func newRemains(env *environment) *cobra.Command {
	var (
		file, data string
		asJSON     bool
	)
	show := func(r *inspect.Remains) error {
		if asJSON {
			if err := printJSON(env.stdout, r); err != nil {
				return err
			}
		} else if err := writeRemains(env.stdout, r); err != nil {
			return err
		}
		if !r.Gone() {
			return errShown
		}
		return nil
	}
	config := func() (inspect.RemainsConfig, error) {
		cfg, err := sidecarConfig(file, data)
		if err != nil {
			return inspect.RemainsConfig{}, err
		}
		return inspect.RemainsConfig{Sidecar: string(cfg.Sidecar.URI), Horizon: cfg.Compaction.Horizon, Keep: cfg.History.Keep}, nil
	}
	cmd := &cobra.Command{
		Use:   "remains",
		Short: "Say what is still kept of a row or a user, where, and until when",
		Long: `Say what the sidecar still keeps of a row or of a user, where, and until when:
for requests to erase a person's data. It changes nothing.

Exit code 1 if something is left.`,
	}
	row := &cobra.Command{
		Use:     "row TABLE ID",
		Short:   "What is kept of a source row",
		Example: `  millrace remains row todos 00000000-0000-4000-b000-000000000001`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config()
			if err != nil {
				return err
			}
			r, err := inspect.RowRemains(cmd.Context(), c, args[0], args[1])
			if err != nil {
				return err
			}
			return show(r)
		},
	}
	user := &cobra.Command{
		Use:     "user SUB",
		Short:   "What is kept of a user, by the subject (sub) of the tokens",
		Example: `  millrace remains user alice`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config()
			if err != nil {
				return err
			}
			r, err := inspect.UserRemains(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return show(r)
		},
	}
	for _, sub := range []*cobra.Command{row, user} {
		f := sub.Flags()
		f.StringVarP(&file, "config", "c", "", "a millrace.yaml, for the sidecar and how long things are kept")
		f.StringVar(&data, "data", ".millrace", "folder of the development servers, without -c")
		f.BoolVar(&asJSON, "json", false, "print JSON")
		cmd.AddCommand(sub)
	}
	return cmd
}

func writeRemains(out io.Writer, r *inspect.Remains) error {
	if r.Gone() {
		_, err := fmt.Fprintf(out, "nothing is kept of %s\n", r.Subject)
		return err
	}
	fmt.Fprintf(out, "of %s there is\n\n", r.Subject)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "WHERE\tCOUNT\tKIND\tUNTIL\n")
	for _, p := range r.Places {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", p.Place, p.Count, p.What, p.Until)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Buckets) > 0 {
		fmt.Fprintln(out, "\nin buckets")
		for _, b := range r.Buckets[:min(len(r.Buckets), mostBuckets)] {
			fmt.Fprintln(out, "  "+b)
		}
		if more := len(r.Buckets) - mostBuckets; more > 0 {
			fmt.Fprintf(out, "  and %d more: --json lists all\n", more)
		}
	}
	return nil
}
