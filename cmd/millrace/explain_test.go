package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/internal/pgtest"
)

// A list of alice's that she shares with bob, one to-do in it, and the member.
const (
	explainedList = "00000000-0000-4000-a000-000000000001"
	explainedTodo = "00000000-0000-4000-b000-000000000001"
)

func TestExplain(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	cfg := configFile(t, string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI), "")
	says := func(code int, args []string, wants ...string) string {
		t.Helper()
		out, errOut, got := run(t, append(append([]string{"explain"}, args...), "-c", cfg)...)
		if got != code {
			t.Errorf("%v: exit code %d, want %d\n%s%s", args, got, code, out, errOut)
		}
		for _, want := range wants {
			if !strings.Contains(out+errOut, want) {
				t.Errorf("%v does not say %q:\n%s%s", args, want, out, errOut)
			}
		}
		return out
	}
	bucket := `my_lists|0["` + explainedList + `"]`
	alice, zed := `{"sub":"alice"}`, `{"sub":"zed"}`

	says(exitOK, []string{"row", "todos", explainedTodo}, "of public.todos is on the source, and in 1 bucket", bucket, "carried by 1 op, the last: op ", "PUT", `"title"`, "by the rules in force", "in "+bucket)
	says(exitOK, []string{"row", "main.public.todos", explainedTodo, "--claims", alice}, "user alice gets it", "has "+bucket, `rows of public.lists with owner_id = "alice"`, "no device of the user is connected")
	says(exitFinding, []string{"row", "public.todos", explainedTodo, "--claims", zed}, "user zed does not get it", "does not have "+bucket,
		`no row of table public.lists has owner_id = "zed"`, `no row of table public.list_members has user_id = "zed"`)
	says(exitFinding, []string{"row", "todos", "00000000-0000-4000-b000-00000000dead"}, "is not on the source, and in no buckets")
	// A key of several columns; a lookup definition reads the table too.
	says(exitOK, []string{"row", "list_members", `["` + explainedList + `","bob"]`, "--claims", `{"sub":"bob"}`}, "as list_members "+explainedList+".bob", `found under ["bob"]`, "user bob gets it")

	// Somebody else's list: alice has others of the definition.
	var other string
	if err := queryRow(t, string(s.cfg.Sources[0].URI), `SELECT min(t.id::text) FROM todos t JOIN lists l ON l.id = t.list_id
		WHERE l.owner_id <> 'alice' AND NOT EXISTS (SELECT FROM list_members m WHERE m.list_id = l.id AND m.user_id = 'alice')`, &other); err != nil {
		t.Fatal(err)
	}
	says(exitFinding, []string{"row", "todos", other, "--claims", alice}, "user alice does not get it", "other buckets of my_lists")

	says(exitOK, []string{"user", "--claims", alice}, "user alice gets 12 buckets with ", "my_lists|0  12", "because of", "no device of the user is connected")
	says(exitFinding, []string{"user", "--claims", zed}, "user zed gets no buckets", "what gives nothing", `no row of table public.lists has owner_id = "zed"`)

	// A device that is connected, and has the row.
	c := s.dial(t, "alice", nil)
	defer c.Close()
	c.Until(1)
	pgtest.Eventually(t, time.Minute, func() error {
		out, errOut, _ := run(t, "explain", "row", "todos", explainedTodo, "--claims", alice, "-c", cfg, "--json")
		var x inspect.RowExplanation
		if err := json.Unmarshal([]byte(out), &x); err != nil {
			return fmt.Errorf("%w in %s%s", err, out, errOut)
		}
		if x.User == nil || len(x.User.Sessions) != 1 || !x.User.Sessions[0].Has || x.User.Sessions[0].ClientID != "alice-device" {
			return errors.New("no session: " + out)
		}
		return nil
	})

	// A row that was deleted: where it was, and until when.
	s.exec(t, `DELETE FROM todos WHERE id = $1`, explainedTodo)
	pgtest.Eventually(t, time.Minute, func() error {
		out, _, code := run(t, "explain", "row", "todos", explainedTodo, "-c", cfg)
		for _, want := range []string{"is not on the source, and in no buckets", "was there as todos " + explainedTodo, "carried by 2 ops, the last: op ", "REMOVE"} {
			if code != exitFinding || !strings.Contains(out, want) {
				return fmt.Errorf("exit code %d, it does not say %q:\n%s", code, want, out)
			}
		}
		return nil
	})

	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"row", "todos", "x"}, exitFinding, `"x" is no key of public.todos (id)`},
		{[]string{"row", "list_members", "x"}, exitFinding, "the key of public.list_members is (list_id, user_id)"},
		{[]string{"row", "nothing", "x"}, exitFinding, "the rules in force read no table nothing; they read: "},
		{[]string{"row", "todos"}, exitUsage, ""},
		{[]string{"row", "todos", "x", "--claims", "alice"}, exitUsage, "--claims is not JSON"},
		{[]string{"row", "todos", "x", "--params", "{}"}, exitUsage, "need --claims"},
		{[]string{"user"}, exitUsage, "--claims is needed"},
	} {
		says(tc.code, tc.args, tc.says)
	}
}

// Each condition that keeps a row out is named with the values compared, and a row
// that fails is listed with its error.
func TestExplainConditions(t *testing.T) {
	s := newSystem(t)
	s.cfg.Rules = writeFile(t, "sync.yaml", `bucket_definitions:
  open:
    data:
      - SELECT id, title FROM todos WHERE completed = false AND title != 'secret'
  broken:
    data:
      - SELECT id, json_extract(title, '$.x') AS x FROM todos WHERE created_by = 'alice'
event_definitions:
  write_checkpoints:
    payloads:
      - SELECT created_by AS user_id, 'phone' AS client_id, 7 AS checkpoint FROM todos WHERE completed = true
  checkpoint_requests:
    payloads:
      - SELECT created_by AS user_id, 'phone' AS client_id, 7 AS checkpoint FROM todos WHERE completed = false
`)
	s.exec(t, `UPDATE todos SET completed = true, title = 'secret', created_by = 'alice' WHERE id = $1`, explainedTodo)
	s.start(t)
	cfg := configFile(t, string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI), "")
	out, errOut, code := run(t, "explain", "row", "todos", explainedTodo, "-c", cfg)
	for _, want := range []string{
		"open", ": not in it", `completed = false is false (completed = 1)`, `title != 'secret' is false (title = "secret")`,
		"it fails: invalid JSON", "error: broken: invalid JSON",
		"event write_checkpoints (", ": write checkpoint 7 for alice/phone", "event checkpoint_requests (", ": no write checkpoint",
	} {
		if code != exitFinding || !strings.Contains(out, want) {
			t.Errorf("exit code %d, it does not say %q:\n%s%s", code, want, out, errOut)
		}
	}
}
