package devserver

import (
	"fmt"
	"strings"
	"time"
)

// progressQuery asks whether rules are in force, and what keeps them from it.
const progressQuery = `
	SELECT rule_set IS NOT NULL, op_id, copy_rows, copy_estimate, coalesce(errors, waiting_for, '')
	FROM millrace.status`

// bucketQuery picks the bucket that the examples look at: the one that holds
// the to-dos of the examples' list.
const bucketQuery = `
	SELECT name FROM millrace.buckets WHERE served AND name LIKE '%' || $1::text || '%'
	ORDER BY name LIKE '%todo%' DESC, rows DESC LIMIT 1`

// exampleList is the list of alice that the examples add a to-do to.
const exampleList = "00000000-0000-4000-a000-000000000001"

// banner is what a person reads once everything works.
func (d *dev) banner(first firstOps) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	source, sidecar := d.source.URI(sourceDatabase), d.sidecar.URI(sidecarDatabase)

	line("")
	line("Millrace is running: %s ops in the sidecar %v after the start.", thousands(first.ops), time.Since(d.Started).Round(100*time.Millisecond))
	line("")
	if d.SchemaFile == "" {
		line("  Demo app      %s", d.url())
	}
	line("  Status page   %s/status", d.url())
	line("  For scripts   %s (addresses and tokens)", d.display(devFile))
	line("  Log           %s", d.display(logFile))
	line("")
	line("Source, the app's own database:")
	line("  psql %s", source)
	line("Sidecar, the history that clients are served from:")
	line("  psql %s", sidecar)
	if d.psql == "" {
		line("")
		line("psql is not installed here (Debian, Ubuntu: sudo apt-get install postgresql-client);")
		line("any other PostgreSQL client can use these addresses.")
	}
	line("")
	if d.SchemaFile == "" && first.bucket != "" {
		line("Try it: change a row on the source,")
		line(`  psql %s -c "INSERT INTO todos (list_id, title, created_by) VALUES ('%s', 'My first change', 'alice')"`, source, exampleList)
		line("and see it as the newest op of its bucket on the sidecar:")
		line(`  psql %s -c 'SELECT op_id, kind, data FROM millrace.ops_between($$%s$$, 0, NULL, NULL) ORDER BY op_id DESC LIMIT 3'`, sidecar, first.bucket)
	} else {
		line("See the buckets that your rules made:")
		line(`  psql %s -c 'SELECT name, rows, ops FROM millrace.buckets LIMIT 20'`, sidecar)
	}
	line("")
	line("Tokens, valid for %d hours (millrace token --data %s --sub NAME makes more):", tokenLifetime/time.Hour, d.Dir)
	for _, user := range demoUsers {
		line("  %-6s %s", user, d.tokens[user])
	}
	line("")
	line("Ctrl-C stops everything; the data stay. `millrace dev --fresh` starts over.")
	return b.String()
}

// display is the path of a file in the folder, as the person named the folder.
func (d *dev) display(name string) string { return strings.TrimSuffix(d.Dir, "/") + "/" + name }

// thousands groups digits by commas.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
