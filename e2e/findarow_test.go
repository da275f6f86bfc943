package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// The page that finds a missing row: each of its statements runs in psql on the
// data of `millrace dev` and answers what the page says.
func TestFindARowPage(t *testing.T) {
	page := readFile(t, "../docs/how-tos/find-a-row.md")
	var statements []string
	for _, block := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for _, s := range strings.SplitAfter(block[1], ";\n") {
			if s = strings.TrimSpace(s); s != "" {
				statements = append(statements, s)
			}
		}
	}
	// What comes out of each, in order.
	want := []string{
		`^\{"main": .*\|0\|0$`,
		`^\w+#my_lists\|0\["00000000-0000-4000-a000-000000000001"\]\|f\|row .* of public.list_members gave the user .* until op \d+ \(`,
		`\|REMOVE$`,
		`\|\{"main": "[0-9A-F]+/[0-9A-F]+"\}$`,
		`^$`,
		`^$`,
		`^$`,
		`(?m)^00000000-0000-4000-b000-000000000001\|.*Buy bread`,
		`\]\|t\|`,
		`(?s)^list_members\|\d+\nlists\|\d+\ntodos\|\d+$`,
	}
	if len(statements) != len(want) {
		t.Fatalf("the page has %d statements, this test knows %d", len(statements), len(want))
	}
	servers := startDevServers(t, "127.0.0.1:0")
	dev := servers.dev
	pgtest.Eventually(t, time.Minute, func() error {
		if psql(t, dev.SidecarURI, `SELECT rule_set FROM millrace.status`) == "" {
			return fmt.Errorf("the rules are not in force")
		}
		return nil
	})
	execSQL(t, dev.SourceURI, `
		DELETE FROM list_members WHERE user_id = 'bob' AND list_id = '00000000-0000-4000-a000-000000000001';
		DELETE FROM todos WHERE id = '00000000-0000-4000-b000-000000000003'`)
	pgtest.Eventually(t, time.Minute, func() error {
		if got := psql(t, dev.SidecarURI, `SELECT count(*) FROM millrace.ended_outputs`); got != "2" {
			return fmt.Errorf("the change has not arrived")
		}
		return nil
	})
	for i, s := range statements {
		if got := psql(t, dev.SidecarURI, s); !regexp.MustCompile(want[i]).MatchString(got) {
			t.Errorf("%s\ngives %q, want %s", s, got, want[i])
		}
	}
	if code := servers.process.terminate(t, time.Minute); code != 0 {
		t.Errorf("after SIGTERM millrace dev ends with %d, want 0", code)
	}
}
