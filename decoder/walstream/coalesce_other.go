//go:build !linux

package walstream

import (
	"errors"
	"time"
)

// coalescer is not available on this system: reads are ordinary ones.
type coalescer struct{}

var errNoCoalescing = errors.New("coalesced reads are not available on this system")

func (w *wakeup) coalesce(bool) {}

func (*coalescer) Read([]byte) (int, error)   { return 0, errNoCoalescing }
func (*coalescer) Write([]byte) (int, error)  { return 0, errNoCoalescing }
func (*coalescer) setWriteDeadline(time.Time) {}
func (*coalescer) interrupt()                 {}
func (*coalescer) Close() error               { return nil }
