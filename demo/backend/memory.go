package backend

import (
	"crypto/sha256"
	"sync"
)

type seenKey [sha256.Size]byte

// memory remembers the newest keys, up to a number.
type memory struct {
	mu   sync.Mutex
	keys map[seenKey]struct{}
	ring []seenKey // in order of arrival
	next int       // where the next goes, over the oldest
}

func newMemory(size int) *memory {
	return &memory{keys: map[seenKey]struct{}{}, ring: make([]seenKey, size)}
}

func (m *memory) has(k seenKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.keys[k]
	return ok
}

func (m *memory) add(k seenKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.keys[k]; ok || len(m.ring) == 0 {
		return
	}
	delete(m.keys, m.ring[m.next])
	m.ring[m.next] = k
	m.keys[k] = struct{}{}
	m.next = (m.next + 1) % len(m.ring)
}
