package main

import (
	"os"
	"runtime/debug"

	"github.com/millrace/millrace/config"
)

// What a decoder keeps in memory is bounded by its configuration: caches, the
// batches under way, and for each source what was read and not evaluated yet.
// Half as much again is garbage between two collections.
const (
	decoderBase      = 80 << 20
	decoderPerSource = 48 << 20
	batchShare       = 4 // batches being filled, waiting, written, and their COPY
)

// limitMemory makes the collector keep a decoder within decoderMemory, rather
// than let garbage double what it holds. GOMEMLIMIT sets another limit. Processes
// that serve clients have none: what they need follows from the number of clients.
func limitMemory(cfg *config.Config, r role) {
	if r == roleDecoder && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(decoderMemory(cfg))
	}
}

// decoderMemory is how many bytes the runtime of a decoder may take. It is no
// hard limit: the collector never takes more than half of the processors' time.
func decoderMemory(cfg *config.Config) int64 {
	return decoderBase + decoderPerSource*int64(len(cfg.Sources)) + batchShare*int64(cfg.Decoder.BatchMaxBytes)
}
