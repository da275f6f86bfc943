package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/inspect/doctor"
	"github.com/millrace/millrace/relay/auth"
	"github.com/millrace/millrace/syncrules"
)

func newDoctor(env *environment) *cobra.Command {
	var (
		file, data   string
		relay, token string
		timeout      time.Duration
		asJSON       bool
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with sources, sidecar and network, with the cure",
		Long: `Look at the sources, the sidecar, remote key sets and, with --url, the way from
here to the relay, and say what is wrong, each with the exact SQL or setting that
cures it. Amazon RDS and Aurora, Cloud SQL, Supabase, Neon and Azure are known by their signs
and get their own cures. Nothing is changed.

Looked at are those of the configuration -c, or of millrace.yaml if it is there,
else the development servers.

Exit code 1 if anything is fatal, 3 if something cannot be reached.`,
		Example: `  millrace doctor -c millrace.yaml
  millrace doctor -c millrace.yaml --url https://sync.example.com --json
  millrace doctor --data .millrace`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := examinedConfig(&file, data, cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			keySets := cfg.Auth.JWKSURIs
			if p := cfg.Auth.Supabase.Project; p != "" {
				keySets = append(slices.Clone(keySets), auth.Supabase{Project: p}.KeySet())
			}
			c := doctor.Config{
				Sidecar: string(cfg.Sidecar.URI), SidecarReplica: string(cfg.Sidecar.ReadURI), KeySets: keySets,
				Relay: relay, Token: token, Timeout: timeout,
			}
			rules, broken := doctorRules(cfg)
			c.Sources = doctorSources(cfg, rules)
			if relay != "" && token == "" {
				if key, err := signingKey(file, data); err == nil {
					if c.Token, err = key.Sign("millrace-doctor", nil, time.Minute, time.Now()); err != nil {
						return err
					}
				}
			}
			found, err := doctor.Examine(cmd.Context(), c)
			if err != nil {
				return err
			}
			found = append(broken, found...)
			if asJSON {
				err = printJSON(env.stdout, found)
			} else {
				err = writeFindings(env, found)
			}
			if err != nil {
				return err
			}
			switch doctor.Worst(found) {
			case doctor.Fatal:
				return errShown
			case doctor.Unreachable:
				return &coded{exitUnreachable, errors.New("")}
			default:
				return nil
			}
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", defaultConfig, "the configuration file")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without -c and without "+defaultConfig)
	f.StringVar(&relay, "url", "", "address clients use: look at the way to the relay as well")
	f.StringVar(&token, "token", "", "a valid token for --url (default: signed with a key of type oct of the configuration)")
	f.DurationVar(&timeout, "timeout", 15*time.Second, "how long each look may take")
	f.BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// examinedConfig is the configuration to look at: that of the file if it was
// named or is there, else that of the development servers, for which file
// becomes empty.
func examinedConfig(file *string, data string, named bool) (*config.Config, error) {
	if !named && os.Getenv("MILLRACE_SIDECAR_URI") == "" {
		if _, err := os.Stat(*file); errors.Is(err, os.ErrNotExist) {
			dev, err := devserver.ReadDevFile(data)
			if err != nil {
				return nil, usage(fmt.Errorf("there is no %s: %w", *file, err))
			}
			*file = ""
			return dev.Config(), nil
		}
	}
	return loadConfig(*file)
}

// doctorRules compiles the configured rules; nil with a finding if they are not
// valid.
func doctorRules(cfg *config.Config) (*syncrules.Rules, []doctor.Finding) {
	broken := func(message, cure string) []doctor.Finding {
		return []doctor.Finding{{Level: doctor.Fatal, About: "rules", Object: cfg.Rules, Message: message, Cure: cure}}
	}
	src, err := os.ReadFile(cfg.Rules)
	if err != nil {
		return nil, broken("they cannot be read: "+err.Error(), "set the key rules to the file")
	}
	rules, diagnostics := syncrules.Compile(cfg.Rules, src)
	if rules == nil || diagnostics.Fatal() {
		return nil, broken("they are not valid", "millrace validate "+cfg.Rules)
	}
	return rules, nil
}

func doctorSources(cfg *config.Config, rules *syncrules.Rules) (list []doctor.Source) {
	var slots []string
	for _, s := range cfg.Sources {
		slots = append(slots, s.Slot)
	}
	for _, s := range cfg.Sources {
		d := doctor.Source{Name: s.Name, URI: string(s.URI), Slot: s.Slot, Publication: s.Publication, Failover: s.Failover, Slots: slots}
		if rules != nil {
			d.Uses = func(schema, table string) bool {
				return slices.ContainsFunc(s.Tags, func(tag string) bool { return rules.Uses(tag, schema, table) })
			}
			for _, p := range rules.Tables() {
				if slices.Contains(s.Tags, p.Tag) && !p.SchemaPrefix && !p.NamePrefix {
					d.Named = append(d.Named, catalog.TableName{Schema: p.Schema, Name: p.Name})
				}
			}
		}
		list = append(list, d)
	}
	return list
}

// writeFindings prints a finding on a line or two: what, and below it the cure.
func writeFindings(env *environment, found []doctor.Finding) error {
	for _, f := range found {
		line := fmt.Sprintf("%-11s %s", f.Level, f.About)
		for _, part := range []string{f.Code, f.Object} {
			if part != "" {
				line += ", " + part
			}
		}
		if _, err := fmt.Fprintf(env.stdout, "%s: %s\n", line, f.Message); err != nil {
			return err
		}
		if f.Cure == "" {
			continue
		}
		if _, err := fmt.Fprintf(env.stdout, "            → %s\n", f.Cure); err != nil {
			return err
		}
	}
	return nil
}
