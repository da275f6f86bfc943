package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestSimulate(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	execSQL(t, uri, demo.Schema+demo.Seed)
	rules := writeFile(t, "sync.yaml", demo.Rules)
	out, errOut, code := run(t, "simulate", rules, "--claims", `{"sub":"alice"}`, "--source", uri)
	if code != exitOK || errOut != "" {
		t.Fatalf("exit code %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"user alice gets 12 buckets", "\nmy_lists|0  3         12", "\ntodos         120", `["alice"]  5: [`, "public.list_members"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "PROBLEMS") {
		t.Errorf("problems:\n%s", out)
	}

	// The same from a configuration, for machines.
	cfg := configFile(t, uri, "postgres://u:secret@127.0.0.1:1/m", "")
	out, errOut, code = run(t, "simulate", rules, "--claims", `{"sub":"alice"}`, "-c", cfg, "--json")
	var s inspect.Simulation
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitOK || errOut != "" {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errOut)
	}
	if len(s.Buckets) != 12 || len(s.Tables) != 3 || s.User != "alice" || strings.Contains(out, "null") {
		t.Errorf("as JSON:\n%s", out)
	}

	out, _, code = run(t, "simulate", rules, "--claims", `{"sub":"nobody"}`, "--source", uri)
	if code != exitOK || !strings.Contains(out, "user nobody gets nothing\n") || !strings.Contains(out, `no row of table public.lists has owner_id = "nobody"`) {
		t.Errorf("somebody who gets nothing: %d\n%s", code, out)
	}
	execSQL(t, uri, "ALTER TABLE todos SET UNLOGGED")
	out, errOut, code = run(t, "simulate", rules, "--claims", `{"sub":"alice"}`, "--source", uri)
	if code != exitFinding || !strings.Contains(out, "public.todos: MR1019: unlogged tables are not in the stream") || !strings.Contains(out, "hint: use permanent tables") || errOut != "" {
		t.Errorf("an unlogged table: %d\n%s%s", code, out, errOut)
	}
}

func TestSimulateUsage(t *testing.T) {
	rules := writeFile(t, "sync.yaml", demo.Rules)
	bad := writeFile(t, "bad.yaml", "bucket_definitions:\n  a: {data: [SELEC]}\n")
	const source, claims = "postgres://u:secret@127.0.0.1:1/app", `{"sub":"a"}`
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no claims", []string{rules}, exitUsage, "--claims is needed"},
		{"claims that are no JSON", []string{rules, "--claims", "{sub:1}"}, exitUsage, "--claims is not JSON, at character 2"},
		{"claims that are no object", []string{rules, "--claims", `"alice"`}, exitUsage, "not a JSON object"},
		{"claims that are null", []string{rules, "--claims", "null"}, exitUsage, "not a JSON object"},
		{"parameters that are no object", []string{rules, "--claims", claims, "--params", "[]"}, exitUsage, "--params is not a JSON object"},
		{"unknown stream", []string{rules, "--claims", claims, "--stream", "nope"}, exitUsage, "no stream of this name"},
		{"bad stream parameters", []string{rules, "--claims", claims, "--stream", "my_lists=7"}, exitUsage, "--stream my_lists is not a JSON object"},
		{"no rules", []string{"none.yaml", "--claims", claims}, exitUsage, "none.yaml"},
		{"rules with errors", []string{bad, "--claims", claims, "--source", source}, exitFinding, "bad.yaml:2:"},
		{"no source", []string{rules, "--claims", claims, "--data", t.TempDir()}, exitUsage, "which source?"},
		{"two sources", []string{rules, "--claims", claims, "--source", source, "-c", "x.yaml"}, exitUsage, "exclude each other"},
		{"unreachable source", []string{rules, "--claims", claims, "--source", source}, exitUnreachable, "no server answers there"},
		{"bad connection string", []string{rules, "--claims", claims, "--source", "postgres://u:secret@[/x"}, exitUsage, "connection string is not valid"},
		{"no configuration", []string{rules, "--claims", claims, "-c", filepath.Join(t.TempDir(), "none.yaml")}, exitUsage, "there is no configuration file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, errOut, code := run(t, append([]string{"simulate"}, tc.args...)...)
			if code != tc.code || !strings.Contains(errOut, tc.want) || out != "" || strings.Contains(errOut, "secret") {
				t.Errorf("exit code %d, want %d and %q\n%s%s", code, tc.code, tc.want, out, errOut)
			}
		})
	}
}

// A short step shows nothing; a long one a line at a time, or a bar in place.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	quick := &progress{out: &out, showAfter: time.Hour, every: time.Hour}
	if err := quick.during(func() error { return nil }); err != nil || out.Len() != 0 {
		t.Errorf("a quick step shows %q, %v", &out, err)
	}
	for _, terminal := range []bool{false, true} {
		out.Reset()
		p := &progress{out: &out, terminal: terminal, showAfter: time.Millisecond, every: time.Millisecond}
		shown := make(chan struct{})
		p.out = writerFunc(func(b []byte) (int, error) {
			out.Write(b)
			if out.Len() == len(b) {
				close(shown)
			}
			return len(b), nil
		})
		p.report("reading todos", 50, 200)
		err := p.during(func() error {
			<-shown
			return nil
		})
		want := "reading todos 25 %, 50 of about 200 rows"
		if terminal {
			want = "\r\x1b[Kreading todos [######..................] 25 %"
		}
		if err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("terminal %v: %q, %v", terminal, &out, err)
		}
		if terminal != strings.HasSuffix(out.String(), "\r\x1b[K") {
			t.Errorf("terminal %v: %q", terminal, &out)
		}
	}
	if got := (&progress{what: "x", done: 300, total: 200}).line(3 * time.Second); got != "x 99 %, 300 of about 200 rows, 3s" {
		t.Errorf("an estimate that is too small: %q", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Several sources: those that share a tag are shards, each read at its own
// snapshot.
func TestSimulateSeveralSources(t *testing.T) {
	server := pgtest.Shared(t)
	east, west, other := server.Database(t), server.Database(t), server.Database(t)
	for i, uri := range []string{east, west, other} {
		execSQL(t, uri, fmt.Sprintf("CREATE TABLE orders (id text PRIMARY KEY, buyer text); INSERT INTO orders SELECT 's%d-' || g, 'alice' FROM generate_series(1, %d) g", i, 10*(i+1)))
	}
	cfg := writeFile(t, "millrace.yaml", fmt.Sprintf(`sources:
  - {name: east, uri: %q, tags: [shop], slot: a}
  - {name: west, uri: %q, tags: [shop], slot: b}
  - {name: other, uri: %q, slot: c}
sidecar: {uri: "postgres://127.0.0.1:1/m"}
`, east, west, other))
	rules := writeFile(t, "sync.yaml", `config: {edition: 3}
streams:
  shop: {auto_subscribe: true, query: 'SELECT * FROM "shop.public".orders WHERE buyer = auth.user_id()'}
  other: {auto_subscribe: true, query: 'SELECT * FROM "other.public".orders AS others WHERE buyer = auth.user_id()'}
`)
	out, errOut, code := run(t, "simulate", rules, "--claims", `{"sub":"alice"}`, "-c", cfg, "--json")
	var s inspect.Simulation
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitOK {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errOut)
	}
	if len(s.Tables) != 2 || s.Tables[0].Rows != 30 || s.Tables[1].Rows != 30 || strings.Join(s.Tables[0].Sources, " ") != "east.public.orders west.public.orders" ||
		strings.Join(s.Tables[1].Sources, " ") != "other.public.orders" {
		t.Errorf("%+v", s.Tables)
	}
}
