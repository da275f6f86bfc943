-- Creates what relays write and read besides the history: write checkpoints,
-- floors of compaction, and the reports of relays and their sessions. New
-- objects only: no lock on anything, the previous release works beside it.

CREATE SEQUENCE millrace.write_checkpoint_ids AS bigint MAXVALUE 9223372036854775806;
COMMENT ON SEQUENCE millrace.write_checkpoint_ids IS 'Numbers of write checkpoints. It starts at microseconds since 1970, so that numbers never go down, even in a sidecar that was built anew.';
SELECT setval('millrace.write_checkpoint_ids', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

CREATE TABLE millrace.write_requests (
  user_id text COLLATE "C" PRIMARY KEY CHECK (octet_length(user_id) <= 2048),
  id bigint NOT NULL CHECK (id > 0 AND id < 9223372036854775807),
  managed boolean NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  heads jsonb,
  acked_id bigint NOT NULL DEFAULT 0 CHECK (acked_id >= 0 AND acked_id <= id),
  acked_seq bigint NOT NULL DEFAULT 0 CHECK (acked_seq >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX write_requests_pending ON millrace.write_requests (requested_at) WHERE acked_id < id;
CREATE INDEX write_requests_acked ON millrace.write_requests (acked_seq);
COMMENT ON INDEX millrace.write_requests_pending IS 'Requests that no checkpoint contains yet.';
COMMENT ON INDEX millrace.write_requests_acked IS 'Requests acknowledged by the newest checkpoints.';
COMMENT ON TABLE millrace.write_requests IS 'Write checkpoints, one row per device: it may show server data again once a checkpoint contains what the sources had committed when it asked. The view pending_write_checkpoints is for people.';
COMMENT ON COLUMN millrace.write_requests.user_id IS 'Subject of the token, with /<client id> if the client has one.';
COMMENT ON COLUMN millrace.write_requests.id IS 'Newest number asked for. Numbers of one device only grow.';
COMMENT ON COLUMN millrace.write_requests.managed IS 'Whether the server gave the number; else the client did.';
COMMENT ON COLUMN millrace.write_requests.requested_at IS 'When it was last asked for.';
COMMENT ON COLUMN millrace.write_requests.heads IS 'Positions of the sources read after the request, that a checkpoint must reach: {"<source id>": "<lsn>"}; null until the decoder has read them.';
COMMENT ON COLUMN millrace.write_requests.acked_id IS 'Newest number that a checkpoint contains; 0 for none.';
COMMENT ON COLUMN millrace.write_requests.acked_seq IS 'Number of that checkpoint.';

CREATE TABLE millrace.bucket_floors (
  bucket bigint PRIMARY KEY,
  floor_op bigint NOT NULL CHECK (floor_op > 0)
) WITH (fillfactor = 70);
COMMENT ON TABLE millrace.bucket_floors IS 'How far compaction has rewritten each bucket: it may be served at checkpoint C only if floor_op <= C.';
COMMENT ON COLUMN millrace.bucket_floors.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.bucket_floors.floor_op IS 'Greatest op id that was a reason for a rewrite. Only grows.';

-- Unlogged: after a crash the next reports fill them again.
CREATE UNLOGGED TABLE millrace.relay_reports (
  id text COLLATE "C" PRIMARY KEY,
  name text NOT NULL,
  listen text NOT NULL,
  started_at timestamptz NOT NULL,
  op_id bigint NOT NULL,
  rule_sets integer[] NOT NULL,
  connections integer NOT NULL,
  at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE millrace.relay_reports IS 'Relays as they last reported, every ten seconds. The view relays is for people.';
COMMENT ON COLUMN millrace.relay_reports.id IS 'Random, one per process.';
COMMENT ON COLUMN millrace.relay_reports.name IS 'Host and process.';
COMMENT ON COLUMN millrace.relay_reports.listen IS 'Address clients reach it at.';
COMMENT ON COLUMN millrace.relay_reports.started_at IS 'When it started.';
COMMENT ON COLUMN millrace.relay_reports.op_id IS 'Newest op id it has published to its sessions.';
COMMENT ON COLUMN millrace.relay_reports.rule_sets IS 'Rule sets its sessions use.';
COMMENT ON COLUMN millrace.relay_reports.connections IS 'Connected clients.';
COMMENT ON COLUMN millrace.relay_reports.at IS 'When it last reported.';

CREATE UNLOGGED TABLE millrace.session_reports (
  relay text COLLATE "C" NOT NULL,
  id bigint NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  client_id text NOT NULL,
  transport text NOT NULL,
  agent text NOT NULL,
  buckets integer NOT NULL,
  sent_op bigint NOT NULL,
  acked_op bigint NOT NULL,
  bytes bigint NOT NULL,
  since timestamptz NOT NULL,
  PRIMARY KEY (relay, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE millrace.session_reports IS 'Live clients as their relays last reported. The view sessions is for people.';
COMMENT ON COLUMN millrace.session_reports.relay IS 'The relay; relay_reports.id.';
COMMENT ON COLUMN millrace.session_reports.id IS 'Number within the relay.';
COMMENT ON COLUMN millrace.session_reports.user_id IS 'Subject of the token, with /<client id> if the client has one.';
COMMENT ON COLUMN millrace.session_reports.client_id IS 'Id of the device; empty if the client has none.';
COMMENT ON COLUMN millrace.session_reports.transport IS 'http, ws or rsocket.';
COMMENT ON COLUMN millrace.session_reports.agent IS 'SDK and platform, as the client tells.';
COMMENT ON COLUMN millrace.session_reports.buckets IS 'Buckets it follows.';
COMMENT ON COLUMN millrace.session_reports.sent_op IS 'Checkpoint it was completely sent last; 0 for none.';
COMMENT ON COLUMN millrace.session_reports.acked_op IS 'Checkpoint it has applied; 0 if it does not tell.';
COMMENT ON COLUMN millrace.session_reports.bytes IS 'Bytes of lines sent, before compression.';
COMMENT ON COLUMN millrace.session_reports.since IS 'When it connected.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 4.';
