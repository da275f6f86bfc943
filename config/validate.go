package config

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	sourceName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,39}$`)
	slotPattern = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	notInSlots  = regexp.MustCompile(`[^a-z0-9_]`)
)

// minToken is the least length of a token that opens the admin API.
const minToken = 16

// slotName is the default slot of a source.
func slotName(source string) string {
	return "millrace_" + notInSlots.ReplaceAllString(strings.ToLower(source), "_")
}

func (d *decoder) validate(c *Config) {
	d.validateDatabases(c)
	if c.Rules == "" {
		d.fail("rules", "", "the path of the rules file is missing")
	}
	for i, name := range c.WriteCheckpointSources {
		if !slices.ContainsFunc(c.Sources, func(s Source) bool { return s.Name == name }) {
			d.fail(fmt.Sprintf("write_checkpoint_sources[%d]", i), "name an entry of sources", "there is no source %q", name)
		}
	}
	d.validateRelay(&c.Relay)
	d.validateAuth(&c.Auth)
	d.validateDecoder(&c.Decoder)
	d.atLeast("compaction.interval", c.Compaction.Interval, time.Second)
	d.atLeast("history.keep", c.History.Keep, time.Minute)
	d.oneOf("telemetry.log_format", c.Telemetry.LogFormat, "text", "json")
	d.oneOf("telemetry.log_level", c.Telemetry.LogLevel, "debug", "info", "warn", "error")
	if c.Telemetry.MetricsListen != "" {
		d.address("telemetry.metrics_listen", c.Telemetry.MetricsListen)
	}
	for i, t := range c.API.Tokens {
		if len(t) < minToken {
			d.fail(fmt.Sprintf("api.tokens[%d]", i), "openssl rand -hex 32 makes one", "the token is shorter than %d characters", minToken)
		}
	}
	if u := c.Telemetry.OTLPEndpoint; u != "" && !isHTTP(u) {
		d.fail("telemetry.otlp_endpoint", "", "%q is no http(s) URL", u)
	}
	if s := c.Telemetry.TraceSample; !(s >= 0 && s <= 1) { // NaN included
		d.fail("telemetry.trace_sample", "it is the share of traces that are recorded: 0.05 is one of twenty", "%v is not between 0 and 1", s)
	}
}

func (d *decoder) validateDatabases(c *Config) {
	if len(c.Sources) == 0 {
		d.fail("sources", "add `sources: [{name: main, uri: postgres://…}]` or set MILLRACE_SOURCES_0_URI", "there is no source database")
	}
	sidecar := d.database("sidecar.uri", c.Sidecar.URI, "MILLRACE_SIDECAR_URI")
	if c.Sidecar.ReadURI != "" {
		d.database("sidecar.read_uri", c.Sidecar.ReadURI, "")
	}
	names, slots := make(map[string]bool), make(map[string]bool)
	for i := range c.Sources {
		s, key := &c.Sources[i], fmt.Sprintf("sources[%d]", i)
		switch {
		case s.Name == "":
			d.fail(key+".name", "several sources need a name each", "the name is missing")
		case !sourceName.MatchString(s.Name):
			d.fail(key+".name", "letters, digits, _ and -, starting with a letter, at most 40", "%q cannot be a source's name", s.Name)
		case names[s.Name]:
			d.fail(key+".name", "", "there are two sources named %q", s.Name)
		}
		names[s.Name] = true
		for j, tag := range s.Tags {
			if tag != s.Name && !sourceName.MatchString(tag) {
				d.fail(fmt.Sprintf("%s.tags[%d]", key, j), "letters, digits, _ and -, starting with a letter, at most 40", "%q cannot be a connection tag", tag)
			}
		}
		if s.Name != "" && !slotPattern.MatchString(s.Slot) {
			d.fail(key+".slot", "lower-case letters, digits and _, at most 63", "%q cannot be the name of a replication slot", s.Slot)
		}
		if len(s.Publication) > 63 {
			d.fail(key+".publication", "", "the name is longer than 63 bytes")
		}
		db := d.database(key+".uri", s.URI, fmt.Sprintf("MILLRACE_SOURCES_%d_URI", i))
		if db == "" {
			continue
		}
		if db == sidecar {
			d.fail("sidecar.uri", "create a database for Millrace alone, on the same server or another", "the sidecar is the same database as source %q, and Millrace never writes to a source", s.Name)
		}
		if slots[db+" "+s.Slot] {
			d.fail(key+".slot", "give each source a slot of its own", "another source uses slot %q of the same database", s.Slot)
		}
		slots[db+" "+s.Slot] = true
	}
}

// database checks a connection string and returns a text that is equal for
// equal databases, as far as names tell; empty after an error.
func (d *decoder) database(key string, uri URI, env string) string {
	if uri == "" {
		d.fail(key, "set it here or as "+env, "the connection string is missing")
		return ""
	}
	pc, err := pgconn.ParseConfig(string(uri))
	if err != nil {
		// The library's message may quote parts of the string.
		d.fail(key, "for example postgres://user:password@host:5432/database", "%s is no Postgres connection string", uri)
		return ""
	}
	return fmt.Sprintf("%s:%d/%s", pc.Host, pc.Port, pc.Database)
}

func (d *decoder) validateRelay(r *Relay) {
	d.address("relay.listen", r.Listen)
	for _, n := range []struct {
		key   string
		value int64
	}{
		{"relay.max_connections", r.MaxConnections},
		{"relay.max_connections_per_user", r.MaxConnectionsPerUser},
		{"relay.max_buckets_per_user", r.MaxBucketsPerUser},
		{"relay.max_request_bytes", int64(r.MaxRequestBytes)},
		{"relay.node_max", int64(r.NodeMax)},
		{"relay.max_followed", r.MaxFollowed},
	} {
		if n.value <= 0 {
			d.fail(n.key, "", "must be greater than 0")
		}
	}
	if r.ConnectsPerAddress < 0 || r.ConnectsPerAddress > 1_000_000 {
		d.fail("relay.connects_per_address", "0 is no limit", "must be between 0 and 1000000")
	}
	for i, p := range r.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			d.fail(fmt.Sprintf("relay.trusted_proxies[%d]", i), "a network as 10.0.0.0/8, or 192.0.2.7/32 for one address", "%q is no network", p)
		}
	}
}

var projectName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (d *decoder) validateAuth(a *Auth) {
	for i, u := range a.JWKSURIs {
		if !isHTTP(u) {
			d.fail(fmt.Sprintf("auth.jwks_uris[%d]", i), "", "%q is no http(s) URL", u)
		}
	}
	for i, k := range a.Keys {
		key := fmt.Sprintf("auth.keys[%d]", i)
		var jwk struct{ Kty, K string }
		if err := json.Unmarshal(k, &jwk); err != nil || jwk.Kty == "" {
			d.fail(key, "", "the key has no kty")
		} else if jwk.Kty == "oct" && jwk.K == "" {
			d.fail(key, "k is the secret in base64url", "the key has no k")
		}
	}
	if p := a.Supabase.Project; p != "" && !projectName.MatchString(p) {
		d.fail("auth.supabase.project", "it is the part before .supabase.co", "%q is no reference of a project", p)
	}
	if n := len(a.Supabase.JWTSecret); n > 0 && n < 16 {
		d.fail("auth.supabase.jwt_secret", "it is shown in the project's JWT settings", "a secret of %d characters; at least 16 are needed", n)
	}
	if len(a.Audience) == 0 {
		d.fail("auth.audience", "", "at least one audience is needed")
	}
	d.atLeast("auth.max_token_lifetime", a.MaxTokenLifetime, time.Minute)
}

func (d *decoder) validateDecoder(c *Decoder) {
	const minBatch, maxBatch, maxWorkers = Bytes(64 << 10), Bytes(1 << 30), 32
	if c.BatchMaxBytes < minBatch || c.BatchMaxBytes > maxBatch {
		d.fail("decoder.batch_max_bytes", "", "must be from %v to %v", minBatch, maxBatch)
	}
	if c.SpoolMax < c.BatchMaxBytes {
		d.fail("decoder.spool_max", "", "must be at least batch_max_bytes (%v)", c.BatchMaxBytes)
	}
	if c.SnapshotWorkers < 1 || c.SnapshotWorkers > maxWorkers {
		d.fail("decoder.snapshot_workers", "", "must be from 1 to %d", maxWorkers)
	}
	if least := Bytes(64 << 10); c.SnapshotRate != 0 && c.SnapshotRate < least {
		d.fail("decoder.snapshot_rate", "0 reads at full speed", "must be 0 or at least %v", least)
	}
	if least := Bytes(64 << 20); c.SlotMaxLag != 0 && c.SlotMaxLag < least {
		d.fail("decoder.slot_max_lag", "0 never drops a slot", "must be 0 or at least %v", least)
	}
	if c.Heartbeat != 0 && c.Heartbeat < time.Second {
		d.fail("decoder.heartbeat", "0s writes nothing to an idle source", "must be 0s or at least %v", time.Second)
	}
	d.oneOf("decoder.on_drop", c.OnDrop, "remove", "keep")
}

func (d *decoder) atLeast(key string, got, least time.Duration) {
	if got < least {
		d.fail(key, "", "must be at least %v", least)
	}
}

func (d *decoder) oneOf(key, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		d.fail(key, "", "%q is not one of %s", got, strings.Join(allowed, ", "))
	}
}

func (d *decoder) address(key, address string) {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		d.fail(key, "for example 0.0.0.0:8080", "%q is no address with a port", address)
	}
}

func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
