package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

const deployTables = 10

// deployRows is how many rows the ten tables have together.
func deployRows(t *testing.T) int {
	t.Helper()
	text := os.Getenv("MILLRACE_DEPLOY_ROWS")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 {
		t.Fatalf("MILLRACE_DEPLOY_ROWS=%s is no number of rows", text)
	}
	return n
}

// tenRules are ten bucket definitions, each over a table of its own. columns
// says what changed ones select.
func tenRules(columns map[int]string) string {
	var b strings.Builder
	b.WriteString("bucket_definitions:\n")
	for i := range deployTables {
		c := columns[i]
		if c == "" {
			c = "id, v"
		}
		fmt.Fprintf(&b, "  def_%d:\n    data:\n      - SELECT %s FROM t_%d\n", i, c, i)
	}
	return b.String()
}

// newTen is a system with ten tables and ten definitions.
func newTen(t *testing.T, rows int) *system {
	t.Helper()
	s := newSystem(t)
	for i := range deployTables {
		s.exec(t, fmt.Sprintf(`CREATE TABLE t_%d (id int PRIMARY KEY, v int NOT NULL, w text NOT NULL)`, i))
		s.exec(t, fmt.Sprintf(`INSERT INTO t_%d SELECT g, 0, md5(g::text) FROM generate_series(1, %d) g`, i, rows/deployTables))
		s.exec(t, fmt.Sprintf(`ANALYZE t_%d`, i))
	}
	if err := os.WriteFile(s.cfg.Rules, []byte(tenRules(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// rulesFile writes rules beside the configured ones.
func (s *system) rulesFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sync.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rules runs a rules command on the system.
func (s *system) rules(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	cfg := configFile(t, string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI), "")
	return run(t, append([]string{"rules", args[0], "-c", cfg}, args[1:]...)...)
}

func (s *system) deploy(t *testing.T, content string) deployResult {
	t.Helper()
	out, errOut, code := s.rules(t, "deploy", s.rulesFile(t, content), "--json")
	var r deployResult
	if err := json.Unmarshal([]byte(out), &r); code != exitOK || err != nil {
		t.Fatalf("deploy ends with %d (%v):\n%s%s", code, err, out, errOut)
	}
	return r
}

// traffic is what a client was sent, by bucket definition.
type traffic struct {
	ops   map[string]int
	bytes map[string]int
}

// definitionOf is the definition in a wire name.
func definitionOf(bucket string) string {
	_, name, _ := strings.Cut(bucket, "#")
	name, _, _ = strings.Cut(name, "[")
	return name
}

// follow counts until the client has finished a checkpoint that enough accepts.
func follow(t *testing.T, c *relaytest.Client, enough func() bool) (sent traffic) {
	t.Helper()
	sent = traffic{map[string]int{}, map[string]int{}}
	for {
		line, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch l := line.(type) {
		case *protocol.Data:
			d := definitionOf(l.Bucket)
			sent.ops[d] += len(l.Ops)
			sent.bytes[d] += len(l.AppendLine(nil))
		case protocol.CheckpointComplete:
			if enough() {
				return sent
			}
		}
	}
}

// Deploying a rules file with one of ten definitions changed: only its rows are
// read, written and sent again; the other nine go on as if nothing happened.
// MILLRACE_DEPLOY_ROWS=2000000 makes it as large as one likes.
func TestDeployOneOfTen(t *testing.T) {
	rows := deployRows(t)
	each := rows / deployTables
	s := newTen(t, rows)
	s.start(t)
	sidecar := string(s.cfg.Sidecar.URI)
	client := s.dial(t, "alice", nil)
	began := time.Now()
	first := follow(t, client, func() bool { return len(client.Table("t_9")) == each && len(client.Table("t_3")) == each })
	firstTook := time.Since(began)
	head := query[int64](t, sidecar, `SELECT op_id FROM millrace.head`)
	names := query[[]string](t, sidecar, `SELECT array_agg(bucket ORDER BY bucket) FROM millrace.buckets WHERE definition <> 'def_3'`)

	// All the while rows of another definition change.
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				stopped <- n
				return
			default:
				execSQL(t, string(s.cfg.Sources[0].URI), fmt.Sprintf(`UPDATE t_7 SET v = %d WHERE id = 1`, n+1))
			}
		}
	}()
	result := s.deploy(t, tenRules(map[int]string{3: "id, v, w"}))
	close(stop)
	last := <-stopped
	if result.RuleSet != 2 || result.State != millrace.RuleSetActive || result.Rows != int64(each) {
		t.Errorf("deployed: %+v", result)
	}
	if d := result.Diff; d == nil || d.Kept != 9 || d.Built != 1 || d.Retired != 1 || d.Rows != int64(each) || len(d.Tables) != 1 {
		t.Errorf("diff: %+v", d)
	}
	sent := follow(t, client, func() bool {
		return strings.Contains(client.Table("t_3")["1"], `"w":`) && strings.Contains(client.Table("t_7")["1"], fmt.Sprintf(`"v":%d}`, last))
	})

	// Written: the rows of the changed definition, and those that changed.
	written := query[string](t, sidecar, fmt.Sprintf(`
		SELECT string_agg(format('%%s: %%s', d.name, o.n), ', ' ORDER BY d.id) FROM (
			SELECT definition, count(*) AS n FROM millrace.ops WHERE op_id > %d GROUP BY definition) o
		JOIN millrace.definition_versions d ON d.id = o.definition`, head))
	if want := fmt.Sprintf("def_7: %d, def_3: %d", last, each); written != want && last > 0 {
		t.Errorf("written after the deploy began: %s, want %s", written, want)
	}
	if n := query[int](t, sidecar, `SELECT sum(copy_rows)::int FROM millrace.rules WHERE rule_set = 2`); n != each {
		t.Errorf("%d rows were copied, want %d", n, each)
	}
	// Sent: the same.
	for d, n := range sent.ops {
		if d == "def_3" && n != each || d == "def_7" && n > last || d != "def_3" && d != "def_7" {
			t.Errorf("%d ops of %s were sent", n, d)
		}
	}
	if sent.ops["def_3"] != each {
		t.Errorf("the changed definition's %d rows were not sent, but %d", each, sent.ops["def_3"])
	}
	// A row of the new form has some 50 bytes more than one of the old.
	if most := first.bytes["def_3"] + 60*each; sent.bytes["def_3"] > most {
		t.Errorf("the changed definition took %d bytes to the client, want at most %d", sent.bytes["def_3"], most)
	}
	if got := query[[]string](t, sidecar, `SELECT array_agg(bucket ORDER BY bucket) FROM millrace.buckets WHERE served AND definition <> 'def_3'`); fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("the other nine are %v, they were %v", got, names)
	}
	total := 0
	for _, n := range first.bytes {
		total += n
	}
	t.Logf("%d rows: first sync %d bytes in %v; deploy of 1 of 10 definitions %.2f s, %d bytes for it and %d for %d changes beside it",
		rows, total, firstTook, result.Seconds, sent.bytes["def_3"], sent.bytes["def_7"], last)

	// Going back sends the old bucket again to this client, and copies nothing.
	out, errOut, code := s.rules(t, "rollback", "--json")
	if code != exitOK {
		t.Fatalf("rollback ends with %d:\n%s%s", code, out, errOut)
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.RuleSet != 3 || result.Rows != 0 {
		t.Errorf("rolled back: %+v, %v", result, err)
	}
	sent = follow(t, client, func() bool { return !strings.Contains(client.Table("t_3")["1"], `"w":`) })
	if len(sent.ops) != 1 || sent.ops["def_3"] != each {
		t.Errorf("a roll-back sent %v", sent.ops)
	}
}

// The commands refuse, and do nothing, with the right exit codes.
func TestRulesCommands(t *testing.T) {
	s := newTen(t, 1000)
	// Without a decoder the request waits.
	if out, errOut, code := s.rules(t, "deploy", s.cfg.Rules, "--no-wait"); code != exitOK || !strings.Contains(out, "Requested, as number 1") || !strings.Contains(out, "No rules are in force yet.") {
		t.Fatalf("first deploy: %d\n%s%s", code, out, errOut)
	}
	if out, _, _ := s.rules(t, "status"); !strings.Contains(out, "Request 1 waits for a decoder") {
		t.Errorf("status says\n%s", out)
	}
	s.start(t)
	sidecar := string(s.cfg.Sidecar.URI)
	pgtest.Eventually(t, time.Minute, func() error {
		if state := query[string](t, sidecar, `SELECT state FROM millrace.rule_requests`); state != "done" {
			return fmt.Errorf("the request is %s", state)
		}
		return nil
	})
	// The file's content is that of the request: one rule set.
	if n := query[int](t, sidecar, `SELECT count(*) FROM millrace.rule_sets`); n != 1 {
		t.Errorf("%d rule sets", n)
	}
	bad := s.rulesFile(t, strings.Replace(tenRules(nil), "SELECT id, v FROM t_4", "SELECT id, v FRM t_4", 1))
	for _, c := range []struct {
		name  string
		args  []string
		code  int
		wants []string
	}{
		{"no subcommand", []string{"nothing"}, exitUsage, nil},
		{"what is in force", []string{"deploy", s.cfg.Rules}, exitOK, []string{"nothing to do"}},
		{"another comment", []string{"deploy", s.rulesFile(t, "# why\n"+tenRules(nil))}, exitOK, []string{"nothing to do"}},
		{"not valid", []string{"deploy", bad}, exitFinding, []string{"sync.yaml:16:", "^"}},
		{"diff of what is not valid", []string{"diff", bad}, exitFinding, []string{"sync.yaml:16:"}},
		{"no such file", []string{"deploy", "nowhere.yaml"}, exitUsage, []string{"nowhere.yaml"}},
		{"nothing to go back to", []string{"rollback"}, exitFinding, []string{"no earlier rule set is kept"}},
		{"a set there never was", []string{"rollback", "--to", "7"}, exitFinding, []string{"rule set 7 is not kept"}},
		{"diff", []string{"diff", s.rulesFile(t, tenRules(map[int]string{2: "id, w"}))}, exitOK, []string{"changed", "bucket:def_2", "about 100 rows of public.t_2", "9 kept, 1 to build, 1 retired. About 100 rows to copy."}},
		{"an event", []string{"diff", s.rulesFile(t, tenRules(nil)+"event_definitions: {write_checkpoints: {payloads: [\"SELECT id AS user_id, v AS checkpoint FROM t_3\"]}}\n")}, exitOK,
			[]string{"added", "event:write_checkpoints", "about 100 rows of public.t_3", "10 kept, 1 to build, 0 retired.", "does not select client_id"}},
		{"a table that is not there", []string{"diff", s.rulesFile(t, strings.Replace(tenRules(nil), "FROM t_2", "FROM t_22", 1))}, exitOK, []string{"sync.yaml:10:", "t_22", "9 kept, 1 to build"}},
	} {
		out, errOut, code := s.rules(t, c.args...)
		if code != c.code {
			t.Errorf("%s: exit code %d\n%s%s", c.name, code, out, errOut)
		}
		for _, want := range c.wants {
			if !strings.Contains(out+errOut, want) {
				t.Errorf("%s: no %q in\n%s%s", c.name, want, out, errOut)
			}
		}
	}
	if n := query[int](t, sidecar, `SELECT count(*) FROM millrace.rule_sets`); n != 1 {
		t.Errorf("%d rule sets after what changes nothing", n)
	}
	// Several definitions at once: one changed, one gone, one new.
	changed := strings.Replace(tenRules(map[int]string{2: "id, w"}), "def_5:", "def_new:", 1)
	changed = strings.Replace(changed, "SELECT id, v FROM t_5", "SELECT id, w FROM t_5", 1)
	r := s.deploy(t, changed)
	if d := r.Diff; r.RuleSet != 2 || d.Kept != 8 || d.Built != 2 || d.Retired != 2 || d.Rows != 200 {
		t.Errorf("deployed: %+v, %+v", r, d)
	}
	out, _, code := s.rules(t, "status")
	if code != exitOK || !strings.Contains(out, "retired") || !strings.Contains(out, "active") {
		t.Errorf("status: %d\n%s", code, out)
	}
	// The first content again: it is fed still.
	if r = s.deploy(t, tenRules(nil)); r.RuleSet != 3 || r.Rows != 0 || r.Diff.Built != 0 {
		t.Errorf("the first content again: %+v, %+v", r, r.Diff)
	}
}

// A save of the rules file of the development servers deploys it; an error is
// shown with its position, and the rules stay.
func TestDevDeploysOnSave(t *testing.T) {
	dir := newDir(t)
	parent := filepath.Dir(dir)
	schema, file := filepath.Join(parent, "schema.sql"), filepath.Join(parent, "rules.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rules := func(columns string) string {
		return "bucket_definitions:\n  all:\n    data:\n      - SELECT " + columns + " FROM notes\n"
	}
	write(schema, "CREATE TABLE notes (id int PRIMARY KEY, a int, b int); INSERT INTO notes VALUES (1, 2, 3);")
	write(file, rules("id, a"))
	p := startDev(t, dir, "--schema", schema, "--rules", file)
	f := p.ready(t)
	inForce := func(set int, data string) {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			got, err := tryQuery[string](t, f.SidecarURI, `
				SELECT s.rule_set || ' ' || string_agg(r.data::text, ',') FROM millrace.status s, millrace.buckets b, millrace.bucket_rows(b.bucket) r
				WHERE b.served GROUP BY s.rule_set`)
			if want := fmt.Sprintf("%d %s", set, data); err == nil && strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
				err = fmt.Errorf("in force: %s, want %s", got, want)
			}
			return err
		})
	}
	says := func(text string) {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			if !strings.Contains(p.out.String(), text) {
				return fmt.Errorf("it does not say %q", text)
			}
			return nil
		})
	}
	inForce(1, `{"id":1,"a":2}`)
	write(file, rules("id, b"))
	inForce(2, `{"id":1,"b":3}`)
	says("Rule set 2 is in force")
	write(file, strings.Replace(rules("id, a"), "FROM", "FORM", 1))
	says("rules.yaml:4:")
	says("the rules in force stay as they are")
	inForce(2, `{"id":1,"b":3}`)
	write(file, rules("id, a, b"))
	inForce(3, `{"id":1,"a":2,"b":3}`)

	// What was saved while nothing ran is deployed at the next start, even if it
	// was deployed before.
	p.end(t, os.Interrupt)
	write(file, rules("id, b"))
	p = startDev(t, dir, "--schema", schema, "--rules", file)
	f = p.ready(t)
	inForce(4, `{"id":1,"b":3}`)
}
