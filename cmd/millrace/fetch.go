package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/devserver"
)

const fetchCommand = "fetch-postgresql"

// newFetch is the process that `millrace dev` starts to fetch PostgreSQL.
func newFetch(*environment) *cobra.Command {
	return &cobra.Command{
		Use:    fetchCommand + " DIR",
		Short:  "Fetch PostgreSQL's server programs into a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := devserver.FetchBinaries(args[0]); err != nil {
				return &coded{exitUnreachable, err}
			}
			return nil
		},
	}
}

// fetchPostgres runs that process.
func fetchPostgres(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, self, fetchCommand, dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text := strings.TrimPrefix(strings.TrimSpace(out.String()), "millrace: ")
		if text == "" {
			return err
		}
		first, _, _ := strings.Cut(text, "\n")
		return errors.New(first)
	}
	return nil
}
