package syncrules

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// pair is an expression as rules and as SQLite write it.
type pair struct{ rules, sqlite string }

func both(s string) pair { return pair{s, s} }

func form(format string, args ...pair) pair {
	ours, theirs := make([]any, len(args)), make([]any, len(args))
	for i, a := range args {
		ours[i], theirs[i] = a.rules, a.sqlite
	}
	return pair{fmt.Sprintf(format, ours...), fmt.Sprintf(format, theirs...)}
}

var exactLeaves = []string{
	"a", "b", "c", "d", "a", "b", "c", "d", "NULL", "TRUE", "FALSE", "0", "1", "-1", "2", "7", "9223372036854775807", "-9223372036854775808",
	"9223372036854775808", "0.0", "0.5", "-2.5", "3.0", "1e3", "1e21", "1.5e-7", "123456789012345678.0", "''", "'x'", "'Abc'", "'12'", "' 12 '",
	"'12x'", "'-0.5'", "'1e2'", "'1e2x'", "'.5'", "'5.'", "'+7'", "'0x1F'", "'Infinity'", "'日本語'", "'a😀b'", "'9223372036854775808'", "'true'",
}

var exactJSON = []string{
	`'{"a":1,"b":{"c":[10,20.0,"x"]},"d.e":"dot","n":null,"t":true,"f":false,"r":1.50,"s":"日\\n","big":9223372036854775808}'`,
	`'[1, 2.5, "three", null, [4], {"a": [ 1 ]}, true]'`, `'"scalar"'`, `'5'`, `'null'`, `'[]'`, `'{}'`, `'{"v":1,"v":2}'`, `'{"2":1,"1":{"x" : "y z"}}'`,
	"NULL",
}

// exactBadJSON may fail. SQLite may leave such a part of a larger expression
// out, where its value does not matter, so it stands alone.
var exactBadJSON = append([]string{`'nonsense'`, `'{"a":}'`, `'[1,2'`, `''`, "a", "b", "CAST(a AS blob)"}, exactJSON...)

var (
	exactKeys     = []string{"'a'", "'b'", "'n'", "'t'", "'d.e'", "'$'", "'$.a'", "'$.b.c'", "'$.b.c[1]'", "'$.b.c[#-1]'", "'$[0]'", "'$[5].a'", "'[1]'", "0", "1", "-1", "9", "'0'", "'v'", "'$.v'", "'r'", "'big'", "'x y'", "'s'"}
	exactPaths    = []string{"'$'", "'$.a'", "'$.b.c'", "'$.b.c[1]'", "'$.b.c[#-1]'", "'$.n'", "'$[0]'", "'$[4]'", "'$[5].a'", "'$.\"d.e\"'", "'$.nope.x'", "NULL", "'$.b.c[#]'", "'$.s'"}
	exactBadPaths = append([]string{"'$['", "'$[x]'", "'a'", "'$.'", "'$.a.'", "'$[#-'", "'$\"a'", "''"}, exactPaths...)
)

// drawExact draws an expression that means the same in both.
func drawExact(t *rapid.T, depth int, alone bool) pair {
	pick := func(list []string) pair { return both(rapid.SampledFrom(list).Draw(t, "pick")) }
	if depth == 0 {
		return pick(exactLeaves)
	}
	sub := func() pair { return drawExact(t, rapid.IntRange(0, depth-1).Draw(t, "depth"), false) }
	json, paths, keys := exactJSON, exactPaths, exactKeys
	if alone {
		json, paths, keys = exactBadJSON, exactBadPaths, append([]string{"''", "'$['", "'$x'", "'a b'", "'[x]'", "'['"}, exactKeys...)
	}
	word := func(list ...string) pair { return pick(list) }
	switch rapid.IntRange(0, 25).Draw(t, "form") {
	case 0, 1:
		return form("(%s %s %s)", sub(), word("+", "-", "*", "/", "%%", "&", "|", "<<", ">>", "||"), sub())
	case 2, 3:
		return form("(%s %s %s)", sub(), word("=", "!=", "<", "<=", ">", ">=", "<>", "=="), sub())
	case 4:
		return form("(%s %s %s)", sub(), word("AND", "OR"), sub())
	case 5:
		return form("(NOT %s)", sub())
	case 6:
		return form("(%s %s)", sub(), word("IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT TRUE", "IS FALSE", "IS NOT FALSE"))
	case 7:
		return form("(%s %s %s)", sub(), word("IS DISTINCT FROM", "IS NOT DISTINCT FROM"), sub())
	case 8:
		return form("CASE %s WHEN %s THEN %s WHEN %s THEN %s ELSE %s END", sub(), sub(), sub(), sub(), sub(), sub())
	case 9:
		return form("CASE WHEN %s THEN %s WHEN %s THEN %s END", sub(), sub(), sub(), sub())
	case 10:
		return form("(%s %s %s AND %s)", sub(), word("BETWEEN", "NOT BETWEEN"), sub(), sub())
	case 11:
		return form("(%s %s (%s, %s, %s))", sub(), word("IN", "NOT IN"), sub(), sub(), sub())
	case 12, 13, 14:
		return form("CAST(%s AS %s)", sub(), word("text", "integer", "real", "numeric", "blob"))
	case 15:
		return form("%s(%s)", word("length", "hex", "typeof", "abs", "upper", "lower", "trim"), sub())
	case 16:
		return form("%s(%s, %s)", word("ifnull", "coalesce", "nullif", "instr", "ltrim", "rtrim"), sub(), sub())
	case 17:
		return form("%s(%s, %s, %s)", word("iif", "coalesce", "replace"), sub(), sub(), sub())
	case 18:
		return form("substring(%s, %s, %s)", sub(), word("-3", "-1", "0", "1", "2", "4", "1.9", "'2'", "NULL", "-50", "'x'"), word("-2", "-1", "0", "1", "2", "9", "NULL", "'1'"))
	case 19:
		return form("substring(%s, %s)", sub(), word("-3", "-1", "0", "1", "2", "4", "1.9", "'2'", "NULL", "-50"))
	case 20:
		return form("(%s %s %s)", pick(json), word("->", "->>"), pick(keys))
	case 21:
		return form("json_extract(%s, %s)", pick(json), pick(paths))
	case 22:
		return form("json_extract(%s, %s, %s)", pick(json), pick(paths), pick(paths))
	case 23:
		return rapid.SampledFrom([]pair{
			form("json_array_length(%s)", pick(json)), form("json_array_length(%s, %s)", pick(json), pick(paths)),
			form("json_valid(%s)", pick(json)),
		}).Draw(t, "json")
	case 24:
		x, array := sub(), pick(json)
		in := rapid.SampledFrom([]string{"IN", "NOT IN"}).Draw(t, "in")
		return pair{
			"(" + x.rules + " " + in + " " + array.rules + ")",
			"(+(" + x.sqlite + ") " + in + " (SELECT value FROM json_each(" + array.sqlite + ")))",
		}
	}
	return form("(%s %s %s)", sub(), word("LIKE", "NOT LIKE"), word("'%%'", "'a%%'", "'_b%%'", "'%%2%%'", "'x'", "b", "NULL", "'%%b_'"))
}

func drawExactValue(t *rapid.T, name string) millrace.Value {
	switch rapid.IntRange(0, 5).Draw(t, name+" kind") {
	case 0:
		return millrace.Null
	case 1:
		return millrace.Integer(rapid.SampledFrom([]int64{math.MaxInt64, math.MinInt64, 1 << 53, 1<<53 + 1, 0, -1, 3, 64}).Draw(t, name))
	case 2:
		return millrace.Real(rapid.SampledFrom([]float64{0.5, -1.25, 1e300, -1e-300, 9007199254740993, 3, -7, 9223372036854775807, 0.1, 1e15, 123456.789, 1.2345678901234, 8.12345678901237, 1e23, 5e-324, 1.1, 2.675}).Draw(t, name))
	case 3:
		return millrace.Text(rapid.SampledFrom([]string{"", "x", "10", "Zebra", "1.5e1", "[1,\"x\",null]", "日本", "aXb"}).Draw(t, name))
	case 4:
		return millrace.Blob(rapid.SampledFrom([]string{"", "ab", "12", "A1b2"}).Draw(t, name))
	}
	return millrace.Integer(rapid.Int64Range(-100, 100).Draw(t, name))
}

// TestExactEngineIsSQLite: with unstable_sqlite_expression_engine an
// expression has the result that SQLite has, or fails where SQLite fails.
func TestExactEngineIsSQLite(t *testing.T) {
	db := openSQLite(t)
	const perRun = 50
	rapid.Check(t, func(t *rapid.T) {
		row := []millrace.Value{drawExactValue(t, "a"), drawExactValue(t, "b"), drawExactValue(t, "c"), drawExactValue(t, "d")}
		args := make([]any, len(row))
		for i, v := range row {
			if args[i] = driverValue(v); v.Kind() == millrace.KindBlob {
				args[i] = []byte(v.Str())
			}
		}
		for range perRun {
			x := drawExact(t, rapid.IntRange(1, 3).Draw(t, "depth"), true)
			x = pair{strings.ReplaceAll(x.rules, "%%", "%"), strings.ReplaceAll(x.sqlite, "%%", "%")}
			var want any
			sqliteErr := db.QueryRow("SELECT "+x.sqlite+" FROM (SELECT ?1 AS a, ?2 AS b, ?3 AS c, ?4 AS d)", args...).Scan(&want)
			got, msg := evalExact(t, x.rules, row)
			switch {
			case sqliteErr != nil && (msg != "" || strings.Contains(sqliteErr.Error(), "integer overflow")):
				// abs() of the smallest integer may stand in a part that one of
				// the two does not evaluate.
			case sqliteErr != nil:
				t.Fatalf("%s with %v: %v (%s), SQLite fails: %v", x.rules, args, driverValue(got), got.Kind(), sqliteErr)
			case strings.HasPrefix(msg, "abs: "):
			case msg != "":
				t.Fatalf("%s with %v: fails: %s, SQLite says %v (%T)", x.rules, args, msg, want, want)
			case !sameExact(got, want):
				t.Fatalf("%s with %v: %q (%s), SQLite says %q (%T)", x.rules, args, got.AppendJSON(nil), got.Kind(), fmt.Sprint(want), want)
			}
		}
	})
}

func sameExact(got millrace.Value, want any) bool {
	if b, ok := want.([]byte); ok {
		return got.Kind() == millrace.KindBlob && got.Str() == string(b)
	}
	return sameValue(got, want)
}

// evalExact evaluates an expression over the columns a to d in the exact
// engine, and says why it failed.
func evalExact(t *rapid.T, expression string, row []millrace.Value) (millrace.Value, string) {
	src, err := json.Marshal(map[string]any{
		"config":  map[string]any{"edition": 3, "unstable_sqlite_expression_engine": true},
		"streams": map[string]any{"s": map[string]any{"query": "SELECT a AS id, " + expression + " AS x FROM t"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, diags := Compile("f", src)
	if rules == nil {
		t.Fatalf("%s: %v", expression, diags)
	}
	b := &binding{plan: &TablePlan{exact: true, needed: make([]bool, 4)}, columns: map[string]int{"a": 0, "b": 1, "c": 2, "d": 3}}
	q := rules.defs[0].data[0]
	e := &env{row: row, exact: true}
	v := b.compilerFor(q.rel.table, nil).compile(q.items[1].e)(e)
	return v, e.err
}

// TestTimesAgainstSQLite: well-formed times mean the same in both engines and
// in SQLite.
func TestTimesAgainstSQLite(t *testing.T) {
	db := openSQLite(t)
	rapid.Check(t, func(t *rapid.T) {
		number := func(low, high int, name string) int { return rapid.IntRange(low, high).Draw(t, name) }
		text := fmt.Sprintf("'%04d-%02d-%02d", number(1, 9999, "year"), number(1, 12, "month"), number(1, 28, "day"))
		if number(0, 3, "time") > 0 {
			text += rapid.SampledFrom([]string{" ", "T"}).Draw(t, "separator") + fmt.Sprintf("%02d:%02d", number(0, 23, "hour"), number(0, 59, "minute"))
			if number(0, 2, "seconds") > 0 {
				text += fmt.Sprintf(":%02d", number(0, 59, "second")) + rapid.SampledFrom([]string{"", ".5", ".123", ".007"}).Draw(t, "fraction")
			}
			text += rapid.SampledFrom([]string{"", "", "Z", "+02:00", "-11:30"}).Draw(t, "zone")
		}
		text += "'"
		if number(0, 4, "number") == 0 {
			text = fmt.Sprint(number(-1_000_000_000, 2_000_000_000, "unix")) + rapid.SampledFrom([]string{", 'unixepoch'", ".25, 'unixepoch'"}).Draw(t, "modifier")
		}
		for _, call := range []string{"datetime(" + text + ")", "unixepoch(" + text + ")"} {
			var want any
			if err := db.QueryRow("SELECT " + call).Scan(&want); err != nil {
				t.Fatalf("%s: %v", call, err)
			}
			row := make([]millrace.Value, 4)
			if got := evalExpression(t, call, row); !sameValue(got, want) {
				t.Fatalf("%s: %q, SQLite says %v", call, got.AppendJSON(nil), want)
			}
			if got, msg := evalExact(t, call, row); msg != "" || !sameValue(got, want) {
				t.Fatalf("%s in the exact engine: %q %s, SQLite says %v", call, got.AppendJSON(nil), msg, want)
			}
		}
	})
}

// TestExactRealText: the text of a real is SQLite's, for numbers of the size that
// rows hold. Beyond, SQLite's own last digit is not always the nearest.
func TestExactRealText(t *testing.T) {
	db := openSQLite(t)
	rapid.Check(t, func(t *rapid.T) {
		for range 100 {
			f := float64(rapid.Int64Range(-1e15, 1e15).Draw(t, "n")) / rapid.SampledFrom([]float64{1, 3, 7, 10, 100, 1024, 1e4, 1e7, 1e10, 123456.789}).Draw(t, "divisor")
			var want string
			if err := db.QueryRow("SELECT CAST(?1 AS TEXT)", f).Scan(&want); err != nil {
				t.Fatal(err)
			}
			if got := string(appendExactReal(nil, f)); got != want {
				t.Fatalf("%g is %s, SQLite says %s", f, got, want)
			}
		}
	})
}
