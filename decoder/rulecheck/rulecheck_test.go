package rulecheck

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgvalue"
	"github.com/millrace/millrace/syncrules"
)

func compile(t *testing.T, text string) Rules {
	t.Helper()
	compiled, diagnostics := syncrules.Compile("sync.yaml", []byte(text))
	if compiled == nil {
		t.Fatal(diagnostics)
	}
	return Rules{File: "sync.yaml", Text: []byte(text), Compiled: compiled}
}

func column(name, typ string, t *pgvalue.Type) catalog.Column {
	return catalog.Column{Name: name, TypeName: typ, Type: t}
}

const rules = `config: {edition: 3}
streams:
  a:
    query: SELECT * FROM todos WHERE owner = auth.user_id()
  b:
    query: SELECT id, blob, price * 2 AS twice FROM items WHERE owner = auth.user_id() AND amount = 5 AND done = 'true' AND kind IN (1, 2) AND made > 5 AND n > '3'
  c:
    query: SELECT * FROM "other.public".elsewhere WHERE owner = auth.user_id()
`

func tables() []catalog.Table {
	numeric, bytea := pgvalue.Builtin(1700), pgvalue.Builtin(17)
	money := &pgvalue.Type{OID: 50_000, Name: "price", Kind: pgvalue.Domain, Element: numeric}
	inner := &pgvalue.Type{OID: 50_001, Name: "blobs", Kind: pgvalue.Domain, Element: bytea}
	keyless := catalog.Finding{Code: "MR1017", Level: catalog.FatalTable, Object: "public.items", Message: "there is no primary key", Repair: "ALTER TABLE"}
	unpublished := catalog.Finding{Code: Unpublished, Level: catalog.FatalTable, Object: "public.items", Message: "the table is not in publication"}
	return []catalog.Table{
		{TableName: catalog.TableName{Schema: "public", Name: "todo"}, Columns: []catalog.Column{column("id", "text", nil)}},
		{TableName: catalog.TableName{Schema: "public", Name: "items"}, Findings: []catalog.Finding{keyless, unpublished}, Columns: []catalog.Column{
			column("id", "uuid", nil), column("owner", "text", nil), column("blob", "blobs", inner), column("price", "price", money),
			column("amount", "numeric(10,2)", numeric), column("done", "boolean", nil), column("kind", "character varying(10)", nil),
			column("made", "timestamp without time zone", nil), column("n", "real", nil)}},
	}
}

func TestSource(t *testing.T) {
	r := compile(t, rules)
	found := Source(r, []string{"main", "default"}, tables(), Unpublished)
	want := []string{
		"sync.yaml:4:26: warning: the source has no table public.todos",
		"sync.yaml:6:23: warning: column blob is binary (bytea) and is left out of the row",
		"sync.yaml:6:29: warning: numeric column price is computed with",
		"sync.yaml:6:53: warning: MR1017 public.items: there is no primary key",
		"sync.yaml:6:92: warning: numeric column amount is text here",
		"sync.yaml:6:114: warning: column done (boolean) is a number here, which never equals a text",
		"sync.yaml:6:134: warning: column kind (character varying) is text here, which never equals a number",
		"sync.yaml:6:151: warning: column made (timestamp) is text here, which never equals a number and is greater than every one",
		"sync.yaml:6:161: warning: column n (real) is a number here",
	}
	var got []string
	for _, d := range found {
		got = append(got, d.String())
		if d.Severity != syncrules.Warning || d.File != "sync.yaml" {
			t.Errorf("%+v", d)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d findings, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("finding %d is\n%s\nwant\n%s", i, got[i], want[i])
		}
	}
	if found[0].Hint == "" {
		t.Error("the similar table todo is no hint")
	}
	var b strings.Builder
	if err := found[3:4].Render(&b, r.Text); err != nil || !strings.Contains(b.String(), "^^^^^\n") || !strings.Contains(b.String(), "hint: ALTER TABLE") {
		t.Errorf("%v\n%s", err, &b)
	}
	if n := len(Source(r, []string{"default"}, tables())); n != len(want)+1 {
		t.Errorf("%d findings with the missing publication, want one more", n)
	}
}

// A table of another connection is that one's concern.
func TestOtherConnections(t *testing.T) {
	r := compile(t, rules)
	for _, d := range Source(r, []string{"other"}, nil) {
		if !strings.Contains(d.Message, "no table public.elsewhere") {
			t.Errorf("%s", d)
		}
	}
	if found := Source(r, []string{"other"}, nil); len(found) != 1 {
		t.Errorf("%d findings", len(found))
	}
	if found := Source(r, []string{"nobody"}, nil); len(found) != 0 {
		t.Errorf("of no connection: %v", found)
	}
}

// Rules may name a partitioned table; domains that are not decoded are texts.
func TestPartitionsAndDomains(t *testing.T) {
	r := compile(t, "bucket_definitions:\n  a:\n    parameters: SELECT request.user_id() AS u\n    data:\n      - SELECT id, n FROM parts WHERE u = bucket.u AND n = 5\n")
	domain := &pgvalue.Type{OID: 50_000, Name: "num", Kind: pgvalue.Domain, Element: pgvalue.Builtin(1700)}
	parts := []catalog.Table{{TableName: catalog.TableName{Schema: "public", Name: "parts_1"}, Root: catalog.TableName{Schema: "public", Name: "parts"},
		Columns: []catalog.Column{column("id", "text", nil), column("u", "text", nil), column("n", "num", domain)}}}
	found := Source(r, []string{"default"}, parts)
	if len(found) != 1 || !strings.Contains(found[0].Message, "column n (text) is text here") {
		t.Errorf("found %v", found)
	}
}

func TestOffsetOf(t *testing.T) {
	const src = "aé\nbc"
	for _, test := range []struct{ line, column, want int }{{1, 1, 0}, {1, 2, 1}, {1, 3, 3}, {2, 1, 4}, {2, 2, 5}, {9, 1, 6}} {
		if got := offsetOf([]byte(src), test.line, test.column); got != test.want {
			t.Errorf("line %d, column %d: %d, want %d", test.line, test.column, got, test.want)
		}
	}
}
