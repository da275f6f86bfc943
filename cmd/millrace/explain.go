package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/inspect"
)

func newExplain(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why a row is on a device or not, and what a user gets",
		Long: `Say why a row is on a device or not, and what a user gets. Both ask the sidecar
and the source as they are now, and change nothing.`,
	}
	cmd.AddCommand(newExplainRow(env), newExplainUser(env))
	return cmd
}

// explainFlags are those of both commands.
type explainFlags struct {
	config, data, claims, params string
	streams                      []string
	asJSON                       bool
}

func (f *explainFlags) register(cmd *cobra.Command, claims string) {
	fs := cmd.Flags()
	fs.StringVarP(&f.config, "config", "c", "", "a millrace.yaml, for the sidecar and the sources")
	fs.StringVar(&f.data, "data", ".millrace", "folder of the development servers, without -c")
	fs.StringVar(&f.claims, "claims", "", claims)
	fs.StringVar(&f.params, "params", "", "parameters of the connection, a JSON object")
	fs.StringArrayVar(&f.streams, "stream", nil, "also subscribe to a stream, as NAME or NAME=JSON with parameters (repeatable)")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// read makes the request, and finds the sidecar.
func (f *explainFlags) read() (*inspect.ExplainConfig, error) {
	c := &inspect.ExplainConfig{}
	var err error
	if c.Sidecar, err = sidecarURI(f.config, f.data); err != nil {
		return nil, err
	}
	if f.claims == "" {
		if f.params != "" || len(f.streams) > 0 {
			return nil, usage(errors.New("--params and --stream need --claims: they are of a user's device"))
		}
		return c, nil
	}
	s, err := simulationRequest(f.claims, f.params, f.streams)
	if err != nil {
		return nil, usage(err)
	}
	c.Request = s.Request
	return c, nil
}

// print gives JSON or what write makes of it.
func (f *explainFlags) print(out io.Writer, v any, write func(io.Writer) error) error {
	if !f.asJSON {
		return write(out)
	}
	return printJSON(out, v)
}

func newExplainRow(env *environment) *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "row TABLE ID",
		Short: "Say in which buckets a source row is, why, and who gets it",
		Long: `Say in which buckets a source row is, by which conditions of the rules, since
when, and which ops carried it. With --claims: whether that user gets it, through
which lookups, or what is missing; and which of the user's devices have it.

TABLE is the source's, as todos, public.todos or main.public.todos. ID is the text of
its key, for several key columns a JSON array.

Exit code 1 if the row is in no bucket, or the user does not get it.`,
		Example: `  millrace explain row todos 00000000-0000-4000-b000-000000000001
  millrace explain row list_members '["00000000-0000-4000-a000-000000000001","bob"]' --claims '{"sub":"bob"}'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.read()
			if err != nil {
				return err
			}
			closeAll, err := explainSources(cmd.Context(), c, &f)
			if err != nil {
				return err
			}
			defer closeAll()
			x, err := inspect.ExplainRow(cmd.Context(), *c, args[0], args[1])
			if err != nil {
				return err
			}
			if err := f.print(env.stdout, x, func(out io.Writer) error { return writeRow(out, x) }); err != nil {
				return err
			}
			if here := len(present(x)); here == 0 || x.User != nil && !x.User.Gets {
				return errShown
			}
			return nil
		},
	}
	f.register(cmd, "payload of a user's token, a JSON object, to say whether that user gets the row")
	return cmd
}

func explainSources(ctx context.Context, c *inspect.ExplainConfig, f *explainFlags) (func(), error) {
	chosen, err := chooseSources("", f.config, f.data)
	if err != nil {
		return nil, err
	}
	var closeAll func()
	c.Sources, closeAll, err = connectSources(ctx, chosen.list)
	return closeAll, err
}

func newExplainUser(env *environment) *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:     "user --claims JSON",
		Short:   "List a user's buckets with their sizes, and why the user has them",
		Long:    "List the buckets that a user gets, with their sizes and why, what gives nothing\nand why, and the user's live connections.\n\nExit code 1 if the user gets no bucket.",
		Example: `  millrace explain user --claims '{"sub":"alice"}'`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.claims == "" {
				return usage(errors.New(`--claims is needed: the payload of the user's token, as in --claims '{"sub":"alice"}'`))
			}
			c, err := f.read()
			if err != nil {
				return err
			}
			x, err := inspect.ExplainUser(cmd.Context(), *c)
			if err != nil {
				return err
			}
			if err := f.print(env.stdout, x, func(out io.Writer) error { return writeUser(out, x) }); err != nil {
				return err
			}
			if len(x.Buckets) == 0 {
				return errShown
			}
			return nil
		},
	}
	f.register(cmd, "payload of the user's token, a JSON object (required)")
	return cmd
}

// present are the buckets a row is in now.
func present(x *inspect.RowExplanation) (list []inspect.Stay) {
	for _, s := range x.Stays {
		if s.Here() {
			list = append(list, s)
		}
	}
	return list
}

// writeRow prints an explanation for people.
func writeRow(out io.Writer, x *inspect.RowExplanation) error {
	exists := "is on the source"
	if !x.Exists {
		exists = "is not on the source"
	}
	fmt.Fprintf(out, "row %s of %s %s, and in %s at checkpoint %v\n", x.ID, x.Table, exists, count(len(present(x)), "bucket"), x.Checkpoint)
	for _, s := range x.Stays {
		fmt.Fprintf(out, "\n%s\n", s.Bucket)
		if s.Here() {
			fmt.Fprintf(out, "  as %s %s, since op %v%s\n", s.Table, s.Row, s.Since, timeText(s.SinceAt))
		} else {
			fmt.Fprintf(out, "  was there as %s %s, from op %v%s to op %v%s\n", s.Table, s.Row, s.Since, timeText(s.SinceAt), s.Until, timeText(s.UntilAt))
		}
		if n := len(s.Ops); n > 0 {
			o := s.Ops[n-1]
			fmt.Fprintf(out, "  carried by %s, the last: op %v %s%s %s\n", count(n, "op"), o.OpID, o.Kind, timeText(o.At), shortened(string(o.Data)))
		}
	}
	if len(x.Queries) > 0 {
		fmt.Fprintln(out, "\nby the rules in force")
	}
	for _, q := range x.Queries {
		subject, verb := q.Definition, "in "+strings.Join(q.Names, ", ")
		switch q.Kind {
		case "lookup":
			subject, verb = "lookup of "+q.Definition, "found under "+strings.Join(q.Names, ", ")
		case "event":
			subject, verb = "event "+q.Definition, strings.Join(q.Names, ", ")
		}
		switch {
		case q.In:
		case q.Kind == "event":
			verb = "no write checkpoint"
		default:
			verb = "not in it"
		}
		fmt.Fprintf(out, "  %s (%s): %s\n", subject, q.At, verb)
		for i, branch := range q.Why {
			or := ""
			if i > 0 {
				or = "or "
			}
			for _, why := range branch {
				fmt.Fprintf(out, "    %s%s\n", or, why)
			}
		}
	}
	for _, e := range x.Errors {
		fmt.Fprintln(out, "\nerror: "+e)
	}
	for _, n := range x.Notes {
		fmt.Fprintln(out, "\nnote: "+n)
	}
	if x.User == nil {
		return nil
	}
	gets := "gets it"
	if !x.User.Gets {
		gets = "does not get it"
	}
	fmt.Fprintf(out, "\nuser %s %s\n", x.User.User, gets)
	for _, b := range x.User.Buckets {
		has := "has"
		if !b.Granted {
			has = "does not have"
		}
		fmt.Fprintf(out, "  %s %s\n", has, b.Bucket)
		for _, why := range b.Why {
			fmt.Fprintf(out, "    %s\n", why)
		}
	}
	return writeSessions(out, x.User.Sessions, x.User.Gets)
}

// writeSessions lists connections; about a row if row.
func writeSessions(out io.Writer, list []inspect.SessionExplanation, row bool) error {
	if len(list) == 0 {
		fmt.Fprintln(out, "\nno device of the user is connected")
		return nil
	}
	fmt.Fprintln(out, "\nconnected devices, as the relays last reported")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range list {
		ack := "does not say what it applied"
		if s.Acknowledged > 0 {
			ack = fmt.Sprintf("applied %v", s.Acknowledged)
		}
		has := ""
		switch {
		case row && s.Has:
			has = "the row was sent"
		case row:
			has = "the row is on its way"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\tsince %s\tsent checkpoint %v\t%s\t%s\n", orDash(s.ClientID), s.Transport, orDash(s.Agent), s.Since.UTC().Format(time.DateTime), s.Sent, ack, has)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return " (" + t.UTC().Format("2006-01-02 15:04:05 UTC") + ")"
}

// writeUser prints an explanation for people.
func writeUser(out io.Writer, x *inspect.UserExplanation) error {
	var rows, bytes int64
	for _, d := range x.Definitions {
		rows, bytes = rows+d.Rows, bytes+d.Bytes
	}
	fmt.Fprintf(out, "user %s gets %s with %s at checkpoint %v\n", orDash(x.User), count(len(x.Buckets), "bucket"), count(int(rows), "row"), x.Checkpoint)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(x.Definitions) > 0 {
		fmt.Fprint(w, "\nDEFINITION\tBUCKETS\tROWS\tHISTORY\n")
		for _, d := range x.Definitions {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", d.Definition, d.Buckets, d.Rows, size(d.Bytes))
		}
		w.Flush()
	}
	if len(x.Buckets) > 0 {
		fmt.Fprint(w, "\nBUCKET\tPRIORITY\tROWS\tOPS\tHISTORY\tLAST OP\n")
		for _, b := range x.Buckets[:min(len(x.Buckets), mostBuckets)] {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", b.Bucket, b.Priority, b.Rows, b.Ops, size(b.Bytes), opText(b.LastOp))
		}
		w.Flush()
		if more := len(x.Buckets) - mostBuckets; more > 0 {
			fmt.Fprintf(out, "and %s more: --json lists all\n", count(more, "bucket"))
		}
		fmt.Fprintln(out, "\nbecause of")
		said := map[string]bool{}
		for _, b := range x.Buckets {
			for _, why := range b.Why {
				if !said[why] {
					said[why] = true
					fmt.Fprintln(out, "  "+why)
				}
			}
		}
	}
	if len(x.Refusals) > 0 {
		fmt.Fprintln(out, "\nwhat gives nothing")
		for _, r := range x.Refusals {
			fmt.Fprintf(out, "  %s: %s\n", r.At, r.Why)
		}
	}
	for _, e := range x.Errors {
		fmt.Fprintln(out, "\nerror: "+e)
	}
	return writeSessions(out, x.Sessions, false)
}

func opText(id millrace.OpID) string {
	if id == 0 {
		return "-"
	}
	return id.String()
}
