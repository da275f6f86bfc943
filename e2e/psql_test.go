package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/internal/pgserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// psql runs commands with the real psql and returns its unaligned output.
func psql(t testing.TB, uri string, commands ...string) string {
	t.Helper()
	bin, err := pgserver.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", uri}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	cmd := exec.CommandContext(t.Context(), bin.Psql(), args...)
	cmd.Env = cleanEnvironment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql %q: %v\n%s", commands, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// A person at two psql prompts: what is done on the source is seen on the
// sidecar as ops, membership and checksums.
func TestPsqlSession(t *testing.T) {
	s := newSystem(t, options{})
	s.start()
	s.caughtUp(startTimeout)

	wire := func(owner string) string {
		var w string
		pgtest.Eventually(t, waitTimeout, func() error {
			w = psql(t, s.sidecarURI, fmt.Sprintf(`SELECT bucket FROM millrace.buckets WHERE name = 'by_owner["%s"]'`, owner))
			if w == "" {
				return fmt.Errorf("no bucket of %s", owner)
			}
			return nil
		})
		return w
	}
	// step runs one statement on the source and waits until it has arrived.
	step := func(sql string) {
		t.Helper()
		psql(t, s.sourceURI, sql)
		s.caughtUp(waitTimeout)
	}
	history := func(owner string) []string {
		return strings.Split(psql(t, s.sidecarURI, fmt.Sprintf(
			`SELECT kind, type, row_id, coalesce(data, '') FROM millrace.ops_between('%s', 0, 9223372036854775807, 100) ORDER BY op_id`, wire(owner))), "\n")
	}

	step(`INSERT INTO items (id, owner, kind, n, title) VALUES (7, 'anna', 'a', 1, 'first')`)
	step(`UPDATE items SET title = 'second' WHERE id = 7`)
	step(`UPDATE items SET owner = 'ben' WHERE id = 7`)

	data := func(owner, title string) string {
		return fmt.Sprintf(`{"id":7,"owner":"%s","kind":"a","n":1,"title":"%s","big":null,"amount":null,"flag":null}`, owner, title)
	}
	wantAnna := []string{"PUT|items|7|" + data("anna", "first"), "PUT|items|7|" + data("anna", "second"), "REMOVE|items|7|"}
	if diff := cmp.Diff(wantAnna, history("anna")); diff != "" {
		t.Errorf("ops of anna (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"PUT|items|7|" + data("ben", "second")}, history("ben")); diff != "" {
		t.Errorf("ops of ben (-want +got):\n%s", diff)
	}
	if got := psql(t, s.sidecarURI, fmt.Sprintf(`SELECT row_id, data FROM millrace.bucket_rows('%s')`, wire("ben"))); got != "7|"+data("ben", "second") {
		t.Errorf("bucket_rows of ben: %s", got)
	}
	if got := psql(t, s.sidecarURI, fmt.Sprintf(`SELECT count(*) FROM millrace.bucket_rows('%s')`, wire("anna"))); got != "0" {
		t.Errorf("bucket of anna holds %s rows", got)
	}

	step(`DELETE FROM items WHERE id = 7`)
	wantBen := []string{"PUT|items|7|" + data("ben", "second"), "REMOVE|items|7|"}
	if diff := cmp.Diff(wantBen, history("ben")); diff != "" {
		t.Errorf("ops of ben (-want +got):\n%s", diff)
	}

	// Membership over time: in anna's bucket, then in ben's, now nowhere.
	membership := psql(t, s.sidecarURI, membershipSQL("public.items", "7"))
	if diff := cmp.Diff([]string{`by_owner["anna"]|left|3`, `by_owner["ben"]|left|2`}, strings.Split(membership, "\n")); diff != "" {
		t.Errorf("row_history (-want +got):\n%s", diff)
	}

	for _, owner := range []string{"anna", "ben"} {
		got := psql(t, s.sidecarURI, fmt.Sprintf(verifySQL, wire(owner)))
		if got != "t" {
			t.Errorf("%s: the running checksum is not the recomputed one: %s", owner, got)
		}
	}
	ids := strings.Split(psql(t, s.sidecarURI, `SELECT op_id FROM millrace.ops ORDER BY op_id`), "\n")
	if unique := slices.Compact(slices.Clone(ids)); len(unique) != len(ids) {
		t.Error("op ids are not unique")
	}
	for _, object := range strings.Split(psql(t, s.sidecarURI, uncommentedSQL), "\n") {
		if object != "" {
			t.Errorf("%s has no comment", object)
		}
	}
	s.oracle()
	s.checkFootprint()
}

// The demo's own rules.
func TestDemoRules(t *testing.T) {
	files, err := filepath.Glob("../demo/sync*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules in demo: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			out, errOut, code := run(t, "validate", file)
			if code != 0 {
				t.Errorf("validate ends with %d:\n%s%s", code, out, errOut)
			}
		})
	}
}

const (
	// startTimeout bounds a start with its initial copy, waitTimeout a change.
	startTimeout = 60 * time.Second
	waitTimeout  = 30 * time.Second
	// drainTimeout bounds the way through a backlog with a large transaction.
	drainTimeout = 2 * time.Minute
)

// eventuallyQuery waits until a query on a server gives what is wanted.
func eventuallyQuery[T comparable](t testing.TB, timeout time.Duration, uri string, want T, sql string, args ...any) {
	t.Helper()
	pgtest.Eventually(t, timeout, func() error {
		got, err := tryQuery[T](uri, sql, args...)
		if err == nil && got != want {
			err = fmt.Errorf("%s gives %v, want %v", sql, got, want)
		}
		return err
	})
}
