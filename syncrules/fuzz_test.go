package syncrules

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// vectorRules are the rules of the conformance vectors, as seeds.
func vectorRules(f *testing.F) []string {
	files, err := filepath.Glob(filepath.Join("testdata", "vectors", "*.json"))
	if err != nil {
		f.Fatal(err)
	}
	var list []string
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var v vectorFile
		if err := json.Unmarshal(raw, &v); err != nil {
			f.Fatal(err)
		}
		for _, x := range v.Vectors {
			list = append(list, x.Rules)
		}
	}
	return list
}

// exercise evaluates a row of every table the rules name, and a request.
func exercise(t *testing.T, rules *Rules, text string, i int64, r float64) {
	values := []millrace.Value{
		millrace.Text(text), millrace.Integer(i), millrace.Real(r), millrace.Null,
		millrace.Blob(text), millrace.Text(`["a",1,null,{"x":[true]}]`), millrace.Text(`{"a":{"b":1}}`),
	}
	columns := []string{"id", "a", "b", "c", "v", "user_id", "org_id", "owner_id", "region", "n"}
	for _, p := range rules.Tables() {
		plan := rules.Bind(Table{Tag: p.Tag, Schema: p.Schema, Name: p.Name, Columns: columns})
		if plan == nil {
			continue // a schema pattern never matches system schemas
		}
		ev := plan.Evaluator()
		var out Output
		for shift := range values {
			row := make([]millrace.Value, len(columns))
			for c := range row {
				row[c] = values[(c+shift)%len(values)]
			}
			ev.Eval(row, &out)
			if shift == 0 {
				for _, x := range rules.ExplainRow(Table{Tag: p.Tag, Schema: p.Schema, Name: p.Name, Columns: columns}, row) {
					for _, br := range x.Branches {
						for _, c := range br.Conditions {
							_ = c.String()
						}
					}
				}
			}
		}
		for _, o := range out.Rows {
			if len(o.Bucket) > maxNameBytes || len(o.RowID) > maxNameBytes {
				t.Fatalf("limits are not kept: %q %q", o.Bucket, o.RowID)
			}
			if utf8.ValidString(text) && !json.Valid([]byte(o.Data)) {
				t.Fatalf("data is not JSON: %q", o.Data)
			}
		}
		for _, l := range out.Lookups {
			if utf8.ValidString(text) && (!json.Valid([]byte(l.Key)) || !json.Valid([]byte(l.Outputs))) {
				t.Fatalf("lookup is not JSON: %q %q", l.Key, l.Outputs)
			}
		}
	}
	var subs []Subscription
	for _, s := range rules.Streams() {
		subs = append(subs, Subscription{Stream: s, Parameters: []byte(`{"a":["x"]}`)})
	}
	res, err := rules.Resolve(Request{Claims: []byte(`{"sub":"u","ids":["a",1],"o":{"k":2}}`), Subscriptions: subs, IncludeDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	for rounds := 0; len(res.Pending()) > 0; rounds++ {
		if rounds > 1000 {
			t.Fatal("lookups do not end")
		}
		var results []LookupResult
		for _, k := range res.Pending() {
			results = append(results, LookupResult{k, []string{`["a","b",1,null]`, `[]`, `nonsense`}[:2]})
		}
		res.Feed(results)
	}
	buckets, errs := res.Buckets()
	granted := map[string]bool{}
	for _, x := range res.Explain() {
		_ = x.Refusal()
		for _, name := range x.Buckets {
			granted[name] = true
		}
	}
	for _, b := range buckets {
		if len(errs) == 0 && !granted[b.Name] {
			t.Fatalf("bucket %s is not explained", b.Name)
		}
	}
	rules.Warnings()
}

// FuzzCompile: no input makes the compiler panic, rules come without fatal
// diagnostics, and what compiles evaluates.
func FuzzCompile(f *testing.F) {
	for _, r := range vectorRules(f) {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		rules, diags := Compile("f", src)
		if (rules == nil) != diags.Fatal() {
			t.Fatalf("rules %v, diagnostics %v", rules != nil, diags)
		}
		for _, d := range diags {
			if d.Start < 0 || d.End < d.Start || d.End > len(src) || d.Line < 1 || d.Column < 1 {
				t.Fatalf("position of %+v", d)
			}
		}
		if rules != nil {
			exercise(t, rules, "text", 7, 1.5)
			rules.Check(demoTables)
			rules.ClientTables(demoTables)
			again, _ := Compile("f", src)
			if again == nil || !slices.Equal(again.Definitions(), rules.Definitions()) {
				t.Fatal("compiles to other definitions the second time")
			}
		}
	})
}

// FuzzEval: no expression over any values panics or gives what is not JSON.
func FuzzEval(f *testing.F) {
	for _, e := range []string{
		"a + b", "a || b", "upper(a)", "substring(a, b, c)", "a ->> 'x'", "a -> '$.a.b'", "json_keys(a)", "datetime(a, 'subsec')",
		"CASE a WHEN b THEN c ELSE v END", "a BETWEEN b AND c", "a IN (b, c)", "a IN v", "a && '[1]'", "st_astext(a)", "CAST(a AS integer)",
		"a % b", "a << b", "-a", "hex(a) || base64(b)", "instr(a, b)", "unixepoch(a)", "iif(a, b, c)", "uuid_blob(a)", "a::real / b",
	} {
		f.Add(e, "some text", int64(3), 1.25)
	}
	f.Fuzz(func(t *testing.T, expression, text string, i int64, r float64) {
		for _, exact := range []bool{false, true} {
			src, err := json.Marshal(map[string]any{
				"config":  map[string]any{"edition": 3, "unstable_sqlite_expression_engine": exact},
				"streams": map[string]any{"s": map[string]any{"auto_subscribe": true, "query": "SELECT id, " + expression + " AS x FROM t WHERE " + expression}},
			})
			if err != nil {
				t.Skip()
			}
			if rules, _ := Compile("f", src); rules != nil {
				exercise(t, rules, text, i, r)
			}
		}
	})
}

// FuzzParse: no text makes the lexer or the parser panic, tokens cover the text
// in order, and every error stands inside it.
func FuzzParse(f *testing.F) {
	for _, r := range vectorRules(f) {
		for _, line := range strings.Split(r, "\n") {
			if i := strings.Index(strings.ToUpper(line), "SELECT"); i >= 0 {
				f.Add(line[i:])
			}
		}
	}
	f.Add("SELECT E'\\x41\\u00e9' || 1e5 /* c */ -- d\n FROM \"a\"\"b\" WHERE x == 1.5e-3 AND y NOT LIKE '%' ;")
	f.Fuzz(func(t *testing.T, text string) {
		at := 0
		for _, tok := range lex(text) {
			if tok.start < at || tok.end < tok.start || tok.end > len(text) {
				t.Fatalf("token %+v after %d of %d bytes", tok, at, len(text))
			}
			at = tok.end
		}
		for _, streams := range []bool{false, true} {
			rep := newReporter("f", []byte(text))
			sel := parseSelect(&query{text: text, rep: rep}, parseOptions{streams: streams})
			if sel == nil && rep.fatal == 0 {
				t.Fatal("refused without a word")
			}
			for _, d := range rep.list {
				if d.Start < 0 || d.End < d.Start || d.End > len(text) {
					t.Fatalf("position of %+v", d)
				}
			}
		}
	})
}

// FuzzJSON: our reader accepts what encoding/json accepts, and what it writes
// reads as the same again.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0,1.50,1e2,"\u00e9\ud83d\ude00"],"2":null,"1":true}`, `[]`, `"x"`, `{"a":1,"a":1}`, `{"a":1,"a":2}`, `[1,]`, `01`, ``} {
		f.Add(s, "$.a.1")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		var tape jsonTape
		msg := tape.parse(text)
		if msg == duplicateKey || msg == "JSON is nested too deep" {
			return
		}
		if (msg == "") != json.Valid([]byte(text)) {
			t.Fatalf("%q: %q, encoding/json says %v", text, msg, json.Valid([]byte(text)))
		}
		if msg != "" {
			return
		}
		for _, mode := range []pathMode{pathKey, pathDotted, pathDollar, pathDollar | pathLegacyNull} {
			var e env
			extract(&e, millrace.Text(text), path, mode, true)
			extract(&e, millrace.Text(text), path, mode, false)
		}
		once := tape.appendJSON(nil, 0, false)
		if !utf8.ValidString(text) {
			return
		}
		if msg := tape.parse(string(once)); msg != "" {
			t.Fatalf("%q is written as %q: %s", text, once, msg)
		}
		if twice := tape.appendJSON(nil, 0, false); string(twice) != string(once) {
			t.Fatalf("%q, then %q", once, twice)
		}
	})
}
