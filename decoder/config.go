package decoder

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/millrace/millrace"
)

// Config says what a term of leadership works on. The zero value of a field
// stands for its default.
type Config struct {
	// Sources are the source servers; at least one.
	Sources []SourceConfig
	// RulesFile is the name of the rules file, for messages.
	RulesFile string
	// Rules is its content. It is deployed if this content never was.
	Rules string
	// BatchMaxBytes is how many bytes of one source transaction are kept in
	// memory before the rest goes to a spool file, and how much of evaluated
	// changes goes to the sidecar at once. Default 8 MiB.
	BatchMaxBytes int64
	// SpoolDir is where spool files go. Default: a directory in the system's
	// temporary directory.
	SpoolDir string
	// SpoolMax is how many bytes of spool files a source may take. Default 20 GiB.
	SpoolMax int64
	// SnapshotWorkers is how many connections for each source copy tables.
	// Default 2.
	SnapshotWorkers int
	// SnapshotRate is how many bytes of tables are read from each source in a
	// second, on average over chunks of some 8 MiB. Default 0, for any number.
	SnapshotRate int64
	// Heartbeat is how often a logical message is written to each source, so
	// that an idle one does not hold back WAL. Default 60 s, negative for
	// never.
	Heartbeat time.Duration
	// WriteCheckpointSources are the names of the sources a write checkpoint
	// waits for. Default: all.
	WriteCheckpointSources []string
	// SlotTimeout is how long the creation of a slot may wait for transactions
	// that are running. Default 10 min.
	SlotTimeout time.Duration
	// OnDrop says what becomes of the rows of a table that is dropped, taken out
	// of the publication or renamed to what the rules do not read: "remove" or
	// "keep". Default remove.
	OnDrop string
	// Logger takes what an operator should see. Default slog.Default.
	Logger *slog.Logger
	// Tracer records flushes, copies, deploys and what else is named in
	// AlwaysTraced. Default: nothing is recorded.
	Tracer millrace.Tracer

	wrap       func(chunkReader) chunkReader // around a worker's reader, by tests
	without    rule                          // left out by tests
	positions  time.Duration                 // between position-only checkpoints
	stopped    time.Duration                 // how long a source rests that somebody has to look after
	retry      time.Duration                 // before a source is tried again for the first time
	pages      uint32                        // of the first chunk
	fixedPages bool                          // … and of all others
	look       time.Duration                 // between looks at the catalog
	maxKeys    int
	recopies   int              // of a table for one reason within an hour
	now        func() time.Time // of the guard against more
}

// SourceConfig is a source server.
type SourceConfig struct {
	// Name tells sources apart. It is a connection tag that rules may use.
	Name string
	// Tags are further tags. Default: that of tables which rules name without
	// one, for the first source if no other has it.
	Tags []string
	// URI is the connection string.
	URI string
	// Slot is the name of the replication slot. Default "millrace_" and the name.
	Slot string
	// Failover asks for a slot that is synchronized to standbys, on a source of
	// PostgreSQL 17 or newer.
	Failover bool
	// Publication is created or extended if the role may. Default "millrace".
	Publication string
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (c Config) withDefaults() (Config, error) {
	if len(c.Sources) == 0 {
		return c, errors.New("decoder config: no source")
	}
	if c.Rules == "" {
		return c, errors.New("decoder config: no rules")
	}
	c.Sources = append([]SourceConfig(nil), c.Sources...)
	names := map[string]bool{}
	for i := range c.Sources {
		s := &c.Sources[i]
		if s.Name == "" || s.URI == "" {
			return c, fmt.Errorf("decoder config: source %d has no name or no URI", i+1)
		}
		if names[s.Name] {
			return c, fmt.Errorf("decoder config: two sources are named %q", s.Name)
		}
		names[s.Name] = true
		setDefault(&s.Slot, "millrace_"+s.Name)
		setDefault(&s.Publication, "millrace")
		if !slotName.MatchString(s.Slot) {
			return c, fmt.Errorf("decoder config: slot %q of source %q: a name has 1 to 63 of a-z, 0-9 and _", s.Slot, s.Name)
		}
	}
	c.deriveTags()
	for _, name := range c.WriteCheckpointSources {
		if !names[name] {
			return c, fmt.Errorf("decoder config: write checkpoints wait for a source %q, which there is not", name)
		}
	}
	setDefault(&c.RulesFile, "rules")
	setDefault(&c.BatchMaxBytes, 8<<20)
	setDefault(&c.SpoolMax, 20<<30)
	setDefault(&c.SnapshotWorkers, 2)
	setDefault(&c.Heartbeat, time.Minute)
	setDefault(&c.SlotTimeout, 10*time.Minute)
	setDefault(&c.OnDrop, dropRemoves)
	if c.OnDrop != dropRemoves && c.OnDrop != "keep" {
		return c, fmt.Errorf("decoder config: on_drop is %q, not remove or keep", c.OnDrop)
	}
	setDefault(&c.look, time.Minute)
	setDefault(&c.Logger, slog.Default())
	setDefault(&c.positions, 10*time.Second)
	setDefault(&c.stopped, 30*time.Second)
	setDefault(&c.retry, time.Second)
	setDefault(&c.pages, firstPages)
	setDefault(&c.recopies, maxRecopies)
	if c.now == nil {
		c.now = time.Now
	}
	setDefault(&c.maxKeys, defaultMaxKeys)
	if c.BatchMaxBytes < 0 || c.SpoolMax < 0 || c.SnapshotWorkers < 0 || c.SnapshotRate < 0 {
		return c, errors.New("decoder config: negative limit")
	}
	return c, nil
}

// dropRemoves is the OnDrop that removes rows.
const dropRemoves = "remove"

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
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
		tags := []string{s.Name}
		for _, t := range s.Tags {
			if !slices.Contains(tags, t) {
				tags = append(tags, t)
			}
		}
		s.Tags = tags
		taken = taken || slices.Contains(tags, defaultTag)
	}
	if !taken {
		c.Sources[0].Tags = append(c.Sources[0].Tags, defaultTag)
	}
}

// slots are the slots of all sources.
func (c *Config) slots() (names []string) {
	for i := range c.Sources {
		names = append(names, c.Sources[i].Slot)
	}
	return names
}
