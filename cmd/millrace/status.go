package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/devserver"
)

// statusTimeout bounds the whole question: it is asked when things go wrong.
const statusTimeout = 15 * time.Second

func newStatus(env *environment) *cobra.Command {
	var (
		file, data string
		asJSON     bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the sidecar: rules, checkpoint, lag",
		Long:  "Show the state of the sidecar, as the views millrace.status and\nmillrace.replication give it. Without -c it asks the development servers.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			uri, err := sidecarURI(file, data)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), statusTimeout)
			defer cancel()
			conn, err := pgx.Connect(ctx, uri)
			if err != nil {
				return fmt.Errorf("reach the sidecar: %w", err)
			}
			defer conn.Close(context.WithoutCancel(ctx))
			status, err := readView(ctx, conn, "status")
			if err != nil {
				return err
			}
			replication, err := readView(ctx, conn, "replication")
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(env.stdout, map[string]any{"status": status.objects(), "replication": replication.objects()})
			}
			w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
			status.write(w, "")
			for i := range replication.rows {
				fmt.Fprintln(w)
				view{replication.columns, replication.rows[i : i+1]}.write(w, "  ")
			}
			return w.Flush()
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", "", "the configuration file")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers, without -c")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// view is the rows of a view: column names, and for each row their text and
// JSON forms.
type view struct {
	columns []string
	rows    [][]cell
}

type cell struct {
	text string // as Postgres prints it; empty for null
	json json.RawMessage
}

// readView reads one of the views meant for people, whatever its columns are.
func readView(ctx context.Context, conn *pgx.Conn, name string) (view, error) {
	ident := pgx.Identifier{"millrace", name}.Sanitize()
	rows, err := conn.Query(ctx, "SELECT to_jsonb(v) FROM "+ident+" AS v")
	if err != nil {
		return view{}, fmt.Errorf("read the view millrace.%s: %w", name, err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowTo[map[string]json.RawMessage])
	if err != nil {
		return view{}, fmt.Errorf("read the view millrace.%s: %w", name, err)
	}
	// jsonb has no order: the columns come from the view itself.
	described, err := conn.Query(ctx, "SELECT * FROM "+ident+" LIMIT 0")
	if err != nil {
		return view{}, fmt.Errorf("read the view millrace.%s: %w", name, err)
	}
	var v view
	for _, f := range described.FieldDescriptions() {
		v.columns = append(v.columns, f.Name)
	}
	described.Close()
	for _, o := range objects {
		row := make([]cell, len(v.columns))
		for i, c := range v.columns {
			row[i].json = o[c]
			if err := json.Unmarshal(o[c], &row[i].text); err != nil {
				row[i].text = string(o[c]) // a number, boolean or structure
			}
		}
		v.rows = append(v.rows, row)
	}
	return v, described.Err()
}

func (v view) objects() []map[string]json.RawMessage {
	list := make([]map[string]json.RawMessage, len(v.rows))
	for i, row := range v.rows {
		list[i] = make(map[string]json.RawMessage, len(row))
		for j, c := range row {
			list[i][v.columns[j]] = c.json
		}
	}
	return list
}

// write prints each row as lines of name and value; what is null is left out.
func (v view) write(w *tabwriter.Writer, indent string) {
	for _, row := range v.rows {
		for j, c := range row {
			if c.text != "" && string(c.json) != "null" {
				fmt.Fprintf(w, "%s%s\t%s\n", indent, strings.ReplaceAll(v.columns[j], "_", " "), c.text)
			}
		}
	}
}

// sidecarURI is the sidecar of a configuration, or of the development servers
// that run in a folder.
func sidecarURI(file, data string) (string, error) {
	if file != "" {
		cfg, err := loadConfig(file)
		if err != nil {
			return "", err
		}
		return string(cfg.Sidecar.URI), nil
	}
	dev, err := devserver.ReadDevFile(data)
	if err != nil {
		return "", &coded{exitUnreachable, err}
	}
	return dev.SidecarURI, nil
}

// at is the text of a column of a row; empty if there is no such column.
func (v view) at(row int, column string) string {
	for j, c := range v.columns {
		if c == column && string(v.rows[row][j].json) != "null" {
			return v.rows[row][j].text
		}
	}
	return ""
}

// where is the rows whose column has a text.
func (v view) where(column, text string) view {
	some := view{columns: v.columns}
	for i := range v.rows {
		if v.at(i, column) == text {
			some.rows = append(some.rows, v.rows[i])
		}
	}
	return some
}
