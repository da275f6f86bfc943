package decoder

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// P47: the values of a long column that no rules read change without a word in
// the stream; then rules that read it are built, while a row changes that the
// copy does not see. What was kept of the row is not its value any more: it is
// read again. What is served goes on without a gap.
func TestKeptValuesOfARewrittenColumn(t *testing.T) {
	for name, sql := range map[string]string{
		"type changed":        "alter table t alter other type varchar(9000) using upper(other), alter other set storage external",
		"of a limited type":   "alter table t alter other type varchar(4000), alter other set storage external; alter table t alter other type varchar(2000) using upper(left(other, 1900)), alter other set storage external",
		"names swapped":       "alter table t rename other to x; alter table t rename third to other; alter table t rename x to third",
		"another of its name": "alter table t drop other; alter table t rename third to other",
	} {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/told=%t", name, told), func(t *testing.T) {
				tr := newTrace(t, 0)
				tr.config.Rules = rulesFor("all", "SELECT id, v FROM t")
				tr.exec("drop table t")
				tr.exec("create table t(id int primary key, v int, other text, third text) with (autovacuum_enabled = off)")
				tr.exec("alter table t alter other set storage external, alter third set storage external")
				tr.exec("insert into t select g, 0, repeat('other ', 400), repeat('third ', 500) from generate_series(1, 40) g")
				tr.start()
				tr.settled()
				tr.exec("update t set other = repeat('old ', 600), third = repeat('3 ', 1300) where id = 7")
				tr.settled()
				tr.exec(sql)
				if told {
					tr.exec("update t set v = 1 where id = 8") // the stream tells of the change
					tr.settled()
				}
				_ = tr.term.stop()
				arrived, open := tr.block("before", 0)
				tr.config.Rules += "  more:\n    data:\n      - SELECT id, v, other FROM t\n"
				tr.start()
				arrived()
				tr.exec("update t set v = 2 where id = 7")
				tr.hold("update t set v = 3 where id = 7") // which the chunk does not see
				tr.applied()
				served, _ := tr.sidecar.Active()
				if !told {
					served.Definitions = nil // a change found with the deploy copies the table for all
				}
				for _, d := range served.Definitions {
					row := tr.sidecar.Content(d.ID)[sinktest.Identity{Bucket: "all[]", Type: "t", RowID: "7"}]
					if want := `{"id":7,"v":3}`; row != want {
						t.Errorf("served is %q meanwhile, want %s", row, want)
					}
				}
				after, openAfter := tr.block("after", 0)
				open()
				after()
				tr.release()
				openAfter()
				pgtest.Eventually(t, patience, func() error {
					if set, _ := tr.sidecar.Active(); set.ID == served.ID {
						return fmt.Errorf("copies %+v", tr.sidecar.Copies())
					}
					return nil
				})
				tr.settled()
				tr.contentEquals("bucket:all", `select 'all[]', id::text, '{"id":'||id||',"v":'||v||'}' from t`)
				tr.contentEquals("bucket:more", `select 'more[]', id::text, '{"id":'||id||',"v":'||v||',"other":'||to_json(other)||'}' from t`)
				if errs := tr.sidecar.Errors(); len(errs) > 0 {
					t.Errorf("rows have errors: %v", errs)
				}
			})
		}
	}
}
