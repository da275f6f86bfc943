package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/syncrules"
)

func newSimulate(env *environment) *cobra.Command {
	var (
		claims, params     string
		streams            []string
		source, file, data string
		asJSON             bool
	)
	cmd := &cobra.Command{
		Use:   "simulate FILE --claims JSON",
		Short: "Show what a user would get from sync rules, before deploying them",
		Long: `Show what a user would get from sync rules: buckets, rows of each table, and
the lookups that grant them. The source is read at one snapshot and never
written to. Nothing needs to be deployed.

The source is --source, else those of the configuration -c, else that of the
development servers. Exit code 1 if something would keep rows from the user.`,
		Example: `  millrace simulate sync.yaml --claims '{"sub":"alice"}' --source postgres://localhost/app
  millrace simulate sync.yaml --claims '{"sub":"bob","role":"admin"}' --params '{"region":"eu"}'
  millrace simulate sync.yaml --claims '{"sub":"bob"}' --stream 'list={"id":7}' --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := simulationRequest(claims, params, streams)
			if err != nil {
				return usage(err)
			}
			src, err := os.ReadFile(args[0])
			if err != nil {
				return usage(fmt.Errorf("read the rules: %w", err))
			}
			if err := checkRules(args[0], src); err != nil {
				return err
			}
			c.Rules, _ = syncrules.Compile(args[0], src)
			for _, s := range c.Request.Subscriptions {
				if !slices.Contains(c.Rules.Streams(), s.Stream) {
					return usage(fmt.Errorf("--stream %s: %s has no stream of this name", s.Stream, args[0]))
				}
			}
			chosen, err := chooseSources(source, file, data)
			if err != nil {
				return err
			}
			c.MaxBuckets = chosen.maxBuckets
			var closeAll func()
			if c.Sources, closeAll, err = connectSources(cmd.Context(), chosen.list); err != nil {
				return err
			}
			defer closeAll()
			bar := newProgress(env.stderr)
			c.Progress = func(p inspect.SimulationProgress) {
				bar.report("reading "+p.Table+" for "+p.For, p.Rows, p.Estimate)
			}
			var s *inspect.Simulation
			err = bar.during(func() (err error) { s, err = inspect.Simulate(cmd.Context(), *c); return err })
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(env.stdout, s)
			} else {
				err = writeSimulation(env.stdout, s)
			}
			if err == nil && len(s.Problems) > 0 {
				return errShown
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&claims, "claims", "", "payload of the user's token, a JSON object (required)")
	f.StringVar(&params, "params", "", "parameters of the connection, a JSON object")
	f.StringArrayVar(&streams, "stream", nil, "also subscribe to a stream, as NAME or NAME=JSON with parameters (repeatable)")
	f.StringVar(&source, "source", "", "the source database (connection string)")
	f.StringVarP(&file, "config", "c", "", "a millrace.yaml, for its sources and limits")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without --source and -c")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// simulationRequest reads the flags that say who asks for what.
func simulationRequest(claims, params string, streams []string) (*inspect.SimulationConfig, error) {
	if claims == "" {
		return nil, errors.New(`--claims is needed: the payload of the user's token, as in --claims '{"sub":"alice"}'`)
	}
	c := &inspect.SimulationConfig{Request: syncrules.Request{IncludeDefaults: true}}
	var err error
	if c.Request.Claims, err = jsonObject("--claims", claims); err != nil {
		return nil, err
	}
	if params != "" {
		if c.Request.Parameters, err = jsonObject("--params", params); err != nil {
			return nil, err
		}
	}
	for _, s := range streams {
		name, text, given := strings.Cut(s, "=")
		sub := syncrules.Subscription{Stream: name, Parameters: []byte("{}")}
		if given {
			if sub.Parameters, err = jsonObject("--stream "+name, text); err != nil {
				return nil, err
			}
		}
		c.Request.Subscriptions = append(c.Request.Subscriptions, sub)
	}
	return c, nil
}

// jsonObject checks that the text of a flag is a JSON object.
func jsonObject(flag, text string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%s is not JSON, at character %d: %w", flag, syntax.Offset, err)
		}
		return nil, fmt.Errorf(`%s is not a JSON object such as {"sub":"alice"}`, flag)
	}
	if object == nil {
		return nil, fmt.Errorf(`%s is not a JSON object such as {"sub":"alice"}`, flag)
	}
	return []byte(text), nil
}

// mostBuckets is how many buckets and lookups are shown to a person.
const mostBuckets = 20

// writeSimulation prints a simulation for people.
func writeSimulation(out io.Writer, s *inspect.Simulation) error {
	var rows, bytes int64
	for _, t := range s.Tables {
		rows, bytes = rows+t.Rows, bytes+t.Bytes
	}
	user := "the user"
	if s.User != "" {
		user = "user " + s.User
	}
	if len(s.Buckets) == 0 {
		fmt.Fprintf(out, "%s gets nothing\n", user)
	} else {
		fmt.Fprintf(out, "%s gets %s with %s, %s\n", user, count(len(s.Buckets), "bucket"), count(int(rows), "row"), size(bytes))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(s.Definitions) > 0 {
		fmt.Fprint(w, "\nDEFINITION\tPRIORITY\tBUCKETS\tROWS\tSIZE\n")
		for _, d := range s.Definitions {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", d.Definition, d.Priority, d.Buckets, d.Rows, size(d.Bytes))
		}
		w.Flush()
	}
	if len(s.Tables) > 0 {
		fmt.Fprint(w, "\nTABLE\tROWS\tSIZE\tFROM\n")
		for _, t := range s.Tables {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s", t.Table, t.Rows, size(t.Bytes), strings.Join(t.Sources, ", "))
			if t.Copies > 0 {
				fmt.Fprintf(w, "; %d more copies, of rows in several buckets", t.Copies)
			}
			fmt.Fprintln(w)
		}
		w.Flush()
	}
	if len(s.Buckets) > 0 {
		fmt.Fprint(w, "\nBUCKET\tPRIORITY\tROWS\tSIZE\tBECAUSE OF\n")
		for _, b := range s.Buckets[:min(len(s.Buckets), mostBuckets)] {
			why := b.Source
			if !b.Default {
				why += ", subscribed"
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", b.Name, b.Priority, b.Rows, size(b.Bytes), why)
		}
		more(w, len(s.Buckets))
		w.Flush()
	}
	if len(s.Lookups) > 0 {
		fmt.Fprint(w, "\nLOOKUP\tIN\tKEY\tGIVES\tFROM ROWS\n")
		for _, l := range s.Lookups[:min(len(s.Lookups), mostBuckets)] {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Definition, strings.Join(l.Tables, ", "), l.Key, gives(l), shorten(l.Rows, len(l.Rows)))
		}
		more(w, len(s.Lookups))
		w.Flush()
	}
	if len(s.Refusals) > 0 {
		fmt.Fprint(w, "\nGIVES NOTHING\tAT\tBECAUSE\n")
		for _, r := range s.Refusals[:min(len(s.Refusals), mostBuckets)] {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.Source, r.At, r.Why)
		}
		more(w, len(s.Refusals))
		w.Flush()
	}
	if len(s.Problems) > 0 {
		fmt.Fprintln(out, "\nPROBLEMS")
		for _, p := range s.Problems {
			fmt.Fprintf(out, "  %s: %s", p.Object, p.Message)
			if p.Rows > 0 {
				fmt.Fprintf(out, " (%s, first: %s)", count(int(p.Rows), "row"), p.Row)
			}
			fmt.Fprintln(out)
			if p.Hint != "" {
				fmt.Fprintf(out, "    hint: %s\n", p.Hint)
			}
		}
	}
	return nil
}

func more(w io.Writer, n int) {
	if n > mostBuckets {
		fmt.Fprintf(w, "… and %d more; --json lists all\n", n-mostBuckets)
	}
}

// gives tells what a lookup gives: how much, and the first of it.
func gives(l inspect.SimulatedLookup) string {
	if l.Results == 0 {
		return "nothing"
	}
	texts := make([]string, len(l.Outputs))
	for i, o := range l.Outputs {
		texts[i] = string(o)
	}
	return fmt.Sprintf("%d: %s", l.Results, shorten(texts, l.Results))
}

// shorten gives the first of a list of n.
func shorten(list []string, n int) string {
	const few = 2 // they may be long
	text := strings.Join(list[:min(len(list), few)], ", ")
	if n > few {
		text += ", …"
	}
	return text
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1000)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
