package main

import (
	"os"
	"runtime/debug"
)

// collectorPercent lets the heap grow to three times of what is live before it
// is collected. The decoder's caches are many small objects that live long:
// with Go's default, twice, a tenth of its processor time went into looking at
// them again. GOGC and GOMEMLIMIT of the environment keep their meaning.
const collectorPercent = 200

func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectorPercent)
	}
}
