package clientsdk

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultThrottle is the least time between two results of a watched query.
const DefaultThrottle = 30 * time.Millisecond

// tableSignal tells watchers which types of rows have changed.
type tableSignal struct {
	mu      sync.Mutex
	number  uint64            // of the newest change
	changes map[string]uint64 // by type, the number of its newest change
	changed chan struct{}     // closed at the next change
}

func newTableSignal() *tableSignal {
	return &tableSignal{changes: map[string]uint64{}, changed: make(chan struct{})}
}

func (s *tableSignal) notify(types []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	for _, t := range types {
		s.changes[t] = s.number
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// since tells whether one of the types, or any if there are none, has changed
// after a number, and gives the present number and a channel for the next change.
func (s *tableSignal) since(types []string, number uint64) (changed bool, now uint64, next <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(types) == 0 {
		return s.number > number, s.number, s.changed
	}
	for _, t := range types {
		changed = changed || s.changes[t] > number
	}
	return changed, s.number, s.changed
}

// WatchTables yields at once, and again whenever rows of one of the tables were
// changed, locally or by the server, at most once per throttle. Without tables
// it yields for any change. It ends when ctx does or the database is closed.
func (db *DB) WatchTables(ctx context.Context, throttle time.Duration, tables ...string) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		_, seen, _ := db.tables.since(tables, 0)
		for {
			if !yield(struct{}{}) || !pause(ctx, throttle, db.closed) {
				return
			}
			for {
				changed, now, next := db.tables.since(tables, seen)
				if seen = now; changed {
					break
				}
				select {
				case <-next:
				case <-ctx.Done():
					return
				case <-db.closed:
					return
				}
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration, stop <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	return false
}

// Watch runs a query at once, and again whenever a table it reads has changed,
// at most every DefaultThrottle. The rows are closed when the loop's body is
// done. It ends when ctx does, after an error, or when the database is closed.
//
// Which tables a query reads is taken from its text, through views of the app
// too. For what that cannot see, use WatchTables.
func (db *DB) Watch(ctx context.Context, query string, args ...any) iter.Seq2[*sql.Rows, error] {
	return func(yield func(*sql.Rows, error) bool) {
		tables, err := db.tablesOf(ctx, query)
		if err != nil {
			yield(nil, err)
			return
		}
		for range db.WatchTables(ctx, DefaultThrottle, tables...) {
			rows, err := db.Query(ctx, query, args...)
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
			more := yield(rows, nil)
			if err := rows.Close(); err != nil && more && ctx.Err() == nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
		}
	}
}

// tablesOf finds the schema's tables a query may read: those it names, or that
// a view named by it names. More than it reads does no harm.
func (db *DB) tablesOf(ctx context.Context, query string) ([]string, error) {
	sc := db.schema.Load()
	views, err := db.appViews(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	visited := map[string]bool{}
	queue := []string{query}
	for len(queue) > 0 {
		text := queue[0]
		queue = queue[1:]
		for name := range identifiers(text) {
			if t := sc.table(name); t != nil {
				found[t.Name] = true
			} else if view, ok := views[strings.ToLower(name)]; ok && !visited[strings.ToLower(name)] {
				visited[strings.ToLower(name)] = true
				queue = append(queue, view)
			}
		}
	}
	out := make([]string, 0, len(found))
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

func (db *DB) appViews(ctx context.Context) (map[string]string, error) {
	rows, err := db.store.readers.QueryContext(ctx, `SELECT name, sql FROM sqlite_schema WHERE type = 'view'`)
	if err != nil {
		return nil, fmt.Errorf("read the views: %w", err)
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return nil, fmt.Errorf("read the views: %w", err)
		}
		out[strings.ToLower(name)] = text
	}
	return out, rows.Err()
}

// identifiers gives the names in an SQL text: bare words and quoted names, not
// what is in string literals or comments.
func identifiers(q string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 0; i < len(q); {
			start := i
			switch c := q[i]; {
			case c == '\'' || c == '"' || c == '`':
				i = skipQuoted(q, i, c)
				if c != '\'' && !yield(unquoted(q[start:i], c)) {
					return
				}
			case c == '[':
				i = len(q)
				if n := strings.IndexByte(q[start:], ']'); n >= 0 {
					i = start + n + 1
				}
				if !yield(strings.Trim(q[start:i], "[]")) {
					return
				}
			case strings.HasPrefix(q[i:], "--"):
				i = after(q, i, "\n")
			case strings.HasPrefix(q[i:], "/*"):
				i = after(q, i, "*/")
			case word(c):
				for i < len(q) && word(q[i]) {
					i++
				}
				if !yield(q[start:i]) {
					return
				}
			default:
				i++
			}
		}
	}
}

func word(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

// skipQuoted gives the index after the quoted text that starts at i; a doubled
// quote inside does not end it.
func skipQuoted(q string, i int, quote byte) int {
	for i++; i < len(q); i++ {
		if q[i] != quote {
			continue
		}
		if i+1 < len(q) && q[i+1] == quote {
			i++
			continue
		}
		return i + 1
	}
	return len(q)
}

func unquoted(s string, quote byte) string {
	s = strings.TrimSuffix(s[1:], string(quote))
	return strings.ReplaceAll(s, string([]byte{quote, quote}), string(quote))
}

func after(q string, i int, end string) int {
	const opening = 2 // bytes of "--" and "/*"
	if n := strings.Index(q[i+opening:], end); n >= 0 {
		return i + opening + n + len(end)
	}
	return len(q)
}
