package clientsdk

import (
	"context"

	"github.com/millrace/millrace"
)

// clear deletes everything synced and everything waiting for upload. The client
// id stays; with local, so do the rows of local-only tables.
func (s *store) clear(ctx context.Context, keepLocal bool) error {
	return s.write(ctx, true, func(t *txn) error {
		s.buckets = nil
		queries := []string{
			`INSERT OR IGNORE INTO mr_changes SELECT DISTINCT type FROM mr_rows`,
			`DELETE FROM mr_rows`, `DELETE FROM mr_buckets`, `DELETE FROM mr_queue`, `DELETE FROM mr_rejected`,
			`DELETE FROM mr_synced`, `DELETE FROM mr_streams`,
			`UPDATE mr_state SET target = 0, seen = 0, complete = 0, pending = 0`,
		}
		if !keepLocal {
			queries = append(queries, `INSERT OR IGNORE INTO mr_changes SELECT DISTINCT type FROM mr_local`, `DELETE FROM mr_local`)
		}
		for _, q := range queries {
			if err := t.exec(q); err != nil {
				return err
			}
		}
		return nil
	})
}

// positions lists the live buckets and how far each is stored, for a request.
func (s *store) positions(ctx context.Context) (clientID string, out []position, err error) {
	err = s.write(ctx, false, func(t *txn) error {
		if err := t.load(); err != nil {
			return err
		}
		st, err := t.state()
		if err != nil {
			return err
		}
		clientID = st.clientID
		for _, b := range s.buckets {
			p := position{b.name, b.position}
			if b.settled {
				p.after = max(p.after, st.complete)
			}
			out = append(out, p)
		}
		return nil
	})
	return clientID, out, err
}

// position says that a bucket is stored up to and including op after.
type position struct {
	name  string
	after millrace.OpID
}
