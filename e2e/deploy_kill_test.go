package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// kill -9 at random moments of deploys, under load: whatever the decoder was at,
// the next one goes on with it. The rules change between two forms that mean the
// same, so that one oracle knows what both should give; what is not used any more
// is dropped all the while.
func TestKillDuringDeploy(t *testing.T) {
	s := newSystem(t, options{rules: bucketRules})
	first := readFile(t, "testdata/buckets.yaml")
	second := strings.Replace(first, "AND kind != 'hidden'", "AND NOT (kind = 'hidden')", 1)
	second = strings.Replace(second, "- SELECT * FROM accounts", "- SELECT * FROM accounts AS accounts WHERE id IS NOT NULL", 1)
	dir := t.TempDir()
	files := [2]string{filepath.Join(dir, "first.yaml"), filepath.Join(dir, "second.yaml")}
	for i, text := range [2]string{first, second} {
		if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := readFile(t, s.config) + "rules_keep: 1s\n"
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.onSource(`INSERT INTO items SELECT g, 'o' || 1 + g % 12, 'a', g, 'title ' || g, CASE WHEN g % 5 = 0 THEN repeat(md5(g::text), 100) END, g, true FROM generate_series(1, 20000) g`)
	p := s.start()
	s.caughtUp(startTimeout)
	rnd := rand.New(rand.NewPCG(uint64(envInt(t, "E2E_SEED", 1)), 11))
	kills := 0
	for round := range envInt(t, "E2E_DEPLOYS", 4) {
		l := startLoad(s.sourceURI, 2, uint64(round))
		file := files[(round+1)%2]
		if out, errOut, code := run(t, "rules", "deploy", "-c", s.config, "--no-wait", file); code != 0 {
			t.Fatalf("deploy ends with %d:\n%s%s", code, out, errOut)
		}
		for range 3 {
			waitFor(t, time.Duration(rnd.Int64N(int64(20*time.Millisecond)))<<rnd.IntN(7))
			p.kill9(t)
			p = s.start()
			kills++
		}
		committed, err := l.Stop()
		if err != nil {
			t.Errorf("the load: %v", err)
		}
		t.Logf("%d transactions, %d kills", committed, kills)
		want := query[string](t, s.sidecarURI, `SELECT content FROM millrace.rule_requests ORDER BY id DESC LIMIT 1`)
		pgtest.Eventually(t, drainTimeout, func() error {
			content, err := tryQuery[string](s.sidecarURI, `SELECT coalesce((SELECT content FROM millrace.rule_sets WHERE state = 'active'), '')`)
			if err == nil && content != want {
				err = fmt.Errorf("the rules are not in force: %s", query[string](t, s.sidecarURI,
					`SELECT string_agg(format('%s %s %s/%s', rule_set, state, copy_rows, copy_estimate), ', ') FROM millrace.rules`))
			}
			return err
		})
	}
	s.caughtUp(drainTimeout)
	// All that was replaced is gone in the end, and nothing else. The oracle knows
	// one rule set at a time.
	pgtest.Eventually(t, drainTimeout, func() error {
		left, err := tryQuery[string](s.sidecarURI, `
			SELECT coalesce(string_agg(format('%s %s', key, state), ', '), '') FROM millrace.definitions WHERE state NOT IN ('active', 'dropped')`)
		if err == nil && left != "" {
			err = fmt.Errorf("left: %s", left)
		}
		return err
	})
	parts := query[int](t, s.sidecarURI, `
		SELECT count(*)::int - 2 * (SELECT count(*)::int FROM millrace.definitions WHERE state = 'active' AND kind = 'bucket')
		FROM pg_class WHERE relnamespace = 'millrace'::regnamespace AND relkind = 'r' AND relname ~ '^(ops|row_state)_[0-9]+$'`)
	if parts != 0 {
		t.Errorf("%d partitions too many", parts)
	}
	s.caughtUp(drainTimeout)
	s.oracle()
	s.checkFootprint()
}
