package pgvalue_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// The bound is never below what the server stores (P47, P48): values that take
// much room for little text, of many types, as column and as array.
func TestBoundsHold(t *testing.T) {
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	repeat := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s, n), ",") }
	// Types with texts.
	worst := map[uint32][]string{
		16: {"t"}, 17: {`\x`, `\x00ff` + strings.Repeat("00", 300)}, 19: {"n"}, 20: {"1"}, 21: {"1"}, 23: {"1"},
		22: {repeat("0 ", 50)}, 30: {repeat("0 ", 50)},
		25: {"", "a", strings.Repeat("ü", 500)}, 114: {"1", "[" + repeat("1,", 200) + "]"}, 142: {"<a/>", `<?xml version="1.0"?><a/>`},
		600: {"(0,0)"}, 602: {"((0,0))", "(" + repeat("(0,0),", 100) + ")"}, 603: {"(1,1),(0,0)"}, 604: {"(" + repeat("(0,0),", 100) + ")"},
		650: {"::/0"}, 869: {"::1", "1.1.1.1"}, 700: {"1"}, 701: {"1"}, 1042: {"a"}, 1043: {"a"}, 1082: {"2024-01-01"},
		1114: {"2024-01-01 00:00:00"}, 1186: {"00:00:00"}, 1266: {"00:00:00+00"}, 1560: {"1"}, 1562: {"", "1", repeat("01", 200)},
		1700: {"0", "1", "10000", "10001", "0.00001", "1000.0001", "-12345678901234567890.123456789", "NaN", "1" + strings.Repeat("0", 400)},
		2950: {"c0a80101-0000-4000-8000-000000000000"}, 2970: {"1:9:1,2,3"}, 5038: {"1:9:1,2,3"},
		3614: {"", "'a'", "'a':1,2,3", repeat("'a':1,2,3,4,5,6,7,8,9,10 ", 1) + " 'b':1"}, 3615: {"'a'", "'a' & 'b'", "!!!'a'", "!( !'a' & 'b' | 'c' )"},
		3802: {"1", "null", "[]", "[" + repeat("1, ", 300) + "1]", "[" + repeat("[], ", 200) + "1]", "[" + repeat(`"", `, 300) + "1]", "{" + manyKeys(200) + "}", "[" + repeat("[1], ", 200) + "1]", "[" + repeat("{}, ", 200) + "1]", "[" + repeat("-1, ", 200) + "1]", "[" + repeat("0.5, ", 200) + "1]"},
		4072: {"$", `$."a"[*]`, "1", "-1", `$?(@.a == 1)`, "--1", "$.a.b.c.d.*"},
		3904: {"empty", "[1,3)", "(,)"}, 3906: {"[1,2]", "(,)"}, 3908: {"(,)"}, 3912: {"empty", "(,)"},
		4451: {"{}", "{(,)}", "{[1,2),[3,4),[5,6),[7,8)}"}, 4532: {"{[1,1],[2,2],[3,3]}"},
		3220: {"0/1"}, 790: {"$1.00"}, 774: {"08:00:2b:01:02:03:04:05"}, 829: {"08:00:2b:01:02:03"},
	}
	check := func(typ *pgvalue.Type, text string) {
		t.Helper()
		var size, length int
		sql := fmt.Sprintf("SELECT pg_column_size(v), octet_length(v::text) FROM (SELECT %s::%s) x(v)", quote(text), pgx.Identifier{"pg_catalog", typ.Name}.Sanitize())
		if err := conn.QueryRow(ctx, sql).Scan(&size, &length); err != nil {
			t.Errorf("%s %.30q: %v", typ.Name, text, err)
			return
		}
		if got := pgvalue.BoundOf(typ).Of(length); got < size {
			t.Errorf("%s %.40q of %d bytes takes %d, bound %d", typ.Name, text, length, size, got)
		}
	}
	for oid, texts := range worst {
		typ := pgvalue.Builtin(oid)
		for _, text := range texts {
			check(typ, text)
			list := arrayOf(oid)
			if list == nil {
				t.Errorf("no array type of %s", typ.Name)
				continue
			}
			element := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
			for _, n := range []int{1, 2, 50} {
				check(list, "{"+strings.TrimSuffix(strings.Repeat(element+string(list.Delimiter), n), string(list.Delimiter))+"}")
			}
		}
	}
	for _, text := range []string{"{{{{{{1}}}}}}", "{" + repeat("NULL,", 100) + "}", "{NULL,1}", "{}"} {
		check(pgvalue.Builtin(1016), text)
	}
	// The whole tuple: sizes with their padding in a table.
	if _, err := conn.Exec(ctx, "CREATE TABLE t (a bool, b int8, c text, d numeric, e int2, f jsonb, g int8[])"); err != nil {
		t.Fatal(err)
	}
	var page, bound int
	for _, row := range []string{"true, 1, 'x', 1.5, 2, '[1]', '{1,2}'", "NULL, NULL, NULL, NULL, NULL, NULL, NULL", "true, 1, repeat('x', 200), 1, 1, '{}', '{}'"} {
		if _, err := conn.Exec(ctx, "TRUNCATE t; INSERT INTO t VALUES ("+row+")"); err != nil {
			t.Fatal(err)
		}
		lengths := make([]int, 7)
		if err := conn.QueryRow(ctx, `SELECT pg_column_size(t.*), coalesce(octet_length(CASE WHEN a THEN 't' END), -1), coalesce(octet_length(b::text), -1), coalesce(octet_length(c), -1),
			coalesce(octet_length(d::text), -1), coalesce(octet_length(e::text), -1), coalesce(octet_length(f::text), -1), coalesce(octet_length(g::text), -1) FROM t`).
			Scan(&page, &lengths[0], &lengths[1], &lengths[2], &lengths[3], &lengths[4], &lengths[5], &lengths[6]); err != nil {
			t.Fatal(err)
		}
		bound = pgvalue.TupleOverhead(7)
		for i, oid := range []uint32{16, 20, 25, 1700, 21, 3802, 1016} {
			bound += pgvalue.BoundOf(pgvalue.Builtin(oid)).Of(lengths[i])
		}
		if bound < page {
			t.Errorf("(%s): tuple of %d bytes, bound %d", row, page, bound)
		}
	}
}

// Nothing within the bound is moved out of line.
func TestWithinTheBoundNothingIsMoved(t *testing.T) {
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE t (id int, v text, w bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL"); err != nil {
		t.Fatal(err)
	}
	overhead := pgvalue.TupleOverhead(3) + pgvalue.BoundOf(pgvalue.Builtin(23)).Of(4) + pgvalue.BoundOf(pgvalue.Builtin(25)).Of(0) + pgvalue.BoundOf(pgvalue.Builtin(17)).Of(2)
	room := pgvalue.MaxInlineTuple - overhead
	if room < 1800 {
		t.Errorf("only %d bytes of %d are used", room, pgvalue.MaxInlineTuple)
	}
	for _, test := range []struct {
		text  int
		moved bool
	}{{room, false}, {4000, true}} {
		var toast int
		if err := conn.QueryRow(ctx, "SELECT 0").Scan(&toast); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "TRUNCATE t"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO t VALUES (1000, repeat('x', %d), '')", test.text)); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(ctx, "SELECT pg_relation_size(reltoastrelid)::int FROM pg_class WHERE relname = 't'").Scan(&toast); err != nil {
			t.Fatal(err)
		}
		if (toast > 0) != test.moved {
			t.Errorf("text of %d bytes: %d bytes out of line", test.text, toast)
		}
	}
}

func arrayOf(oid uint32) *pgvalue.Type {
	for array := uint32(1); array < 7000; array++ {
		if t := pgvalue.Builtin(array); t != nil && t.Kind == pgvalue.Array && t.Element.OID == oid {
			return t
		}
	}
	return nil
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `"%d": 1`, i)
	}
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
