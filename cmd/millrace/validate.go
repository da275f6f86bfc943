package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/syncrules"
)

func newValidate(env *environment) *cobra.Command {
	var (
		source, file string
		asJSON       bool
	)
	cmd := &cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check sync rules; exit code 1 if they have errors",
		Long: `Check sync rules; exit code 1 if they have errors.

With a configuration the rules are also compared with its sources: connection
tags that no source has, and tables that are read from several sources with ids
that do not tell these apart. FILE is then the configuration's rules if left out.`,
		Example: `  millrace validate sync.yaml
  millrace validate -c millrace.yaml
  millrace validate sync.yaml --source postgres://localhost/app`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sources []syncrules.SourceTags
			if file != "" {
				cfg, err := loadConfig(file)
				if err != nil {
					return err
				}
				for _, s := range cfg.Sources {
					sources = append(sources, syncrules.SourceTags{Name: s.Name, Tags: s.Tags})
				}
				if len(args) == 0 {
					args = []string{cfg.Rules}
				}
			}
			if len(args) == 0 {
				return usage(errors.New("name the rules file, or a configuration with -c"))
			}
			src, err := os.ReadFile(args[0])
			if err != nil {
				return usage(fmt.Errorf("read the rules: %w", err))
			}
			rules, diagnostics := syncrules.Compile(args[0], src)
			if rules != nil {
				diagnostics = append(diagnostics, rules.Warnings()...)
				if sources != nil {
					diagnostics = append(diagnostics, rules.CheckSources(sources)...)
				}
			}
			if source != "" && rules != nil {
				more, err := checkAgainstSource(cmd.Context(), source, rulecheck.Rules{File: args[0], Text: src, Compiled: rules})
				if err != nil {
					return err
				}
				diagnostics = append(diagnostics, more...)
			}
			rulecheck.Sort(diagnostics)
			if asJSON {
				err = writeDiagnosticsJSON(env, diagnostics)
			} else {
				err = diagnostics.Render(env.stdout, src)
				if err == nil && !diagnostics.Fatal() {
					_, err = fmt.Fprintf(env.stdout, "%s: %s, %s\n", args[0], count(len(rules.Definitions()), "definition"), count(len(diagnostics), "warning"))
				}
			}
			if err == nil && diagnostics.Fatal() {
				return errShown
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "also compare with the sources of this configuration")
	cmd.Flags().StringVar(&source, "source", "", "also check that tables and columns exist in this database (connection string)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// checkAgainstSource warns of what does not fit the database.
func checkAgainstSource(ctx context.Context, uri string, rules rulecheck.Rules) (syncrules.Diagnostics, error) {
	source, err := catalog.Connect(ctx, catalog.Config{URI: uri})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	// All tables, not only those the rules match: a similar name makes a hint.
	tables, err := source.Tables(ctx, func(string, string) bool { return true }, source.Types())
	if err != nil {
		return nil, fmt.Errorf("look at the source's tables: %w", err)
	}
	return rulecheck.Source(rules, []string{"default"}, tables, rulecheck.Unpublished), nil
}

// checkRules returns an error that holds everything wrong with the rules, each
// with its line and a caret.
func checkRules(file string, src []byte) error {
	rules, diagnostics := syncrules.Compile(file, src)
	if rules != nil && !diagnostics.Fatal() {
		return nil
	}
	return finding(errors.New("the sync rules are not valid:\n" + rendered(diagnostics, src)))
}

// rendered is the diagnostics as text, without a newline at the end.
func rendered(diagnostics syncrules.Diagnostics, src []byte) string {
	var b strings.Builder
	_ = diagnostics.Render(&b, src) // a Builder takes everything
	return strings.TrimRight(b.String(), "\n")
}

func count(n int, what string) string {
	switch n {
	case 0:
		return "no " + what + "s"
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// diagnosticJSON is a finding for machines. Lines and columns count from 1,
// offsets are bytes.
type diagnosticJSON struct {
	Severity  string `json:"severity"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	EndLine   int    `json:"end_line"`
	EndColumn int    `json:"end_column"`
	Start     int    `json:"start"`
	End       int    `json:"end"`
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty"`
}

func diagnosticsJSON(diagnostics syncrules.Diagnostics) []diagnosticJSON {
	out := make([]diagnosticJSON, len(diagnostics))
	for i, d := range diagnostics {
		out[i] = diagnosticJSON{
			Severity: d.Severity.String(), File: d.File, Line: d.Line, Column: d.Column,
			EndLine: d.EndLine, EndColumn: d.EndColumn, Start: d.Start, End: d.End,
			Message: d.Message, Hint: d.Hint,
		}
	}
	return out
}

func writeDiagnosticsJSON(env *environment, diagnostics syncrules.Diagnostics) error {
	return printJSON(env.stdout, diagnosticsJSON(diagnostics))
}
