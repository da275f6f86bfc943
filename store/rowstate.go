package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// maxKeyBytes bounds what is indexed (row keys, bucket names, lookup keys): a
// b-tree entry must fit a third of a page.
const maxKeyBytes = 2048

// rowKey names a source row in the caches.
type rowKey struct {
	table millrace.TableID
	key   string
}

// output is a live output of a row.
type output struct {
	bucket millrace.BucketID
	since  millrace.OpID
	digest int64 // of the data last put, 0 unless unchanged puts are suppressed
	typ    string
	rowID  string
	subkey string
	kept   bool // scratch of the diff
}

func (o *output) is(bucket millrace.BucketID, out *millrace.Output) bool {
	return o.bucket == bucket && o.rowID == out.RowID && o.subkey == out.Subkey && o.typ == out.Type
}

// bucketState is what a row has in one bucket definition.
type bucketState struct {
	definition millrace.DefinitionID
	stored     bool // row_state has a row for it, in the open transaction if that was written to
	changed    bool // outputs differ from that row
	outputs    []output
}

// lookupEntry is a live lookup of a row.
type lookupEntry struct {
	added   millrace.OpID
	key     string
	outputs string
	kept    bool // scratch of the diff
}

// lookupState is what a row has in one lookup definition.
type lookupState struct {
	definition millrace.DefinitionID
	entries    []lookupEntry
}

// rowState is what the history says of a source row, for the definitions of
// its scope. It is ahead of the tables by what is marked changed.
type rowState struct {
	table   millrace.TableID
	key     string
	scope   *millrace.Scope // the definitions that are known
	buckets []bucketState   // those with something
	lookups []lookupState
	dirty   bool // listed to be written
	assumed bool // said to be new, and neither looked for nor written yet
	bytes   int  // what it takes in the cache, when that was last asked for

	// Room for the usual row, so that it takes one allocation.
	bucket1 [1]bucketState
	output1 [1]output
}

func newRowState(table millrace.TableID, key string, scope *millrace.Scope) *rowState {
	s := &rowState{table: table, key: strings.Clone(key), scope: scope}
	s.buckets = s.bucket1[:0]
	return s
}

// What cached things take, about, beside their texts.
const (
	rowBytes    = 320 // with one output, and its places in the maps
	outputBytes = 80
	lookupBytes = 64
	nameBytes   = 80
)

// grown tells by how many bytes the state has grown since it was last asked.
func (s *rowState) grown() int {
	n := rowBytes + len(s.key)
	for i := range s.buckets {
		b := &s.buckets[i]
		for j := range b.outputs {
			o := &b.outputs[j]
			if n += len(o.subkey); o.rowID != s.key {
				n += len(o.rowID)
			}
		}
		if i > 0 || len(b.outputs) > 1 {
			n += outputBytes * cap(b.outputs)
		}
	}
	for i := range s.lookups {
		for j := range s.lookups[i].entries {
			e := &s.lookups[i].entries[j]
			n += lookupBytes + len(e.key) + len(e.outputs)
		}
	}
	d := n - s.bytes
	s.bytes = n
	return d
}

// bucketState finds or makes the state for a definition.
func (s *rowState) bucketState(d millrace.DefinitionID) *bucketState {
	for i := range s.buckets {
		if s.buckets[i].definition == d {
			return &s.buckets[i]
		}
	}
	b := bucketState{definition: d}
	if len(s.buckets) == 0 {
		b.outputs = s.output1[:0]
	}
	s.buckets = append(s.buckets, b)
	return &s.buckets[len(s.buckets)-1]
}

// lookupState finds or makes the state for a definition.
func (s *rowState) lookupState(d millrace.DefinitionID) *lookupState {
	for i := range s.lookups {
		if s.lookups[i].definition == d {
			return &s.lookups[i]
		}
	}
	s.lookups = append(s.lookups, lookupState{definition: d})
	return &s.lookups[len(s.lookups)-1]
}

// storedKey is the row key as stored: long ones as their start and their
// SHA-256, so that they can be indexed.
func storedKey(key string) string {
	if len(key) <= maxKeyBytes {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	start := key[:1024]
	for !utf8.ValidString(start) && len(start) > 1020 {
		start = start[:len(start)-1]
	}
	return start + "…sha256:" + hex.EncodeToString(sum[:])
}

// generations is a cache bounded by bytes: a young and an old map. What is found
// in the old one moves to the young one; when the young one is full it becomes
// the old one. Whatever was used since entries of half the limit came is kept.
type generations[K comparable, V any] struct {
	limit      int // bytes, about
	bytes      int // of the young entries
	young, old map[K]V
}

func newGenerations[K comparable, V any](limit int) generations[K, V] {
	return generations[K, V]{limit: limit, young: map[K]V{}}
}

// get finds k. own makes the key that is kept when an old entry moves, and tells
// how many bytes the entry takes.
func (g *generations[K, V]) get(k K, own func(V, K) (K, int)) (V, bool) {
	v, ok := g.young[k]
	if ok || g.old == nil {
		return v, ok
	}
	if v, ok = g.old[k]; ok {
		k, bytes := own(v, k)
		g.put(k, v, bytes)
	}
	return v, ok
}

// put stores v; k must not share memory that is reused. The bytes are those by
// which the entry grows.
func (g *generations[K, V]) put(k K, v V, bytes int) {
	g.young[k] = v
	g.bytes += bytes
}

func (g *generations[K, V]) full() bool { return g.bytes > g.limit/2 }

// age makes room if the cache is full. What leaves must be in the tables.
func (g *generations[K, V]) age() {
	if g.full() {
		g.old, g.young = g.young, make(map[K]V, len(g.young)/2)
		g.bytes = 0
	}
}

func (g *generations[K, V]) drop() {
	g.old, g.bytes = nil, 0
	clear(g.young)
}

// covers tells whether all definitions of need are among those of have.
func covers(have, need *millrace.Scope) bool {
	return have == need || contains(have.Buckets, need.Buckets) && contains(have.Lookups, need.Lookups)
}

func contains(have, need []millrace.DefinitionID) bool {
	i := 0
	for _, d := range need {
		for i < len(have) && have[i] < d {
			i++
		}
		if i == len(have) || have[i] != d {
			return false
		}
	}
	return true
}

// scopePair is a key for the scopes computed from two others.
type scopePair struct{ have, need *millrace.Scope }

// scopes remembers differences and unions of scopes, so that rows share them.
type scopes struct {
	missing, union map[scopePair]*millrace.Scope
	kinds          map[*millrace.Scope]scopeKinds
}

// scopeKinds is a scope taken apart; nil where it has none of a kind.
type scopeKinds struct{ buckets, lookups *millrace.Scope }

// parts gives the bucket and the lookup definitions of a scope.
func (s *scopes) parts(of *millrace.Scope) (buckets, lookups *millrace.Scope) {
	p, ok := s.kinds[of]
	if !ok {
		if len(of.Buckets) > 0 {
			p.buckets = &millrace.Scope{Table: of.Table, Buckets: of.Buckets}
		}
		if len(of.Lookups) > 0 {
			p.lookups = &millrace.Scope{Table: of.Table, Lookups: of.Lookups}
		}
		if s.kinds == nil || len(s.kinds) > 10_000 {
			s.kinds = map[*millrace.Scope]scopeKinds{}
		}
		s.kinds[of] = p
	}
	return p.buckets, p.lookups
}

// complete tells which definitions need adds to have, and both together.
func (s *scopes) complete(have, need *millrace.Scope) (missing, union *millrace.Scope) {
	p := scopePair{have, need}
	if m := s.missing[p]; m != nil {
		return m, s.union[p]
	}
	if s.missing == nil || len(s.missing) > 10_000 {
		s.missing, s.union = map[scopePair]*millrace.Scope{}, map[scopePair]*millrace.Scope{}
	}
	missing, union = &millrace.Scope{Table: need.Table}, &millrace.Scope{Table: need.Table}
	missing.Buckets, union.Buckets = merge(have.Buckets, need.Buckets)
	missing.Lookups, union.Lookups = merge(have.Lookups, need.Lookups)
	s.missing[p], s.union[p] = missing, union
	return missing, union
}

// merge gives what need has beyond have, and the union, both ascending.
func merge(have, need []millrace.DefinitionID) (missing, union []millrace.DefinitionID) {
	i := 0
	for _, d := range need {
		for i < len(have) && have[i] < d {
			union = append(union, have[i])
			i++
		}
		if i < len(have) && have[i] == d {
			i++
		} else {
			missing = append(missing, d)
		}
		union = append(union, d)
	}
	return missing, append(union, have[i:]...)
}
