package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

const (
	writesPage  = 10_000      // requests taken at a time
	writesPoll  = time.Second // in case a notification got lost
	writesPause = time.Second // after a failure
)

// WatchWriteRequests gives take the requests that no checkpoint contains, at
// first all, then those whose positions were not read yet, until ctx ends. It
// notes the positions that take gives, for people.
func (w *Writer) WatchWriteRequests(ctx context.Context, take func(context.Context, []millrace.WriteRequest) ([]millrace.SourcePosition, error)) error {
	// What a term before took is not known any more.
	watch := writeWatch{take: take, again: true}
	failing := false
	for ctx.Err() == nil {
		err := watch.session(ctx, w.store, w.name, func() { failing = false })
		if ctx.Err() != nil {
			break
		}
		if !failing {
			w.opts.Logger.Warn("watching write checkpoint requests", "error", err)
		}
		failing = true
		wait(ctx, writesPause)
	}
	return ctx.Err()
}

type writeWatch struct {
	take  func(context.Context, []millrace.WriteRequest) ([]millrace.SourcePosition, error)
	again bool   // those taken before, too
	after string // … of these users
}

// session watches on one connection.
func (v *writeWatch) session(ctx context.Context, s *Store, name string, works func()) error {
	conn, err := s.connect(ctx, "millrace writes "+name)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+WriteRequestsChannel); err != nil {
		return fmt.Errorf("listen for write checkpoint requests: %w", err)
	}
	for {
		requests, err := v.next(ctx, conn)
		if err != nil {
			return err
		}
		works()
		if len(requests) > 0 {
			heads, err := v.take(ctx, requests)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				// The taker has said why. They come again.
				wait(ctx, writesPause)
				continue
			}
			if err := v.note(ctx, conn, requests, heads); err != nil {
				return err
			}
			continue
		}
		polling, cancel := context.WithTimeout(ctx, writesPoll)
		_, err = conn.WaitForNotification(polling)
		cancel()
		if err != nil && (ctx.Err() != nil || !pgconn.Timeout(err)) {
			return fmt.Errorf("wait for write checkpoint requests: %w", err)
		}
	}
}

// next reads a page of requests.
func (v *writeWatch) next(ctx context.Context, conn *pgx.Conn) ([]millrace.WriteRequest, error) {
	for {
		rows, err := conn.Query(ctx, `
			SELECT user_id, id FROM millrace.write_requests
			WHERE acked_id < id AND CASE WHEN $1 THEN user_id > $2::text ELSE heads IS NULL END
			ORDER BY user_id LIMIT $3`, v.again, v.after, writesPage)
		if err != nil {
			return nil, fmt.Errorf("read write checkpoint requests: %w", err)
		}
		requests, err := pgx.CollectRows(rows, pgx.RowToStructByPos[millrace.WriteRequest])
		if err != nil {
			return nil, fmt.Errorf("read write checkpoint requests: %w", err)
		}
		if len(requests) > 0 || !v.again {
			return requests, nil
		}
		v.again = false
	}
}

// note stores what the requests wait for, unless they have been replaced since.
func (v *writeWatch) note(ctx context.Context, conn *pgx.Conn, requests []millrace.WriteRequest, heads []millrace.SourcePosition) error {
	lsns := make(map[millrace.SourceID]millrace.LSN, len(heads))
	for _, h := range heads {
		lsns[h.Source] = h.LSN
	}
	users, ids := latestRequests(requests)
	_, err := conn.Exec(ctx, `
		UPDATE millrace.write_requests w SET heads = $3::text::jsonb
		FROM (SELECT r.user_id FROM unnest($1::text[], $2::int8[]) AS d (user_id, id)
			JOIN millrace.write_requests r ON r.user_id = d.user_id AND r.id = d.id
			ORDER BY r.user_id FOR NO KEY UPDATE OF r) due
		WHERE w.user_id = due.user_id`, users, ids, string(appendPositions(nil, lsns)))
	if err != nil {
		return fmt.Errorf("note what write checkpoints wait for: %w", err)
	}
	if v.again {
		v.after = requests[len(requests)-1].User
	}
	return nil
}

// latestRequests gives each user's greatest number.
func latestRequests(requests []millrace.WriteRequest) (users []string, ids []int64) {
	at := make(map[string]int, len(requests))
	for _, r := range requests {
		i, dup := at[r.User]
		if !dup {
			i = len(users)
			at[r.User] = i
			users, ids = append(users, r.User), append(ids, 0)
		}
		ids[i] = max(ids[i], r.ID)
	}
	return users, ids
}
