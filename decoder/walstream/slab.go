package walstream

import (
	"sync"
	"sync/atomic"
)

const (
	slabSize = 1 << 20
	// minRead is the least room offered to a read of the socket: what
	// coalescing waits for.
	minRead = 64 << 10
)

// slab is a piece of the stream as it came from the socket. The reader holds
// one reference to the slab it fills, each transaction one per piece of its
// own; without references it is used again.
type slab struct {
	buf  []byte
	refs atomic.Int32
}

var slabs = sync.Pool{New: func() any { return &slab{buf: make([]byte, slabSize)} }}

// newSlab gives a slab of at least size bytes, with one reference.
func newSlab(size int) *slab {
	var s *slab
	if size <= slabSize {
		s = slabs.Get().(*slab)
	} else {
		s = &slab{buf: make([]byte, size)}
	}
	s.refs.Store(1)
	return s
}

func (s *slab) hold() { s.refs.Add(1) }

func (s *slab) release() {
	if s.refs.Add(-1) == 0 && len(s.buf) == slabSize {
		slabs.Put(s)
	}
}

// alone tells whether only the reader holds the slab.
func (s *slab) alone() bool { return s.refs.Load() == 1 }
