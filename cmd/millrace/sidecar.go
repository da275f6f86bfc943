package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/store"
)

func newSidecar(env *environment) *cobra.Command {
	var file, data string
	cmd := &cobra.Command{
		Use:   "sidecar restored",
		Short: "Tell what happened to the sidecar's server",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage(fmt.Errorf("say what happened: sidecar restored"))
		},
	}
	cmd.PersistentFlags().StringVarP(&file, "config", "c", "", "the configuration file; without it, the development servers")
	cmd.PersistentFlags().StringVar(&data, "data", ".millrace", "folder of the development servers")
	cmd.AddCommand(&cobra.Command{
		Use:   "restored",
		Short: "After a restore from a backup: clients sync again",
		Long: `After restoring the sidecar from a backup: every bucket gets a new name towards
clients, and op ids move beyond what clients may have seen, so that nobody mixes
what was before with what comes. Clients sync everything again.

A sidecar that was restored to another server, or whose slots are ahead of it,
is found out by itself; running this again does no harm but for that. Decoders
and relays may run meanwhile.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			uri, err := sidecarURI(file, data)
			if err != nil {
				return err
			}
			s, err := store.Open(cmd.Context(), uri, store.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			op, err := s.Restored(cmd.Context(), "sidecar restored")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(env.stdout, "All buckets have new names, op ids go on from %d. Clients sync again.\n", op)
			return err
		},
	})
	return cmd
}
