package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// A number given by the server is above all the user ever had and above the
// sequence, which starts at the time of day: a sidecar built anew never goes
// back. One given by the client counts if it is greater than the stored one; an
// equal one, which it was told, becomes the client's.
// Users are taken in order, so that requests of several relays never deadlock.
const sqlRequestWrites = `
	INSERT INTO millrace.write_requests AS w (user_id, id, managed)
	SELECT r.user_id, CASE WHEN r.id = 0 THEN nextval('millrace.write_checkpoint_ids') ELSE r.id END, r.id = 0
	FROM unnest($1::text[], $2::int8[]) AS r (user_id, id) ORDER BY r.user_id
	ON CONFLICT (user_id) DO UPDATE SET
		id = CASE WHEN excluded.managed THEN greatest(least(w.id, 9223372036854775805) + 1, excluded.id) ELSE greatest(w.id, excluded.id) END,
		managed = CASE WHEN excluded.managed OR excluded.id >= w.id THEN excluded.managed ELSE w.managed END,
		heads = CASE WHEN excluded.managed OR excluded.id > w.id THEN NULL ELSE w.heads END,
		requested_at = CASE WHEN excluded.managed OR excluded.id >= w.id THEN excluded.requested_at ELSE w.requested_at END
	RETURNING user_id, id`

// WriteRequestsChannel is notified when write checkpoints were requested.
const WriteRequestsChannel = "millrace_writes"

// RequestWriteCheckpoints stores the requests, in order, on the primary and
// gives the number each user has after it.
func (r *Reader) RequestWriteCheckpoints(ctx context.Context, requests []millrace.WriteRequest) ([]int64, error) {
	const doing = "store write checkpoint requests"
	ids := make([]int64, len(requests))
	// A statement takes each user once: a user's further requests are for the
	// next one.
	for todo := requestIndexes(len(requests)); len(todo) > 0; {
		var users []string
		var wanted []int64
		at := map[string]int{}
		var later []int
		for _, i := range todo {
			q := requests[i]
			if _, dup := at[q.User]; dup {
				later = append(later, i)
				continue
			}
			at[q.User] = i
			users, wanted = append(users, q.User), append(wanted, q.ID)
		}
		var b pgx.Batch
		b.Queue(sqlRequestWrites, users, wanted).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var user string
				var id int64
				if err := rows.Scan(&user, &id); err != nil {
					return err
				}
				ids[at[user]] = id
			}
			return rows.Err()
		})
		b.Queue(`SELECT pg_notify('` + WriteRequestsChannel + `', '')`)
		if err := r.primary.SendBatch(ctx, &b).Close(); err != nil {
			return nil, readFailure(doing, err)
		}
		todo = later
	}
	return ids, nil
}

func requestIndexes(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// How long reports and answered write checkpoints are kept.
const (
	relayForgotten = 5 * time.Minute
	writesKept     = 90 * 24 * time.Hour
)

// Report replaces what the views show of a relay and its sessions, and forgets
// relays that stopped reporting.
func (r *Reader) Report(ctx context.Context, report millrace.RelayReport) error {
	const doing = "report a relay's sessions"
	sets := ints[int32](report.RuleSets)
	n := len(report.Sessions)
	ids, users, clients, transports, agents := make([]int64, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	buckets, sent, acked, bytes, since, sending := make([]int32, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]time.Time, n), make([]int64, n)
	for i, s := range report.Sessions {
		ids[i], users[i], clients[i], transports[i], agents[i] = s.ID, s.User, s.ClientID, s.Transport, s.Agent
		buckets[i], sent[i], acked[i], bytes[i], since[i] = int32(s.Buckets), int64(s.Sent), int64(s.Acknowledged), s.Bytes, s.Since
		sending[i] = int64(s.Sending)
	}
	var b pgx.Batch
	b.Queue(`
		INSERT INTO millrace.relay_reports AS r (id, name, listen, started_at, op_id, rule_sets, connections, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
		ON CONFLICT (id) DO UPDATE SET op_id = excluded.op_id, rule_sets = excluded.rule_sets,
			connections = excluded.connections, at = excluded.at`,
		report.ID, report.Name, report.Listen, report.StartedAt, int64(report.OpID), sets, int32(report.Connections))
	b.Queue(`DELETE FROM millrace.session_reports s WHERE s.relay = $1 AND NOT EXISTS (SELECT FROM unnest($2::int8[]) AS live (id) WHERE live.id = s.id)`, report.ID, ids)
	if n > 0 {
		b.Queue(`
			INSERT INTO millrace.session_reports AS s (relay, id, user_id, client_id, transport, agent, buckets, sent_op, acked_op, bytes, since, sending_op)
			SELECT $1, * FROM unnest($2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int4[], $8::int8[], $9::int8[], $10::int8[], $11::timestamptz[], $12::int8[])
			ON CONFLICT (relay, id) DO UPDATE SET buckets = excluded.buckets, sent_op = excluded.sent_op, acked_op = excluded.acked_op, bytes = excluded.bytes, sending_op = excluded.sending_op
			WHERE (s.buckets, s.sent_op, s.acked_op, s.bytes, s.sending_op)
				IS DISTINCT FROM (excluded.buckets, excluded.sent_op, excluded.acked_op, excluded.bytes, excluded.sending_op)`,
			report.ID, ids, users, clients, transports, agents, buckets, sent, acked, bytes, since, sending)
	}
	b.Queue(`
		WITH gone AS (DELETE FROM millrace.relay_reports WHERE at < clock_timestamp() - $1::interval RETURNING id)
		DELETE FROM millrace.session_reports s USING gone WHERE s.relay = gone.id`, relayForgotten)
	b.Queue(`
		DELETE FROM millrace.write_requests WHERE user_id IN (
			SELECT user_id FROM millrace.write_requests WHERE acked_seq > 0 AND acked_id = id AND requested_at < clock_timestamp() - $1::interval
			ORDER BY acked_seq LIMIT 100)`, writesKept)
	if err := r.primary.SendBatch(ctx, &b).Close(); err != nil {
		return readFailure(fmt.Sprintf("%s (%d)", doing, n), err)
	}
	return nil
}
