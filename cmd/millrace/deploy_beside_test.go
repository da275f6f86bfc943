package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// While a changed definition is built, for however long, the other nine go on:
// what is committed to their tables reaches the client, and nothing of the new
// definition does before it is whole.
func TestOthersGoOnDuringABuild(t *testing.T) {
	const rows = 1000
	s := newTen(t, rows)
	s.start(t)
	source, sidecar := string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI)
	client := s.dial(t, "alice", nil)
	follow(t, client, func() bool {
		for i := range deployTables {
			if len(client.Table(fmt.Sprint("t_", i))) < rows/deployTables {
				return false
			}
		}
		return true
	})

	// The table of the changed definition cannot be read.
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range []string{"BEGIN", "LOCK TABLE t_3 IN ACCESS EXCLUSIVE MODE"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if out, errOut, code := s.rules(t, "deploy", s.rulesFile(t, tenRules(map[int]string{3: "id, v, w"})), "--no-wait"); code != exitOK {
		t.Fatalf("deploy ends with %d:\n%s%s", code, out, errOut)
	}
	building := func() string {
		return query[string](t, sidecar, `SELECT coalesce(max(state), 'not there') FROM millrace.rule_sets WHERE id = 2`)
	}
	pgtest.Eventually(t, time.Minute, func() error {
		if state := building(); state != "building" {
			return fmt.Errorf("the rule set is %s", state)
		}
		return nil
	})
	for round := 1; round <= 3; round++ {
		for i := range deployTables {
			if i != 3 {
				execSQL(t, source, fmt.Sprintf(`UPDATE t_%d SET v = %d WHERE id = 1`, i, round))
			}
		}
		sent := follow(t, client, func() bool {
			for i := range deployTables {
				if i != 3 && !strings.Contains(client.Table(fmt.Sprint("t_", i))["1"], fmt.Sprintf(`"v":%d}`, round)) {
					return false
				}
			}
			return true
		})
		if n := sent.ops["def_3"]; n > 0 {
			t.Errorf("round %d: %d ops of the definition being built were sent", round, n)
		}
		for d, n := range sent.ops {
			if n != 1 {
				t.Errorf("round %d: %d ops of %s were sent for one change", round, n, d)
			}
		}
	}
	if state := building(); state != "building" {
		t.Fatalf("the rule set is %s, and its table is locked", state)
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	sent := follow(t, client, func() bool { return strings.Contains(client.Table("t_3")["1"], `"w":`) })
	if len(sent.ops) != 1 || sent.ops["def_3"] != rows/deployTables {
		t.Errorf("in force, and sent: %v", sent.ops)
	}
}
