-- Creates what compaction remembers, and adds to the reports of sessions the
-- checkpoint that is being sent. New tables, and a column with a default on a
-- small unlogged table: its lock lasts milliseconds. The previous release works
-- beside it: it neither reads the tables nor names the column.

CREATE TABLE millrace.bucket_compactions (
  bucket bigint PRIMARY KEY,
  compacted_to bigint NOT NULL DEFAULT 0 CHECK (compacted_to >= 0),
  upto bigint NOT NULL DEFAULT 0 CHECK (upto = 0 OR upto > compacted_to),
  scanned bigint NOT NULL DEFAULT 0 CHECK (scanned >= 0),
  residue bigint NOT NULL DEFAULT 0,
  finished_at timestamptz,
  rewritten_at timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE millrace.bucket_compactions IS 'How far each bucket is compacted. Whoever compacts a bucket holds the lock of its row. The view bucket_bloat is for people.';
COMMENT ON COLUMN millrace.bucket_compactions.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.bucket_compactions.compacted_to IS 'No op at or below is superseded by another at or below.';
COMMENT ON COLUMN millrace.bucket_compactions.upto IS 'Where the pass under way will have compacted to: it compares the ops above compacted_to with those before; 0 if there is none.';
COMMENT ON COLUMN millrace.bucket_compactions.scanned IS 'Up to which op id the pass under way has rewritten what is superseded.';
COMMENT ON COLUMN millrace.bucket_compactions.residue IS 'Ops less rows that the last pass left: what has come since is worth another.';
COMMENT ON COLUMN millrace.bucket_compactions.finished_at IS 'When the last pass ended.';
COMMENT ON COLUMN millrace.bucket_compactions.rewritten_at IS 'When old rows of it were last put into bucket_rewrites.';

CREATE TABLE millrace.bucket_rewrites (
  bucket bigint PRIMARY KEY,
  definition integer NOT NULL,
  live_at bigint NOT NULL CHECK (live_at > 0),
  op_ids bigint[] NOT NULL,
  asked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE millrace.bucket_rewrites IS 'Old rows of buckets that the decoder appends again, with their own text, so that what was superseded around them can be cleared. Nearly always empty.';
COMMENT ON COLUMN millrace.bucket_rewrites.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.bucket_rewrites.definition IS 'Its bucket definition.';
COMMENT ON COLUMN millrace.bucket_rewrites.live_at IS 'Op id at which each of the ops was the last of its row; a row changed since is left alone.';
COMMENT ON COLUMN millrace.bucket_rewrites.op_ids IS 'The PUTs of the rows.';
COMMENT ON COLUMN millrace.bucket_rewrites.asked_at IS 'When compaction asked for it.';

CREATE TABLE millrace.compaction (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  deep_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO millrace.compaction DEFAULT VALUES;
COMMENT ON TABLE millrace.compaction IS 'One row: the state of compaction as a whole.';
COMMENT ON COLUMN millrace.compaction.one IS 'Always true: there is one row.';
COMMENT ON COLUMN millrace.compaction.deep_at IS 'When every bucket with anything superseded was last compacted, however little it was; once a day.';

ALTER TABLE millrace.session_reports ADD COLUMN sending_op bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN millrace.session_reports.sending_op IS 'Checkpoint it is being sent; 0 if it has all of the last one. Compaction stays below it for a while.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 8.';
