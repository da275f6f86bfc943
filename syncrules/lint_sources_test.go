package syncrules

import (
	"strings"
	"testing"

	"github.com/millrace/millrace"
)

// The name of a row's source is a value like any other, in both dialects.
func TestSourceName(t *testing.T) {
	for _, rules := range []*Rules{mustCompile(t, `
bucket_definitions:
  b:
    data:
      - SELECT _source_name || '.' || id AS id, * FROM t WHERE _source_name <> 'closed'
`), mustCompile(t, `
config: {edition: 3}
streams:
  s:
    auto_subscribe: true
    query: SELECT t.source_name() || '.' || t.id AS id, t.a FROM t WHERE t.source_name() <> 'closed'
`)} {
		for source, want := range map[string]string{"east": "east.1", "closed": ""} {
			plan := rules.Bind(Table{Schema: "public", Name: "t", Source: source, Columns: []string{"id", "a"}})
			var out Output
			plan.Evaluator().Eval([]millrace.Value{millrace.Text("1"), millrace.Text("x")}, &out)
			got := ""
			for _, r := range out.Rows {
				got += r.RowID
			}
			if len(out.Errors) > 0 || got != want {
				t.Errorf("%s: ids %q, want %q; errors %v", source, got, want, out.Errors)
			}
		}
	}
}

func TestCheckSources(t *testing.T) {
	const src = `
bucket_definitions:
  plain:
    data:
      - SELECT id FROM t
  told:
    data:
      - SELECT _source_name || id AS id FROM t
  other:
    data:
      - SELECT id FROM "billing.public".invoices
  nowhere:
    data:
      - SELECT id FROM "biling.public".invoices
`
	rules := mustCompile(t, src)
	east := SourceTags{"east", []string{"east", "default"}}
	west := SourceTags{"west", []string{"west", "default"}}
	billing := SourceTags{"billing", []string{"billing"}}
	lines := func(sources ...SourceTags) (list []int) {
		for _, d := range rules.CheckSources(sources) {
			if d.Severity != Warning {
				t.Errorf("%v is not a warning", d)
			}
			list = append(list, d.Line)
		}
		return list
	}
	if got := lines(east, billing); len(got) != 1 || got[0] != 14 {
		t.Errorf("one source each: findings in lines %v, want the unknown tag in 14", got)
	}
	if got := lines(east, west, billing); len(got) != 2 || got[0] != 5 || got[1] != 14 {
		t.Errorf("two shards: findings in lines %v, want 5 and 14", got)
	}
	if got := rules.CheckSources([]SourceTags{east, billing}); !strings.Contains(got[0].Hint, "billing") {
		t.Errorf("no hint at billing: %+v", got[0])
	}
}
