package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// run runs a command line in this process.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code = Run(ctx, args, &out, &errOut)
	if ctx.Err() != nil {
		t.Fatalf("millrace %s does not end:\n%s%s", strings.Join(args, " "), &out, &errOut)
	}
	return out.String(), errOut.String(), code
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodRules = "bucket_definitions:\n  a:\n    data:\n      - SELECT * FROM todos\n"

// configFile writes a configuration with rules beside it.
func configFile(t *testing.T, source, sidecar, more string) string {
	t.Helper()
	path := writeFile(t, "millrace.yaml", "sources: [{uri: '"+source+"'}]\nsidecar: {uri: '"+sidecar+"'}\n"+more)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "sync.yaml"), []byte(goodRules), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandLine(t *testing.T) {
	const source, sidecar = "postgres://u:secret@127.0.0.1:1/app", "postgres://u:secret@127.0.0.1:1/m"
	good := configFile(t, source, sidecar, "")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string // in what is said
	}{
		{"help", []string{"--help"}, exitOK, "validate"},
		{"version", []string{"version"}, exitOK, "millrace "},
		{"unknown command", []string{"frobnicate"}, exitUsage, `unknown command "frobnicate"`},
		{"unknown flag", []string{"dev", "--frob"}, exitUsage, "unknown flag: --frob"},
		{"too many arguments", []string{"version", "x"}, exitUsage, "millrace --help"},
		{"migrate alone", []string{"migrate"}, exitUsage, "up, down or status"},
		{"no configuration", []string{"serve", "-c", "none.yaml"}, exitUsage, "there is no configuration file none.yaml: name one with -c"},
		{"no default configuration", []string{"serve"}, exitUsage, "there is no configuration file millrace.yaml"},
		{"bad configuration", []string{"serve", "-c", configFile(t, source, sidecar, "rulez: x\n")}, exitUsage, `millrace.yaml:3:1: error: rulez: unknown key (did you mean "rules"?)`},
		{"unknown role", []string{"serve", "-c", good, "--role", "cook"}, exitUsage, "all, decoder, relay"},
		{"no rules", []string{"serve", "-c", configFile(t, source, sidecar, "rules: none.yaml\n")}, exitUsage, "none.yaml"},
		{"bad rules", []string{"serve", "-c", configFile(t, source, sidecar, "rules: "+writeFile(t, "bad.yaml", "bucket_definitions:\n  a: {data: [SELEC]}\n")+"\n")}, exitFinding, "bad.yaml:2:"},
		{"port in use", []string{"serve", "-c", good, "--listen", taken.Addr().String()}, exitUnreachable, "in use"},
		{"unreachable sidecar", []string{"migrate", "up", "-c", good}, exitUnreachable, "connection refused: is the server running"},
		{"unreachable sidecar at start", []string{"serve", "-c", good, "--listen", "127.0.0.1:0", "--migrate"}, exitUnreachable, "connection refused: is the server running"},
		{"status without servers", []string{"status", "--data", t.TempDir()}, exitUnreachable, "millrace dev does not run in"},
		{"token without sub", []string{"token"}, exitUsage, "--sub is needed"},
		{"token without servers", []string{"token", "--sub", "x", "--data", "none"}, exitUsage, "run `millrace dev` first"},
		{"token without a key", []string{"token", "--sub", "x", "-c", good}, exitUsage, "no key of type oct"},
		{"token with a bad claim", []string{"token", "--sub", "x", "--claim", "y"}, exitUsage, `--claim "y" is not name=value`},
		{"token with a reserved claim", []string{"token", "--sub", "x", "--claim", "exp=1"}, exitUsage, "set by other flags"},
		{"token with a bad time", []string{"token", "--sub", "x", "--ttl", "soon"}, exitUsage, "--ttl"},
		{"validate nothing", []string{"validate", "none.yaml"}, exitUsage, "none.yaml"},
		{"validate with an unreachable source", []string{"validate", filepath.Join(filepath.Dir(good), "sync.yaml"), "--source", source}, exitUnreachable, "no server answers there"},
		{"probe", []string{"probe", "http://127.0.0.1:1/"}, exitUnreachable, "refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, errOut, code := run(t, tc.args...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			said := out + errOut
			if !strings.Contains(said, tc.want) {
				t.Errorf("it does not say %q:\n%s", tc.want, said)
			}
			if strings.Contains(said, "secret") {
				t.Errorf("a password is shown:\n%s", said)
			}
			if (code != exitOK) != strings.HasPrefix(errOut, "millrace: ") {
				t.Errorf("stderr: %s", errOut)
			}
		})
	}
}

// ownRules give each user their own rows.
const ownRules = "bucket_definitions:\n  a:\n    parameters: SELECT request.user_id() AS u\n    data:\n      - SELECT * FROM todos WHERE owner = bucket.u\n"

func TestValidate(t *testing.T) {
	good, bad := writeFile(t, "good.yaml", ownRules), writeFile(t, "bad.yaml", "bucket_definitions:\n  a:\n    data:\n      - SELECT * FORM todos\n")
	out, errOut, code := run(t, "validate", good)
	if code != exitOK || !strings.Contains(out, "good.yaml: 1 definition, no warnings") || errOut != "" {
		t.Errorf("good rules: %d\n%s%s", code, out, errOut)
	}
	out, errOut, code = run(t, "validate", bad)
	if code != exitFinding || !strings.Contains(out, "bad.yaml:4:") || !strings.Contains(out, "error: ") || !strings.Contains(out, "^") || errOut != "" {
		t.Errorf("bad rules: %d\n%s%s", code, out, errOut)
	}
	out, _, code = run(t, "validate", "--json", bad)
	var found []diagnosticJSON
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitFinding || len(found) == 0 || found[0].Line != 4 || found[0].Severity != "error" {
		t.Errorf("as JSON: %d, %v\n%s", code, err, out)
	}
	if out, _, code = run(t, "validate", "--json", good); code != exitOK || strings.TrimSpace(out) != "[]" {
		t.Errorf("good rules as JSON: %d\n%s", code, out)
	}
}

// Warnings come in the order of the file, each with its line, a caret and what
// to do, and do not fail.
func TestValidateWarns(t *testing.T) {
	rules := writeFile(t, "sync.yaml", `config: {edition: 3}
streams:
  everybody:
    query: SELECT * FROM notes
  chosen:
    query: SELECT * FROM notes WHERE id = subscription.parameter('id')
  meant:
    accept_potentially_dangerous_queries: true
    query: SELECT * FROM countries
`)
	out, errOut, code := run(t, "validate", rules)
	if code != exitOK || errOut != "" {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	rest := out
	for _, want := range []string{
		"sync.yaml:4:26: warning: all rows of table notes are synced to every user: no condition depends on the token\n",
		"    query: SELECT * FROM notes\n", "^^^^^\n", "hint: compare with a value of the token",
		"sync.yaml:6:43: warning: ", "^^^^^^^^", "hint: compare with a value of the token too",
		": 3 definitions, 2 warnings\n",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("it does not say %q in its place:\n%s", want, out)
		}
		rest = after
	}
}

func TestValidateAgainstSource(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	rules := writeFile(t, "sync.yaml", ownRules)
	out, _, code := run(t, "validate", rules, "--source", uri)
	if code != exitOK || !strings.Contains(out, "sync.yaml:5:23: warning: the source has no table public.todos") || !strings.Contains(out, "        ^^^^^\n") {
		t.Errorf("without the table: %d\n%s", code, out)
	}
	execSQL(t, uri, "CREATE TABLE todo (id text PRIMARY KEY)")
	if out, _, code := run(t, "validate", rules, "--source", uri); code != exitOK || !strings.Contains(out, "hint: did you mean") {
		t.Errorf("with a table of a similar name: %d\n%s", code, out)
	}
	execSQL(t, uri, "CREATE TABLE todos (id text PRIMARY KEY)")
	if out, _, code := run(t, "validate", rules, "--source", uri); code != exitOK || !strings.Contains(out, "sync.yaml:5:35: warning: table todos has no column owner") {
		t.Errorf("without the column: %d\n%s", code, out)
	}
	execSQL(t, uri, "ALTER TABLE todos ADD owner text")
	if out, _, code = run(t, "validate", rules, "--source", uri); code != exitOK || !strings.Contains(out, "no warnings") {
		t.Errorf("with the table: %d\n%s", code, out)
	}
	execSQL(t, uri, "CREATE DOMAIN picture AS bytea; ALTER TABLE todos ADD face bytea, ADD n bigint, ADD pictures bytea[]")
	out, _, code = run(t, "validate", rules, "--source", uri)
	for _, want := range []string{"column face is binary (bytea) and is left out", "base64(face)", "beyond 2^53", "column pictures is an array of binary values", "3 warnings"} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("types that lose something, %q: %d\n%s", want, code, out)
		}
	}
	execSQL(t, uri, "ALTER TABLE todos DROP CONSTRAINT todos_pkey")
	if out, _, code = run(t, "validate", rules, "--source", uri); code != exitOK || !strings.Contains(out, "warning: MR1017 public.todos") {
		t.Errorf("with a table without a key: %d\n%s", code, out)
	}
}

func TestMigrate(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	cfg := configFile(t, "postgres://127.0.0.1:1/app", uri, "")
	for _, tc := range []struct {
		command string
		code    int
		want    string
	}{
		{"status", exitFinding, "at migration 0 of"},
		{"up", exitOK, "at migration"},
		{"up", exitOK, "at migration"},
		{"status", exitOK, "at migration"},
		{"down", exitOK, "at migration"},
		{"status", exitFinding, "at migration"},
	} {
		if out, errOut, code := run(t, "migrate", tc.command, "-c", cfg); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("migrate %s: %d\n%s%s", tc.command, code, out, errOut)
		}
	}
}

func TestTokenOfAConfiguration(t *testing.T) {
	cfg := configFile(t, "postgres://h/app", "postgres://h/m", "auth:\n  issuer: me\n  audience: [here]\n  keys:\n    - {kty: EC}\n    - {kty: oct, kid: k1, k: c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0}\n")
	out, errOut, code := run(t, "token", "-c", cfg, "--sub", "u1", "--claim", "role=admin", "--claim", "n=12345678901234567890", "--claim", "teams=[1,\"a\"]", "--ttl", "10m")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	token, err := jwt.Parse(strings.TrimSpace(out), func(*jwt.Token) (any, error) { return []byte("secretsecretsecretsecretsecret"), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("here"), jwt.WithIssuer("me"), jwt.WithSubject("u1"), jwt.WithExpirationRequired(), jwt.WithJSONNumber())
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims.(jwt.MapClaims)
	exp, err := claims.GetExpirationTime()
	if err != nil || time.Until(exp.Time) > 10*time.Minute || time.Until(exp.Time) < 9*time.Minute {
		t.Errorf("expires %v (%v)", exp, err)
	}
	if claims["role"] != "admin" || claims["n"] != json.Number("12345678901234567890") || len(claims["teams"].([]any)) != 2 || token.Header["kid"] != "k1" {
		t.Errorf("claims %v, header %v", claims, token.Header)
	}
}

func TestRedact(t *testing.T) {
	const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
	for in, want := range map[string]string{
		"nothing here":                         "nothing here",
		"cannot reach postgres://u:p%40w@h/db": "cannot reach postgres://u:xxxxx@h/db",
		"postgresql://u@h/db?password=pw&x=1":  "postgresql://u@h/db?password=xxxxx&x=1",
		"host=h password='p w' dbname=d":       "host=h password=xxxxx dbname=d",
		"Bearer " + token + " refused":         "Bearer xxxxx refused",
		"password authentication failed":       "password authentication failed",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("a", "b")
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "0123456789abcdef"
		in := before + " postgres://user:" + password + "@host/db " + after
		if strings.Count(redact(in), password) > strings.Count(before+after, password) {
			t.Errorf("the password is in %q", redact(in))
		}
	})
}

func TestLogHoldsNoSecrets(t *testing.T) {
	var out bytes.Buffer
	for _, format := range []string{"text", "json"} {
		log := newLogger(&out, format, slog.LevelInfo)
		log.With("uri", "postgres://u:sesame@h/db").WithGroup("g").Info("connect postgres://u:sesame@h/db",
			"error", errors.New("at postgres://u:sesame@h/db"), "password", "sesame", "access_token", "sesame",
			slog.Group("inner", "secret", "sesame", "uri", config.URI("postgres://u:sesame@h/db")))
	}
	if strings.Contains(out.String(), "sesame") || strings.Count(out.String(), redacted) < 12 {
		t.Errorf("log:\n%s", &out)
	}
}

func TestLogOfDevGoesWhereItBelongs(t *testing.T) {
	var file, terminal bytes.Buffer
	log := devLog(&file, &terminal, false)
	log.Info("quiet")
	log.Warn("loud")
	if !strings.Contains(file.String(), "quiet") || !strings.Contains(file.String(), "loud") {
		t.Errorf("file:\n%s", &file)
	}
	if strings.Contains(terminal.String(), "quiet") || !strings.Contains(terminal.String(), "loud") {
		t.Errorf("terminal:\n%s", &terminal)
	}
}

func TestFailuresAreNotRepeated(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	f := failureLog{log: newLogger(&out, "text", slog.LevelInfo), now: func() time.Time { return now }}
	lines := func() int { return strings.Count(out.String(), "\n") }
	f.report(errors.New("a"))
	f.report(errors.New("a"))
	if lines() != 1 {
		t.Errorf("twice the same: %d lines", lines())
	}
	f.report(errors.New("b"))
	now = now.Add(repeatAfter)
	f.report(errors.New("b"))
	if lines() != 3 {
		t.Errorf("another, and again after a while: %d lines", lines())
	}
}

func TestWithoutPassword(t *testing.T) {
	for in, want := range map[config.URI]string{
		"postgres://u:p@h:1/db":                           "postgres://u@h:1/db",
		"postgres://h/db?password=p&sslmode=disable":      "postgres://h/db?sslmode=disable",
		"host=h password='a b' dbname=db sslpassword=c x": "host=h dbname=db x",
	} {
		if got := withoutPassword(in); got != want {
			t.Errorf("withoutPassword(%q) = %q, want %q", string(in), got, want)
		}
	}
}

func TestSpoolDir(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	a := &config.Config{Sidecar: config.Sidecar{URI: "postgres://u@h/a"}}
	b := &config.Config{Sidecar: config.Sidecar{URI: "postgres://u@h/b"}}
	dirA, err := spoolDir(a)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := spoolDir(a); err != nil || again != dirA {
		t.Errorf("the same sidecar: %s (%v), want %s", again, err, dirA)
	}
	if dirB, err := spoolDir(b); err != nil || dirB == dirA {
		t.Errorf("two sidecars share %s (%v)", dirB, err)
	}
	mine := filepath.Dir(dirA)
	if fi, err := os.Stat(mine); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v (%v)", fi.Mode(), err)
	}
	if err := os.Chmod(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := spoolDir(a); err == nil || !strings.Contains(err.Error(), "decoder.spool_dir") {
		t.Errorf("a folder open to all: %v", err)
	}
	if err := os.Remove(mine); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), mine); err != nil {
		t.Fatal(err)
	}
	if _, err := spoolDir(a); err == nil {
		t.Error("a link to somewhere else is taken")
	}
	a.Decoder.SpoolDir = "/somewhere"
	if dir, err := spoolDir(a); err != nil || dir != "/somewhere" {
		t.Errorf("configured: %s (%v)", dir, err)
	}
}

// A page of the demo takes the place of the start page, which stays at /status;
// a server without one has no tokens to give.
func TestDemoTakesTheStartPage(t *testing.T) {
	said := func(more devserver.Routes, path string) string {
		t.Helper()
		w := httptest.NewRecorder()
		newMux(newHealth(), startPage{Version: "millrace x"}, nil, more).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	demo := devserver.Routes{"GET /{$}": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the app") })}
	for _, tc := range []struct {
		more       devserver.Routes
		path, want string
	}{
		{demo, "/", "200 the app"},
		{demo, "/status", "millrace x"},
		{demo, "/console/", "millrace x"},
		{nil, "/", "millrace x"},
		{nil, "/demo/session?user=alice", "404 "},
	} {
		if got := said(tc.more, tc.path); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s, want %s", tc.path, got, tc.want)
		}
	}
}

func TestProbes(t *testing.T) {
	h := newHealth()
	s := httptest.NewServer(newMux(h, startPage{Version: "millrace x", Rules: "<r>", Sidecar: pageDatabase{"sidecar", "postgres://h/m"}}, nil, nil))
	defer s.Close()
	check := func(probe string, want int, says string) {
		t.Helper()
		res, err := http.Get(s.URL + probe)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != want || !strings.Contains(body.String(), says) {
			t.Errorf("%s: %d %s, want %d %s", probe, res.StatusCode, &body, want, says)
		}
	}
	check("/probes/liveness", http.StatusOK, "alive")
	check("/probes/startup", http.StatusServiceUnavailable, "it is starting")
	check("/probes/readiness", http.StatusServiceUnavailable, "it is starting")
	check("/", http.StatusOK, "&lt;r&gt;")
	check("/status", http.StatusOK, "&lt;r&gt;")
	h.set("decoding", "")
	check("/probes/startup", http.StatusOK, "started")
	check("/probes/readiness", http.StatusOK, "decoding")
	h.report(millrace.SourceReport{Source: 1, Error: "wal_level is <replica>"})
	check("/probes/readiness", http.StatusOK, `"problems":["wal_level is \u003creplica\u003e"]`)
	check("/", http.StatusOK, "wal_level is &lt;replica&gt;")
	h.report(millrace.SourceReport{Source: 1})
	check("/probes/readiness", http.StatusOK, `{"status":"ready","role":"decoding"}`)
	h.set("waiting", "no sidecar")
	check("/probes/startup", http.StatusOK, "started")
	check("/probes/readiness", http.StatusServiceUnavailable, "no sidecar")
	check("/", http.StatusOK, "no sidecar")
	check("/sync/stream", http.StatusNotFound, "no relay (--role decoder)")
	h.clients = func() error { return errors.New("no rules") }
	h.set("decoding", "")
	check("/probes/readiness", http.StatusServiceUnavailable, "clients cannot be served: no rules")
	h.clients = nil
	h.set("waiting", "no sidecar")
	if out, _, code := run(t, "probe", s.URL+"/probes/liveness"); code != exitOK || !strings.Contains(out, "alive") {
		t.Errorf("probe: %d %s", code, out)
	}
	if _, errOut, code := run(t, "probe", s.URL+"/probes/readiness"); code != exitFinding || !strings.Contains(errOut, "no sidecar") {
		t.Errorf("probe: %d %s", code, errOut)
	}
}
