package syncrules

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
)

// sqliteExpr draws an expression over the columns a to d from the part of the
// language that means the same in SQLite. Everything is in parentheses, as
// precedence differs.
func sqliteExpr(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{"a", "b", "c", "d", "a", "b", "0", "1", "7", "-3", "2.5", "'x'", "'12ab'", "' 5'", "'1e2'", "''", "NULL"}).Draw(t, "leaf")
	}
	sub := func() string { return sqliteExpr(t, depth-1) }
	text := func() string {
		return rapid.SampledFrom([]string{"'Hello'", "'aXb'", "''", "'a,b'", "CAST(7 AS TEXT)", "typeof(b)", "hex('z1')"}).Draw(t, "text")
	}
	switch rapid.IntRange(0, 19).Draw(t, "form") {
	case 0, 1, 2, 3:
		op := rapid.SampledFrom([]string{"+", "-", "*", "/", "%", "&", "|"}).Draw(t, "op")
		return "(" + sub() + " " + op + " " + sub() + ")"
	case 4, 5, 6:
		op := rapid.SampledFrom([]string{"=", "<", "<=", ">", ">="}).Draw(t, "op")
		return "(" + sub() + " " + op + " " + sub() + ")"
	case 7:
		shift := rapid.SampledFrom([]string{"<<", ">>"}).Draw(t, "shift")
		return fmt.Sprintf("(%s %s %d)", sub(), shift, rapid.IntRange(-70, 70).Draw(t, "n"))
	case 8:
		return "(" + text() + " || " + text() + ")"
	case 9:
		return "(" + sub() + " IS NULL)"
	case 10:
		return "CASE " + sub() + " WHEN " + sub() + " THEN " + sub() + " WHEN 1 THEN " + text() + " ELSE " + sub() + " END"
	case 11:
		return "(" + sub() + " BETWEEN -3 AND 7)" // bounds that are not null
	case 12:
		return "(" + sub() + " IN (" + sub() + ", " + sub() + ", 1))"
	case 13:
		return "ifnull(" + sub() + ", " + sub() + ")"
	case 14:
		return "typeof(" + sub() + ")"
	case 15:
		return rapid.SampledFrom([]string{"upper", "lower", "length", "hex"}).Draw(t, "f") + "(" + text() + ")"
	case 16:
		return "instr(" + text() + ", " + text() + ")"
	case 17:
		return fmt.Sprintf("substring(%s, %d, %d)", text(), rapid.IntRange(1, 7).Draw(t, "from"), rapid.IntRange(0, 7).Draw(t, "len"))
	case 18:
		return "CAST(" + rapid.SampledFrom([]string{"' 12x'", "'-7'", "'x'", "'+3.9'"}).Draw(t, "cast") + " AS INTEGER)"
	}
	return "(- " + sub() + ")"
}

func drawValue(t *rapid.T, name string) millrace.Value {
	switch rapid.IntRange(0, 4).Draw(t, name+" kind") {
	case 0:
		return millrace.Null
	case 1:
		return millrace.Integer(rapid.SampledFrom([]int64{math.MaxInt64, math.MinInt64, 1 << 53, -1, 3}).Draw(t, name))
	case 2:
		return millrace.Real(rapid.SampledFrom([]float64{0.5, -1.25, 1e300, 9007199254740993, 3}).Draw(t, name))
	case 3:
		return millrace.Text(rapid.SampledFrom([]string{"", "x", "10", "Zebra", "1.5e1"}).Draw(t, name))
	}
	return millrace.Integer(rapid.Int64Range(-100, 100).Draw(t, name))
}

func driverValue(v millrace.Value) any {
	switch v.Kind() {
	case millrace.KindInteger:
		return v.Int()
	case millrace.KindReal:
		return v.Float()
	case millrace.KindText:
		return v.Str()
	}
	return nil
}

// openSQLite is an empty database in memory, gone with the test.
func openSQLite(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	db.SetMaxOpenConns(1)
	return db
}

// TestAgainstSQLite compares the part of the language that SQLite has with
// SQLite itself.
func TestAgainstSQLite(t *testing.T) {
	db := openSQLite(t)
	rapid.Check(t, func(t *rapid.T) {
		expression := sqliteExpr(t, rapid.IntRange(1, 3).Draw(t, "depth"))
		row := []millrace.Value{drawValue(t, "a"), drawValue(t, "b"), drawValue(t, "c"), drawValue(t, "d")}
		args := make([]any, len(row))
		for i, v := range row {
			args[i] = driverValue(v)
		}
		var want any
		query := strings.ReplaceAll(expression, "substring(", "substr(")
		if err := db.QueryRow("SELECT "+query+" FROM (SELECT ?1 AS a, ?2 AS b, ?3 AS c, ?4 AS d)", args...).Scan(&want); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got := evalExpression(t, expression, row)
		if !sameValue(got, want) {
			t.Fatalf("%s with %v: %v (%s), SQLite says %v (%T)", expression, args, driverValue(got), got.Kind(), want, want)
		}
	})
}

// evalExpression evaluates an expression of a stream over the columns a to d.
func evalExpression(t *rapid.T, expression string, row []millrace.Value) millrace.Value {
	src, err := json.Marshal(map[string]any{
		"config":  map[string]any{"edition": 3},
		"streams": map[string]any{"s": map[string]any{"query": "SELECT a AS id, " + expression + " AS x FROM t"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, diags := Compile("f", src)
	if rules == nil {
		t.Fatalf("%s: %v", expression, diags)
	}
	b := &binding{plan: &TablePlan{}, columns: map[string]int{"a": 0, "b": 1, "c": 2, "d": 3}}
	b.plan.needed = make([]bool, 4)
	q := rules.defs[0].data[0]
	f := b.compilerFor(q.rel.table, nil).compile(q.items[1].e)
	e := &env{row: row}
	v := f(e)
	if e.err != "" {
		t.Fatalf("%s: %s", expression, e.err)
	}
	return v
}

func sameValue(got millrace.Value, want any) bool {
	switch w := want.(type) {
	case nil:
		return got.IsNull()
	case int64:
		return got.Kind() == millrace.KindInteger && got.Int() == w
	case float64:
		return got.Kind() == millrace.KindReal && (got.Float() == w || math.IsNaN(w) && math.IsNaN(got.Float()))
	case string:
		return got.Kind() == millrace.KindText && got.Str() == w
	}
	return false
}
