package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/store"
)

// compactionOptions is what the decoder's process does by itself.
func compactionOptions(cfg *config.Config) store.CompactionOptions {
	return store.CompactionOptions{Interval: cfg.Compaction.Interval, Horizon: cfg.Compaction.Horizon, Defragment: cfg.Compaction.Defragment}
}

func newCompact(env *environment) *cobra.Command {
	var (
		file, data, bucket string
		asJSON             bool
	)
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Compact the history of buckets now",
		Long: `Compact the history of buckets now: drop the data of rows that were changed or
removed since, and clear what lies below the oldest row that is left. The decoder
does this by itself; here every bucket with anything to gain is taken, or the one
given by its wire name or its logical name. It may run beside everything else,
and may be interrupted at any time.

Ops younger than compaction.horizon stay. Without -c it works on the development
servers. millrace.bucket_bloat shows what there is to gain.`,
		Example: `  millrace compact -c millrace.yaml
  millrace compact --bucket 'my_lists|0["00000000-0000-4000-a000-000000000001"]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := sidecarConfig(file, data)
			if err != nil {
				return err
			}
			st, err := store.Open(ctx, string(cfg.Sidecar.URI), store.Options{})
			if err != nil {
				return err
			}
			opts := compactionOptions(cfg)
			opts.Bucket = bucket
			bar := newProgress(env.stderr)
			opts.Progress = func(r store.CompactionReport) {
				bar.report(fmt.Sprintf("%d buckets compacted, %d ops deleted, %d emptied", r.Done, r.Deleted, r.Emptied), 0, 0)
			}
			var report store.CompactionReport
			err = bar.during(func() (err error) { report, err = st.CompactNow(ctx, opts); return err })
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(env.stdout, report)
			}
			writeCompaction(env.stdout, report, opts.Horizon)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", "", "the configuration file")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without -c")
	f.StringVar(&bucket, "bucket", "", "compact this bucket only")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeCompaction(w io.Writer, r store.CompactionReport, horizon time.Duration) {
	if r.Horizon == 0 {
		fmt.Fprintf(w, "nothing is older than compaction.horizon, %s\n", horizon)
		return
	}
	fmt.Fprintf(w, "%d of %d buckets compacted up to op %s, which is older than %s\n", r.Done, r.Buckets, r.Horizon, horizon)
	fmt.Fprintf(w, "%d ops deleted, %d emptied, %d bytes of data given back\n", r.Deleted, r.Emptied, r.Bytes)
	if r.Asked > 0 {
		fmt.Fprintf(w, "%d buckets: the decoder will append their oldest rows again, so that the next run can clear more\n", r.Asked)
	}
	if r.Skipped > 0 {
		fmt.Fprintf(w, "%d buckets were in use and left for the next time\n", r.Skipped)
	}
}

// sidecarConfig is a configuration, or the defaults with the sidecar of the
// development servers that run in a folder.
func sidecarConfig(file, data string) (*config.Config, error) {
	if file != "" {
		return loadConfig(file)
	}
	uri, err := sidecarURI(file, data)
	if err != nil {
		return nil, err
	}
	cfg := config.Default()
	cfg.Sidecar.URI = config.URI(uri)
	return &cfg, nil
}
