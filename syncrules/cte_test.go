package syncrules

import (
	"fmt"
	"strings"
	"testing"
)

// TestNestedCTEs: a common table expression sees those before it, in the order
// of the file with global ones first, and never itself.
func TestNestedCTEs(t *testing.T) {
	src := `config: {edition: 3}
with:
  orgs: SELECT org_id AS org FROM members WHERE user_id = auth.user_id()
  depots: SELECT id FROM depots WHERE org_id IN orgs
streams:
  s:
    auto_subscribe: true
    with:
      open: SELECT packages.id AS package FROM packages JOIN depots ON depots.id = packages.depot_id WHERE packages.state = 'open'
    query: SELECT id FROM scans WHERE package_id IN open
`
	rules, diags := Compile("f", []byte(src))
	if rules == nil {
		t.Fatal(diags.Error())
	}
	expectMessages(t, diags, "orgs is read as the common table expression", "depots is read as the common table expression")
	rows := []*Output{
		evalRow(t, rules, "members", "id", "m", "user_id", "u1", "org_id", "o1"),
		evalRow(t, rules, "depots", "id", "d1", "org_id", "o1"),
		evalRow(t, rules, "depots", "id", "d2", "org_id", "o2"),
		evalRow(t, rules, "packages", "id", "p1", "depot_id", "d1", "state", "open"),
		evalRow(t, rules, "packages", "id", "p2", "depot_id", "d1", "state", "lost"),
		evalRow(t, rules, "packages", "id", "p3", "depot_id", "d2", "state", "open"),
	}
	buckets, errs := resolve(t, rules, Request{Claims: []byte(`{"sub":"u1"}`), IncludeDefaults: true}, rows...)
	if len(errs) > 0 || names(buckets) != `s|0["p1"]` {
		t.Errorf("%s %v", names(buckets), errs)
	}
	// Before its declaration a name is a table.
	rules = mustCompile(t, `config: {edition: 3}
with:
  first: SELECT id FROM second WHERE owner = auth.user_id()
  second: SELECT id FROM other WHERE owner = auth.user_id()
streams:
  s: {query: SELECT id FROM t WHERE a IN first OR a IN second}
`)
	if !rules.Uses("", "public", "second") {
		t.Error("a later name hides the table")
	}
}

// TestCTEsThatMultiply: expressions that use each other twice do not exhaust
// the compiler.
func TestCTEsThatMultiply(t *testing.T) {
	var b strings.Builder
	b.WriteString("config: {edition: 3}\nwith:\n  c0: SELECT id FROM t WHERE owner = auth.user_id()\n")
	for i := 1; i < 25; i++ {
		fmt.Fprintf(&b, "  c%d: SELECT a.id FROM c%d AS a JOIN c%d AS b ON a.id = b.id\n", i, i-1, i-1)
	}
	b.WriteString("streams:\n  s: {query: SELECT id FROM t WHERE id IN c24}\n")
	rules, diags := Compile("f", []byte(b.String()))
	if rules != nil || !strings.Contains(diags.Error(), "more than 100 times") {
		t.Errorf("rules %v: %s", rules != nil, diags.Error())
	}
}
