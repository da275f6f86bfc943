package syncrules

import (
	"fmt"
	"sync"
	"testing"

	"github.com/millrace/millrace"
)

// TestConcurrentUse: one Rules and one TablePlan serve many goroutines, each
// with its own Evaluator and Resolution.
func TestConcurrentUse(t *testing.T) {
	rules := mustCompile(t, `
config: {edition: 3}
streams:
  s:
    auto_subscribe: true
    query: SELECT id, upper(title) AS title FROM todos WHERE list_id IN (SELECT id FROM lists WHERE owner = auth.user_id())
`)
	plan := rules.Bind(Table{Schema: "public", Name: "todos", Columns: []string{"id", "title", "list_id"}})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			ev := plan.Evaluator()
			var out Output
			for i := range 200 {
				out.Reset()
				id, list := fmt.Sprintf("%d-%d", g, i), fmt.Sprint("l", g)
				ev.Eval([]millrace.Value{millrace.Text(id), millrace.Text("größe " + id), millrace.Text(list)}, &out)
				want := fmt.Sprintf(`{"id":%q,"title":"GRÖSSE %s"}`, id, id)
				if len(out.Rows) != 1 || out.Rows[0].Data != want || out.Rows[0].Bucket != `s|0["`+list+`"]` {
					t.Errorf("%+v, want %s", out.Rows, want)
					return
				}
				res, err := rules.Resolve(Request{Claims: []byte(`{"sub":"` + id + `"}`), IncludeDefaults: true})
				if err != nil {
					t.Error(err)
					return
				}
				for len(res.Pending()) > 0 {
					res.Feed([]LookupResult{{res.Pending()[0], []string{`["` + list + `"]`}}})
				}
				if buckets, _ := res.Buckets(); names(buckets) != `s|0["`+list+`"]` {
					t.Errorf("buckets %s", names(buckets))
					return
				}
			}
		})
	}
	wg.Wait()
}
