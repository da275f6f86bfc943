package main

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/millrace/millrace/config"
)

// A decoder's memory limit follows its configuration; GOMEMLIMIT and processes
// that serve clients are left alone.
func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	one := &config.Config{Sources: make([]config.Source, 1), Decoder: config.Decoder{BatchMaxBytes: 8 << 20}}
	two := &config.Config{Sources: make([]config.Source, 2), Decoder: config.Decoder{BatchMaxBytes: 64 << 20}}
	for _, c := range []struct {
		name, env string
		role      role
		cfg       *config.Config
		want      int64
	}{
		{"a decoder", "", roleDecoder, one, 160 << 20},
		{"with two sources and larger batches", "", roleDecoder, two, 432 << 20},
		{"a relay", "", roleRelay, one, math.MaxInt64},
		{"both", "", roleAll, one, math.MaxInt64},
		{"the environment wins", "1GiB", roleDecoder, one, math.MaxInt64}, // which the runtime had read at the start
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", c.env)
			debug.SetMemoryLimit(math.MaxInt64)
			limitMemory(c.cfg, c.role)
			if got := debug.SetMemoryLimit(-1); got != c.want {
				t.Errorf("the limit is %d, want %d", got, c.want)
			}
		})
	}
}
