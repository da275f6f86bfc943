package walstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace"
)

// Config says what to read and within which limits.
type Config struct {
	// URI is the connection string of the source; required.
	URI string
	// Slot is the name of an existing logical slot with pgoutput; required.
	Slot string
	// Publications are the names to read; at least one.
	Publications []string
	// Start is the position up to which everything is durable: reading resumes
	// there, and it counts as confirmed. The server goes on from its own
	// confirmed position if that is later. 0 leaves the choice to the server.
	Start millrace.LSN
	// MaxMemory is how many bytes of one transaction are kept in memory; more
	// goes to a spool file. Default 8 MiB (decoder.batch_max_bytes).
	MaxMemory int64
	// SpoolDir is the directory of spool files; it is created. Files that a
	// crashed run of this slot left there are removed by Open. Default
	// "millrace-spool" in the system's temporary directory.
	SpoolDir string
	// SpoolMax is how many bytes one transaction may take in the spool, and
	// all those not yet released together (then reading waits). Default 20 GiB
	// (decoder.spool_max).
	SpoolMax int64
	// QueueBytes is how many bytes of whole transactions may wait for the
	// consumer; the last of them may pass the limit. Default 16 MiB.
	QueueBytes int64
	// StatusInterval is the longest time between two status messages. Default
	// 10 s, and never more than a third of the server's wal_sender_timeout.
	StatusInterval time.Duration
	// StallTimeout: with work handed out or waiting and no progress for so
	// long, the connection is closed, so that the source can shut down (P89).
	// Default 60 s.
	StallTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	var missing []error
	if c.URI == "" {
		missing = append(missing, errors.New("no source URI"))
	}
	if c.Slot == "" {
		missing = append(missing, errors.New("no slot"))
	}
	if len(c.Publications) == 0 {
		missing = append(missing, errors.New("no publication"))
	}
	if err := errors.Join(missing...); err != nil {
		return c, fmt.Errorf("walstream config: %w", err)
	}
	for _, v := range []*int64{&c.MaxMemory, &c.SpoolMax, &c.QueueBytes, (*int64)(&c.StatusInterval), (*int64)(&c.StallTimeout)} {
		if *v < 0 {
			return c, errors.New("walstream config: negative limit")
		}
	}
	setDefault(&c.MaxMemory, 8<<20)
	setDefault(&c.SpoolMax, 20<<30)
	setDefault(&c.QueueBytes, 16<<20)
	setDefault(&c.StatusInterval, 10*time.Second)
	setDefault(&c.StallTimeout, 60*time.Second)
	setDefault(&c.SpoolDir, filepath.Join(os.TempDir(), "millrace-spool"))
	return c, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
