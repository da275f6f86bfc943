package syncrules_test

import (
	"fmt"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/syncrules"
)

// A row is evaluated into buckets, and a request into the buckets it may read.
func Example() {
	rules, diags := syncrules.Compile("sync.yaml", []byte(`
config:
  edition: 3
streams:
  my_notes:
    auto_subscribe: true
    query: SELECT id, text FROM notes WHERE owner_id = auth.user_id() OR team_id IN (SELECT team_id FROM members WHERE user_id = auth.user_id())
`))
	if rules == nil {
		fmt.Println(diags.Error())
		return
	}

	// What the decoder does: bind a table once, evaluate its rows.
	notes := rules.Bind(syncrules.Table{Schema: "public", Name: "notes", Columns: []string{"id", "text", "owner_id", "team_id"}}).Evaluator()
	members := rules.Bind(syncrules.Table{Schema: "public", Name: "members", Columns: []string{"id", "user_id", "team_id"}}).Evaluator()
	var out syncrules.Output
	notes.Eval([]millrace.Value{millrace.Text("n1"), millrace.Text("Hello"), millrace.Text("ada"), millrace.Text("red")}, &out)
	members.Eval([]millrace.Value{millrace.Text("m1"), millrace.Text("ben"), millrace.Text("red")}, &out)
	for _, r := range out.Rows {
		fmt.Println(r.Bucket, r.Type, r.RowID, r.Data)
	}
	for _, l := range out.Lookups {
		fmt.Println(rules.Definitions()[l.Definition].Key, l.Key, "->", l.Outputs)
	}

	// What the relay does: resolve a request, reading lookups as they are asked for.
	res, err := rules.Resolve(syncrules.Request{Claims: []byte(`{"sub":"ben"}`), IncludeDefaults: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	for len(res.Pending()) > 0 {
		var results []syncrules.LookupResult
		for _, key := range res.Pending() {
			result := syncrules.LookupResult{LookupKey: key}
			for _, l := range out.Lookups {
				if l.Definition == key.Definition && l.Key == key.Key {
					result.Outputs = append(result.Outputs, l.Outputs)
				}
			}
			results = append(results, result)
		}
		res.Feed(results)
	}
	buckets, _ := res.Buckets()
	for _, b := range buckets {
		fmt.Println("ben has", b.Name, "with priority", b.Priority)
	}
	// Output:
	// my_notes|0["ada"] notes n1 {"id":"n1","text":"Hello"}
	// my_notes|1["red"] notes n1 {"id":"n1","text":"Hello"}
	// lookup:my_notes/0 ["ben"] -> ["red"]
	// ben has my_notes|0["ben"] with priority 3
	// ben has my_notes|1["red"] with priority 3
}
