package syncrules

import (
	"strings"
	"testing"
)

// TestMoreFunctions: what Millrace has beyond PowerSync, in both dialects.
func TestMoreFunctions(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{"'Abc' LIKE 'a%'", "1"}, {"'Abc' LIKE '_bc'", "1"}, {"'Abc' LIKE 'b%'", "0"}, {"'a%b' LIKE '%\\%%'", "0"}, {"n LIKE '%'", "null"}, {"'É' LIKE 'é'", "0"},
		{"'日本' LIKE '_本'", "1"}, {"'aXbXc' LIKE '%x%x%'", "1"}, {"'abc' NOT LIKE 'a%'", "0"}, {"12 LIKE '1%'", "1"},
		{"1 IS DISTINCT FROM n", "1"}, {"n IS NOT DISTINCT FROM n", "1"}, {"1 IS DISTINCT FROM 1.0", "0"}, {"1 == 1", "1"}, {"1e3", "1000.0"}, {"1.5E-2", "0.015"},
		{"coalesce(n, n, 2)", "2"}, {"coalesce(n, n)", "null"}, {"coalesce(1, bad ->> 'x')", "1"}, {"nullif(1, 1.0)", "null"}, {"nullif(1, 2)", "1"}, {"nullif(n, 2)", "null"},
		{"trim('  x ')", `"x"`}, {"ltrim('xxay', 'x')", `"ay"`}, {"rtrim('ayy', 'y')", `"a"`}, {"trim(n)", "null"}, {"trim('éxé', 'é')", `"x"`},
		{"replace('aXa', 'a', 'bb')", `"bbXbb"`}, {"replace('a', '', 'b')", `"a"`}, {"replace('a', 'a', n)", "null"},
		{"abs(-3)", "3"}, {"abs('-2.5x')", "2.5"}, {"abs(n)", "null"}, {"abs(-9223372036854775807 - 1)", "error"},
		{"round(2.5)", "3.0"}, {"round(-2.5)", "-3.0"}, {"round(2.345, 1)", "2.3"}, {"round('3.7')", "4.0"}, {"round(n)", "null"}, {"substr('hello', 2, 3)", `"ell"`},
		{"iif(0, 1)", "null"}, {"iif(1, 2)", "2"},
	} {
		for _, head := range []string{"config: {edition: 3}\nstreams:\n  s:\n    query: |\n      ", "config: {edition: 2}\nbucket_definitions:\n  s:\n    data:\n      - |\n        "} {
			rules := mustCompile(t, head+"SELECT id, "+c.expression+" AS x FROM t\n")
			out := evalRow(t, rules, "t", "id", "1", "n", nil, "bad", "{")
			got := "error"
			if len(out.Rows) == 1 {
				_, x, _ := strings.Cut(out.Rows[0].Data, `,"x":`)
				got = strings.TrimSuffix(x, "}")
			}
			if got != c.want {
				t.Errorf("%s is %s %v, want %s", c.expression, got, out.Errors, c.want)
			}
		}
	}
}

// TestCastAliases: PostgreSQL's names of types, in streams only.
func TestCastAliases(t *testing.T) {
	for cast, want := range map[string]string{"'7x'::int": "7", "CAST(7 AS varchar)": `"7"`, "7::float8": "7.0", "'1.0'::decimal": "1.0", "'1'::BIGINT": "1"} {
		rules := mustCompile(t, "config: {edition: 3}\nstreams:\n  s:\n    query: |\n      SELECT id, "+cast+" AS x FROM t\n")
		if out := evalRow(t, rules, "t", "id", "1"); len(out.Rows) != 1 || out.Rows[0].Data != `{"id":"1","x":`+want+`}` {
			t.Errorf("%s gives %+v, want %s", cast, out.Rows, want)
		}
	}
	if rules, _ := Compile("f", []byte("bucket_definitions:\n  s:\n    data:\n      - SELECT id, CAST(a AS varchar) AS x FROM t\n")); rules != nil {
		t.Error("bucket definitions cast to varchar")
	}
}

// TestAlternativesFailApart: one alternative of a stream that cannot be
// evaluated for a row leaves the others, but not those of a bucket definition.
func TestAlternativesFailApart(t *testing.T) {
	where := " WHERE a ->> 'x' = %s OR b = %s"
	stream := mustCompile(t, "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT id FROM t"+strings.ReplaceAll(where, "%s", "auth.user_id()")+"\n")
	out := evalRow(t, stream, "t", "id", "1", "a", "{", "b", "u1")
	if len(out.Rows) != 1 || out.Rows[0].Bucket != `s|0["u1"]` || len(out.Errors) != 1 {
		t.Errorf("stream: %+v %v", out.Rows, out.Errors)
	}
	bucket := mustCompile(t, "bucket_definitions:\n  s:\n    parameters: SELECT request.user_id() AS u\n    data:\n      - SELECT id FROM t"+strings.ReplaceAll(where, "%s", "bucket.u")+"\n")
	out = evalRow(t, bucket, "t", "id", "1", "a", "{", "b", "u1")
	if len(out.Rows) != 0 || len(out.Errors) != 1 {
		t.Errorf("bucket definition: %+v %v", out.Rows, out.Errors)
	}
}

// TestExactEngineIsSwitched: the key needs edition 3 and the fixed JSON rules,
// and makes all definitions new.
func TestExactEngineIsSwitched(t *testing.T) {
	const query = "streams:\n  s:\n    query: SELECT id, NOT n AS x FROM t\n"
	plain, exact := mustCompile(t, "config: {edition: 3}\n"+query), mustCompile(t, "config: {edition: 3, unstable_sqlite_expression_engine: true}\n"+query)
	if plain.Definitions()[0].Hash == exact.Definitions()[0].Hash {
		t.Error("the engines share a hash")
	}
	for rules, want := range map[*Rules]string{plain: `{"id":"1","x":1}`, exact: `{"id":"1","x":null}`} {
		if out := evalRow(t, rules, "t", "id", "1", "n", nil); out.Rows[0].Data != want {
			t.Errorf("%s, want %s", out.Rows[0].Data, want)
		}
	}
	// A real id is the same row in both engines.
	if out := evalRow(t, exact, "t", "id", 2.0, "n", nil); out.Rows[0].RowID != "2" {
		t.Errorf("row id %s", out.Rows[0].RowID)
	}
	for _, config := range []string{"edition: 2", "edition: 3, fixed_json_extract: false"} {
		if rules, _ := Compile("f", []byte("config: {"+config+", unstable_sqlite_expression_engine: true}\nstreams: {}\n")); rules != nil {
			t.Errorf("%s has the exact engine", config)
		}
	}
}
