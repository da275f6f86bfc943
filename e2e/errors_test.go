package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// secret stands in every URI of these tests and must never be printed.
const secret = "s3cr3t-of-the-test"

// withUser puts a role and the secret into a URI.
func withUser(t testing.TB, uri, user string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, secret)
	return u.String()
}

// role makes a login role on the source for this test and returns its name.
func (s *system) role(attributes string) string {
	s.t.Helper()
	name := fmt.Sprintf("e2e_role_%d", slots.Add(1))
	s.onSource(fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' %s", name, secret, attributes))
	s.t.Cleanup(func() {
		execSQL(s.t, s.sourceURI, fmt.Sprintf("DROP OWNED BY %s CASCADE", name))
		execSQL(s.t, s.sourceURI, fmt.Sprintf("DROP ROLE %s", name))
	})
	return name
}

// complaint runs a decoder that cannot work, and returns what it printed up to
// the line that matches: the process may end with a code or go on trying.
func (s *system) complaint(config string, want *regexp.Regexp) (string, *process) {
	s.t.Helper()
	p := s.startWith(config)
	pgtest.Eventually(s.t, 30*time.Second, func() error {
		if want.MatchString(p.log.text()) {
			return nil
		}
		if !p.running() && !want.MatchString(p.log.text()) {
			return fmt.Errorf("it ended with %d without saying %v:\n%s", p.cmd.ProcessState.ExitCode(), want, p.log.text())
		}
		return fmt.Errorf("it does not say %v:\n%s", want, p.log.tail(20))
	})
	return p.log.text(), p
}

// checkReadable holds for everything a person is shown.
func checkReadable(t testing.TB, text string) {
	t.Helper()
	if strings.Contains(text, secret) {
		t.Errorf("a password is shown:\n%s", text)
	}
	for _, trace := range []string{"goroutine ", "panic", ".go:", "runtime error", "0xc0"} {
		if strings.Contains(text, trace) {
			t.Errorf("%q is shown:\n%s", trace, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 1500 {
			t.Errorf("a line of %d bytes: %.200s…", len(line), line)
		}
	}
}

// Each misfortune of a source gives one message with its cure, and goes away
// with it.
func TestSourceErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		options options
		// spoil returns the source URI to use.
		spoil  func(s *system) string
		wants  []string // regular expressions, the first is waited for
		exit   int      // if the process ends by itself
		repair func(s *system)
	}{
		{
			name: "unreachable",
			spoil: func(s *system) string {
				p, uri := proxied(s.t, withUser(s.t, s.sourceURI, "postgres"))
				if err := p.Close(); err != nil { // the port is free now
					s.t.Fatal(err)
				}
				return uri
			},
			wants: []string{`MR1001`, `127\.0\.0\.1`, `refused`},
			exit:  3,
		},
		{
			name: "wrong password",
			spoil: func(s *system) string {
				role := s.role("REPLICATION")
				s.onSource(fmt.Sprintf("ALTER ROLE %s PASSWORD 'another'", role))
				return withUser(s.t, s.sourceURI, role)
			},
			wants: []string{`MR1001`, `e2e_role_\d+`, `password`},
			exit:  3,
		},
		{
			name:    "wal_level",
			options: options{sourceSettings: map[string]string{"wal_level": "replica"}},
			wants:   []string{`MR1003`, `ALTER SYSTEM SET wal_level = '?logical'?`, `restart`},
			exit:    1,
			repair:  func(s *system) { s.reconfigure("wal_level", "logical") },
		},
		{
			name: "no REPLICATION",
			spoil: func(s *system) string {
				role := s.role("")
				s.onSource(fmt.Sprintf("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s", role))
				s.onSource(fmt.Sprintf("CREATE PUBLICATION %s FOR ALL TABLES", s.publication))
				return withUser(s.t, s.sourceURI, role)
			},
			wants:  []string{`MR1005`, `ALTER ROLE "?e2e_role_\d+"? REPLICATION`},
			exit:   1,
			repair: func(s *system) { s.onSource("ALTER ROLE " + s.lastRole() + " REPLICATION") },
		},
		{
			name: "no publication and no right to make one",
			spoil: func(s *system) string {
				role := s.role("REPLICATION")
				s.onSource(fmt.Sprintf("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s", role))
				return withUser(s.t, s.sourceURI, role)
			},
			wants: []string{`MR1010`, `CREATE PUBLICATION "?millrace_e2e_\d+"? FOR TABLE .*items`},
			exit:  1,
			repair: func(s *system) {
				s.onSource(fmt.Sprintf("CREATE PUBLICATION %s FOR ALL TABLES", s.publication))
			},
		},
		{
			name: "no SELECT on one table",
			spoil: func(s *system) string {
				role := s.role("REPLICATION")
				s.onSource(fmt.Sprintf("GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s; REVOKE SELECT ON docs FROM %[1]s", role))
				s.onSource(fmt.Sprintf("CREATE PUBLICATION %s FOR ALL TABLES", s.publication))
				return withUser(s.t, s.sourceURI, role)
			},
			wants:  []string{`MR1015`, `GRANT SELECT ON .*docs.* TO`},
			exit:   1,
			repair: func(s *system) { s.onSource("GRANT SELECT ON docs TO " + s.lastRole()) },
		},
		{
			name: "publication without deletes",
			spoil: func(s *system) string {
				s.onSource(fmt.Sprintf("CREATE PUBLICATION %s FOR ALL TABLES WITH (publish = 'insert')", s.publication))
				return s.sourceURI
			},
			wants: []string{`MR1011`, `ALTER PUBLICATION "?millrace_e2e_\d+"? SET \(publish = `},
			exit:  1,
			repair: func(s *system) {
				s.onSource(fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate')", s.publication))
			},
		},
		{
			name:    "no replication slot free",
			options: options{sourceSettings: map[string]string{"max_replication_slots": "1"}},
			spoil: func(s *system) string {
				s.onSource("SELECT pg_create_physical_replication_slot('somebody_elses')")
				return s.sourceURI
			},
			wants:  []string{`MR1004`, `somebody_elses`, `max_replication_slots`},
			exit:   1,
			repair: func(s *system) { s.onSource("SELECT pg_drop_replication_slot('somebody_elses')") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t, c.options)
			uri := s.sourceURI
			if c.spoil != nil {
				uri = c.spoil(s)
			}
			config := s.writeConfig(uri, s.sidecarURI, filepath.Join("testdata", s.rules.name+".yaml"))
			text, p := s.complaint(config, regexp.MustCompile(c.wants[0]))
			for _, want := range c.wants {
				if !regexp.MustCompile(want).MatchString(text) {
					t.Errorf("the message does not say %s:\n%s", want, text)
				}
			}
			if !p.running() {
				if code := p.cmd.ProcessState.ExitCode(); code != c.exit {
					t.Errorf("it ends with %d, want %d:\n%s", code, c.exit, text)
				}
			}
			p.kill9(t)
			checkReadable(t, p.log.text())
			if n := strings.Count(p.log.text(), "MR10"); n > 6 {
				t.Errorf("the log repeats itself %d times:\n%s", n, p.log.tail(30))
			}
			if c.repair == nil {
				return
			}
			c.repair(s)
			s.config = config
			s.start()
			s.caughtUp(startTimeout)
			s.oracle()
		})
	}
}

// lastRole is the role made last.
func (s *system) lastRole() string {
	return query[string](s.t, s.sourceURI, `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'e2e_role_%' ORDER BY oid DESC LIMIT 1`)
}

// reconfigure changes a setting of the source that needs a restart.
func (s *system) reconfigure(key, value string) {
	s.t.Helper()
	s.onSource(fmt.Sprintf("ALTER SYSTEM SET %s = %s", key, value))
	s.source.Stop(s.t)
	s.source.Start(s.t)
	if got := query[string](s.t, s.sourceURI, "SHOW "+key); got != value {
		s.t.Fatalf("%s is %s after the restart, want %s", key, got, value)
	}
}

// Rules that do not compile: the place, the line and a caret; nothing is
// deployed, and what was deployed before stays.
func TestUnknownRuleSyntax(t *testing.T) {
	s := newSystem(t, options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "sync.yaml")
	text := "config:\n  edition: 2\nbucket_definitions:\n  mine:\n    data:\n      - SELECT * FROM items WHERE owner SOUNDS LIKE 'x'\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	where := regexp.MustCompile(`sync\.yaml:6:\d+: (error|fatal)`)
	out, errOut, code := run(t, "validate", file)
	if code != 1 || !where.MatchString(out+errOut) || !strings.Contains(out+errOut, "^") {
		t.Errorf("validate ends with %d and says:\n%s%s", code, out, errOut)
	}
	checkReadable(t, out+errOut)

	config := s.writeConfig(s.sourceURI, s.sidecarURI, file)
	said, p := s.complaint(config, where)
	if code := p.exitCode(t, 20*time.Second); code != 1 {
		t.Errorf("serve ends with %d, want 1", code)
	}
	checkReadable(t, said)
	if n := query[int](t, s.sidecarURI, "SELECT count(*) FROM millrace.rule_sets"); n != 0 {
		t.Errorf("%d rule sets were stored", n)
	}
	if n := query[int](t, s.sourceURI, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", s.slot); n != 0 {
		t.Errorf("a slot was made for rules that do not compile")
	}
}

// A sidecar that was never migrated, and one that is not there.
func TestSidecarErrors(t *testing.T) {
	s := newSystem(t, options{})
	empty := s.sidecar.Database(t)
	config := s.writeConfig(s.sourceURI, empty, "testdata/buckets.yaml")
	said, p := s.complaint(config, regexp.MustCompile(`millrace migrate up`))
	checkReadable(t, said)
	if !p.running() && p.cmd.ProcessState.ExitCode() == 0 {
		t.Error("it ends with 0")
	}

	closed, uri := proxied(t, withUser(t, s.sidecarURI, "postgres"))
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	config = s.writeConfig(s.sourceURI, uri, "testdata/buckets.yaml")
	said, p = s.complaint(config, regexp.MustCompile(`(?i)sidecar.*refused`))
	if !p.running() && p.cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ends with %d, want 3", p.cmd.ProcessState.ExitCode())
	}
	checkReadable(t, said)
}
