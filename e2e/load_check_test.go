package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// The load must be what it claims to be, else the tests built on it show little.
func TestLoadReachesEveryTable(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	execSQL(t, uri, readFile(t, "testdata/load.sql"))
	l := startLoad(uri, 3, 1)
	for turn := range 4 {
		ctx := context.Background()
		conn, err := connectAs(ctx, uri, "e2e-load")
		if err != nil {
			t.Fatal(err)
		}
		if err := execAll(ctx, conn, bigTransaction(turn, 1000)); err != nil {
			t.Error(err)
		}
		conn.Close(ctx)
	}
	pgtest.Eventually(t, 30*time.Second, func() error { return l.progress(400) })
	committed, err := l.Stop()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d transactions committed", committed)
	for what, sql := range map[string]string{
		"an empty table": `SELECT count(*) FROM pg_stat_user_tables s
			WHERE NOT (xpath('/row/c/text()', query_to_xml(format('SELECT EXISTS (SELECT FROM %I) c', relname), false, true, '')))[1]::text::bool`,
		"an inconsistent sum":         `SELECT (sum(balance) <> 20000)::int FROM accounts`,
		"a prepared transaction left": `SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()`,
		"no value stored out of line": `SELECT (count(*) = 0)::int FROM items WHERE length(big) > 2100 AND pg_column_size(big) > 2100`,
	} {
		if what == "an empty table" {
			execSQL(t, uri, "INSERT INTO marks VALUES ('x', 1)")
		}
		if n := query[int](t, uri, sql); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	pgtest.Eventually(t, 10*time.Second, func() error { // the counters arrive late
		n, err := tryQuery[int](uri, `SELECT count(*) FROM pg_stat_user_tables WHERE n_tup_del + n_tup_upd = 0 AND relname <> 'marks'`)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d tables without updates or deletes", n)
		}
		return err
	})
	conn, err := connectAs(t.Context(), uri, "e2e-oracle")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, r := range []rules{bucketRules, streamRules} {
		c, err := expectedContent(t.Context(), conn, "testdata/"+r.name+".sql")
		if err != nil {
			t.Fatal(err)
		}
		if c.rows() < 1000 {
			t.Errorf("%s: only %d rows expected", r.name, c.rows())
		}
		if c[r.marks] == nil || c[r.accounts] == nil {
			t.Errorf("%s: no marks or no accounts", r.name)
		}
	}
}

func TestCompareNoticesWrongRows(t *testing.T) {
	want := content{"b[1]": {"t/1": "x", "t/2": "y"}, "b[2]": {"t/1": "z"}}
	clone := func() content {
		c := content{}
		for k, v := range want {
			c[k] = maps.Clone(v)
		}
		return c
	}
	if err := compareContents(want, clone()); err != nil {
		t.Errorf("equal contents differ: %v", err)
	}
	for name, spoil := range map[string]func(content){
		"a row missing":       func(c content) { delete(c["b[1]"], "t/2") },
		"a bucket missing":    func(c content) { delete(c, "b[2]") },
		"a row too many":      func(c content) { c["b[1]"]["t/3"] = "" },
		"a bucket too many":   func(c content) { c["b[3]"] = map[string]string{"t/1": ""} },
		"other data":          func(c content) { c["b[1]"]["t/1"] = "X" },
		"in the other bucket": func(c content) { delete(c["b[1]"], "t/2"); c["b[2]"]["t/2"] = "y" },
	} {
		c := clone()
		spoil(c)
		if err := compareContents(want, c); err == nil {
			t.Errorf("%s goes unnoticed", name)
		}
	}
}
