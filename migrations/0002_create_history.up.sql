-- Creates the history: buckets, their ops and running totals, the outputs and
-- kept values of source rows, and parameter lookups. New tables only: no lock
-- on anything.

CREATE TABLE millrace.bucket_names (
  id bigint PRIMARY KEY CHECK (id > 0),
  definition integer NOT NULL,
  name text COLLATE "C" NOT NULL CHECK (name <> '' AND octet_length(name) <= 2048),
  UNIQUE (definition, name)
);
COMMENT ON TABLE millrace.bucket_names IS 'Every bucket that ever had a row. The view buckets is for people.';
COMMENT ON COLUMN millrace.bucket_names.id IS 'Number of the bucket, never reused.';
COMMENT ON COLUMN millrace.bucket_names.definition IS 'The bucket definition it belongs to.';
COMMENT ON COLUMN millrace.bucket_names.name IS 'Logical name, without wire prefix.';

CREATE TABLE millrace.bucket_totals (
  bucket bigint PRIMARY KEY,
  last_op bigint NOT NULL CHECK (last_op > 0),
  ops bigint NOT NULL CHECK (ops >= 0),
  rows bigint NOT NULL CHECK (rows >= 0),
  bytes bigint NOT NULL CHECK (bytes >= 0),
  checksum integer NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.2);
COMMENT ON TABLE millrace.bucket_totals IS 'Running totals of each bucket, updated relatively by each flush. No second index: every update stays on its page (HOT).';
COMMENT ON COLUMN millrace.bucket_totals.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.bucket_totals.last_op IS 'Op id of its newest op.';
COMMENT ON COLUMN millrace.bucket_totals.ops IS 'Number of its ops in millrace.ops.';
COMMENT ON COLUMN millrace.bucket_totals.rows IS 'Number of rows it holds.';
COMMENT ON COLUMN millrace.bucket_totals.bytes IS 'Bytes of data of its ops.';
COMMENT ON COLUMN millrace.bucket_totals.checksum IS 'Wrapping sum of the checksums of its ops since the last CLEAR.';

CREATE TABLE millrace.ops (
  bucket bigint NOT NULL,
  op_id bigint NOT NULL,
  definition integer NOT NULL,
  checksum integer NOT NULL,
  kind smallint NOT NULL,
  type text,
  row_id text COLLATE "C",
  subkey text COLLATE "C",
  data text,
  PRIMARY KEY (definition, bucket, op_id),
  CONSTRAINT ops_shape CHECK (op_id > 0 AND CASE kind
    WHEN 1 THEN type IS NOT NULL AND row_id IS NOT NULL AND data IS NOT NULL
    WHEN 2 THEN type IS NOT NULL AND row_id IS NOT NULL AND data IS NULL
    ELSE kind IN (3, 4) AND type IS NULL AND row_id IS NULL AND data IS NULL END)
) PARTITION BY LIST (definition);
COMMENT ON TABLE millrace.ops IS 'The history of every bucket. An op exists for a client at checkpoint C iff its definition is in the set in force at C and op_id <= C. Partitioned by definition: ops_<definition>.';
COMMENT ON COLUMN millrace.ops.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.ops.op_id IS 'Number of the op: unique, growing in commit order over all buckets, never reused.';
COMMENT ON COLUMN millrace.ops.definition IS 'The bucket definition; decides the partition.';
COMMENT ON COLUMN millrace.ops.checksum IS 'Checksum of the op (millrace.op_checksum); of a MOVE that of the op it replaces, of a CLEAR the sum of all it replaces.';
COMMENT ON COLUMN millrace.ops.kind IS '1 PUT, 2 REMOVE, 3 MOVE (superseded), 4 CLEAR (everything below is void).';
COMMENT ON COLUMN millrace.ops.type IS 'Output table of the row; null for MOVE and CLEAR.';
COMMENT ON COLUMN millrace.ops.row_id IS 'Client id of the row; null for MOVE and CLEAR.';
COMMENT ON COLUMN millrace.ops.subkey IS 'Source row inside (type, row_id); null where the source row''s key is the row id.';
COMMENT ON COLUMN millrace.ops.data IS 'Finished JSON text of a PUT, exactly as hashed and sent; else null.';

CREATE TYPE millrace.row_output AS (
  bucket bigint,
  since_op bigint,
  digest bigint,
  type text,
  row_id text COLLATE "C",
  subkey text COLLATE "C"
);
COMMENT ON TYPE millrace.row_output IS 'One output of a source row: a row in a bucket.';
COMMENT ON COLUMN millrace.row_output.bucket IS 'The bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.row_output.since_op IS 'Op id with which the row entered the bucket.';
COMMENT ON COLUMN millrace.row_output.digest IS 'Digest of the data last put; null unless unchanged updates are suppressed.';
COMMENT ON COLUMN millrace.row_output.type IS 'Output table.';
COMMENT ON COLUMN millrace.row_output.row_id IS 'Client id of the row; null in row_state where it is the row key.';
COMMENT ON COLUMN millrace.row_output.subkey IS 'Subkey of its ops, if they have one.';

CREATE TABLE millrace.row_state (
  definition integer NOT NULL,
  source_table integer NOT NULL,
  bucket bigint NOT NULL,
  since_op bigint NOT NULL,
  digest bigint,
  row_key text COLLATE "C" NOT NULL,
  type text NOT NULL,
  row_id text COLLATE "C",
  subkey text COLLATE "C",
  more millrace.row_output[]
) PARTITION BY LIST (definition);
COMMENT ON TABLE millrace.row_state IS 'The outputs each source row has now: exactly what the ops say of it. A row for every source row with output; written only when its outputs change. The first output, usually the only one, is in columns: that is far cheaper to write than an array. Partitioned by definition: row_state_<definition>, each with the primary key (source_table, row_key).';
COMMENT ON COLUMN millrace.row_state.definition IS 'The bucket definition; decides the partition.';
COMMENT ON COLUMN millrace.row_state.source_table IS 'The source table.';
COMMENT ON COLUMN millrace.row_state.row_key IS 'Row key: the key column''s text, or the JSON array of several; above 2,048 bytes its start and its SHA-256.';
COMMENT ON COLUMN millrace.row_state.bucket IS 'Of the first output: the bucket; bucket_names.id.';
COMMENT ON COLUMN millrace.row_state.since_op IS 'Of the first output: op id with which the row entered the bucket.';
COMMENT ON COLUMN millrace.row_state.digest IS 'Of the first output: digest of the data last put; null unless unchanged updates are suppressed.';
COMMENT ON COLUMN millrace.row_state.type IS 'Of the first output: output table.';
COMMENT ON COLUMN millrace.row_state.row_id IS 'Of the first output: client id of the row; null where it is the row key.';
COMMENT ON COLUMN millrace.row_state.subkey IS 'Of the first output: subkey of its ops, if they have one.';
COMMENT ON COLUMN millrace.row_state.more IS 'The other outputs; null if there are none.';

CREATE TABLE millrace.ended_outputs (
  definition integer NOT NULL,
  source_table integer NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  ended_op bigint NOT NULL,
  since_op bigint NOT NULL,
  bucket bigint NOT NULL,
  type text NOT NULL,
  row_id text COLLATE "C" NOT NULL,
  subkey text COLLATE "C",
  PRIMARY KEY (ended_op),
  CHECK (since_op > 0 AND ended_op > since_op)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX ended_outputs_row ON millrace.ended_outputs (source_table, row_key);
COMMENT ON INDEX millrace.ended_outputs_row IS 'For row_history.';
COMMENT ON TABLE millrace.ended_outputs IS 'Outputs that ended by a delete, an update or an error, kept for history.keep (7 days by default), so that "where did this row go" has an answer.';
COMMENT ON COLUMN millrace.ended_outputs.definition IS 'The bucket definition.';
COMMENT ON COLUMN millrace.ended_outputs.source_table IS 'The source table.';
COMMENT ON COLUMN millrace.ended_outputs.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.ended_outputs.ended_op IS 'Op id of the REMOVE.';
COMMENT ON COLUMN millrace.ended_outputs.since_op IS 'Op id with which the row had entered the bucket.';
COMMENT ON COLUMN millrace.ended_outputs.bucket IS 'The bucket it left; bucket_names.id.';
COMMENT ON COLUMN millrace.ended_outputs.type IS 'Output table.';
COMMENT ON COLUMN millrace.ended_outputs.row_id IS 'Client id of the row.';
COMMENT ON COLUMN millrace.ended_outputs.subkey IS 'Subkey of its ops, if they have one.';

CREATE TABLE millrace.row_wide (
  source_table integer NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  "values" bytea NOT NULL,
  PRIMARY KEY (source_table, row_key)
);
COMMENT ON TABLE millrace.row_wide IS 'Last values of the columns that the source may store out of line: the stream leaves them out when they did not change.';
COMMENT ON COLUMN millrace.row_wide.source_table IS 'The source table.';
COMMENT ON COLUMN millrace.row_wide.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.row_wide."values" IS 'The values, in the decoder''s own encoding.';

CREATE TABLE millrace.row_errors (
  definition integer NOT NULL,
  source_table integer NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  message text NOT NULL CHECK (octet_length(message) <= 1000),
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (definition, source_table, row_key)
);
COMMENT ON TABLE millrace.row_errors IS 'Source rows that a definition could not evaluate, or whose output cannot be stored; they have no output there until an update cures them.';
COMMENT ON COLUMN millrace.row_errors.definition IS 'The definition.';
COMMENT ON COLUMN millrace.row_errors.source_table IS 'The source table.';
COMMENT ON COLUMN millrace.row_errors.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.row_errors.message IS 'What was wrong, without the row''s values in full.';
COMMENT ON COLUMN millrace.row_errors.at IS 'When it was found.';

CREATE TABLE millrace.lookups (
  added bigint PRIMARY KEY CHECK (added > 0),
  removed bigint NOT NULL DEFAULT 9223372036854775807,
  definition integer NOT NULL,
  source_table integer NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL CHECK (octet_length(key) <= 2048),
  outputs text NOT NULL,
  CHECK (removed > added)
) WITH (autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX lookups_key ON millrace.lookups (definition, key, removed);
CREATE INDEX lookups_row ON millrace.lookups (definition, source_table, row_key) WHERE removed = 9223372036854775807;
CREATE INDEX lookups_removed ON millrace.lookups (removed) WHERE removed < 9223372036854775807;
COMMENT ON INDEX millrace.lookups_key IS 'Entries in force for a key.';
COMMENT ON INDEX millrace.lookups_row IS 'Live entries of a source row.';
COMMENT ON INDEX millrace.lookups_removed IS 'Entries that ended in a range of op ids, and those due for deletion.';
COMMENT ON TABLE millrace.lookups IS 'Parameter lookups with history: an entry is in force at op id C iff added <= C < removed. Ended entries are kept for history.keep.';
COMMENT ON COLUMN millrace.lookups.added IS 'Op id since which it is in force; each change of a lookup takes a number of its own.';
COMMENT ON COLUMN millrace.lookups.removed IS 'Op id since which it is no longer in force; the greatest bigint while it is.';
COMMENT ON COLUMN millrace.lookups.definition IS 'The lookup definition.';
COMMENT ON COLUMN millrace.lookups.source_table IS 'The source table.';
COMMENT ON COLUMN millrace.lookups.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.lookups.key IS 'Canonical JSON array of the values that are looked up.';
COMMENT ON COLUMN millrace.lookups.outputs IS 'JSON text of what a match yields.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 2.';
