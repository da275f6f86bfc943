package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// What is kept of a row is told while it is served, after it was deleted, and
// after its history was compacted; of a user, by their name.
func TestRemains(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	cfg := configFile(t, string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI), "compaction: { horizon: 0s }\n")
	remains := func(args ...string) (string, int) {
		t.Helper()
		out, errOut, code := run(t, append(append([]string{"remains"}, args...), "-c", cfg)...)
		return out + errOut, code
	}
	says := func(wants []string, never string, args ...string) {
		t.Helper()
		out, code := remains(args...)
		for _, want := range wants {
			if code != exitFinding || !strings.Contains(out, want) {
				t.Errorf("%v: exit code %d, it does not say %q:\n%s", args, code, want, out)
			}
		}
		if never != "" && strings.Contains(out, never) {
			t.Errorf("%v says %q:\n%s", args, never, out)
		}
	}
	bucket := `my_lists|0["` + explainedList + `"]`
	says([]string{"buckets that clients are served", "history of buckets", "it is deleted on the source", bucket}, "", "row", "todos", explainedTodo)
	says([]string{"lookups in force by this key"}, "write checkpoints", "user", "alice")

	s.exec(t, `UPDATE todos SET title = 'a phone number' WHERE id = $1`, explainedTodo)
	s.exec(t, `DELETE FROM todos WHERE id = $1`, explainedTodo)
	pgtest.Eventually(t, time.Minute, func() error {
		if out, _ := remains("row", "todos", explainedTodo); strings.Contains(out, "clients are served") || !strings.Contains(out, "where it was") {
			return errors.New(out)
		}
		return nil
	})
	says([]string{"history of buckets (millrace.ops)", "compaction: 0s after the row was removed", "identity", "7 days after it left"}, "", "row", "public.todos", explainedTodo)
	out, errOut, code := run(t, "compact", "--bucket", bucket, "-c", cfg)
	if code != exitOK {
		t.Fatalf("compact: %s%s", out, errOut)
	}
	says([]string{"where it was (millrace.ended_outputs)"}, "history of buckets", "row", "todos", explainedTodo)
	var n int
	if err := queryRow(t, string(s.cfg.Sidecar.URI), `SELECT count(*) FROM millrace.ops WHERE data LIKE '%a phone number%'`, &n); err != nil || n != 0 {
		t.Errorf("%d ops have the deleted row's data (%v)", n, err)
	}
	execSQL(t, string(s.cfg.Sidecar.URI), fmt.Sprintf(`DELETE FROM millrace.ended_outputs WHERE row_key = '%s'`, explainedTodo))
	if out, code := remains("row", "todos", explainedTodo); code != exitOK || !strings.Contains(out, "nothing is kept of row") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if out, code := remains("user", "nobody"); code != exitOK || !strings.Contains(out, "nothing is kept of user nobody") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if out, code := remains("row", "nothing", "x"); code != exitFinding || !strings.Contains(out, "has never read a table nothing") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
