package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const minimal = `
sources:
  - uri: postgres://u:secret@src/app
sidecar: {uri: postgres://u:secret@side/millrace}
`

func parse(t *testing.T, src string, env ...string) *Config {
	t.Helper()
	cfg, err := Parse("/etc/millrace.yaml", []byte(src), env)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	got := parse(t, minimal)
	want := Default()
	want.Sources = []Source{{Name: "main", URI: "postgres://u:secret@src/app", Tags: []string{"main", "default"}, Slot: "millrace_main", Publication: "millrace"}}
	want.Sidecar.URI = "postgres://u:secret@side/millrace"
	want.Rules = "/etc/sync.yaml"
	want.WriteCheckpointSources = []string{"main"}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKey(t *testing.T) {
	got := parse(t, `
# everything set
sources:
  - {name: a, tags: [default, shop], uri: 'host=src dbname=a', slot: s_a, publication: p}
  - &second {name: B-2, tags: [shop], uri: !env SECOND}
sidecar: { uri: postgres://side/millrace, read_uri: postgres://replica/millrace }
rules: /rules/sync.yaml
rules_keep: 2h
write_checkpoint_sources: [a]
relay:
  listen: 127.0.0.1:9
  max_connections: 20_000
  max_buckets_per_user: 5
  max_request_bytes: 1MB
  node_max: 1KiB
  max_followed: 7
  max_connections_per_user: 3
  connects_per_address: 50
  trusted_proxies: [10.0.0.0/8]
auth:
  jwks_uris: [https://id.example/keys]
  keys:
    - {kty: oct, alg: HS256, k: !env KEY, kid: dev, key_ops: [sign, verify]}
    - '{"kty":"OKP"}'
  supabase: {project: abcdefghijklmnopqrst, jwt_secret: !env SUPABASE}
  audience: [x, y]
  issuer: me
  max_token_lifetime: 1d12h
decoder: { batch_max_bytes: 64KiB, spool_dir: spool, spool_max: 1TiB, snapshot_workers: 3, snapshot_rate: 20MiB, slot_max_lag: 5 GiB, heartbeat: 1s, on_drop: keep, suppress_unchanged: true }
compaction: { interval: 2m, horizon: 0s }
history: { keep: 1d }
api: { tokens: [!env API_TOKEN] }
telemetry: { metrics_listen: ":9090", otlp_endpoint: "http://otel:4318", trace_sample: 0.5, log_format: json, log_level: warn }
`, "SECOND=postgres://two/b", "KEY=c2VjcmV0", "API_TOKEN=0123456789abcdef", "SUPABASE=super-secret-jwt-token")
	want := &Config{
		Sources: []Source{
			{Name: "a", URI: "host=src dbname=a", Tags: []string{"a", "default", "shop"}, Slot: "s_a", Publication: "p"},
			{Name: "B-2", URI: "postgres://two/b", Tags: []string{"B-2", "shop"}, Slot: "millrace_b_2", Publication: "millrace"},
		},
		Sidecar:                Sidecar{URI: "postgres://side/millrace", ReadURI: "postgres://replica/millrace"},
		Rules:                  "/rules/sync.yaml",
		RulesKeep:              2 * time.Hour,
		WriteCheckpointSources: []string{"a"},
		Relay:                  Relay{Listen: "127.0.0.1:9", MaxConnections: 20000, MaxConnectionsPerUser: 3, ConnectsPerAddress: 50, TrustedProxies: []string{"10.0.0.0/8"}, MaxBucketsPerUser: 5, MaxRequestBytes: 1e6, NodeMax: 1024, MaxFollowed: 7},
		Auth: Auth{
			JWKSURIs: []string{"https://id.example/keys"},
			Keys: []JWK{
				JWK(`{"alg":"HS256","k":"c2VjcmV0","key_ops":["sign","verify"],"kid":"dev","kty":"oct"}`),
				JWK(`{"kty":"OKP"}`),
			},
			Supabase: Supabase{Project: "abcdefghijklmnopqrst", JWTSecret: "super-secret-jwt-token"},
			Audience: []string{"x", "y"}, Issuer: "me", MaxTokenLifetime: 36 * time.Hour,
		},
		Decoder:    Decoder{BatchMaxBytes: 64 << 10, SpoolDir: "/etc/spool", SpoolMax: 1 << 40, SnapshotWorkers: 3, SnapshotRate: 20 << 20, SlotMaxLag: 5 << 30, Heartbeat: time.Second, OnDrop: "keep", SuppressUnchanged: true},
		Compaction: Compaction{Interval: 2 * time.Minute, Defragment: true},
		History:    History{Keep: 24 * time.Hour},
		API:        API{Tokens: []Token{"0123456789abcdef"}},
		Telemetry:  Telemetry{MetricsListen: ":9090", OTLPEndpoint: "http://otel:4318", TraceSample: 0.5, LogFormat: "json", LogLevel: "warn"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentWins(t *testing.T) {
	got := parse(t, minimal+"relay: {listen: ':1'}\n",
		"MILLRACE_RELAY_LISTEN=:2",
		"MILLRACE_SOURCES_0_SLOT=other",
		"MILLRACE_SOURCES_0_NAME=first",
		"MILLRACE_SOURCES_1_URI=postgres://new/db",
		"MILLRACE_SOURCES_1_NAME=second",
		"MILLRACE_SIDECAR_READ_URI=postgres://replica/millrace",
		"MILLRACE_AUTH_AUDIENCE=a, b,",
		`MILLRACE_AUTH_KEYS=[{"kty":"oct","k":"eA"}]`,
		"MILLRACE_DECODER_HEARTBEAT=5s",
		"MILLRACE_DECODER_SUPPRESS_UNCHANGED=true",
	)
	want := Default()
	want.Sources = []Source{
		{Name: "first", URI: "postgres://u:secret@src/app", Tags: []string{"first", "default"}, Slot: "other", Publication: "millrace"},
		{Name: "second", URI: "postgres://new/db", Tags: []string{"second"}, Slot: "millrace_second", Publication: "millrace"},
	}
	want.Sidecar = Sidecar{URI: "postgres://u:secret@side/millrace", ReadURI: "postgres://replica/millrace"}
	want.Rules = "/etc/sync.yaml"
	want.WriteCheckpointSources = []string{"first", "second"}
	want.Relay.Listen = ":2"
	want.Auth.Audience = []string{"a", "b"}
	want.Auth.Keys = []JWK{JWK(`{"kty":"oct","k":"eA"}`)}
	want.Decoder.Heartbeat = 5 * time.Second
	want.Decoder.SuppressUnchanged = true
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentAlone(t *testing.T) {
	cfg, err := Load("", []string{"MILLRACE_SOURCES_0_URI=postgres://src/app", "MILLRACE_SIDECAR_URI=postgres://side/millrace"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Sources[0].Slot != "millrace_main" || cfg.Rules != "sync.yaml" {
		t.Errorf("got %+v", cfg)
	}
}

func TestMisspeltVariablesAreWarnedOf(t *testing.T) {
	got := parse(t, minimal,
		"MILLRACE_SIDECAR_URL=x",
		"MILLRACE_SERVICE_HOST=10.0.0.1", "MILLRACE_PORT_8080_TCP=tcp://10.0.0.1", // Kubernetes
		"MILLRACE_PG_BIN=/x", "OTHER=1")
	want := []string{"the environment variable MILLRACE_SIDECAR_URL sets nothing; did you mean MILLRACE_SIDECAR_URI?"}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestFindings(t *testing.T) {
	const src = "sources: [{uri: 'postgres://src/app'}]\nsidecar: {uri: 'postgres://side/m'}\n"
	for _, tc := range []struct {
		name, src string
		env       []string
		want      string
	}{
		{"unknown key", src + "relay:\n  lissten: x\n", nil,
			`m.yaml:4:3: error: relay.lissten: unknown key (did you mean "listen"?)`},
		{"unknown key, nothing near", src + "relay: {zzz: 1}\n", nil,
			`m.yaml:3:9: error: relay.zzz: unknown key (known here: listen, max_connections, max_connections_per_user, connects_per_address, trusted_proxies, max_buckets_per_user, max_request_bytes, node_max, max_followed)`},
		{"key twice", src + "rules: a\nrules: b\n", nil,
			`m.yaml:4:1: error: rules: the key is there twice`},
		{"not yaml", "a: [1,\nb: }\n", nil,
			`m.yaml:2:5: error: not valid YAML: did not find expected node content`},
		{"two documents", src + "---\nrules: x\n", nil,
			`m.yaml: error: the file holds several YAML documents (remove the --- lines but the first)`},
		{"a list is no configuration", "[1]\n", nil,
			`m.yaml: error: keys with values are needed here`},
		{"struct needed", src + "relay: 7\n", nil,
			`m.yaml:3:8: error: relay: keys with values are needed here`},
		{"list needed", src + "auth: {audience: x}\n", nil,
			`m.yaml:3:18: error: auth.audience: a list is needed here (write it as [a, b] or as lines that start with -)`},
		{"scalar needed", src + "rules: [x]\n", nil,
			`m.yaml:3:8: error: rules: a single value is needed here`},
		{"bad duration", src + "rules_keep: 5 days\n", nil,
			`m.yaml:3:13: error: rules_keep: "5 days" is no time span such as 60s, 10m, 1h or 7d`},
		{"negative duration", src + "rules_keep: -5m\n", nil,
			`m.yaml:3:13: error: rules_keep: "-5m" is negative`},
		{"bad size", src + "decoder: {batch_max_bytes: 8 Mib}\n", nil,
			`m.yaml:3:28: error: decoder.batch_max_bytes: "8 Mib" is no size such as 8MiB or 20GiB`},
		{"bad bool", src + "decoder: {suppress_unchanged: yes}\n", nil,
			`m.yaml:3:31: error: decoder.suppress_unchanged: "yes" is neither true nor false`},
		{"bad number", src + "relay: {max_connections: many}\n", nil,
			`m.yaml:3:26: error: relay.max_connections: "many" is no whole number`},
		{"env not set", src + "rules: !env NOPE\n", nil,
			`m.yaml:3:8: error: rules: the environment variable "NOPE" is not set (set it, or write the value here)`},
		{"unknown tag", src + "rules: !file x\n", nil,
			`m.yaml:3:8: error: rules: unknown tag !file (only !env NAME is known)`},
		{"bad value from the environment", src, []string{"MILLRACE_DECODER_HEARTBEAT=soon"},
			`MILLRACE_DECODER_HEARTBEAT: error: decoder.heartbeat: "soon" is no time span such as 60s, 10m, 1h or 7d`},
		{"bad keys from the environment", src, []string{"MILLRACE_AUTH_KEYS=secret"},
			`MILLRACE_AUTH_KEYS: error: auth.keys: a JSON array of JSON Web Keys is needed here (for example [{"kty":"oct","alg":"HS256","k":"…","kid":"dev"}])`},
		{"no source, no sidecar", "", nil, "" +
			"m.yaml: error: sources: there is no source database (add `sources: [{name: main, uri: postgres://…}]` or set MILLRACE_SOURCES_0_URI)\n" +
			"m.yaml: error: sidecar.uri: the connection string is missing (set it here or as MILLRACE_SIDECAR_URI)"},
		{"bad uri hides its password", "sources: [{uri: 'postgres://u:se/cr@et@h:port/db'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:17: error: sources[0].uri: postgres://xxxxx@h:port/db is no Postgres connection string (for example postgres://user:password@host:5432/database)`},
		{"sidecar is the source", "sources: [{uri: 'postgres://u@h/db'}]\nsidecar: {uri: 'host=h dbname=db'}\n", nil,
			`m.yaml:2:16: error: sidecar.uri: the sidecar is the same database as source "main", and Millrace never writes to a source (create a database for Millrace alone, on the same server or another)`},
		{"several sources need names", "sources: [{uri: 'postgres://a/a'}, {name: a, uri: 'postgres://b/b'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:11: error: sources[0].name: the name is missing (several sources need a name each)`},
		{"name twice", "sources: [{name: a, uri: 'postgres://a/a'}, {name: a, uri: 'postgres://b/b'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:52: error: sources[1].name: there are two sources named "a"`},
		{"slot twice", "sources: [{name: a, slot: x, uri: 'postgres://a/a'}, {name: b, slot: x, uri: 'postgres://a/a'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:70: error: sources[1].slot: another source uses slot "x" of the same database (give each source a slot of its own)`},
		{"bad name", "sources: [{name: '1 a', uri: 'postgres://a/a'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:18: error: sources[0].name: "1 a" cannot be a source's name (letters, digits, _ and -, starting with a letter, at most 40)`},
		{"bad slot", "sources: [{slot: A-b, uri: 'postgres://a/a'}]\nsidecar: {uri: 'postgres://side/m'}\n", nil,
			`m.yaml:1:18: error: sources[0].slot: "A-b" cannot be the name of a replication slot (lower-case letters, digits and _, at most 63)`},
		{"unknown source waited for", src + "write_checkpoint_sources: [x]\n", nil,
			`m.yaml:3:28: error: write_checkpoint_sources[0]: there is no source "x" (name an entry of sources)`},
		{"bad listen", src + "relay: {listen: '8080'}\n", nil,
			`m.yaml:3:17: error: relay.listen: "8080" is no address with a port (for example 0.0.0.0:8080)`},
		{"spool smaller than batch", src + "decoder: {spool_max: 1MiB}\n", nil,
			`m.yaml:3:22: error: decoder.spool_max: must be at least batch_max_bytes (8MiB)`},
		{"supabase", src + "auth: {supabase: {project: 'https://x.supabase.co', jwt_secret: short}}\n", nil,
			"m.yaml:3:28: error: auth.supabase.project: \"https://x.supabase.co\" is no reference of a project (it is the part before .supabase.co)\nm.yaml:3:65: error: auth.supabase.jwt_secret: a secret of 5 characters; at least 16 are needed (it is shown in the project's JWT settings)"},
		{"snapshot rate", src + "decoder: {snapshot_rate: 1KiB}\n", nil,
			`m.yaml:3:26: error: decoder.snapshot_rate: must be 0 or at least 64KiB (0 reads at full speed)`},
		{"workers", src + "decoder: {snapshot_workers: 0}\n", nil,
			`m.yaml:3:29: error: decoder.snapshot_workers: must be from 1 to 32`},
		{"heartbeat", src + "decoder: {heartbeat: 10ms}\n", nil,
			`m.yaml:3:22: error: decoder.heartbeat: must be 0s or at least 1s (0s writes nothing to an idle source)`},
		{"on_drop", src + "decoder: {on_drop: ignore}\n", nil,
			`m.yaml:3:20: error: decoder.on_drop: "ignore" is not one of remove, keep`},
		{"zero limit", src + "relay: {node_max: 0}\n", nil,
			`m.yaml:3:19: error: relay.node_max: must be greater than 0`},
		{"jwks", src + "auth: {jwks_uris: [ftp://x]}\n", nil,
			`m.yaml:3:20: error: auth.jwks_uris[0]: "ftp://x" is no http(s) URL`},
		{"share of traces above one", src + "telemetry: {trace_sample: 5}\n", nil,
			"m.yaml:3:27: error: telemetry.trace_sample: 5 is not between 0 and 1 (it is the share of traces that are recorded: 0.05 is one of twenty)"},
		{"share of traces in words", src + "telemetry: {trace_sample: some}\n", nil, `m.yaml:3:27: error: telemetry.trace_sample: "some" is no number`},
		{"key without kty", src + "auth: {keys: [{k: x}]}\n", nil,
			`m.yaml:3:15: error: auth.keys[0]: the key has no kty`},
		{"oct key without k", src + "auth: {keys: [{kty: oct}]}\n", nil,
			`m.yaml:3:15: error: auth.keys[0]: the key has no k (k is the secret in base64url)`},
		{"all at once, in order", src + "zzz: 1\nrules_keep: x\n", nil, "" +
			"m.yaml:3:1: error: zzz: unknown key (known here: sources, sidecar, rules, rules_keep, write_checkpoint_sources, relay, auth, decoder, compaction, history, telemetry, api)\n" +
			`m.yaml:4:13: error: rules_keep: "x" is no time span such as 60s, 10m, 1h or 7d`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("m.yaml", []byte(tc.src), tc.env)
			var findings Errors
			if !errors.As(err, &findings) {
				t.Fatalf("error = %v, want findings", err)
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoHeartbeat(t *testing.T) {
	cfg, err := Parse("m.yaml", []byte("sources: [{uri: 'postgres://src/app'}]\nsidecar: {uri: 'postgres://side/m'}\ndecoder: {heartbeat: 0s}\n"), nil)
	if err != nil || cfg.Decoder.Heartbeat != 0 {
		t.Errorf("%v, %v", cfg, err)
	}
}

func TestLoadMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(path, nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error = %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), "larger than 1MiB") {
		t.Errorf("error = %v", err)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	cfg := parse(t, minimal+`auth: {keys: [{kty: oct, k: secret}]}`)
	cfg.Sidecar.ReadURI = "host=h password='se cret' dbname=x"
	cfg.Sources = append(cfg.Sources,
		Source{URI: "postgres://h/db?password=secret&x=1"},
		Source{URI: "host=h sslpassword = secret"},
		Source{URI: "postgres://u:sec%%ret@h/db"})
	cfg.Auth.Supabase.JWTSecret = "secret"
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "cfg", cfg, "uri", cfg.Sidecar.URI, "key", cfg.Auth.Keys[0])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cfg", cfg, "uri", cfg.Sidecar.URI, "key", cfg.Auth.Keys[0])
	js, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v", *cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", *cfg), string(js), log.String()} {
		text = strings.ReplaceAll(text, "JWTSecret", "") // the name of a field
		if strings.Contains(text, "cret") || strings.Contains(text, "sec%") {
			t.Errorf("a secret is in %s", text)
		}
		if !strings.Contains(text, mask) {
			t.Errorf("nothing is masked in %s", text)
		}
	}
}

func TestBytesText(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "1": 1, "1B": 1, "3kB": 3000, "3 KB": 3000, "8MiB": 8 << 20, "20GiB": 20 << 30, "2TB": 2e12} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
		if back, err := ParseBytes(got.String()); err != nil || back != got {
			t.Errorf("%q prints as %q, which reads as %d (%v)", text, got, back, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "9000000TiB", "99999999999999999999", "1 2"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d", text, got)
		}
	}
}

func TestDurationText(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "60s": time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "7", "d", "1d1", "-1d", "1d-2h", "99999999999d", "40000d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(minimal, "")
	f.Add("a: &a [*a]\nsources: *a\n", "x")
	f.Add("sources: [{uri: !env X}]\nsidecar: !env X\nauth: {keys: [{k: [1, [2]]}, 7, '{}']}\n", "postgres://u:p@h/db")
	f.Add("relay: {listen: ':0'}\n? [a]\n: b\n", "")
	f.Fuzz(func(t *testing.T, src, env string) {
		cfg, err := Parse("f.yaml", []byte(src), []string{"X=" + env, "MILLRACE_DECODER_SPOOL_MAX=" + env})
		if (cfg == nil) == (err == nil) {
			t.Errorf("config %v with error %v", cfg, err)
		}
		if cfg != nil && (len(cfg.Sources) == 0 || cfg.Sidecar.URI == "") {
			t.Errorf("accepted without databases: %v", cfg)
		}
	})
}

func Example() {
	cfg, err := Parse("millrace.yaml", []byte(`
sources:
  - {name: main, uri: !env SOURCE_URI}
sidecar: {uri: "postgres://millrace@localhost/millrace"}
decoder: {batch_max_bytes: 16MiB}
`), []string{"SOURCE_URI=postgres://app:secret@localhost/app"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cfg.Sources[0].URI, cfg.Sources[0].Slot, cfg.Decoder.BatchMaxBytes)
	// Output: postgres://app:xxxxx@localhost/app millrace_main 16MiB
}
