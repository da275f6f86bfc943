-- Creates the head, the leader's heartbeat and the log of checkpoints. New
-- tables only: no lock on anything.

CREATE TABLE millrace.head (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  fence bigint NOT NULL CHECK (fence >= 0),
  op_id bigint NOT NULL CHECK (op_id >= 0),
  seq bigint NOT NULL CHECK (seq >= 0),
  at timestamptz NOT NULL,
  published timestamptz,
  writer text,
  writer_pid integer,
  writer_start timestamptz,
  system_id text,
  timeline bigint
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO millrace.head (fence, op_id, seq, at) VALUES (0, 0, 0, now());
COMMENT ON TABLE millrace.head IS 'One row: the newest checkpoint, and who may write the next. It is updated last in every flush, so a snapshot of the sidecar is one consistent checkpoint.';
COMMENT ON COLUMN millrace.head.one IS 'Always true: there is one row.';
COMMENT ON COLUMN millrace.head.fence IS 'Grows with each change of the writer; a writer with another number commits nothing.';
COMMENT ON COLUMN millrace.head.op_id IS 'The newest op id; every op at or below is committed.';
COMMENT ON COLUMN millrace.head.seq IS 'Number of the newest checkpoint; grows by one with every flush.';
COMMENT ON COLUMN millrace.head.at IS 'When the newest checkpoint was written.';
COMMENT ON COLUMN millrace.head.published IS 'Commit time, on its source, of the newest source transaction contained.';
COMMENT ON COLUMN millrace.head.writer IS 'Name of the decoder that holds the fence.';
COMMENT ON COLUMN millrace.head.writer_pid IS 'Process id of its writing backend here; with writer_start it names the session to end at a take-over.';
COMMENT ON COLUMN millrace.head.writer_start IS 'backend_start of that backend.';
COMMENT ON COLUMN millrace.head.system_id IS 'system_identifier of this sidecar when the fence was last taken.';
COMMENT ON COLUMN millrace.head.timeline IS 'Timeline of this sidecar when the fence was last taken; another one makes op_id jump by 2^32.';

CREATE TABLE millrace.leader (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  fence bigint NOT NULL,
  beat bigint NOT NULL,
  at timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO millrace.leader (fence, beat, at) VALUES (0, 0, now());
COMMENT ON TABLE millrace.leader IS 'One row: the heartbeat of the decoder that holds the fence. Apart from head, so that no flush holds it up.';
COMMENT ON COLUMN millrace.leader.one IS 'Always true: there is one row.';
COMMENT ON COLUMN millrace.leader.fence IS 'The fence the heartbeat belongs to.';
COMMENT ON COLUMN millrace.leader.beat IS 'Grows every two seconds while the leader lives; standbys take over when it stands still.';
COMMENT ON COLUMN millrace.leader.at IS 'Time of the last beat.';

CREATE TABLE millrace.checkpoint_log (
  seq bigint PRIMARY KEY CHECK (seq > 0),
  op_id bigint NOT NULL CHECK (op_id >= 0),
  at timestamptz NOT NULL,
  published timestamptz,
  lsns jsonb NOT NULL,
  buckets bigint[],
  lookups integer[]
);
CREATE INDEX checkpoint_log_op ON millrace.checkpoint_log (op_id, seq);
COMMENT ON INDEX millrace.checkpoint_log_op IS 'When was an op id committed.';
COMMENT ON TABLE millrace.checkpoint_log IS 'Committed checkpoints: all of the last hour, then one a minute without the arrays, as far back as history.keep. The view checkpoints is for people.';
COMMENT ON COLUMN millrace.checkpoint_log.seq IS 'Number of the checkpoint; grows by one with every flush.';
COMMENT ON COLUMN millrace.checkpoint_log.op_id IS 'The newest op id it contains.';
COMMENT ON COLUMN millrace.checkpoint_log.at IS 'When it was written.';
COMMENT ON COLUMN millrace.checkpoint_log.published IS 'Commit time, on its source, of the newest source transaction contained.';
COMMENT ON COLUMN millrace.checkpoint_log.lsns IS 'How far each source is contained: {"<source id>": "<lsn>"}.';
COMMENT ON COLUMN millrace.checkpoint_log.buckets IS 'Buckets changed since the checkpoint before, ascending; null: unknown (more than 10,000, or older than an hour).';
COMMENT ON COLUMN millrace.checkpoint_log.lookups IS 'Lookup definitions with changed entries since the checkpoint before; null: unknown.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 3.';
