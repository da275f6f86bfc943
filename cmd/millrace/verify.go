package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/inspect"
)

func newVerify(env *environment) *cobra.Command {
	var (
		config, data, bucket, sample string
		wait                         time.Duration
		asJSON                       bool
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the sidecar's buckets with the sources, row by row",
		Long: `Evaluate the rules in force on the rows that the sources have now, and compare
what they give with what the sidecar has in its buckets, row by row. Both are read
at a snapshot; rows that change meanwhile are looked at again. Nothing is written to the source.

Exit code 1 if a bucket differs.`,
		Example: `  millrace verify -c millrace.yaml
  millrace verify --sample 5%
  millrace verify --bucket 'my_lists|0["alice"]' --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := inspect.VerifyConfig{Bucket: bucket, Wait: wait}
			var err error
			if c.Sample, err = share(sample); err != nil {
				return usage(fmt.Errorf("--sample %s: %w", sample, err))
			}
			if c.Sidecar, err = sidecarURI(config, data); err != nil {
				return err
			}
			chosen, err := chooseSources("", config, data)
			if err != nil {
				return err
			}
			var closeAll func()
			if c.Sources, closeAll, err = connectSources(cmd.Context(), chosen.list); err != nil {
				return err
			}
			defer closeAll()
			bar := newProgress(env.stderr)
			c.Progress = func(p inspect.SimulationProgress) {
				bar.report("comparing "+p.For+" with "+p.Table, p.Rows, p.Estimate)
			}
			var v *inspect.Verification
			err = bar.during(func() (err error) { v, err = inspect.Verify(cmd.Context(), c); return err })
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(env.stdout, v)
			} else {
				err = writeVerification(env.stdout, v)
			}
			if err == nil && !v.Equal() {
				return errShown
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&config, "config", "c", "", "a millrace.yaml, for the sidecar and the sources")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without -c")
	f.StringVar(&bucket, "bucket", "", "verify one bucket only, by its wire name or its logical name")
	f.StringVar(&sample, "sample", "100%", "share of the buckets to verify, as 5% or 0.05; always the same ones")
	f.DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until the sidecar has what was read of the source")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// share reads 5% or 0.05.
func share(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f > 0 && f <= 1) {
		return 0, fmt.Errorf("a share is more than 0 and at most 100%%, as in 5%% or 0.05")
	}
	return f, nil
}

// mostData is how much of a row's data is shown to a person.
const mostData = 300

// writeVerification prints a verification for people.
func writeVerification(out io.Writer, v *inspect.Verification) error {
	verdict := "all equal"
	if !v.Equal() {
		verdict = count(v.Differing, "bucket") + " differ"
		if v.Differing == 1 {
			verdict = "1 bucket differs"
		}
	}
	fmt.Fprintf(out, "compared %s with %s of the sources at checkpoint %v, rule set %d: %s\n", count(int(v.Buckets), "bucket"), count(int(v.Rows), "row"), v.Checkpoint, v.RuleSet, verdict)
	if v.Excepted > 0 {
		fmt.Fprintf(out, "%s that cannot be synced left out: SELECT * FROM millrace.row_errors\n", count(int(v.Excepted), "row"))
	}
	for _, d := range v.Findings {
		fmt.Fprintf(out, "\n%s  %s %s  %s\n", d.Bucket, d.Table, d.Row, d.Kind)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		if d.Source != "" {
			fmt.Fprintf(w, "  source row\t%s %s\n", d.Source, d.Key)
		}
		if d.OpID != 0 {
			fmt.Fprintf(w, "  op\t%v\n", d.OpID)
		}
		if d.Want != nil {
			fmt.Fprintf(w, "  the rules give\t%s\n", shortened(string(d.Want)))
		}
		if d.Have != nil {
			fmt.Fprintf(w, "  the bucket has\t%s\n", shortened(string(d.Have)))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if v.More {
		fmt.Fprintln(out, "\nThere are more differences than are shown: verify single buckets with --bucket.")
	}
	if n := len(v.Unsettled); n > 0 {
		d := v.Unsettled[0]
		fmt.Fprintf(out, "\n%s changed again before every look, so that they could not be compared; the first is %s %s in %s\n", count(n, "row"), d.Table, d.Row, d.Bucket)
	}
	for _, p := range v.Problems {
		fmt.Fprintf(out, "\nnot compared: %s: %s\n", p.Object, p.Message)
	}
	return nil
}

func shortened(s string) string {
	if len(s) > mostData {
		return strings.ToValidUTF8(s[:mostData], "") + "…"
	}
	return s
}
