package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/decoder/rulecheck"
	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/inspect/clientschema"
	"github.com/millrace/millrace/syncrules"
)

func newGen(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gen LANGUAGE [FILE]",
		Short: "Write a client's schema from sync rules and the source's tables",
		Long: `Write the schema that a client's SDK wants, from sync rules and the tables of the
source: the tables and columns that devices get, and whether their values are
text, integers or reals. The same rules and tables give the same text.

The source is --source, else those of the configuration -c, else that of the
development servers. FILE is the rules; if left out, those of the configuration
or of the development servers.

With --check nothing is written; exit code 1 if the file differs, for a build
that should fail when the schema is out of date.`,
		Example: `  millrace gen ts -o src/schema.ts
  millrace gen dart sync.yaml --source postgres://localhost/app -o lib/schema.dart
  millrace gen ts -c millrace.yaml --check src/schema.ts`,
		RunE: func(_ *cobra.Command, args []string) error {
			var names []string
			for _, l := range clientschema.Languages {
				names = append(names, l.Name)
			}
			list := strings.Join(names, ", ")
			if len(args) == 0 {
				return usage(fmt.Errorf("say for what: gen %s", list))
			}
			return usage(fmt.Errorf("gen %s: there is only %s", args[0], list))
		},
	}
	for _, l := range clientschema.Languages {
		cmd.AddCommand(newGenLanguage(env, l))
	}
	return cmd
}

func newGenLanguage(env *environment, l clientschema.Language) *cobra.Command {
	var (
		source, file, data, out, check string
		opts                           clientschema.Options
	)
	cmd := &cobra.Command{
		Use:   l.Name + " [FILE]",
		Short: "For " + l.For,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out != "" && check != "" {
				return usage(errors.New("-o and --check exclude each other"))
			}
			if l.Name == "go" && opts.Package != "" && !token.IsIdentifier(opts.Package) {
				return usage(fmt.Errorf("--package %q is no name of a Go package", opts.Package))
			}
			chosen, err := chooseSources(source, file, data)
			if err != nil {
				return err
			}
			rules := chosen.rules
			if len(args) > 0 {
				rules = args[0]
			}
			if rules == "" {
				return usage(errors.New("name the rules file, or a configuration with -c"))
			}
			opts.Rules = filepath.Base(rules)
			text, err := generate(cmd.Context(), env, l, opts, rules, chosen)
			if err != nil {
				return err
			}
			switch {
			case check != "":
				return checkGenerated(check, text)
			case out != "":
				return writeGenerated(out, text)
			}
			_, err = env.stdout.Write(text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&source, "source", "", "the source database (connection string)")
	f.StringVarP(&file, "config", "c", "", "a millrace.yaml, for its sources and rules")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without --source and -c")
	f.StringVarP(&out, "output", "o", "", "file to write, whole or not at all (default: standard output)")
	f.StringVar(&check, "check", "", "file to compare with; exit code 1 if it differs")
	switch l.Name {
	case "go":
		f.StringVar(&opts.Package, "package", "schema", "name of the package")
	case "kotlin":
		f.StringVar(&opts.Package, "package", "", "name of the package (default: none)")
	case "powersync-ts":
		f.StringVar(&opts.Module, "import", "@powersync/web", "the SDK's package, such as @powersync/react-native")
	}
	return cmd
}

// generate gives the text. What the rules and tables make people should know
// goes to stderr.
func generate(ctx context.Context, env *environment, l clientschema.Language, opts clientschema.Options, file string, chosen chosenSources) ([]byte, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, usage(fmt.Errorf("read the rules: %w", err))
	}
	if err := checkRules(file, src); err != nil {
		return nil, err
	}
	rules, _ := syncrules.Compile(file, src)
	connected, closeAll, err := connectSources(ctx, chosen.list)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	var sources []clientschema.Source
	var findings syncrules.Diagnostics
	for _, s := range connected {
		found, err := sourceTables(ctx, rules, s)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found)
		findings = append(findings, rulecheck.Names(rulecheck.Rules{File: file, Text: src, Compiled: rules}, s.Tags, found.Tables)...)
	}
	rulecheck.Sort(findings)
	if err := findings.Render(env.stderr, src); err != nil {
		return nil, err
	}
	schema, err := clientschema.Of(rules, sources)
	if err != nil {
		return nil, finding(fmt.Errorf("%s: no schema can be written:\n%w", file, err))
	}
	text, err := l.Write(schema, opts)
	if err != nil {
		return nil, finding(fmt.Errorf("%s: no schema can be written:\n%w", file, err))
	}
	return text, nil
}

// sourceTables reads what tables a source has.
func sourceTables(ctx context.Context, rules *syncrules.Rules, s inspect.Source) (clientschema.Source, error) {
	uses := func(schema, table string) bool {
		for _, tag := range s.Tags {
			if rules.Uses(tag, schema, table) {
				return true
			}
		}
		return false
	}
	tables, err := s.Catalog.Tables(ctx, uses, s.Catalog.Types())
	if err != nil {
		return clientschema.Source{}, fmt.Errorf("look at the tables of source %s: %w", s.Name, err)
	}
	return clientschema.Source{Tags: s.Tags, Tables: tables}, nil
}

// checkGenerated compares a file with what it should be, and says where they
// begin to differ.
func checkGenerated(file string, want []byte) error {
	have, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return usage(fmt.Errorf("read what is to be checked: %w", err))
	}
	have = bytes.ReplaceAll(have, []byte("\r\n"), []byte("\n")) // as Git may check it out
	if err == nil && bytes.Equal(have, want) {
		return nil
	}
	cure := "; write it again with -o " + file + " in place of --check"
	if err != nil {
		return finding(fmt.Errorf("%s is not there%s", file, cure))
	}
	old, fresh := strings.Split(string(have), "\n"), strings.Split(string(want), "\n")
	n := 0
	for n < len(old) && n < len(fresh) && old[n] == fresh[n] {
		n++
	}
	return finding(fmt.Errorf("%s is out of date, from line %d on: it has %s, and should have %s%s", file, n+1, lineAt(old, n), lineAt(fresh, n), cure))
}

func lineAt(lines []string, n int) string {
	if n >= len(lines) || n == len(lines)-1 && lines[n] == "" {
		return "no more"
	}
	return fmt.Sprintf("%.100q", strings.TrimSpace(lines[n]))
}

// writeGenerated puts the file there whole, and leaves one alone that is right
// already, so that nothing is built again for nothing.
func writeGenerated(file string, text []byte) error {
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, text) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.tmp")
	if err != nil {
		return usage(fmt.Errorf("write the schema: %w", err))
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write the schema: %w", err), os.Remove(f.Name()))
	}
	return nil
}
