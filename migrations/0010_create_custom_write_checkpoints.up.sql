-- Adds event definitions, and the write checkpoints that an app's backend writes
-- as rows of a source. Locks one small table for a moment; the previous release
-- works beside it until rules with such an event are deployed.

ALTER TABLE millrace.definition_versions
  DROP CONSTRAINT definition_versions_kind_check,
  ADD CONSTRAINT definition_versions_kind_check CHECK (kind IN ('bucket', 'lookup', 'event'));
COMMENT ON TABLE millrace.definition_versions IS 'Bucket, lookup and event definitions by content. History belongs to a definition, not to a deploy: a rule set that compiles to the same hash uses the same row, history and buckets.';
COMMENT ON COLUMN millrace.definition_versions.kind IS 'bucket: produces rows of buckets. lookup: a parameter index. event: custom write checkpoints.';
COMMENT ON COLUMN millrace.definition_versions.name IS 'The bucket definition, stream or event it first came from.';
COMMENT ON COLUMN millrace.definition_versions.wire_prefix IS 'Random text that starts the wire names of its buckets: <wire prefix>#<logical name>. Null for others.';

CREATE TABLE millrace.custom_write_checkpoints (
  definition integer NOT NULL,
  user_id text COLLATE "C" NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 2048),
  id bigint NOT NULL CHECK (id > 0 AND id < 9223372036854775807),
  seq bigint NOT NULL CHECK (seq > 0),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (definition, user_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX custom_write_checkpoints_seq ON millrace.custom_write_checkpoints (seq);
COMMENT ON INDEX millrace.custom_write_checkpoints_seq IS 'Those that came with the newest checkpoints.';
COMMENT ON TABLE millrace.custom_write_checkpoints IS 'Write checkpoints that the app''s backend wrote as rows of a source, one row per event definition and device. Each came with the checkpoint that contains its source transaction and all before it. The view write_checkpoints is for people.';
COMMENT ON COLUMN millrace.custom_write_checkpoints.definition IS 'The event definition; definition_versions.id.';
COMMENT ON COLUMN millrace.custom_write_checkpoints.user_id IS 'Subject of the token, with /<client id> if the client has one.';
COMMENT ON COLUMN millrace.custom_write_checkpoints.id IS 'Greatest number the source had for the device. It only grows.';
COMMENT ON COLUMN millrace.custom_write_checkpoints.seq IS 'Number of the checkpoint it came with.';
COMMENT ON COLUMN millrace.custom_write_checkpoints.at IS 'When that was.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 10.';
