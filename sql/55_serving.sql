-- Who is served, and which uploads wait to be seen again.

CREATE OR REPLACE VIEW millrace.relays AS
SELECT r.id, r.name, r.listen, r.connections, r.op_id, greatest(h.op_id - r.op_id, 0) AS ops_behind, r.rule_sets, r.started_at, r.at AS reported_at
FROM millrace.relay_reports r CROSS JOIN millrace.head h
WHERE r.at > clock_timestamp() - interval '1 minute';
COMMENT ON VIEW millrace.relays IS 'Relays that reported within the last minute; each does every ten seconds.';
COMMENT ON COLUMN millrace.relays.id IS 'Random, one per process.';
COMMENT ON COLUMN millrace.relays.name IS 'Host and process.';
COMMENT ON COLUMN millrace.relays.listen IS 'Address clients reach it at.';
COMMENT ON COLUMN millrace.relays.connections IS 'Connected clients.';
COMMENT ON COLUMN millrace.relays.op_id IS 'Newest op id it had published to its sessions.';
COMMENT ON COLUMN millrace.relays.ops_behind IS 'Op ids between that and the newest checkpoint now.';
COMMENT ON COLUMN millrace.relays.rule_sets IS 'Rule sets its sessions use.';
COMMENT ON COLUMN millrace.relays.started_at IS 'When it started.';
COMMENT ON COLUMN millrace.relays.reported_at IS 'When it last reported.';

CREATE OR REPLACE VIEW millrace.sessions AS
SELECT s.relay, s.id, s.user_id, s.client_id, s.transport, s.agent, s.buckets,
  nullif(s.sent_op, 0) AS sent_op, nullif(s.acked_op, 0) AS acknowledged_op, s.bytes, s.since, nullif(s.sending_op, 0) AS sending_op
FROM millrace.session_reports s
WHERE s.relay IN (SELECT r.id FROM millrace.relays r);
COMMENT ON VIEW millrace.sessions IS 'Live clients, as their relays last reported.';
COMMENT ON COLUMN millrace.sessions.relay IS 'The relay; relays.id.';
COMMENT ON COLUMN millrace.sessions.id IS 'Number within the relay.';
COMMENT ON COLUMN millrace.sessions.user_id IS 'Subject of the token, with /<client id> if the client has one: the key of its write checkpoint.';
COMMENT ON COLUMN millrace.sessions.client_id IS 'Id of the device; empty if the client has none.';
COMMENT ON COLUMN millrace.sessions.transport IS 'http, ws or rsocket.';
COMMENT ON COLUMN millrace.sessions.agent IS 'SDK and platform, as the client tells.';
COMMENT ON COLUMN millrace.sessions.buckets IS 'Buckets it follows.';
COMMENT ON COLUMN millrace.sessions.sent_op IS 'Checkpoint it was completely sent last.';
COMMENT ON COLUMN millrace.sessions.acknowledged_op IS 'Checkpoint it has applied; null if it does not tell.';
COMMENT ON COLUMN millrace.sessions.bytes IS 'Bytes of lines sent, before compression.';
COMMENT ON COLUMN millrace.sessions.since IS 'When it connected.';
COMMENT ON COLUMN millrace.sessions.sending_op IS 'Checkpoint it is being sent; null if it has all of the last one.';

CREATE OR REPLACE VIEW millrace.pending_write_checkpoints AS
SELECT w.user_id, w.id, nullif(w.acked_id, 0) AS acknowledged_id, w.requested_at, clock_timestamp() - w.requested_at AS waiting,
  CASE WHEN w.heads IS NULL THEN 'the decoder has not read the sources'' positions yet'
    ELSE coalesce((
      SELECT string_agg(format('%s to reach %s, it is at %s', s.name, p.value, s.durable), '; ' ORDER BY s.id)
      FROM jsonb_each_text(w.heads) p JOIN millrace.sources s ON s.id = p.key::smallint
      WHERE s.durable < p.value::pg_lsn), 'the next checkpoint') END AS waits_for
FROM millrace.write_requests w
WHERE w.acked_id < w.id
ORDER BY w.requested_at;
COMMENT ON VIEW millrace.pending_write_checkpoints IS 'Uploads whose effects no checkpoint contains yet, oldest first: those devices hold server data back. Custom write checkpoints are never among them: they come with the checkpoint that contains them.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.user_id IS 'Subject of the token, with /<client id> if the client has one.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.id IS 'The number that is waited for.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.acknowledged_id IS 'Newest number that was reached.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.waiting IS 'How long ago that was.';
COMMENT ON COLUMN millrace.pending_write_checkpoints.waits_for IS 'What has to happen, in words.';

CREATE OR REPLACE VIEW millrace.write_checkpoints AS
WITH served AS MATERIALIZED (
  SELECT (m->>'definition')::integer AS definition, m->>'name' AS event
  FROM millrace.rule_sets r CROSS JOIN LATERAL jsonb_array_elements(r.mapping) m WHERE r.state = 'active' AND m->>'kind' = 'event')
SELECT w.user_id, CASE WHEN w.managed THEN 'managed' ELSE 'client' END AS kind, NULL::text AS event, w.id,
  nullif(w.acked_id, 0) AS acknowledged_id, nullif(w.acked_seq, 0) AS seq, w.requested_at AS at,
  NOT w.managed OR NOT EXISTS (SELECT FROM served) AS served
FROM millrace.write_requests w
UNION ALL
SELECT c.user_id, 'custom', v.name, c.id, c.id, c.seq, c.at, c.definition IN (SELECT s.definition FROM served s)
FROM millrace.custom_write_checkpoints c JOIN millrace.definition_versions v ON v.id = c.definition;
COMMENT ON VIEW millrace.write_checkpoints IS 'Newest write checkpoint of each device: the numbers that the server gave, those that clients gave, and custom ones, written by the app''s backend.';
COMMENT ON COLUMN millrace.write_checkpoints.user_id IS 'Subject of the token, with /<client id> if the client has one.';
COMMENT ON COLUMN millrace.write_checkpoints.kind IS 'managed: the server gave the number. client: the client did. custom: it came as a row of a source.';
COMMENT ON COLUMN millrace.write_checkpoints.event IS 'The event definition of a custom one; null for others.';
COMMENT ON COLUMN millrace.write_checkpoints.id IS 'Newest number.';
COMMENT ON COLUMN millrace.write_checkpoints.acknowledged_id IS 'Newest number that a checkpoint contains; null for none.';
COMMENT ON COLUMN millrace.write_checkpoints.seq IS 'Number of that checkpoint; millrace.checkpoints.seq.';
COMMENT ON COLUMN millrace.write_checkpoints.at IS 'When it was last asked for, or came in.';
COMMENT ON COLUMN millrace.write_checkpoints.served IS 'Whether clients are told of it: with an event in the rules in force, managed ones are not.';
