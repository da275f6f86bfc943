package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/migrations"
)

func newMigrate(env *environment) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "migrate up|down|status",
		Short: "Change or show the sidecar's schema",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(fmt.Errorf("say what to do: migrate up, down or status"))
		},
	}
	cmd.PersistentFlags().StringVarP(&file, "config", "c", defaultConfig, "the configuration file")
	sidecar := func() (string, error) {
		cfg, err := loadConfig(file)
		if err != nil {
			return "", err
		}
		return string(cfg.Sidecar.URI), nil
	}
	report := func(cmd *cobra.Command, uri string) error {
		state, err := migrations.Status(cmd.Context(), uri)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("The sidecar's schema is at migration %d of %d.", state.Version, state.Latest)
		if state.Version > state.Latest {
			text = fmt.Sprintf("The sidecar's schema is at migration %d. This release knows %d, and works with it.", state.Version, state.Latest)
			if state.Usable() != nil {
				text = fmt.Sprintf("The sidecar's schema is at migration %d, for releases that know %d. This release knows %d.", state.Version, state.Oldest, state.Latest)
			}
		}
		if state.Dirty {
			text += " The last run was interrupted: `millrace migrate up` repairs it."
		}
		_, err = fmt.Fprintln(env.stdout, text)
		return err
	}
	down := &cobra.Command{
		Use:   "down",
		Short: "Take the newest migration back; run it again for the one before",
		Long:  "Take the newest migration back. What it added is lost: at the latest with the\nfirst migration, all history. The sidecar can be built again from the source, and\nall clients then sync again. Asks first on a terminal.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			uri, err := sidecar()
			if err != nil {
				return err
			}
			if isatty.IsTerminal(os.Stdin.Fd()) && !confirmed(env) {
				return finding(errors.New("nothing was removed"))
			}
			if err := migrations.Down(cmd.Context(), uri); err != nil {
				return err
			}
			return report(cmd, uri)
		},
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "up",
			Short: "Bring the schema to this release; harmless when it is",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				uri, err := sidecar()
				if err != nil {
					return err
				}
				if err := migrations.Up(cmd.Context(), uri); err != nil {
					return err
				}
				return report(cmd, uri)
			},
		},
		down,
		&cobra.Command{
			Use:   "status",
			Short: "Show where the schema stands; exit code 1 if this release cannot use it",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				uri, err := sidecar()
				if err != nil {
					return err
				}
				if err := report(cmd, uri); err != nil {
					return err
				}
				state, err := migrations.Status(cmd.Context(), uri)
				if err == nil && (state.Dirty || state.Usable() != nil) {
					return errShown
				}
				return err
			},
		},
	)
	return cmd
}

// confirmed asks before data are removed.
func confirmed(env *environment) bool {
	fmt.Fprint(env.stderr, "This removes what the newest migration added, data included. Type yes to go on: ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	return err == nil && strings.TrimSpace(answer) == "yes"
}

// defaultConfig is the configuration file unless a flag names another.
const defaultConfig = "millrace.yaml"

// loadConfig reads the configuration file and the environment. The default
// file need not be there if the environment names a sidecar.
func loadConfig(file string) (*config.Config, error) {
	_, err := os.Stat(file)
	missing := errors.Is(err, os.ErrNotExist)
	if missing && file == defaultConfig && os.Getenv("MILLRACE_SIDECAR_URI") != "" {
		file, missing = "", false
	}
	if missing {
		return nil, usage(fmt.Errorf("there is no configuration file %s: name one with -c", file))
	}
	cfg, err := config.Load(file, os.Environ())
	if err != nil {
		return nil, usage(err)
	}
	return cfg, nil
}
