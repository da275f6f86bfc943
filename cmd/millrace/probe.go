package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	probeTimeout  = 4 * time.Second
	probeMaxBytes = 4 << 10
)

// newProbe is for container health checks: the image has no other program that
// could ask.
func newProbe(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:    "probe URL",
		Short:  "Ask a probe; exit code 1 if the answer is negative",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
			if err != nil {
				return usage(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(io.LimitReader(res.Body, probeMaxBytes))
			if err != nil {
				return err
			}
			text := strings.TrimSpace(string(body))
			if res.StatusCode != http.StatusOK {
				return finding(errors.New(text))
			}
			_, err = fmt.Fprintln(env.stdout, text)
			return err
		},
	}
}
