package syncrules

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/millrace/millrace"
)

// The conformance vectors in testdata/vectors: rules, rows and requests with
// their expected outcomes. MILLRACE_VECTORS names another folder of them.

func TestVectors(t *testing.T) {
	dir := os.Getenv("MILLRACE_VECTORS")
	if dir == "" {
		dir = filepath.Join("testdata", "vectors")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s: %v", dir, err)
	}
	passed, failed := 0, 0
	positions, positionsHit := 0, 0
	deviations := map[string][]string{}
	var failing []string
	for _, file := range files {
		for _, v := range readVectors(t, file) {
			c := &vectorCheck{v: v}
			c.run()
			positions += c.positions
			positionsHit += c.positionsHit
			for _, d := range c.deviations {
				deviations[d] = append(deviations[d], v.ID)
			}
			if len(c.problems) == 0 {
				passed++
				continue
			}
			failed++
			failing = append(failing, v.ID)
			t.Errorf("%s (%s) %v\n%s\n  %s", v.ID, v.Name, v.Tags, v.Rules, strings.Join(c.problems, "\n  "))
		}
	}
	for _, d := range deviationNames {
		if len(deviations[d]) > 0 {
			t.Logf("deviation %q: %s", d, strings.Join(deviations[d], " "))
		}
	}
	if failed > 0 {
		t.Logf("failing: %s", strings.Join(failing, " "))
	}
	t.Logf("%d passed, %d failed; fatal positions %d of %d", passed, failed, positionsHit, positions)
}

func readVectors(t *testing.T, file string) []vector {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var f vectorFile
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return f.Vectors
}

// TestVectorsInExactEngine runs the vectors that the SQLite-exact engine can
// have with it switched on.
func TestVectorsInExactEngine(t *testing.T) {
	dir := filepath.Join("testdata", "vectors")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s: %v", dir, err)
	}
	// What is recorded there is not SQLite's either: upper, lower and base64 are
	// functions of PowerSync that write a real without ".0", x IS TRUE tests
	// for 1, and conditions on the request follow the default engine.
	otherwise := map[string]bool{"functions-text/001": true, "functions-text/003": true, "functions-text/009": true,
		"operators/053": true, "operators/056": true, "streams-filters/016": true}
	passed, failed := 0, 0
	for _, file := range files {
		for _, v := range readVectors(t, file) {
			if otherwise[v.ID] {
				continue
			}
			const edition = "\n  edition: 3\n"
			if !strings.Contains(v.Rules, edition) || strings.Contains(v.Rules, "fixed_json_extract: false") || strings.Contains(v.Rules, "unstable_sqlite") || !v.Expect.Loads {
				continue
			}
			v.Rules = strings.Replace(v.Rules, edition, edition+"  unstable_sqlite_expression_engine: true\n", 1)
			c := &vectorCheck{v: v, exact: true}
			if c.run(); len(c.problems) == 0 {
				passed++
				continue
			}
			failed++
			t.Errorf("%s (%s) %v\n%s\n  %s", v.ID, v.Name, v.Tags, v.Rules, strings.Join(c.problems, "\n  "))
		}
	}
	t.Logf("%d passed, %d failed", passed, failed)
}

// vectorCheck compares one vector.
type vectorCheck struct {
	v                       vector
	exact                   bool // what is expected is what SQLite gives
	rules                   *Rules
	problems                []string
	positions, positionsHit int
	deviations              []string // documented ones that were needed
	stored                  []OutputRow
	entries                 map[LookupKey][]string
}

func (c *vectorCheck) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *vectorCheck) tagged(tag string) bool {
	for _, t := range c.v.Tags {
		if t == tag {
			return true
		}
	}
	return false
}

func (c *vectorCheck) run() {
	rules, diags := Compile("rules.yaml", []byte(c.v.Rules))
	c.rules = rules
	superset := c.tagged("superset-ok")
	if c.tagged("peer-bug") {
		// What is recorded is wrong; TestSameParameterTwice and
		// TestParameterOrder have what is right.
		if rules == nil {
			c.problem("does not load\n%s", diags.Error())
		}
		return
	}
	if (rules != nil) != c.v.Expect.Loads {
		// An engine may accept more, and may refuse what is only ignored.
		if !superset {
			c.problem("loads is %v\n%s", rules != nil, diags.Error())
		}
		return
	}
	wantWarning := false
	for _, d := range c.v.Expect.Diagnostics {
		wantWarning = wantWarning || d.Severity == "warning"
	}
	if tables := c.schema(); tables != nil && rules != nil {
		diags = append(diags, rules.Check(tables)...)
	}
	if c.v.Expect.Loads && wantWarning && len(diags) == 0 {
		c.problem("no warning")
	}
	if !c.v.Expect.Loads {
		c.position(diags)
		return
	}
	c.entries = map[LookupKey][]string{}
	for i, row := range c.v.Rows {
		c.row(i, row)
	}
	for i, r := range c.v.Requests {
		c.request(i, r)
	}
}

// schema is the source schema of the vector; nil if it has none.
func (c *vectorCheck) schema() []Table {
	var tags []struct {
		Schemas []struct {
			Name   string `json:"name"`
			Tables []struct {
				Name    string `json:"name"`
				Columns []struct {
					Name string `json:"name"`
				} `json:"columns"`
			} `json:"tables"`
		} `json:"schemas"`
	}
	if c.v.Schema == nil {
		return nil
	}
	if err := json.Unmarshal(c.v.Schema, &tags); err != nil {
		c.problem("schema: %v", err)
		return nil
	}
	var list []Table
	for _, tag := range tags {
		for _, s := range tag.Schemas {
			for _, t := range s.Tables {
				table := Table{Schema: s.Name, Name: t.Name}
				for _, col := range t.Columns {
					table.Columns = append(table.Columns, col.Name)
				}
				list = append(list, table)
			}
		}
	}
	return list
}

// position scores whether the first fatal range meets an expected one.
func (c *vectorCheck) position(diags Diagnostics) {
	for _, d := range diags {
		if d.Severity != Fatal {
			continue
		}
		comparable := false
		for _, w := range c.v.Expect.Diagnostics {
			if w.Severity == "fatal" && w.Start != nil && w.End != nil {
				comparable = true
				if utf16Offset(c.v.Rules, d.Start) < *w.End && utf16Offset(c.v.Rules, d.End) > *w.Start {
					c.positions++
					c.positionsHit++
					return
				}
			}
		}
		if comparable {
			c.positions++
			if os.Getenv("MILLRACE_POSITIONS") != "" {
				fmt.Printf("position: %s %s %q %d-%d\n", c.v.ID, d, c.v.Rules[d.Start:d.End], d.Start, d.End)
			}
		}
		return
	}
}

func utf16Offset(s string, off int) int {
	return len(utf16.Encode([]rune(s[:off])))
}

func (c *vectorCheck) row(i int, row vectorRow) {
	columns, values := decodeRow(row.Row)
	plan := c.rules.Bind(Table{Tag: c.tag(), Schema: row.Schema, Name: row.Table, Columns: columns})
	var out Output
	if plan != nil {
		plan.Evaluator().Eval(values, &out)
	}
	defs := c.rules.Definitions()
	var data, lookups []string
	dataErrors, lookupErrors := 0, 0
	for _, r := range out.Rows {
		c.stored = append(c.stored, r)
		data = append(data, fmt.Sprintf("%s %s %s %s", c.bucketName(r.Bucket), r.Type, r.RowID, r.Data))
	}
	for _, l := range out.Lookups {
		k := LookupKey{l.Definition, l.Key}
		c.entries[k] = append(c.entries[k], l.Outputs)
		lookups = append(lookups, strings.TrimPrefix(defs[l.Definition].Key, "lookup:")+" "+l.Key+" "+withoutNulls(l.Outputs))
	}
	for _, e := range out.Errors {
		if defs[e.Definition].Kind == millrace.BucketDefinition {
			dataErrors++
		} else {
			lookupErrors++
		}
	}
	expected := func(list []vectorData) []string {
		var want []string
		for _, d := range list {
			want = append(want, fmt.Sprintf("%s %s %s %s", normalName(d.Bucket), d.Table, d.ID, d.Data))
		}
		return unique(want)
	}
	want := expected(row.Expect.Data)
	got := unique(data)
	if c.tagged("invalid-json") {
		for i := range want {
			want[i] = strings.NewReplacer(":NaN", ":null", ":Infinity", ":null", ":-Infinity", ":null").Replace(want[i])
		}
	}
	wantErrors := row.Expect.DataErrors
	if c.exact && row.Expect.SQLite != nil {
		want, wantErrors = expected(row.Expect.SQLite.Data), row.Expect.SQLite.DataErrors
	}
	same := equalLists(got, want) && dataErrors == wantErrors
	if !same && dataErrors == wantErrors {
		same = c.deviates(row, got, want)
	}
	if !same && row.Expect.SQLite != nil && c.tagged("superset-ok") {
		same = equalLists(got, expected(row.Expect.SQLite.Data)) && dataErrors == row.Expect.SQLite.DataErrors
	}
	if !same {
		c.problem("row %d %s: data\n     got %q (%d errors %v)\n    want %q (%d errors)", i, row.Row, got, dataErrors, out.Errors, want, wantErrors)
	}
	if strings.Contains(c.v.Rules, "bucket_definitions") && !strings.Contains(c.v.Rules, "streams:") && !c.tagged("invalid-json") {
		var wantLookups []string
		for _, l := range row.Expect.Lookups {
			if c.neverMatches(l.Key) {
				continue
			}
			wantLookups = append(wantLookups, l.Index+" "+l.Key+" "+withoutNulls(outputValues(l.Outputs)))
		}
		if g, w := unique(lookups), unique(wantLookups); !equalLists(g, w) || lookupErrors != row.Expect.LookupErrors {
			c.problem("row %d %s: lookups\n     got %q (%d errors)\n    want %q (%d errors)", i, row.Row, g, lookupErrors, w, row.Expect.LookupErrors)
		}
	}
}

// withoutNulls takes the nulls out of a list of values: the reference leaves
// blobs out of a lookup's outputs, where they are null here.
func withoutNulls(values string) string {
	var list []json.RawMessage
	if json.Unmarshal([]byte(values), &list) != nil {
		return values
	}
	b := []byte("[")
	for _, v := range list {
		if string(v) == "null" {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, v...)
	}
	return string(append(b, ']'))
}

// outputValues turns [{"name":value,…}] into the list of values, as our
// lookups have them.
func outputValues(outputs string) string {
	var t jsonTape
	if t.parse(outputs) != "" || len(t.nodes) < 2 {
		return outputs
	}
	b := []byte("[")
	for k := 2; k < int(t.nodes[1].next); k = int(t.nodes[t.nodes[k].next].next) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		v := int(t.nodes[k].next)
		var e env
		b = appendMatch(b, t.sqlValue(&e, v))
	}
	return string(append(b, ']'))
}

func (c *vectorCheck) request(i int, r vectorRequest) {
	q := Request{Claims: r.JWT, Parameters: r.Params, IncludeDefaults: r.IncludeDefaults}
	for _, s := range r.Subscriptions {
		sub := Subscription{Stream: s.Stream, Priority: s.Priority}
		if string(s.Parameters) != "null" {
			sub.Parameters = s.Parameters
		}
		q.Subscriptions = append(q.Subscriptions, sub)
	}
	res, err := c.rules.Resolve(q)
	if err != nil {
		c.problem("request %d: %v", i, err)
		return
	}
	var static []string
	buckets, _ := res.staticBuckets()
	for _, b := range buckets {
		static = append(static, c.bucketName(b.Name))
	}
	for rounds := 0; len(res.Pending()) > 0; rounds++ {
		if rounds > 50 {
			c.problem("request %d: lookups do not end", i)
			return
		}
		var results []LookupResult
		for _, k := range res.Pending() {
			results = append(results, LookupResult{k, c.entries[k]})
		}
		res.Feed(results)
	}
	buckets, errs := res.Buckets()
	if r.Expect.Fails {
		if len(errs) == 0 && !c.tagged("superset-ok") && !c.tagged("invalid-json") {
			c.problem("request %d %s: does not fail", i, r.JWT)
		}
		return
	}
	var got, want, failed []string
	have := map[string]bool{}
	for _, b := range buckets {
		have[b.Name] = true
		got = append(got, fmt.Sprintf("%s %d %v", c.bucketName(b.Name), b.Priority, b.Reasons))
	}
	nullBuckets := map[string]bool{}
	for _, b := range r.Expect.Buckets {
		if c.nullBuckets() && strings.Contains(b.Bucket, "null") && nullName(b.Bucket) {
			nullBuckets[normalName(b.Bucket)] = true // never holds rows; left out here
			continue
		}
		var reasons []Reason
		for _, raw := range b.Reasons {
			var s struct {
				Subscription Reason `json:"subscription"`
			}
			if json.Unmarshal(raw, &s) != nil {
				s.Subscription = ByDefault
			}
			reasons = append(reasons, s.Subscription)
		}
		want = append(want, fmt.Sprintf("%s %d %v", normalName(b.Bucket), b.Priority, reasons))
	}
	for _, e := range errs {
		failed = append(failed, e.Source)
	}
	// Branches whose buckets look the same but for what is internal are one
	// kind of bucket here.
	got, want = unique(got), unique(want)
	if !equalLists(got, want) {
		c.problem("request %d %s %s: buckets\n     got %q %v\n    want %q", i, r.JWT, r.Params, got, errs, want)
	}
	if g, w := unique(failed), unique(r.Expect.Errors); !equalLists(g, w) {
		c.problem("request %d %s: errors\n     got %q %v\n    want %q", i, r.JWT, g, errs, w)
	}
	var wantStatic []string
	for _, b := range r.Expect.Static {
		if !nullBuckets[normalName(b)] {
			wantStatic = append(wantStatic, normalName(b))
		}
	}
	if g, w := unique(static), unique(wantStatic); !equalLists(g, w) {
		c.problem("request %d %s: static buckets\n     got %q\n    want %q", i, r.JWT, g, w)
	}
	var synced, wantSynced []string
	for _, row := range c.stored {
		if have[row.Bucket] {
			synced = append(synced, row.Type+" "+row.RowID+" "+row.Data)
		}
	}
	for _, d := range r.Expect.Synced {
		wantSynced = append(wantSynced, d.Table+" "+d.ID+" "+d.Data)
	}
	if g, w := unique(synced), unique(wantSynced); !equalLists(g, w) {
		c.problem("request %d %s: synced\n     got %q\n    want %q", i, r.JWT, g, w)
	}
}

// staticBuckets are the buckets known without lookups.
func (s *Resolution) staticBuckets() ([]ResolvedBucket, []ResolveError) {
	copied := *s
	copied.runs = nil
	for _, r := range s.runs {
		lookups := false
		for _, st := range r.program.stages {
			lookups = lookups || st.lookup >= 0
		}
		if !lookups {
			one := *r
			copied.runs = append(copied.runs, &one)
		}
	}
	return copied.Buckets()
}

// nullBuckets tells whether the reference lists buckets for null values, which
// never hold rows and do not exist here.
func (c *vectorCheck) nullBuckets() bool {
	return !strings.Contains(c.v.Rules, "streams:") || strings.Contains(c.v.Rules, "edition: 2")
}

func nullName(bucket string) bool {
	var values []any
	i := strings.IndexByte(bucket, '[')
	if i < 0 || json.Unmarshal([]byte(bucket[i:]), &values) != nil {
		return false
	}
	for _, v := range values {
		if v == nil {
			return true
		}
	}
	return false
}

// bucketName is a logical name in the form vectors are compared in.
func (c *vectorCheck) bucketName(name string) string {
	if c.v.Version != nil {
		name = fmt.Sprintf("%d#%s", *c.v.Version, name)
	}
	return normalName(name)
}

// normalName takes the branch number and the order of values out of the name
// of a stream's bucket.
func normalName(name string) string {
	i := strings.IndexByte(name, '[')
	if i < 0 {
		return name
	}
	prefix, values := name[:i], name[i:]
	j := strings.LastIndexByte(prefix, '|')
	if j < 0 {
		return name
	}
	var list []json.RawMessage
	if json.Unmarshal([]byte(values), &list) != nil {
		return name
	}
	texts := make([]string, len(list))
	for k, v := range list {
		texts[k] = string(v)
	}
	sort.Strings(texts)
	return prefix[:j+1] + "[" + strings.Join(texts, ",") + "]"
}

func unique(list []string) []string {
	sorted := append([]string{}, list...)
	sort.Strings(sorted)
	out := sorted[:0]
	for i, s := range sorted {
		if i == 0 || s != sorted[i-1] {
			out = append(out, s)
		}
	}
	return out
}

func equalLists(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
