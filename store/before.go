package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// loader is the scratch of one comparison.
type loader struct {
	rows   []*rowState         // of each change
	ids    []millrace.BucketID // of each output of each change
	groups []loadGroup
	group  map[*millrace.Scope]int
	names  map[millrace.DefinitionID][]string // buckets not in the cache
}

// loadGroup is a set of rows of which the same definitions are unknown.
type loadGroup struct {
	scope *millrace.Scope
	keys  []string
}

func (l *loader) forget() {
	clear(l.rows)
	clear(l.groups)
	clear(l.group)
	clear(l.names)
	l.rows, l.ids, l.groups = l.rows[:0], l.ids[:0], l.groups[:0]
}

// want lists a row whose definitions of scope must be read.
func (l *loader) want(scope *millrace.Scope, key string) {
	if n := len(l.groups); n > 0 && l.groups[n-1].scope == scope {
		l.groups[n-1].keys = append(l.groups[n-1].keys, key)
		return
	}
	i, ok := l.group[scope]
	if !ok {
		i = len(l.groups)
		if l.group == nil {
			l.group = map[*millrace.Scope]int{}
		}
		l.group[scope] = i
		l.groups = append(l.groups, loadGroup{scope: scope})
	}
	l.groups[i].keys = append(l.groups[i].keys, key)
}

// loadBefore finds the state of each changed row and the id of each bucket
// that exists, reading what the caches lack in one round trip.
func (w *Writer) loadBefore(ctx context.Context, changes []millrace.Change) error {
	l := &w.load
	l.forget()
	for i := range changes {
		c := &changes[i]
		if c.Scope == nil {
			return fmt.Errorf("apply: a change has no scope")
		}
		l.rows = append(l.rows, w.rowOf(c, storedKey(c.Key)))
		for j := range c.Outputs {
			l.ids = append(l.ids, w.knownBucket(&c.Outputs[j]))
		}
	}
	return w.readBefore(ctx)
}

// rowOf finds or makes the state of a changed row and lists it for reading if
// it is not known in full.
func (w *Writer) rowOf(c *millrace.Change, key string) *rowState {
	scope := c.Scope
	row, ok := w.rows.get(rowKey{scope.Table, key}, func(r *rowState, k rowKey) (rowKey, int) { return rowKey{k.table, r.key}, r.bytes })
	if !ok {
		row = newRowState(scope.Table, key, scope)
		w.rows.put(rowKey{scope.Table, row.key}, row, row.grown())
		need := scope
		if row.assumed = provable(c) && !distrustNew.Load(); row.assumed {
			_, need = w.scopes.parts(scope)
		}
		if need != nil {
			w.load.want(need, row.key)
		}
		return row
	}
	if row.assumed {
		// Not written yet, so the tables do not have the last word so far.
		row.assumed = false
		buckets, _ := w.scopes.parts(row.scope)
		w.load.want(buckets, row.key)
	}
	if !covers(row.scope, scope) {
		missing, union := w.scopes.complete(row.scope, scope)
		row.scope = union
		w.load.want(missing, row.key)
	}
	return row
}

// knownBucket is the id of an output's bucket, 0 if it must be read or made,
// -1 if the output cannot be stored.
func (w *Writer) knownBucket(out *millrace.Output) millrace.BucketID {
	if unstorable(out) != "" {
		return -1
	}
	k := bucketKey{out.Definition, out.Bucket}
	id, ok := w.buckets.get(k, func(_ millrace.BucketID, k bucketKey) (bucketKey, int) {
		return bucketKey{k.definition, strings.Clone(k.name)}, nameBytes + len(k.name)
	})
	if !ok {
		k.name = strings.Clone(k.name)
		w.buckets.put(k, 0, nameBytes+len(k.name))
		if w.load.names == nil {
			w.load.names = map[millrace.DefinitionID][]string{}
		}
		w.load.names[k.definition] = append(w.load.names[k.definition], k.name)
	}
	return id
}

// readBefore reads what was listed.
func (w *Writer) readBefore(ctx context.Context) error {
	var b batch
	var handle []func(row [][]byte) error
	for _, g := range w.load.groups {
		if len(g.scope.Buckets)+len(g.scope.Lookups) == 0 {
			continue
		}
		keys := textArray(g.keys)
		for _, d := range g.scope.Buckets {
			b.add(stmtRowState, int4Param(d), int4Param(g.scope.Table), keys)
			handle = append(handle, func(v [][]byte) error { return w.foundState(g.scope.Table, d, v) })
		}
		for _, d := range g.scope.Lookups {
			b.add(stmtLookups, int4Param(d), int4Param(g.scope.Table), keys)
			handle = append(handle, func(v [][]byte) error { return w.foundLookup(g.scope.Table, d, v) })
		}
	}
	for d, names := range w.load.names {
		b.add(stmtBuckets, int4Param(d), textArray(names))
		handle = append(handle, func(v [][]byte) error {
			id := millrace.BucketID(binary.BigEndian.Uint64(v[1]))
			w.buckets.put(bucketKey{d, string(v[0])}, id, 0)
			return nil
		})
	}
	_, err := w.run(ctx, &b, func(statement int, row [][]byte) error { return handle[statement](row) })
	if err != nil {
		return w.failure("read what rows had before", err)
	}
	return nil
}

func (w *Writer) cached(table millrace.TableID, key []byte) (*rowState, error) {
	row := w.rows.young[rowKey{table, bytesString(key)}]
	if row == nil {
		return nil, fmt.Errorf("read what rows had before: a row that was not asked for")
	}
	return row, nil
}

// foundState takes a row of row_state.
func (w *Writer) foundState(table millrace.TableID, d millrace.DefinitionID, v [][]byte) error {
	row, err := w.cached(table, v[0])
	if err != nil {
		return err
	}
	b := row.bucketState(d)
	if len(b.outputs) > 0 {
		return w.notNew()
	}
	b.stored = true
	b.outputs, err = decodeState(v[1:], b.outputs[:0], row.key, w.internTypeBytes)
	return err
}

func (w *Writer) internTypeBytes(b []byte) string {
	if t, ok := w.types[string(b)]; ok {
		return t
	}
	return w.internType(bytesString(b))
}

// foundLookup takes a row of lookups.
func (w *Writer) foundLookup(table millrace.TableID, d millrace.DefinitionID, v [][]byte) error {
	row, err := w.cached(table, v[0])
	if err != nil {
		return err
	}
	s := row.lookupState(d)
	s.entries = append(s.entries, lookupEntry{
		added: millrace.OpID(binary.BigEndian.Uint64(v[1])), key: string(v[2]), outputs: string(v[3]),
	})
	return nil
}

// maxWide bounds the kept wide values that are given at once, but for those of
// one row.
const maxWide = 8 << 20

// Wide returns the kept wide values of the first of the rows, the open flush
// included, as many as take little memory. See decoder.Sink.
func (w *Writer) Wide(ctx context.Context, rows []millrace.RowRef) ([][]byte, error) {
	if err := w.open(); err != nil {
		return nil, err
	}
	values, err := w.wideWithin(ctx, rows, maxWide)
	if err == nil && len(values) == 0 && len(rows) > 0 {
		return w.wideWithin(ctx, rows[:1], math.MaxInt64)
	}
	return values, err
}

// wideWithin gives the values of as many of the first rows as take about limit
// bytes.
func (w *Writer) wideWithin(ctx context.Context, rows []millrace.RowRef, limit int64) ([][]byte, error) {
	values := make([][]byte, len(rows))
	places := map[rowKey][]int{}
	keys := map[millrace.TableID][]string{}
	for i, r := range rows {
		k := rowKey{r.Table, storedKey(r.Key)}
		if v, ok := w.flush.wide[k]; ok {
			values[i] = slices.Clone(v)
			continue
		}
		if !w.hasWide[r.Table] {
			continue
		}
		if len(places[k]) == 0 {
			keys[r.Table] = append(keys[r.Table], k.key)
		}
		places[k] = append(places[k], i)
	}
	var b batch
	var tables []millrace.TableID
	for t, k := range keys {
		b.add(stmtWide, int4Param(t), textArray(k), int8Param(limit/int64(len(keys))))
		tables = append(tables, t)
	}
	read := len(rows)
	_, err := w.run(ctx, &b, func(statement int, v [][]byte) error {
		at := places[rowKey{tables[statement], bytesString(v[0])}]
		if v[1] == nil {
			read = min(read, at[0])
			return nil
		}
		value := slices.Clone(v[1])
		for _, i := range at {
			values[i] = value
		}
		return nil
	})
	if err != nil {
		return nil, w.failure("read kept wide values", err)
	}
	return values[:read], nil
}
