package syncrules

import (
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

// TestExpressions evaluates one expression in each dialect. want is the JSON
// of the column, "error" for a failed row, "absent" for a column left out.
func TestExpressions(t *testing.T) {
	row := []any{
		"id", "1", "i", 7, "big", 9223372036854775807, "r", 2.5, "t", "Héllo😀", "e", "", "n", nil,
		"j", `{"a":{"b":[1,2.0,true,null,"x"]},"a.b":9,"big":12345678901234567890,"0":"zero"}`, "arr", `["x",1,null]`, "bad", "{", "blob", millrace.Blob("\x00\xff"),
	}
	for _, c := range []struct{ expression, want string }{
		// Arithmetic: 64 bits, then reals.
		{"big + 1", "9223372036854776000.0"}, {"0 - big - 2", "-9223372036854776000.0"}, {"big * 2", "18446744073709552000.0"},
		{"i / 2", "3"}, {"i / 2.0", "3.5"}, {"i / 0", "null"}, {"-i / 2", "-3"}, {"i % 4", "3"}, {"i % 0", "null"}, {"r % 2", "0.0"},
		{"i & 3", "3"}, {"i | 8", "15"}, {"i << 2", "28"}, {"i >> 1", "3"}, {"-i", "-7"}, {"- -i", "7"}, {"'3x' + '4'", "7"}, {"n + 1", "null"},
		{"2.0", "2.0"}, {"-5", "-5"}, {"10000000000000000000000", "10000000000000000000000"}, {"10000000000000000000000 + 1", "1e+22"},
		{"typeof(10000000000000000000000)", `"integer"`}, {"10000000000000000000000 > 9223372036854775807", "1"}, {`'{"a":99999999999999999999}' ->> 'a'`, "99999999999999999999"},
		// Texts.
		{"t || i || 2.0", `"Héllo😀72"`}, {"t || n", "null"}, {"upper('straße ς')", `"STRASSE Σ"`}, {"lower('ÀΣ')", `"àς"`},
		{"length(t)", "7"}, {"length(blob)", "2"}, {"substring(t, 2, 3)", `"éll"`}, {"substring(t FROM 2 FOR 3)", `"éll"`}, {"substring(t, -2)", `"😀"`},
		{"substring('abc', 0, 2)", `"a"`}, {"substring('abc', 3, -2)", `"ab"`}, {"instr(t, 'l')", "3"}, {"instr(t, 'q')", "0"},
		{"hex(blob)", `"00FF"`}, {"hex('az')", `"617A"`}, {"hex(n)", `""`}, {"base64('hi')", `"aGk="`}, {"blob", "absent"},
		{"uuid_blob('no')", "error"}, {"hex(uuid_blob('00112233-4455-6677-8899-aabbccddeeff'))", `"00112233445566778899AABBCCDDEEFF"`},
		{"typeof(uuid_blob('00112233-4455-6677-8899-aabbccddeeff'))", `"blob"`},
		// Truth and logic.
		{"NOT n", "1"}, {"n AND 1", "0"}, {"n OR 1", "1"}, {"iif('12x', 1, 2)", "1"}, {"iif('0.9', 1, 2)", "2"}, {"iif('0x1F', 1, 2)", "1"},
		{"iif('', 1, 2)", "2"}, {"iif(blob, 1, 2)", "2"}, {"i IS NULL", "0"}, {"n IS NOT NULL", "0"}, {"2 IS TRUE", "0"}, {"1 IS TRUE", "1"}, {"0 IS NOT FALSE", "0"},
		// Comparison.
		{"1 = '1'", "0"}, {"1 < 'a'", "1"}, {"'a' < blob", "1"}, {"blob = blob", "error"}, {"9007199254740993 = 9007199254740992.0", "0"},
		{"7 = 7.0", "1"}, {"'é' > 'z'", "1"}, {"'' < 'ab'", "1"}, {"n = n", "null"},
		{"i BETWEEN 1 AND 7", "1"}, {"i NOT BETWEEN 1 AND 7", "0"}, {"n BETWEEN 1 AND 2", "null"},
		{"i IN (1, 7)", "1"}, {"i NOT IN (1, 2)", "1"}, {"i IN (1, n)", "null"}, {"i IN ARRAY[7]", "1"}, {"i IN ROW(8)", "0"},
		{"'x' IN arr", "1"}, {"1 IN arr", "1"}, {"2 IN arr", "0"}, {"n IN arr", "null"}, {"1 IN bad", "error"}, {"1 IN j", "error"},
		{"CASE WHEN n THEN 1 WHEN i THEN 2 END", "2"}, {"CASE i WHEN n THEN 1 WHEN 7.0 THEN 2 ELSE 3 END", "2"}, {"CASE n WHEN n THEN 1 END", "null"},
		// Casts.
		{"CAST(-0.5 AS integer)", "-1"}, {"CAST('  -12x' AS integer)", "-12"}, {"'-099999999999999999999'::integer", "-99999999999999999999"},
		{"CAST(100000.0 * 1000000000000000000.0 AS integer)", "99999999999999991611392"}, {"'99999999999999999999'::integer & 1", "1"},
		{"CAST('1.5e1x' AS real)", "15.0"}, {"'12'::numeric", "12"}, {"'1.0'::numeric", "1.0"}, {"'x'::numeric", "0"}, {"3.0::text", `"3"`}, {"typeof(1::blob)", `"blob"`},
		// JSON.
		{"j -> 'a'", `"{\"b\":[1,2.0,true,null,\"x\"]}"`}, {"j ->> '$.a.b.0'", "1"}, {"j ->> '$.a.b.1'", "2.0"}, {"j ->> '$.a.b.2'", "1"},
		{"j ->> '$.a.b.3'", "null"}, {"j -> '$.a.b.3'", `"null"`}, {"j ->> 'a.b'", "9"}, {"j ->> '0'", `"zero"`}, {"j -> 'big'", `"12345678901234567890"`},
		{"j ->> 'none'", "null"}, {"bad ->> 'x'", "error"}, {"n ->> 'x'", "null"}, {"arr ->> 0", `"x"`}, {"'k' || j ->> 'a.b'", `"k9"`},
		{"json_extract(j, '$.a.b.4')", `"x"`}, {"json_extract(j, 'a')", "error"}, {"json_array_length(arr)", "3"}, {"json_array_length(j, '$.a.b')", "5"},
		{"json_keys(j)", `"[\"0\",\"a\",\"a.b\",\"big\"]"`}, {"json_keys(arr)", "error"}, {"json_valid(bad)", "0"}, {"json_valid(arr)", "1"}, {"json_valid(n)", "0"},
		// Time.
		{"datetime('2024-02-30T10:00:00.1239+01:30', 'subsec')", `"2024-03-01 08:30:00.123"`}, {"unixepoch('2024-01-01')", "1704067200"},
		{"unixepoch(-0.25, 'unixepoch')", "-1"}, {"datetime('now')", "null"}, {"datetime(2440587.5)", `"1970-01-01 00:00:00"`},
		// Precedence.
		{"1 + 2 * 3", "7"}, {"1 || 2 + 3", "15"}, {"NOT 1 = 2", "1"}, {"1 = 1 IS NULL", "0"}, {"2 > 1 = 1", "1"}, {"0 AND 0 OR 1", "1"},
	} {
		for _, head := range []string{
			"config: {edition: 3}\nstreams:\n  s:\n    query: |\n      ",
			"config: {edition: 2}\nbucket_definitions:\n  s:\n    data:\n      - |\n        ",
		} {
			rules := mustCompile(t, head+"SELECT id, "+c.expression+" AS x FROM t\n")
			out := evalRow(t, rules, "t", row...)
			got := "error"
			if len(out.Rows) == 1 {
				got = "absent"
				if _, x, ok := strings.Cut(out.Rows[0].Data, `,"x":`); ok {
					got = strings.TrimSuffix(x, "}")
				}
			}
			if got != c.want {
				t.Errorf("%s is %s %v, want %s", c.expression, got, out.Errors, c.want)
			}
		}
	}
}

// TestDialectsDiffer: what means something else in a stream.
func TestDialectsDiffer(t *testing.T) {
	stream := mustCompile(t, "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT *, id != n AS x FROM t WHERE id != n\n")
	bucket := mustCompile(t, "bucket_definitions:\n  s:\n    data:\n      - SELECT *, id != n AS x FROM t WHERE id != n\n      - SELECT id, id != n AS x, '{\"a\":{\"b\":1}}' ->> 'a.b' AS y, '{\"a\":null}' -> 'a' AS z FROM t\n")
	if out := evalRow(t, stream, "t", "id", "1", "n", nil, "_x", 5); len(out.Rows) != 1 || out.Rows[0].Data != `{"id":"1","n":null,"_x":5,"x":1}` {
		t.Errorf("stream: %+v", out)
	}
	out := evalRow(t, bucket, "t", "id", "1", "n", nil, "_x", 5)
	if len(out.Rows) != 1 || out.Rows[0].Data != `{"id":"1","x":null,"y":1,"z":null}` {
		t.Errorf("bucket definition: %+v", out)
	}
}
