// Package config reads millrace.yaml and the MILLRACE_… environment into a
// checked Config. It starts nothing and connects to nothing; every error names
// the key and, where there is one, the file, line and column.
package config

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"time"
)

// Config is the whole configuration, defaults filled in. Printing it in any
// way shows no secret: URIs and keys mask themselves.
type Config struct {
	// Sources are the Postgres databases that are synced; at least one.
	Sources []Source `yaml:"sources"`
	Sidecar Sidecar  `yaml:"sidecar"`
	// Rules is the file of the sync rules. A relative path is relative to the
	// configuration file. Defaults to sync.yaml.
	Rules string `yaml:"rules"`
	// RulesKeep is how long a replaced rule set stays ready for roll-back.
	// Defaults to 1h.
	RulesKeep time.Duration `yaml:"rules_keep"`
	// WriteCheckpointSources are the names of the sources a write checkpoint
	// waits for. Defaults to all.
	WriteCheckpointSources []string   `yaml:"write_checkpoint_sources"`
	Relay                  Relay      `yaml:"relay"`
	Auth                   Auth       `yaml:"auth"`
	Decoder                Decoder    `yaml:"decoder"`
	Compaction             Compaction `yaml:"compaction"`
	History                History    `yaml:"history"`
	Telemetry              Telemetry  `yaml:"telemetry"`
	API                    API        `yaml:"api"`

	// Warnings are findings that stop nothing, such as an environment
	// variable that looks like a misspelt key.
	Warnings []string `yaml:"-"`
}

// Source is one source Postgres.
type Source struct {
	// Name tells sources apart, and is a connection tag that rules may use.
	// Defaults to main for a single source.
	Name string `yaml:"name"`
	URI  URI    `yaml:"uri"`
	// Tags are further connection tags that mean the source. Several sources
	// may share one: rules then read a table from each of them. Tables that
	// rules name without a tag have the tag default, which belongs to the first
	// source unless it is given to any.
	Tags []string `yaml:"tags"`
	// Slot is the logical replication slot, for this sidecar alone. Defaults
	// to millrace_<name>.
	Slot string `yaml:"slot"`
	// Failover keeps the slot on standbys too (PostgreSQL 17 and newer), so that
	// a promoted one goes on where the primary was. Defaults to false.
	Failover bool `yaml:"failover"`
	// Publication is created and extended by Millrace if the role may.
	// Defaults to millrace.
	Publication string `yaml:"publication"`
}

// Sidecar is the Postgres database that Millrace owns.
type Sidecar struct {
	URI URI `yaml:"uri"`
	// ReadURI is a streaming replica for the relay's reads; empty reads from
	// URI.
	ReadURI URI `yaml:"read_uri"`
}

// Relay is the part that clients connect to.
type Relay struct {
	// Listen is the address of the HTTP server. Defaults to 0.0.0.0:8080.
	Listen string `yaml:"listen"`
	// MaxConnections limits clients. Defaults to 20000.
	MaxConnections int64 `yaml:"max_connections"`
	// MaxConnectionsPerUser limits clients of one user (the token's sub).
	// Defaults to 1000.
	MaxConnectionsPerUser int64 `yaml:"max_connections_per_user"`
	// ConnectsPerAddress limits requests a second from one client address, ten
	// seconds' worth at once; 0 is no limit. Behind a proxy, name it in
	// TrustedProxies. Defaults to 0.
	ConnectsPerAddress int64 `yaml:"connects_per_address"`
	// TrustedProxies are networks (CIDR) of proxies whose X-Forwarded-For is
	// believed.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// MaxBucketsPerUser limits distinct buckets. Defaults to 10000.
	MaxBucketsPerUser int64 `yaml:"max_buckets_per_user"`
	// MaxRequestBytes limits a request after authentication; 1 MiB before.
	// Defaults to 16MiB.
	MaxRequestBytes Bytes `yaml:"max_request_bytes"`
	// NodeMax is the largest checkpoint that is pushed; larger ones reach
	// clients by catch-up pages. Defaults to 8MiB.
	NodeMax Bytes `yaml:"node_max"`
	// MaxFollowed limits the bucket subscriptions held in memory. Defaults to
	// 20000000.
	MaxFollowed int64 `yaml:"max_followed"`
}

// Auth says which tokens are accepted.
type Auth struct {
	// JWKSURIs are remote key sets.
	JWKSURIs []string `yaml:"jwks_uris"`
	// JWKSAllowPrivate lets them be at private, loopback and link-local
	// addresses. Defaults to false.
	JWKSAllowPrivate bool `yaml:"jwks_allow_private"`
	// Keys are JWKs; "oct" for HS256 included.
	Keys []JWK `yaml:"keys"`
	// Supabase accepts the tokens of a project there, with audience
	// "authenticated".
	Supabase Supabase `yaml:"supabase"`
	// Audience lists the accepted audiences. Defaults to millrace.
	Audience []string `yaml:"audience"`
	// Issuer must match if it is not empty.
	Issuer string `yaml:"issuer"`
	// MaxTokenLifetime refuses tokens that live longer. Defaults to 24h.
	MaxTokenLifetime time.Duration `yaml:"max_token_lifetime"`
}

// Supabase is a project whose users' tokens are accepted.
type Supabase struct {
	// Project is the reference in its address: its key set verifies tokens.
	Project string `yaml:"project"`
	// JWTSecret is its legacy secret, which signs with HS256.
	JWTSecret Token `yaml:"jwt_secret"`
}

// Decoder is the part that reads the sources.
type Decoder struct {
	// BatchMaxBytes is the memory for one source transaction; a larger one
	// goes through a spool file. Defaults to 8MiB.
	BatchMaxBytes Bytes `yaml:"batch_max_bytes"`
	// SpoolDir is the folder of spool files, for this sidecar alone. A relative
	// path is relative to the configuration file. Defaults to one in the
	// system's temporary folder.
	SpoolDir string `yaml:"spool_dir"`
	// SpoolMax is the largest source transaction; beyond it the source stops.
	// Defaults to 20GiB.
	SpoolMax Bytes `yaml:"spool_max"`
	// SnapshotWorkers is how many tables are copied at a time. Defaults to 2.
	SnapshotWorkers int64 `yaml:"snapshot_workers"`
	// SnapshotRate is how much is read of tables that are copied, for each
	// source, in a second; 0 is any amount. Defaults to 0.
	SnapshotRate Bytes `yaml:"snapshot_rate"`
	// SlotMaxLag drops the slot when it holds back more WAL than this, to
	// save the source's disk; 0 never does. Defaults to 0.
	SlotMaxLag Bytes `yaml:"slot_max_lag"`
	// Heartbeat is how often an idle source is sent a message, so that the
	// slot moves on; 0 never does. Defaults to 60s.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// OnDrop says what becomes of a dropped table's rows: remove or keep.
	// Defaults to remove.
	OnDrop string `yaml:"on_drop"`
	// SuppressUnchanged skips ops of updates that change nothing. Defaults to
	// false.
	SuppressUnchanged bool `yaml:"suppress_unchanged"`
}

// Compaction is the upkeep of history.
type Compaction struct {
	// Interval is how often it runs. Defaults to 1m.
	Interval time.Duration `yaml:"interval"`
	// Horizon is the age from which ops may be compacted. Defaults to 10m.
	Horizon time.Duration `yaml:"horizon"`
	// Defragment appends old rows of a bucket again, once a day, where much more
	// was superseded than is left: devices fetch those rows once more. Defaults
	// to true.
	Defragment bool `yaml:"defragment"`
}

// History is what stays explainable.
type History struct {
	// Keep is how long removed rows can be explained. Defaults to 7d.
	Keep time.Duration `yaml:"keep"`
}

// Telemetry is what is told to operators.
type Telemetry struct {
	// MetricsListen is an address of its own for Prometheus metrics. Empty
	// serves them beside everything else, at /metrics.
	MetricsListen string `yaml:"metrics_listen"`
	// OTLPEndpoint is the URL of an OpenTelemetry collector that receives traces,
	// by OTLP over HTTP. Empty is off.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// TraceSample is the share of traces that are recorded, from 0 to 1. Defaults
	// to 0.05.
	TraceSample float64 `yaml:"trace_sample"`
	// LogFormat is text or json. Defaults to text.
	LogFormat string `yaml:"log_format"`
	// LogLevel is the least that is logged: debug, info, warn or error.
	// Defaults to info.
	LogLevel string `yaml:"log_level"`
}

// API is the admin API, for scripts and dashboards.
type API struct {
	// Tokens open it, at least 16 characters each; without one it is closed.
	Tokens []Token `yaml:"tokens"`
}

// JWK is a JSON Web Key as JSON text. It may be secret and prints masked.
type JWK json.RawMessage

// String hides the key.
func (JWK) String() string { return mask }

// GoString hides the key.
func (JWK) GoString() string { return mask }

// MarshalText hides the key.
func (JWK) MarshalText() ([]byte, error) { return []byte(mask), nil }

// Default is the configuration without sources and sidecar. All defaults are
// here, but for those that depend on other keys (slot, source name).
func Default() Config {
	return Config{
		Rules:     "sync.yaml",
		RulesKeep: time.Hour,
		Relay: Relay{
			Listen:                "0.0.0.0:8080",
			MaxConnections:        20_000,
			MaxConnectionsPerUser: 1000,
			MaxBucketsPerUser:     10_000,
			MaxRequestBytes:       16 << 20,
			NodeMax:               8 << 20,
			MaxFollowed:           20_000_000,
		},
		Auth: Auth{
			Audience:         []string{"millrace"},
			MaxTokenLifetime: 24 * time.Hour,
		},
		Decoder: Decoder{
			BatchMaxBytes:   8 << 20,
			SpoolMax:        20 << 30,
			SnapshotWorkers: 2,
			Heartbeat:       time.Minute,
			OnDrop:          "remove",
		},
		Compaction: Compaction{Interval: time.Minute, Horizon: 10 * time.Minute, Defragment: true},
		History:    History{Keep: 7 * 24 * time.Hour},
		Telemetry:  Telemetry{LogFormat: "text", LogLevel: "info", TraceSample: 0.05},
	}
}

// derive fills what depends on other keys.
func (c *Config) derive(file string) {
	for i := range c.Sources {
		s := &c.Sources[i]
		if s.Name == "" && len(c.Sources) == 1 {
			s.Name = "main"
		}
		if s.Slot == "" && s.Name != "" {
			s.Slot = slotName(s.Name)
		}
		if s.Publication == "" {
			s.Publication = "millrace"
		}
	}
	for _, path := range []*string{&c.Rules, &c.Decoder.SpoolDir} {
		if file != "" && *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
	}
	c.deriveTags()
	if len(c.WriteCheckpointSources) == 0 {
		for _, s := range c.Sources {
			c.WriteCheckpointSources = append(c.WriteCheckpointSources, s.Name)
		}
	}
}

// defaultTag is the connection of tables that rules name without one.
const defaultTag = "default"

// deriveTags gives every source its name as a tag, and the default tag to the
// first if no source has it.
func (c *Config) deriveTags() {
	taken := false
	for i := range c.Sources {
		s := &c.Sources[i]
		if s.Name != "" && !slices.Contains(s.Tags, s.Name) {
			s.Tags = append([]string{s.Name}, s.Tags...)
		}
		taken = taken || slices.Contains(s.Tags, defaultTag)
	}
	if !taken && len(c.Sources) > 0 {
		c.Sources[0].Tags = append(c.Sources[0].Tags, defaultTag)
	}
}
